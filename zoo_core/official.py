"""What a plugin's `convert` answers: an official checkpoint in our own names.

A plugin names `convert="zoo_paper.convert:official"`, a function `(content, recipe) -> Imported`. `content` is the
file as it was read: for `.npz` and `.safetensors` a flat mapping of names to tensors, for `.pt` whatever plain
containers were saved. `recipe` is the one the user chose. The function touches no file and needs no network: where it
must know our own names and shapes it builds `parts.outline(recipe)`, on `meta`. When it answers with settings it is
called once more, with the recipe that has them.

What the recipe's networks lack, or have no place for, is not its business: it hands tensors that it does not know on
under their own names, and the core compares all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo_core.errors import UserError
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
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By network: our names -> the file's, for complaints. A name that is not there is called as ours is."""


Convert = Callable[[Mapping[str, Any], Recipe], Imported]


def tensors(content: Any, place: str) -> dict[str, Tensor]:
    """A mapping of names to tensors, checked to be one; `place` is what a complaint calls it.

    Raises UserError for anything else in it, and for tensors that are no plain arrays (sparse, say, or without data).
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{place} is a {type(content).__name__}, not a mapping of names to tensors.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f"{place} holds {str(name)[:80]!r}, a {type(value).__name__}, not tensors by name only.")
        if value.layout is not torch.strided or value.device.type != "cpu":
            raise UserError(f"{place} holds {name}, which is sparse or without data.")
    return dict(content)
