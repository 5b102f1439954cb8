"""Checks a report against its folder: made again from all that is kept there, and one training measured again."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import reprlib
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo_core import bench, runs
from zoo_core.comparison import measure, plan, results
from zoo_core.comparison.conduct import Course
from zoo_core.comparison.measure import Asked, Values
from zoo_core.comparison.plan import Plan
from zoo_core.comparison.results import Comparison
from zoo_core.data import ImageSet, open_for
from zoo_core.errors import UserError
from zoo_core.extractors import open_extractor
from zoo_core.files import read_json

TOLERANCE = 1e-3
"""Of a figure measured again, as a share; another machine rounds otherwise, which moves some samples by a level."""
SLACK = 1e-5
"""Of a distance measured again, where it is about 0 and a share says nothing."""
RATES = ("precision", "recall", *measure.STRUCTURES)
"""Figures that count images: two of these may fall otherwise."""
DIGITS = 1e-9
"""Of a sum, as a share: where machines may differ."""
MOST = 10
"""Faults that are listed."""
LONGEST = 300
"""Characters of one, for a report may hold anything."""
NOT_KEPT = ("manifest", "command")
"""What nothing else in the folder says: on which machine the report was made, when, and what was typed."""
NAMED_BY = {("name",): "{}", ("first", "second"): "{} against {}", ("seed",): "seed {}", ("images",): "at {} images"}
"""What tells items of a report's lists apart, and how it is said."""

Say = Callable[[str], None]


def verify(file: Path, build: bench.Build, say: Say) -> None:
    """Check `report.json` in its comparison's folder, saying what holds; `build` asks a recipe's plugin for its stages.

    Nothing is written, and nothing measured but one training. Raises UserError that lists what does not hold.
    """
    found = results.read(file)
    folder = file.parent
    made = _plan(folder)
    images = _images(made)

    def check(what: str, faults: Iterator[str]) -> None:
        listed = list(faults)
        if listed:
            more = [f"and {len(listed) - MOST} more"] if len(listed) > MOST else []
            lines = "".join(f"\n  - {said[:LONGEST]}" for said in listed[:MOST] + more)
            raise UserError(f"{file} does not hold:{lines}")
        say(f"ok: {what}")

    check(f"the images are the plan's, {images.name} {images.content[:12]}", _data(made, images))
    check("every training's weights and recipe are those of the report", _weights(found, made, folder))
    kept = Course(made, folder, images, build, _refuse).assembled(found.command)
    check(
        f"the report is what the folder makes; only its {' and '.join(NOT_KEPT)} cannot be checked",
        _differences(_checked(file.read_text()), _checked(results.to_json(_moved(kept, made, found)))),
    )
    ended = [(contender, run) for contender in kept.contenders for run in contender.runs if run.state == "done"]
    if not ended:
        say("No training ended, so none is measured again.")
        return
    contender, run = random.choice(ended)
    place, seed = random.choice(list(enumerate(kept.generation_seeds)))
    which = f"{contender.name}, training seed {run.seed}, samples of seed {seed}"
    say(f"Measuring again, chosen at random: {which}.")
    asked = Asked(kept.num, made.request.metrics, open_extractor(made.request.extractor), images)
    now = measure.figures(runs.load(folder / run.folder), seed, asked)
    before = {name: values[place] for name, values in run.values.items()}
    check(f"{which} is measured again", (f"{which}: {fault}" for fault in _unlike(before, now, kept.num)))


def _plan(folder: Path) -> Plan:
    """The folder's plan. Raises UserError for one that is not as it was written."""
    made = plan.load(folder)
    file = folder / plan.FILE
    if read_json(file).get("fingerprint") != plan.fingerprint(made):
        raise UserError(f"{file}, or a recipe beside it, was changed since the comparison began.")
    return made


def _images(made: Plan) -> ImageSet:
    return open_for(next(iter(made.recipes.values())).data)


def _data(made: Plan, images: ImageSet) -> Iterator[str]:
    now = images.describe()
    for key in made.data | now:
        if made.data.get(key) != now.get(key):
            yield f"the images have another {key} than the plan's: {now.get(key)}, not {made.data.get(key)}"


def _weights(found: Comparison, made: Plan, folder: Path) -> Iterator[str]:
    named = {(contender.name, run.seed): run.weights for contender in found.contenders for run in contender.runs}
    for job in plan.jobs(made, folder):
        weights, recipe = named.get((job.contender, job.seed)), made.recipes[job.contender]
        if not weights:
            continue  # it diverged, or the report lacks it, which shows when it is made again
        try:
            run = runs.load(job.folder)  # checks every file's hash
        except UserError as error:
            yield str(error).rstrip(".")
            continue
        if measure.weights(run) != weights:
            yield f"{job.folder} holds other weights than the report names"
        if run.recipe != recipe.replace(train=dataclasses.replace(recipe.train, seed=job.seed)):
            yield f"{job.folder} was trained by another recipe than the plan's"


def _refuse(measurement: str) -> None:
    raise UserError(
        "the folder lacks what its report was made from, or has it of other weights or settings, for now this would "
        f"be done again: {measurement} Repeat the comparison's own command to do it."
    )


def _moved(kept: Comparison, made: Plan, found: Comparison) -> Comparison:
    """The folder's report with its commands as the folder was called when the other one was made."""
    try:
        place = Path(shlex.split(found.contenders[0].command)[-1]).parents[1]
    except (ValueError, IndexError):
        return kept
    lines = {job.contender: job.line() for job in reversed(plan.jobs(made, place))}
    moved = [dataclasses.replace(contender, command=lines[contender.name]) for contender in kept.contenders]
    return dataclasses.replace(kept, contenders=moved)


def _checked(report: str) -> dict[str, Any]:
    """What can be checked of a report in JSON."""
    return {key: value for key, value in json.loads(report).items() if key not in NOT_KEPT}


def _differences(report: Any, kept: Any, place: str = "") -> Iterator[str]:
    """A sentence for each place where a report says otherwise than its folder."""
    listed = isinstance(report, list) and isinstance(kept, list)
    if listed:
        report, kept = _by_name(report), _by_name(kept)
    if isinstance(report, Mapping) and isinstance(kept, Mapping):
        for key in {**kept, **report}:
            inner = f"{place}, {key}" if place else key
            if key not in report:
                yield f"{inner}: missing in the report"
            elif key not in kept:
                yield f"{inner}: in the report alone"
            else:
                yield from _differences(report[key], kept[key], inner)
        if listed and report.keys() == kept.keys() and list(report) != list(kept):
            yield f"{place}: in another order"
    elif not _alike(report, kept):
        yield f"{place}: {reprlib.repr(report)} in the report, {reprlib.repr(kept)} by what the folder keeps"


def _by_name(items: list[Any]) -> dict[str, Any]:
    """A list's items by what tells them apart, else by their places."""
    names = [_name(item) for item in items]
    if "" in names or len(set(names)) < len(names):
        names = [f"no. {number}" for number in range(1, len(items) + 1)]
    return dict(zip(names, items, strict=True))


def _name(item: Any) -> str:
    """What tells it apart; empty where nothing does."""
    if isinstance(item, Mapping):
        for keys, form in NAMED_BY.items():
            if all(key in item for key in keys):
                return form.format(*(item[key] for key in keys))
    return item if isinstance(item, str) else ""


def _alike(one: Any, other: Any) -> bool:
    """The same, but for the last digits that another machine's sums may differ in."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=DIGITS, abs_tol=DIGITS)
    return type(one) is type(other) and one == other


def _unlike(before: Values, now: Values, num: int) -> Iterator[str]:
    """Figures of `num` samples that are not measured as before."""
    for name in before | now:
        one, other = before.get(name), now.get(name)
        if one is None or other is None:
            same = one is other
        else:
            slack = 2.5 / num if name.partition("@")[0] in RATES else SLACK
            same = abs(other - one) <= max(TOLERANCE * abs(one), slack)
        if not same:
            yield f"{name} is {other} now, and was {one}"
