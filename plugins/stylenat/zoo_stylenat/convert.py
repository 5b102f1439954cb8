"""Official StyleNAT weights <-> ours: StyleSwin's table of names with another attention.

The discriminator is StyleSwin's, and so is its table: `zoo_styleswin.convert.discriminator_table`.
The published files have an older layout: biases are always two halves of the heads, `rpb0` and `rpb1`. Where our
attention has one group, its bias is the two end to end: both halves have its kernel and dilation.
A container of either layout may hold the configuration under `args`, which is then used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo_core import parts
from zoo_core.errors import UserError
from zoo_core.official import Imported
from zoo_core.recipe import Recipe
from zoo_stylenat.configuration import settings
from zoo_styleswin.convert import GENERATOR_WITHOUT_ATTENTION, Table, from_official, networks, renamed, to_official


def _generator(bias: str) -> Table:
    names = ("qkv.weight", "qkv.bias", "proj.weight", "proj.bias", "rpb")  # rpb alone: the full attention at 4 x 4
    for theirs, ours in (*zip(names, names, strict=True), (bias, "rpb.{group}")):
        yield f"layers.{{level}}.blocks.{{block}}.attn.{theirs}", f"levels.{{level}}.blocks.{{block}}.attention.{ours}"


GENERATOR: Table = (*GENERATOR_WITHOUT_ATTENTION, *_generator("rpb.{group}"))
"""The current layout: one bias for each group of heads."""

GENERATOR_LEGACY: Table = (*GENERATOR_WITHOUT_ATTENTION, *_generator("rpb{group}"))
"""The published files' layout, but for the halves."""

_LEGACY_BIAS = re.compile(r"\.rpb\d+$")


def official(content: Mapping[str, Any], recipe: Recipe) -> Imported:
    """A published file (`g`, `g_ema`, `d`, `args`) or one of the current code (those three under `state_dicts`)."""
    changes = settings(content.get("args"), recipe)
    if changes:
        return Imported(settings=changes)  # the recipe's networks are of other sizes than the file's
    state_dicts = content.get("state_dicts", content)
    if not isinstance(state_dicts, Mapping):
        raise UserError(f"its state_dicts is a {type(state_dicts).__name__}, not a mapping.")
    own = parts.outline(recipe)
    ours = own.generator.state_dict()
    legacy = any(_LEGACY_BIAS.search(str(name)) for name in state_dicts.get("g_ema") or state_dicts.get("g") or ())
    table = GENERATOR_LEGACY if legacy else GENERATOR
    names = renamed(ours, [(own_name, theirs) for theirs, own_name in table])
    return networks(state_dicts, own, lambda state: generator_from_official(state, ours), names)


def generator_from_official(state: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official tensors of either layout -> ours; `ours` is the state dict of the generator that will load them."""
    if not any(_LEGACY_BIAS.search(name) for name in state):
        return from_official(state, GENERATOR, ours)
    names, joined = renamed(state, GENERATOR_LEGACY), dict(state)
    for second in [name for name in state if name.endswith(".rpb1") and names[name] not in ours]:
        first = f"{second[:-1]}0"
        if first in state and _fit(state[first], state[second], ours.get(names[first])):
            joined[first] = torch.cat([state[first], joined.pop(second)])
    return from_official(joined, GENERATOR_LEGACY, ours)


def _fit(first: Tensor, second: Tensor, whole: Tensor | None) -> bool:
    return whole is not None and 2 * first.numel() == whole.numel() and first.shape == second.shape


def generator_to_official(state: Mapping[str, Tensor], *, legacy: bool = False) -> dict[str, Tensor]:
    """Our tensors -> official ones, in the current layout or the published files'."""
    if not legacy:
        return to_official(state, GENERATOR)
    halved = dict(state)
    for first, second in _halves(state):
        if second not in state:
            halved[first], halved[second] = state[first].chunk(2)
    return to_official(halved, GENERATOR_LEGACY)


def _halves(state: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Names of the first and, there or not, the second group's bias of each neighbourhood attention."""
    return [(name, name[:-1] + "1") for name in state if name.endswith(".rpb.0")]
