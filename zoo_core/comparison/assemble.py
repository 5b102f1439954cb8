"""From runs, their figures and their costs to one `Comparison`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo_core.comparison import telling
from zoo_core.comparison.measure import Values, lower_is_better, of_structure
from zoo_core.comparison.results import Compared, Contender, CurvePoint, Published, Trained
from zoo_core.comparison.statistics import agreement, summarise, verdicts
from zoo_core.errors import UserError
from zoo_core.evaluation import read as read_evaluation
from zoo_core.files import parse_json
from zoo_core.recipe import Recipe, for_stage
from zoo_core.spec import Plugin

LABELS = {
    "fid": "FID",
    "fd": "FD",
    "kid": "KID",
    "kd": "KD",
    "isc": "Inception Score",
    "precision": "precision",
    "recall": "recall",
    "symmetry_error": "symmetry error",
    "pair_agreement": "pair agreement",
    "pair_excess": "pair agreement above chance",
    "count_agreement": "count agreement",
}


def compared(
    contenders: Sequence[Contender],
    floors: Values,
    sanity: Mapping[str, Values],
    num_samplings: int,
    notes: Mapping[str, str] | None = None,
) -> list[Compared]:
    """Every figure over all contenders that somebody has a number of, in the order in which runs have them.

    `notes` are by a figure's kind, as `measure.floors` gives them.
    """
    seeds = [[run.seed for run in contender.runs] for contender in contenders]
    assert all(each == seeds[0] for each in seeds), "pairs are trainings in the same place"
    return [
        one(
            name,
            {contender.name: table(contender.runs, name, num_samplings) for contender in contenders},
            floors.get(name),
            {spoilt: row.get(name) for spoilt, row in sanity.items()},
            (notes or {}).get(name.partition("@")[0], ""),
        )
        for name in figure_names(contenders)[0]
    ]


def figure_names(contenders: Iterable[Contender]) -> tuple[list[str], list[str]]:
    """The figures that some training has a number of, and those that none has."""
    found: dict[str, bool] = {}
    for contender in contenders:
        for run in contender.runs:
            for name, values in run.values.items():
                found[name] = found.get(name, False) or any(value is not None for value in values)
    return [name for name, some in found.items() if some], [name for name, some in found.items() if not some]


def one(
    name: str,
    values: Mapping[str, np.ndarray],
    floor: float | None,
    sanity: Values,
    note: str = "",
    paired: Mapping[str, np.ndarray] | None = None,
) -> Compared:
    """One figure from every contender's values `[S, G]`; `paired`: those that verdicts compare, if not all."""
    better = lower_is_better(name)
    return Compared(
        name=name,
        label=label(name),
        lower_is_better=better,
        floor=floor,
        sanity=sanity,
        summaries={contender: summarise(rows) for contender, rows in values.items()},
        verdicts=verdicts(values if paired is None else paired, lower_is_better=better),
        note=note,
    )


def label(figure: str) -> str:
    """What a figure is called in tables and on axes."""
    short = figure.partition("@")[0]
    return LABELS.get(short, short)


def table(runs: Sequence[Trained], figure: str, num_samplings: int) -> np.ndarray:
    """One contender's values `[S, G]`; nan where it diverged or a number could not be had.

    Raises UserError for a training with another number of samplings, as a report that was edited may have.
    """
    rows = [[math.nan if value is None else value for value in run.values.get(figure, [])] for run in runs]
    for run, row in zip(runs, rows, strict=True):
        if row and len(row) != num_samplings:
            raise UserError(f"{run.folder} has {len(row)} values of {figure}, not {num_samplings} as the others have.")
    return np.array([row or [math.nan] * num_samplings for row in rows], dtype=np.float64)


def agreements(figures: Sequence[Compared]) -> list[list[float | None]]:
    """Kendall's tau between the figures, each turned so that more is better."""

    def goodness(figure: Compared) -> list[float | None]:
        sign = -1 if figure.lower_is_better else 1
        return [None if row.mean is None else sign * row.mean for row in figure.summaries.values()]

    columns = [goodness(figure) for figure in figures]
    return [[agreement(one, other) for other in columns] for one in columns]


def curve(run: Path, spent: Spent, stage: str, recipe: Recipe) -> list[CurvePoint]:
    """The figures that a training measured on its way and at its end, against images, operations and seconds.

    They were measured in its last stage, `stage`.
    """
    found = []
    kept, batch = read_evaluation(run), for_stage(recipe, stage).train.batch
    for entry in (*kept.get("during", []), *([kept["end"]] if "end" in kept else [])):
        found.append(CurvePoint(*spent.at(stage, entry["step"] * batch), values(entry, recipe)))
    return found


def values(entry: Mapping[str, Any], recipe: Recipe) -> Values:
    """The figures of one measurement in a run's evaluation.json."""
    rows = {name: (row["images"], row["images_shuffled"]) for name, row in entry["structure"].items()}
    return {row["name"]: row["value"] for row in entry["figures"]} | of_structure(rows, num_of(entry, recipe))


def num_of(entry: Mapping[str, Any], recipe: Recipe) -> int:
    """N of a measurement, as its figures' names say, for structure, which has no name of its own."""
    found = (telling.num_of(row["name"]) for row in entry["figures"])
    return next(filter(None, found), recipe.evaluate.num)


class Spent:
    """What a training took until some image, from its journal."""

    def __init__(
        self,
        lines: Iterable[Mapping[str, Any]],
        flops: Mapping[str, float],
        stages: Sequence[str],
        measured: Collection[int] = (),
    ) -> None:
        """`measured`: steps of the last stage after which figures were measured, on the same clock."""
        self._flops, self._stages = flops, list(stages)
        self._points: dict[str, list[tuple[int, float]]] = {stage: [(0, 0.0)] for stage in stages}
        """By stage: (images, seconds) at each line."""
        for line in lines:
            stage = line.get("stage", stages[0])
            if stage in self._stages and _counts(line) and line["images"] > self._points[stage][-1][0]:
                before, seconds = self._points[stage][-1]
                images, step, rate = line["images"], line.get("step", 0), line.get("images_per_second")
                first = step * before // images  # the step of the line before
                paused = stage == stages[-1] and any(first <= place < step for place in measured)
                if rate and not paused:
                    seconds += (images - before) / rate
                elif seconds:  # measured on the way, or stopped: at the pace so far
                    seconds += seconds * (images - before) / before
                elif line.get("seconds"):  # the first line: as long as its last step says
                    seconds += line["seconds"] * (images - before) * step / images
                self._points[stage].append((images, seconds))

    @classmethod
    def read(cls, run: Path, flops: Mapping[str, float], stages: Sequence[str]) -> Spent:
        """From a run's metrics.jsonl; lines that cannot be read are left out, and so is what measuring took."""
        lines = []
        try:
            text = (run / "metrics.jsonl").read_text(errors="replace")
        except OSError:
            text = ""
        for line in text.splitlines():
            try:
                read = parse_json(line)
            except ValueError:
                continue
            lines += [read] if isinstance(read, dict) else []
        return cls(lines, flops, stages, {entry["step"] for entry in read_evaluation(run).get("during", [])})

    def at(self, stage: str, images: int) -> tuple[int, float, float]:
        """Images, operations and seconds over all stages, when `stage` had seen so many images."""
        total, flops, seconds = 0, 0.0, 0.0
        for name in self._stages:
            points = self._points[name]
            seen = images if name == stage else points[-1][0]
            total += seen
            flops += seen * self._flops.get(name, 0.0)
            seconds += float(np.interp(float(seen), *zip(*points, strict=True)))
            if name == stage:
                break
        return total, flops, seconds

    @property
    def images(self) -> dict[str, int]:
        """Real images that each stage saw."""
        return {stage: points[-1][0] for stage, points in self._points.items()}

    @property
    def seconds(self) -> float:
        """Of the whole training."""
        return sum(points[-1][1] for points in self._points.values())


def _counts(line: Mapping[str, Any]) -> bool:
    """Whether a line says how far a training was, in numbers."""
    numbers = [line.get(name, 0) for name in ("images", "step", "seconds", "images_per_second")]
    whole = all(isinstance(number, int) for number in numbers[:2])
    return whole and "event" not in line and all(_is_amount(number) for number in numbers)


def _is_amount(value: Any) -> bool:
    """Of something that a training may have taken: not text, not NaN, and nothing that overflows."""
    return isinstance(value, (int, float)) and (value == 0 or 2**-63 < value < 2**63)


def published(plugin: Plugin) -> list[Published]:
    """What a plugin's paper printed."""
    return [Published(plugin=plugin.name, **dataclasses.asdict(row)) for row in plugin.published]
