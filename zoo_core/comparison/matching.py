"""Scales a recipe's widths until its generator has a wanted number of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from zoo_core import catalog, parts
from zoo_core import recipe as recipes
from zoo_core.errors import UserError
from zoo_core.recipe import Recipe

TOLERANCE = 0.05
FACTORS = (1 / 16, 16)
"""Widths are scaled by no more than this."""
Places = Mapping[tuple[Any, ...], int]
"""The keys under which a recipe has a width -> what it must be a multiple of."""
_HALVINGS, _CLOSE = 14, 0.005
"""A search ends after so many, or this near to the target."""
_GAP = 0.5
"""What one factor for all may leave for single widths to fill."""
_NUDGES = tuple(1.01**step for step in range(9))
"""Where a width is refused, say by the number of heads, somewhat larger ones are tried."""


def parameters(recipe: Recipe) -> int:
    """Trainable parameters of the recipe's generator, all its networks together."""
    generator = parts.outline(recipe).generator
    return sum(parameter.numel() for parameter in generator.parameters() if parameter.requires_grad)


def match(recipe: Recipe, target: int) -> Recipe:
    """The recipe with its generator's widths scaled until it has `target` parameters to 5 %, each width rounded to its
    multiple: by one factor for all, then, where coarse multiples leave a gap, one width after the other, in a table
    one entry after the other.

    Raises UserError for a target below 1, a generator whose plugin names no widths, and where no factor comes near
    enough.
    """
    if target < 1:
        raise UserError(f"--match params=N takes a number above 0, not {target}.")
    if _near(parameters(recipe), target, TOLERANCE):
        return recipe
    owner = catalog.find("generator", recipe.generator.name, recipe.plugin).plugin
    widths = catalog.plugin(owner).widths
    if not widths:
        raise UserError(
            f"the plugin {owner} does not say which of its options are widths, so its generator cannot be scaled; "
            "leave --match out, or set its size in a recipe file."
        )
    places = {tuple(path.split(".")): multiple for path, multiple in widths.items()}
    best = _search(_written(recipe, widths), places, target)
    nearest = parameters(best)
    for single in _singly(best, places) if _near(nearest, target, _GAP) else ():
        if _near(nearest, target, TOLERANCE):
            break
        best = _search(best, single, target)
        nearest = parameters(best)
    if _near(nearest, target, TOLERANCE):
        return best
    raise UserError(
        f"{target:,} parameters are out of reach: the nearest that scaling {', '.join(widths)} of {owner} gives is "
        f"{nearest:,}; --match params=N takes another number for all."
    )


def _written(recipe: Recipe, widths: Iterable[str]) -> Recipe:
    """The recipe with all its widths in it: the defaults too, and those that its generator derives and keeps as a
    table under the option's name, by side, say."""
    generator = parts.outline(recipe).generator
    raw = recipes.to_dict(parts.complete(recipe))
    for path in widths:
        option = path.removeprefix("generator.")
        derived = getattr(generator, option, None)
        if isinstance(derived, Mapping):
            raw["generator"][option] = dict(derived)
    return recipes.check(raw)


def _search(recipe: Recipe, widths: Places, target: int) -> Recipe:
    """The nearest to `target` that one factor for these widths gives, or the recipe itself."""
    whole = recipes.to_dict(recipe)
    best, nearest = recipe, abs(math.log(parameters(recipe) / target))
    low, high = (math.log(factor) for factor in FACTORS)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        tried = _accepted(whole, widths, math.exp(middle))
        if tried is None:
            low = middle
            continue
        count = parameters(tried)
        if abs(math.log(count / target)) < nearest:
            best, nearest = tried, abs(math.log(count / target))
        if _near(count, target, _CLOSE):
            break
        low, high = (middle, high) if count < target else (low, middle)
    return best


def _accepted(whole: Mapping[str, Any], widths: Places, factor: float) -> Recipe | None:
    """Scaled by this factor or the first somewhat larger one that the network accepts; None where it refuses all."""
    for nudge in _NUDGES:
        tried = _scaled(whole, widths, factor * nudge)
        with suppress(UserError):
            parts.outline(tried)
            return tried
    return None


def _near(count: int, target: int, tolerance: float) -> bool:
    return abs(count - target) <= tolerance * target


def _singly(recipe: Recipe, widths: Places) -> Iterator[Places]:
    """Each width by itself; of a table each entry."""
    for path, multiple in widths.items():
        value: Any = recipes.to_dict(recipe)
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        for place in [(*path, key) for key in value] if isinstance(value, Mapping) else [path]:
            yield {place: multiple}


def _scaled(whole: Mapping[str, Any], widths: Places, factor: float) -> Recipe:
    raw: Any = whole
    for path, multiple in widths.items():
        raw = _at(raw, path, factor, multiple)
    return recipes.check(raw)


def _at(value: Any, path: Sequence[Any], factor: float, multiple: int) -> Any:
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
