"""Decides a comparison before it runs: every contender's recipe under one budget, and all that is wrong, at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo_core import parts
from zoo_core.comparison import budget as budgets
from zoo_core.comparison import contenders, tracks
from zoo_core.comparison.matching import match, parameters
from zoo_core.comparison.plan import Plan, Price, Request, shared_settings
from zoo_core.data import DRAWN, ImageSet, check_fit
from zoo_core.errors import UserError
from zoo_core.recipe import Evaluate, Recipe, for_stage
from zoo_core.schema import coerce

CURVE_POINTS = 4
OPTIONS = {
    "data.source": "--data",
    "train.seed": "--seeds",
    "train.images": "--budget",
    "evaluate.num": "--num",
    "evaluate.extractor": "--extractor",
    "evaluate.metrics": "--metric",
}
"""Values that the comparison decides for all, and the option that says them."""
COMMON = {"train.batch": "--batch", "train.precision": "--track paper", "data.mirror": "--track paper"}
"""In the common track these too."""

Stages = Callable[[Recipe], Sequence[str]]
"""The names of the stages that a recipe trains in."""
Prices = Callable[[Recipe, str], Price]
"""(recipe, "flops" or "seconds") -> its price."""


def refuse(problems: Sequence[str]) -> None:
    """Raise one UserError that lists them, if there are any."""
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in dict.fromkeys(problems))
        raise UserError(f"nothing was trained, for this comparison cannot be made:{lines}")


@dataclass(frozen=True)
class _Decided:
    recipe: Recipe
    images: int
    price: Price
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Decider:
    """Makes a plan of a request. Contenders in `known` are not priced again."""

    request: Request
    images: ImageSet
    stages: Stages
    prices: Prices
    known: Mapping[str, Price]

    def plan(self, problems: Sequence[str] = ()) -> Plan:
        """Every contender's recipe. Raises one UserError that lists all that is wrong, after `problems` that were found
        before."""
        wrong = [*problems, *_contradictions(self.request)]

        def each(values: Mapping[str, Any], act: Callable[[str, Any], Any]) -> dict[str, Any]:
            """What `act` makes of each; what it refuses is kept as a problem."""
            made = {}
            for name, value in values.items():
                try:
                    made[name] = act(name, value)
                except UserError as error:
                    wrong.append(f"{name}: {error}")
            return made

        found, refused = contenders.resolve_all(self.request.entries, shared_settings(self.request))
        wrong += [*refused, *_unlike(found, self.images)]
        whole = each(found, lambda name, recipe: parts.complete(recipe))
        if self.request.track == "swap" and len(whole) > 1:
            wrong += tracks.odd_ones(whole)
        levelled, remarks = tracks.level({name: found[name] for name in whole}, self.request.track, self.request.batch)
        each(levelled, self._check)
        levelled = {name: self._classed(recipe) for name, recipe in levelled.items()}
        target = each({"--match": self.request.match}, lambda name, text: _target(text, levelled)).get("--match", 0)
        decided: dict[str, _Decided] = each(levelled, lambda name, recipe: self._one(name, recipe, target))
        refuse(wrong)
        return Plan(
            self.request,
            {name: one.recipe for name, one in decided.items()},
            {name: one.images for name, one in decided.items()},
            self.images.describe(),
            [*remarks, *(remark for one in decided.values() for remark in one.remarks)],
            {name: one.price for name, one in decided.items()},
        )

    def _check(self, name: str, recipe: Recipe) -> None:
        """Whether the images are what the recipe wants."""
        check_fit(recipe.data, self.images, [for_stage(recipe, stage).train.batch for stage in self.stages(recipe)])

    def _classed(self, recipe: Recipe) -> Recipe:
        """The recipe with the names of its classes, which its networks are built for."""
        if not recipe.data.labels:
            return recipe
        return recipe.replace(data=dataclasses.replace(recipe.data, classes=tuple(self.images.classes)))

    def _one(self, name: str, recipe: Recipe, target: int) -> _Decided:
        own = {
            stage: {key: value for key, value in train.items() if key != "seed"}
            for stage, train in recipe.train.stages.items()
        }
        recipe = recipe.replace(train=dataclasses.replace(recipe.train, seed=0, keep=1, stages=own))
        names = self.stages(recipe)
        remarks: tuple[str, ...] = ()
        if target and (before := parameters(recipe)) != parameters(recipe := match(recipe, target)):
            remarks = (f"{name} is scaled from {before:,} to {parameters(recipe):,} parameters.",)
        kind = self.request.budget.kind
        price: Price = {}
        if kind != "images":
            price = self.known[name] if name in self.known else dict(self.prices(recipe, kind))
        total = budgets.images(self.request.budget, budgets.shares(recipe, names), price)
        recipe = budgets.spend(recipe, names, total)
        spent = {stage: for_stage(recipe, stage).train.images for stage in names}
        recipe = parts.complete(self._watched(recipe, spent[names[-1]]))
        return _Decided(recipe, sum(spent.values()), price, remarks)

    def _watched(self, recipe: Recipe, images: int) -> Recipe:
        """The recipe with figures measured on the way, for curves: at every quarter of the last stage, with the N that
        is reported and other seeds."""
        request = self.request
        train = dataclasses.replace(
            recipe.train, sample_images=-(-images // CURVE_POINTS), checkpoint_images=-(-images // 4)
        )
        watched = Evaluate(num=request.num, extractor=request.extractor, metrics=request.metrics, during=True)
        return recipe.replace(train=train, evaluate=watched)


def _target(match: str, found: Mapping[str, Recipe]) -> int:
    """Parameters to scale to; 0: none."""
    if not match:
        return 0
    kind, equals, number = match.partition("=")
    if kind != "params" or (equals and not number):
        raise UserError(f'there is params, or params=N, not "{match[:60]}".')
    if not equals:
        return parameters(next(iter(found.values()))) if found else 0
    target = coerce(number, int, "--match params")
    if target < 1:
        raise UserError(f"params=N takes a number above 0, not {target}.")
    return target


def _contradictions(request: Request) -> list[str]:
    """What the user set beside an option that decides it, in silence or not; and names that are no two folders."""
    decided = OPTIONS | (COMMON if request.track == "common" else {})
    settings = {"": request.set, **{f"{name}: ": entry.set for name, entry in request.entries.items()}}
    found = [
        f"{whose}--set {path} would change nothing, as the comparison decides it; see {decided[path]}."
        for whose, values in settings.items()
        for path in values
        if path in decided
    ]
    if request.batch and request.track != "common":
        found.append(f"--batch is for the common track; in the {request.track} track each recipe has its own.")
    spelt: dict[str, str] = {}
    for name in request.entries:
        other = spelt.setdefault(name.casefold(), name)
        if other != name:
            found.append(f"{other} and {name} differ in capitals only, which some disks take for the same; rename one.")
    return found


def _unlike(found: Mapping[str, Recipe], images: ImageSet) -> list[str]:
    """What keeps the contenders from being compared."""
    problems = []
    for path, what in (("resolution", "resolutions"), ("source", "images"), ("filter", "filters"), ("crop", "crops")):
        values = {name: getattr(recipe.data, path) or DRAWN for name, recipe in found.items()}
        if len(set(values.values())) > 1 and not (images.is_drawn and path in ("filter", "crop")):
            said = ", ".join(f"{name} {value}{' px' * (path == 'resolution')}" for name, value in values.items())
            example = "--data" if path == "source" else f"--set data.{path}={next(iter(values.values()))}"
            problems.append(f"the contenders have different {what} ({said}); {example} makes them the same.")
    for name, recipe in found.items():
        if recipe.data.maps:
            problems.append(f"{name} draws from {recipe.data.maps} of each image, which nobody else is given.")
    return problems
