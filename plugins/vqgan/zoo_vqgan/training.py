"""What the stages share: a network's optimizer settings and averages, as the recipe has them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from zoo_core.errors import UserError
from zoo_core.program import Average
from zoo_core.recipe import Optimizer, Recipe


def averages(recipe: Recipe, networks: Mapping[str, nn.Module]) -> tuple[Average, ...]:
    """Those of the recipe's averages that are of these networks."""
    specs = recipe.train.averages
    return tuple(Average(name, networks[name], spec) for name, spec in specs.items() if name in networks)


def optimizer(recipe: Recipe, name: str, *, like: str = "") -> Optimizer:
    """The settings of one network's optimizer, or else those of the network `like`.

    Raises UserError when the recipe has neither.
    """
    specs = recipe.train.optimizers
    found = specs.get(name) or specs.get(like)
    if found is None:
        raise UserError(f"the recipe has no train.optimizers.{name}; give it an lr.")
    return found
