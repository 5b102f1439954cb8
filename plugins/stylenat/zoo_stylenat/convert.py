"""Official StyleNAT weights <-> ours: StyleSwin's table of names with another attention (spec sections 1.5 and 5).

The discriminator is StyleSwin's, and so is its table: `zoo_styleswin.convert.discriminator_table`.
The published files have an older layout: biases are always two halves of the heads, `rpb0` and `rpb1`. Where our
attention has one group, its bias is the two end to end: both halves have its kernel and dilation.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping

import torch
from torch import Tensor

from zoo_styleswin.convert import GENERATOR_WITHOUT_ATTENTION, Table, from_official, to_official


def _generator(bias: str) -> Table:
    names = ("qkv.weight", "qkv.bias", "proj.weight", "proj.bias", "rpb")  # rpb alone: the full attention at 4 x 4
    for theirs, ours in (*zip(names, names, strict=True), (bias, "rpb.{group}")):
        yield f"layers.{{level}}.blocks.{{block}}.attn.{theirs}", f"levels.{{level}}.blocks.{{block}}.attention.{ours}"


GENERATOR: Table = (*GENERATOR_WITHOUT_ATTENTION, *_generator("rpb.{group}"))
"""The current layout: one bias for each group of heads."""

GENERATOR_LEGACY: Table = (*GENERATOR_WITHOUT_ATTENTION, *_generator("rpb{group}"))
"""The published files' layout, but for the halves."""

_LEGACY_BIAS = re.compile(r"\.rpb\d+$")


def generator_from_official(state: Mapping[str, Tensor], ours: Container[str]) -> dict[str, Tensor]:
    """Official tensors of either layout -> ours; `ours` holds the names in the generator that will load them.

    Raises UserError for a tensor that the table lacks.
    """
    if not any(_LEGACY_BIAS.search(name) for name in state):
        return from_official(state, GENERATOR)
    renamed = from_official(state, GENERATOR_LEGACY)
    for first, second in _halves(renamed):
        if second in renamed and second not in ours:
            renamed[first] = torch.cat([renamed[first], renamed.pop(second)])
    return renamed


def generator_to_official(state: Mapping[str, Tensor], *, legacy: bool = False) -> dict[str, Tensor]:
    """Our tensors -> official ones, in the current layout or the published files'.

    Raises UserError for a tensor that the table lacks.
    """
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
