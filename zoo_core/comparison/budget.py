"""One budget for all: how many images of training it gives a recipe, and the recipe cut or stretched to that."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from zoo_core.comparison.results import Budget
from zoo_core.errors import UserError
from zoo_core.recipe import Recipe, for_stage
from zoo_core.settings import Part

STARTS = re.compile(r"(^|_)start_images$")
"""Options that say when in a training something begins: they keep their share of it."""

MOST = 2**53
"""Images up to which a float counts them one by one."""

_UNITS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18}
_KINDS = {"images": "images", "flops": "flops", "seconds": "seconds", "minutes": "seconds", "hours": "seconds"}
_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600}


def parse(text: str) -> Budget:
    """`images=30k`, `flops=2e15`, `minutes=20` -> a budget. Raises UserError for anything else."""
    kind, separator, amount = text.partition("=")
    match = re.fullmatch(r"([\d_]*\.?\d+(?:e\+?\d{1,2})?)([kmgtpe]?)", amount.strip().lower())
    if not separator or kind not in _KINDS or not match or len(amount) > 30:
        raise UserError(f'--budget takes KIND=AMOUNT, such as images=200k, flops=5e15 or hours=2, not "{text[:60]}".')
    number = float(match[1].replace("_", "")) * _UNITS.get(match[2], 1) * _SECONDS.get(kind, 1)
    if not number > 0:
        raise UserError(f'a budget must be above 0, not "{amount}".')
    return Budget(_KINDS[kind], number)


def images(budget: Budget, shares: Mapping[str, float], prices: Mapping[str, float]) -> int:
    """Real images that a budget buys over all stages; `shares` sum to 1, `prices` are a stage's FLOPs or seconds an
    image, not asked for where the budget is of images. Raises UserError for more than can be counted."""
    paid = 1.0 if budget.kind == "images" else sum(share * prices[name] for name, share in shares.items())
    bought = budget.amount / paid
    if bought > MOST:
        raise UserError(f"{budget} would be {bought:.0e} images; ask for less.")
    return int(bought)


def shares(recipe: Recipe, stages: Sequence[str]) -> dict[str, float]:
    """Each stage's part of the images of the recipe's own training."""
    seen = {name: for_stage(recipe, name).train.images for name in stages}
    return {name: number / sum(seen.values()) for name, number in seen.items()}


def spend(recipe: Recipe, stages: Sequence[str], total: int) -> Recipe:
    """The recipe with `total` images, divided among the stages as it divides its own; never more, in whole batches.

    Whatever begins at a certain image (`..._start_images`, the decay of learning rates) begins at the same part of the
    training. Raises UserError where a stage is left without a batch.
    """
    own = {name: for_stage(recipe, name).train for name in stages}
    given = {}
    for name, share in shares(recipe, stages).items():
        given[name] = int(total * share) // own[name].batch * own[name].batch
        if not given[name]:
            stage = f" of stage {name}" if len(stages) > 1 else ""
            raise UserError(f"{total:,} images are too few for one batch{stage} of {own[name].batch}.")
    scale = total / sum(train.images for train in own.values())
    train = _scaled(recipe.train, scale)
    if len(stages) == 1:
        train = dataclasses.replace(train, images=given[stages[0]], stages={})
    else:
        laid = {
            name: {
                **train.stages.get(name, {}),
                "images": given[name],
                "decay_from_images": round(own[name].decay_from_images * scale),
            }
            for name in stages
        }
        train = dataclasses.replace(train, images=max(given.values()), stages=laid)
    loss = recipe.loss and Part(recipe.loss.name, _starts_scaled(recipe.loss.options, scale))
    return recipe.replace(train=train, loss=loss)


def _scaled(train: Any, scale: float) -> Any:
    averages = {
        name: dataclasses.replace(spec, start_images=round(spec.start_images * scale))
        for name, spec in train.averages.items()
    }
    return dataclasses.replace(train, averages=averages, decay_from_images=round(train.decay_from_images * scale))


def _starts_scaled(options: Mapping[str, Any], scale: float) -> dict[str, Any]:
    return {
        name: round(float(str(value).replace("_", "")) * scale) if STARTS.search(name) and value else value
        for name, value in options.items()
    }
