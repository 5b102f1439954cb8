"""What a plugin's `convert` answers: an official checkpoint in our own names.

A plugin names `convert="zoo_paper.convert:official"`, a function `(content, recipe) -> Imported`. `content` is the
file as it was read: for `.npz` and `.safetensors` a flat mapping of names to tensors, for `.pt` whatever plain
containers were saved. `recipe` is the one the user chose. The function touches no file and needs no network: where it
must know our own names and shapes it builds `parts.outline(recipe)`, on `meta`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from zoo_core.recipe import Recipe


@dataclass(frozen=True)
class Imported:
    """State dicts in our names, whichever the file holds, and what else it says."""

    networks: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """By "generator" and "discriminator"."""
    averages: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """By "generator": the averaged weights."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Values of the recipe that the container holds, by path (`generator.mlp_ratio`); they win over the recipe's."""


Convert = Callable[[Mapping[str, Any], Recipe], Imported]
