"""Checks a report against what it was made from: plan, images, weights, arithmetic, and one measurement made again."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo_core import recipe as recipes
from zoo_core import runs
from zoo_core.comparison import assemble, measure, plan, results
from zoo_core.comparison.measure import Asked
from zoo_core.comparison.plan import Plan, Request
from zoo_core.comparison.results import Comparison, Contender, Trained
from zoo_core.data import ImageSet, open_images
from zoo_core.errors import UserError
from zoo_core.extractors import open_extractor

TOLERANCE = 1e-3
"""Of a figure measured again, as a share; another machine rounds otherwise, which moves some samples by a level."""
DIGITS = 1e-9
"""Of a sum, as a share: where machines may differ."""

Say = Callable[[str], None]


def verify(file: Path, say: Say) -> None:
    """Check `report.json` in its comparison's folder, saying what holds. Raises UserError that lists what does not."""
    found = results.read(file)
    folder = file.parent
    made = plan.load(folder)
    wrong: list[str] = []

    def checked(what: str, faults: Iterator[str]) -> None:
        listed = list(faults)
        wrong.extend(listed)
        if not listed:
            say(f"ok: {what}")

    checked("the recipes are the plan's", _recipes(found, made))
    images = _images(made)
    checked(f"the images are those of {images.name}, {images.content[:12]}", _data(found, images))
    checked("every training's weights are the report's", _weights(found, folder))
    checked("means, intervals and verdicts follow from the values", _arithmetic(found))
    if not wrong:
        contender, run = _one(found)
        say(f"Measuring {contender.name}, training seed {run.seed}, again.")
        checked(f"{contender.name}'s figures are measured again", _again(found, run, folder, images, made.request))
    if wrong:
        raise UserError(f"{file} does not hold:" + "".join(f"\n  - {fault}" for fault in wrong))


def _recipes(found: Comparison, made: Plan) -> Iterator[str]:
    for contender in found.contenders:
        if contender.name not in made.recipes:
            yield f"the plan has no contender {contender.name}"
        elif contender.recipe != json.loads(json.dumps(recipes.to_dict(made.recipes[contender.name]))):
            yield f"{contender.name}'s recipe is not the plan's"


def _images(made: Plan) -> ImageSet:
    data = next(iter(made.recipes.values())).data
    return open_images(data.source or None, data.resolution, filter=data.filter, crop=data.crop)


def _data(found: Comparison, images: ImageSet) -> Iterator[str]:
    if found.data.get("content") != images.content:
        yield f"the images of {images.name} are not those that the report names"


def _weights(found: Comparison, folder: Path) -> Iterator[str]:
    for contender in found.contenders:
        for run in contender.runs:
            if run.state != "done":
                continue
            try:
                same = measure.weights(runs.load(folder / run.folder)) == run.weights  # opening checks every hash
            except UserError as error:
                yield str(error).rstrip(".")
                continue
            if not same:
                yield f"{run.folder} holds other weights than the report names"


def _arithmetic(found: Comparison) -> Iterator[str]:
    for figure in found.figures:
        values = {
            contender.name: assemble.table(contender.runs, figure.name, len(found.generation_seeds))
            for contender in found.contenders
        }
        again = assemble.one(figure.name, values, figure.floor, figure.sanity)
        for part in ("summaries", "verdicts", "lower_is_better"):
            if not _alike(_plain(getattr(again, part)), _plain(getattr(figure, part))):
                yield f"the {part.replace('_', ' ')} of {figure.name} do not follow from the values"
    if not _alike(assemble.agreements(found.figures), found.agreement):
        yield "the rank agreement of the figures does not follow from their means"


def _plain(value: Any) -> Any:
    """Dataclasses inside as mappings."""
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _alike(one: Any, other: Any) -> bool:
    """The same, but for the last digits that another machine's sums may differ in."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=DIGITS, abs_tol=DIGITS)
    return one == other


def _one(found: Comparison) -> tuple[Contender, Trained]:
    for contender in found.contenders:
        for run in contender.runs:
            if run.state == "done":
                return contender, run
    raise UserError("no training of this report ended, so nothing can be measured again.")


def _again(found: Comparison, run: Trained, folder: Path, images: ImageSet, request: Request) -> Iterator[str]:
    asked = Asked(found.num, request.metrics, open_extractor(request.extractor), images)
    seed = found.generation_seeds[0]
    values = measure.figures(runs.load(folder / run.folder), seed, asked)
    for name, kept in run.values.items():
        before, now = kept[0], values.get(name)
        if before is None or now is None:
            same = before is now
        else:
            same = abs(now - before) <= max(TOLERANCE * abs(before), 2 / found.num)
        if not same:
            yield f"{name} is {now} now and {before} in the report"
