"""From runs, their figures and their costs to one `Comparison`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo_core.comparison.measure import Values, lower_is_better, of_structure
from zoo_core.comparison.results import Compared, Contender, CurvePoint, Published, Trained
from zoo_core.comparison.statistics import agreement, summarise, verdicts
from zoo_core.evaluation import read as read_evaluation
from zoo_core.spec import Plugin

ENOUGH = 3
"""Training seeds that the protocol asks for at least."""
ENOUGH_TO_WIN = 5
"""Training seeds from which the protocol calls a win more than a hint."""
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
    """Every figure over all contenders, in the order in which the first that ended has them."""
    names = next((list(run.values) for contender in contenders for run in contender.runs if run.values), [])
    return [
        one(
            name,
            {contender.name: table(contender.runs, name, num_samplings) for contender in contenders},
            floors.get(name),
            {spoilt: row.get(name) for spoilt, row in sanity.items()},
            (notes or {}).get(name, ""),
        )
        for name in names
    ]


def one(name: str, values: Mapping[str, np.ndarray], floor: float | None, sanity: Values, note: str = "") -> Compared:
    """One figure from every contender's values `[S, G]`."""
    better = lower_is_better(name)
    short = name.partition("@")[0]
    return Compared(
        name=name,
        label=LABELS.get(short, short),
        lower_is_better=better,
        floor=floor,
        sanity=sanity,
        summaries={contender: summarise(rows) for contender, rows in values.items()},
        verdicts=verdicts(values, lower_is_better=better),
        note=note,
    )


def table(runs: Sequence[Trained], figure: str, num_samplings: int) -> np.ndarray:
    """One contender's values `[S, G]`; nan where it diverged or a number could not be had."""
    rows = [[math.nan if value is None else value for value in run.values.get(figure, [])] for run in runs]
    return np.array([row or [math.nan] * num_samplings for row in rows], dtype=np.float64)


def agreements(figures: Sequence[Compared]) -> list[list[float | None]]:
    """Kendall's tau between the figures, each turned so that more is better."""

    def goodness(figure: Compared) -> list[float | None]:
        sign = -1 if figure.lower_is_better else 1
        return [None if row.mean is None else sign * row.mean for row in figure.summaries.values()]

    columns = [goodness(figure) for figure in figures]
    return [[agreement(one, other) for other in columns] for one in columns]


def curve(run: Path, spent: Spent, stage: str, batch: int, num: int) -> list[CurvePoint]:
    """The figures that a training measured on its way and at its end, against images, operations and seconds.

    They were measured in its last stage, `stage` of `batch` images a step, with N = `num`.
    """
    found = []
    kept = read_evaluation(run)
    for entry in (*kept.get("during", []), *([kept["end"]] if "end" in kept else [])):
        rows = {name: (row["images"], row["images_shuffled"]) for name, row in entry["structure"].items()}
        values = {figure["name"]: figure["value"] for figure in entry["figures"]} | of_structure(rows, num)
        found.append(CurvePoint(*spent.at(stage, entry["step"] * batch), values))
    return found


class Spent:
    """What a training took until some image, from its journal."""

    def __init__(self, lines: Iterable[Mapping[str, Any]], flops: Mapping[str, float], stages: Sequence[str]) -> None:
        self._flops, self._stages = flops, list(stages)
        self._points: dict[str, list[tuple[int, float]]] = {stage: [(0, 0.0)] for stage in stages}
        """By stage: (images, seconds) at each line."""
        for line in lines:
            stage = line.get("stage", stages[0])
            if stage in self._points and isinstance(line.get("images"), int) and "event" not in line:
                before, seconds = self._points[stage][-1]
                rate = line.get("images_per_second")
                if rate:
                    seconds += (line["images"] - before) / rate
                elif line.get("seconds"):  # the first line, or the first after a stop: as long as its last step says
                    seconds += line["seconds"] * (line["images"] - before) * line["step"] / line["images"]
                self._points[stage].append((line["images"], seconds))

    @classmethod
    def read(cls, run: Path, flops: Mapping[str, float], stages: Sequence[str]) -> Spent:
        """From a run's metrics.jsonl; lines that cannot be read are left out."""
        lines = []
        try:
            text = (run / "metrics.jsonl").read_text(errors="replace")
        except OSError:
            text = ""
        for line in text.splitlines():
            try:
                read = json.loads(line)
            except ValueError:
                continue
            lines += [read] if isinstance(read, dict) else []
        return cls(lines, flops, stages)

    def at(self, stage: str, images: int) -> tuple[int, float, float]:
        """Images, operations and seconds over all stages, when `stage` had seen so many images."""
        total, flops, seconds = 0, 0.0, 0.0
        for name in self._stages:
            points = self._points[name]
            seen = images if name == stage else points[-1][0]
            total += seen
            flops += seen * self._flops.get(name, 0.0)
            seconds += float(np.interp(seen, *zip(*points, strict=True)))
            if name == stage:
                break
        return total, flops, seconds

    @property
    def seconds(self) -> float:
        """Of the whole training."""
        return sum(points[-1][1] for points in self._points.values())


def published(plugin: Plugin) -> list[Published]:
    """What a plugin's paper printed."""
    return [Published(plugin=plugin.name, **dataclasses.asdict(row)) for row in plugin.published]


def flags(
    contenders: Sequence[Contender], figures: Sequence[Compared], remarks: Sequence[str], seeds: int
) -> list[str]:
    """What a reader must know before trusting a row."""
    found = list(remarks)
    if seeds < ENOUGH:
        found.append(
            f"With fewer than {ENOUGH} training seeds ({seeds} here) nobody knows how much retraining moves a figure."
        )
    elif seeds < ENOUGH_TO_WIN:
        found.append(
            f"With {seeds} training seeds a win is a hint; the protocol asks for {ENOUGH_TO_WIN} to claim one."
        )
    for contender in contenders:
        for run in contender.runs:
            if run.state != "done":
                found.append(f"{contender.name}, seed {run.seed}, {run.state}: {run.note}.")
        for network in contender.pretrained:
            found.append(
                f"{contender.name} was trained through {network}, which has seen other data; a metric that looks "
                "through a network like it favours it."
            )
    notes = {figure.note for figure in figures if figure.note}
    return found + sorted(notes)
