"""Measure a generator against real images: figures, their floor, and structure where the data knows it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zoo_core import metrics, sampling
from zoo_core.data import ImageSet
from zoo_core.errors import UserError, did_you_mean
from zoo_core.extractors import Extractor, Features, image_batches, open_extractor
from zoo_core.files import read_json
from zoo_core.interfaces import Generator
from zoo_core.metrics import Figure
from zoo_core.progress import counting
from zoo_core.recipe import Recipe
from zoo_core.runs import write_text
from zoo_core.structure import report as structure_report

FILE = "evaluation.json"
LARGEST = 1e30
"""No figure is beyond it; a file that says so is not ours."""
REFERENCE = "train"
"""What figures call the images that a run was trained on."""


@dataclass(frozen=True)
class Report:
    """What one measurement found."""

    figures: list[Figure]
    floor: list[Figure]
    structure: dict[str, dict[str, float]]
    """By figure: its value on the samples, on real images, and on both with their halves shuffled."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a number that could not be read is null."""
        rows = {name: [dataclasses.asdict(figure) for figure in getattr(self, name)] for name in ("figures", "floor")}
        return _finite({**rows, "structure": self.structure})


def measure(
    generator: Generator,
    images: ImageSet,
    *,
    num: int,
    extractor: str | Extractor = "random-conv",
    metrics_wanted: Sequence[str] | None = None,
    seed: int = 0,
    num_real: int | None = None,
    batch: int = 64,
    reference: str = REFERENCE,
) -> Report:
    """Draw `num` images and compare them with `num_real` real ones (None: as many; 0: all).

    `extractor` is an opened one, or the name of one to open on the generator's device. `reference` is what the figures
    call `images`: see `reference_name`. All that can be refused before an image is drawn is.
    Raises UserError when the extractor cannot be had, a metric is unknown or not for it, or there are too few images.
    """
    maps = images.maps_in_turn(generator.map_kind)
    device = next(generator.parameters()).device
    opened = extractor if isinstance(extractor, Extractor) else open_extractor(extractor, device=device)
    metrics.check(metrics_wanted or (), opened.name, opened.classifies)
    wanted = min(num, len(images)) if num_real is None else num_real or len(images)
    real = real_features(images, opened, min(len(images), max(wanted, 2 * num)))
    floor = metrics.floor(real, num, reference=reference, metrics=metrics_wanted)
    with sampling.counting_steps(generator, num) as advance:
        drawn = torch.cat(list(sampling.draw(generator, num, seed, batch=batch, maps=maps, progress=advance)))
    with counting("measuring", num) as advance:
        fake = opened.features(drawn.split(256), num, advance)
    found = metrics.figures(fake, real.take(wanted), reference=reference, metrics=metrics_wanted)
    return Report(found, floor, _structure(drawn, images, num))


def reference_name(images: ImageSet, folder: Path) -> str:
    """What figures call `images`: "train" when the run in `folder` was trained on them, else a name with their hash."""
    try:
        if read_json(folder / "manifest.json")["data"]["content"] == images.content:
            return REFERENCE
    except (OSError, ValueError, KeyError, TypeError):  # without a manifest nobody knows what the run has seen
        pass
    name = re.sub(r"[^\w.-]+", "-", images.name)  # ":" and "=" part a figure's name
    return f"{name}-{images.content[:8]}"


def format_report(report: Report, before: Report | None = None) -> str:
    """A table for people: each figure, at the start if known, now, and its floor."""
    floors = {_bare(figure.name): figure for figure in report.floor}
    starts = {figure.name: figure for figure in before.figures} if before else {}
    lines = []
    for figure in report.figures:
        parts = [f"{figure.name} = {figure.value:.4g}"]
        if figure.std is not None:
            parts[0] += f" (spread {figure.std:.2g})"
        if figure.name in starts:
            parts.append(f"at step 0: {starts[figure.name].value:.4g}")
        floor = floors.get(_bare(figure.name))
        if floor is not None:
            parts.append(f"floor, real against real: {floor.value:.4g}")
        lines.append("; ".join(parts))
        lines += [f"  note: {note}" for note in {figure.note, floor.note if floor else ""} if note]
    if report.structure:
        titles = {"images": "samples", "images_shuffled": "shuffled", "real": "real", "real_shuffled": "shuffled"}
        lines.append(f"{'structure':<16}" + "".join(f"{title:>10}" for title in titles.values()))
        for name, row in report.structure.items():
            lines.append(f"{name:<16}" + "".join(f"{row[column]:>10.3f}" for column in titles))
    return "\n".join(lines)


class Measurer:
    """Measures a run before its first step, after its last and on its way, keeps all in evaluation.json, and says so.

    What was measured at the same step before is not measured again; the end's report is said again.
    """

    def __init__(self, recipe: Recipe, folder: Path, say: Callable[[str], None]) -> None:
        self._spec, self._seed = recipe.evaluate, recipe.train.seed
        self._folder, self._say = folder, say
        # A run must not find out at its end that it cannot be measured.
        opened = open_extractor(self._spec.extractor)
        for metric in self._spec.metrics:
            if metric not in metrics.METRICS:
                raise UserError(f'evaluate.metrics: there is no "{metric}"{did_you_mean(metric, metrics.METRICS)}')
        metrics.check(self._spec.metrics, opened.name, opened.classifies)

    def __call__(self, when: str, step: int, generator: Generator, images: ImageSet) -> None:
        spec = self._spec
        kept = read(self._folder)
        if when != "during" and kept.get(when, {}).get("step") == step:
            self._tell(when, kept)
            return
        self._say(f"Measuring {spec.num:,} samples with {spec.extractor} ...")
        found = measure(
            generator,
            images,
            num=spec.num,
            extractor=spec.extractor,
            metrics_wanted=spec.metrics,
            seed=self._seed,
        )
        kept = read(self._folder)
        entry = {"step": step, **found.to_dict()}
        if when == "during":  # a resumed run comes by here again
            entry = sorted(
                [*(old for old in kept.get(when, []) if old["step"] != step), entry], key=lambda e: e["step"]
            )
        kept[when] = entry
        write(self._folder, kept)
        self._tell(when, kept)

    def _tell(self, when: str, kept: dict[str, Any]) -> None:
        if when == "end":
            before = kept.get("start")
            self._say(format_report(_restore(kept["end"]), _restore(before) if before else None))


def read(folder: Path) -> dict[str, Any]:
    """What evaluation.json of a run holds, {} when there is none. Raises UserError for one that cannot be used.

    It maps "start" and "end" to a `Report.to_dict` with its step, "during" and "commands" to lists of such.
    """
    try:
        kept = read_json(folder / FILE)
        if not isinstance(kept, dict):
            raise ValueError("it is no mapping")
        lists = [kept.get(name, []) for name in ("during", "commands")]
        if not all(isinstance(each, list) for each in lists):
            raise ValueError("its entries are no list")
        for entry in [*(kept[when] for when in ("start", "end") if when in kept), *lists[0], *lists[1]]:
            _check_entry(entry)
        return kept
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / FILE} cannot be read ({error}); delete it to measure anew.") from None


def write(folder: Path, content: dict[str, Any]) -> None:
    """Replace evaluation.json."""
    write_text(folder / FILE, json.dumps(content, indent=1))


def real_features(images: ImageSet, extractor: Extractor, num: int) -> Features:
    """The features of the first `num` of `images` in the order of `image_batches`; kept between runs."""
    key = {"extractor": extractor.identity, "data": images.describe(), "num": num, "seed": 0}

    def compute() -> Features:
        with counting("measuring real images", num) as advance:
            return extractor.features(image_batches(images.images, num), num, advance)

    return metrics.cached_features(key, compute)


def _structure(drawn: torch.Tensor, images: ImageSet, num: int) -> dict[str, dict[str, float]]:
    """Only the built-in drawings have parts that are known to belong together."""
    if not images.is_drawn:
        return {}
    real = torch.cat(list(image_batches(images.images, min(num, len(images)))))
    return structure_report(drawn.permute(0, 2, 3, 1).numpy(), real.permute(0, 2, 3, 1).numpy())


def _restore(content: dict[str, Any]) -> Report:
    """The report of a `to_dict`; what could not be read is nan."""
    rows = {
        name: [Figure(**{**figure, "value": _number(figure["value"])}) for figure in content[name]]
        for name in ("figures", "floor")
    }
    structure = content["structure"].items()
    return Report(
        **rows, structure={part: {key: _number(value) for key, value in row.items()} for part, row in structure}
    )


def _check_entry(entry: Any) -> None:
    """Raise ValueError unless it is a measurement: it has a step and can be shown."""
    try:
        step, seed = entry["step"], entry.get("seed", 0)
        if isinstance(step, int) and 0 <= step < 2**63 and isinstance(seed, int):
            report = _restore(entry)
            format_report(report)
            numbers = [figure.value for figure in (*report.figures, *report.floor)]
            if not any(abs(number) > LARGEST for number in numbers):
                return
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        pass
    raise ValueError("an entry is not a measurement")


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def _bare(name: str) -> str:
    return name.removeprefix("floor:").split("@")[0]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
