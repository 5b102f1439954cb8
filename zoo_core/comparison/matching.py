"""Scales a recipe's widths until its generator has a wanted number of parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from zoo_core import catalog, parts
from zoo_core import recipe as recipes
from zoo_core.errors import UserError
from zoo_core.recipe import Recipe

TOLERANCE = 0.05
FACTORS = (1 / 16, 16)
"""Widths are scaled by no more than this."""
_HALVINGS = 24


def parameters(recipe: Recipe) -> int:
    """Trainable parameters of the recipe's generator, all its networks together."""
    generator = parts.outline(recipe).generator
    return sum(parameter.numel() for parameter in generator.parameters() if parameter.requires_grad)


def match(recipe: Recipe, target: int) -> Recipe:
    """The recipe with its plugin's widths scaled until it has `target` parameters to 5 %, each width rounded to its
    multiple: by one factor for all, then, where coarse multiples leave a gap, one width after the other.

    Raises UserError for a plugin that names no widths, and where no factor comes near enough.
    """
    widths = catalog.plugin(recipe.plugin).widths
    if _near(parameters(recipe), target):
        return recipe
    if not widths:
        raise UserError(
            f"the plugin {recipe.plugin} does not say which of its options are widths, so it cannot be scaled."
        )
    best = parts.complete(recipe)
    for scaled in (widths, *({path: multiple} for path, multiple in widths.items())):
        best = _search(best, scaled, target)
        if _near(parameters(best), target):
            return best
    raise UserError(
        f"no width of {recipe.plugin} gives {target:,} parameters within 5 %; the nearest has {parameters(best):,}."
    )


def _search(recipe: Recipe, widths: Mapping[str, int], target: int) -> Recipe:
    """The nearest to `target` that one factor for these widths gives, or the recipe itself."""
    whole = recipes.to_dict(recipe)
    best, nearest = recipe, abs(math.log(parameters(recipe) / target))
    low, high = (math.log(factor) for factor in FACTORS)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        tried = _scaled(whole, widths, math.exp(middle))
        try:
            count = parameters(tried)
        except UserError:  # a width that this network refuses: a larger one may do
            low = middle
            continue
        if abs(math.log(count / target)) < nearest:
            best, nearest = tried, abs(math.log(count / target))
        low, high = (middle, high) if count < target else (low, middle)
    return best


def _near(count: int, target: int) -> bool:
    return abs(count - target) <= TOLERANCE * target


def _scaled(whole: Mapping[str, Any], widths: Mapping[str, int], factor: float) -> Recipe:
    raw: Any = whole
    for path, multiple in widths.items():
        raw = _at(raw, path.split("."), factor, multiple)
    return recipes.check(raw)


def _at(value: Any, path: list[str], factor: float, multiple: int) -> Any:
    """A copy of nested mappings with every number at `path` scaled; what is not there stays away."""
    if path:
        if not isinstance(value, Mapping) or path[0] not in value:
            return value
        return {**value, path[0]: _at(value[path[0]], path[1:], factor, multiple)}
    if isinstance(value, Mapping):
        return {key: _at(item, [], factor, multiple) for key, item in value.items()}
    if isinstance(value, list):
        return [_at(item, [], factor, multiple) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return max(multiple, round(value * factor / multiple) * multiple)
