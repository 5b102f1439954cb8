"""The official TensorFlow variables and our state dicts: one table of names and layouts.

TF names are taken with or without the `model/` in front. The table covers the official network at 128 px and, by the
same rule, our other sizes; it knows the official layers only (`norm="tables"`, `spectral_norm="official"`, this
paper's attention, classes).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core import parts
from zoo_core.errors import UserError
from zoo_core.official import Imported, tensors
from zoo_core.recipe import Recipe

PREFIX = "model/"


@dataclass(frozen=True)
class Layout:
    """How an array is laid out there and here."""

    to_ours: Callable[[Tensor], Tensor]
    to_theirs: Callable[[Tensor], Tensor]


SAME = Layout(lambda a: a, lambda a: a)
CONV = Layout(lambda a: a.permute(3, 2, 0, 1), lambda a: a.permute(2, 3, 1, 0))  # kh kw in out <-> out in kh kw
POINT = Layout(lambda a: a[0, 0].t(), lambda a: a.t()[None, None])  # 1 1 in out <-> out in
MATRIX = Layout(lambda a: a.t(), lambda a: a.t())  # in out <-> out in
ROW = Layout(lambda a: a[0], lambda a: a[None])  # 1 n <-> n
CHANNEL = Layout(lambda a: a[0, 0, 0], lambda a: a[None, None, None])  # 1 1 1 n <-> n


def _conv(ours: str, theirs: str) -> list[tuple[str, str, Layout]]:
    return [
        (f"{ours}.weight", f"{theirs}/w", CONV),
        (f"{ours}.spectral.u", f"{theirs}/u", ROW),
        (f"{ours}.bias", f"{theirs}/biases", SAME),
    ]


def _dense(ours: str, theirs: str) -> list[tuple[str, str, Layout]]:
    return [
        (f"{ours}.weight", f"{theirs}/Matrix", MATRIX),
        (f"{ours}.spectral.u", f"{theirs}/u", ROW),
        (f"{ours}.bias", f"{theirs}/bias", SAME),
    ]


def _conditional_norm(ours: str, theirs: str) -> list[tuple[str, str, Layout]]:
    return [
        (f"{ours}.gamma", f"{theirs}/gamma", SAME),
        (f"{ours}.beta", f"{theirs}/beta", SAME),
        (f"{ours}.mean", f"{theirs}/mean", CHANNEL),
        (f"{ours}.var", f"{theirs}/var", CHANNEL),
    ]


def _attention(theirs: str) -> list[tuple[str, str, Layout]]:
    rows = [("attention.gamma", f"{theirs}/sigma_ratio", SAME)]
    for ours, name in {"theta": "theta", "phi": "phi", "g": "g", "output": "attn"}.items():
        rows += [
            (f"attention.mixer.{ours}.weight", f"{theirs}/sn_conv_{name}/w", POINT),
            (f"attention.mixer.{ours}.spectral.u", f"{theirs}/sn_conv_{name}/u", ROW),
        ]
    return rows


# {} stands for the number of a block, counted from 0 here and from 1 there.
GENERATOR = [
    *_dense("dense", "g_snh0"),
    *_conditional_norm("blocks.{}.norm1", "g_block{}/cbn_0"),
    *_conv("blocks.{}.conv1", "g_block{}/snconv1"),
    *_conditional_norm("blocks.{}.norm2", "g_block{}/cbn_1"),
    *_conv("blocks.{}.conv2", "g_block{}/snconv2"),
    *_conv("blocks.{}.shortcut", "g_block{}/snconv3"),
    *_attention("g_non_local"),
    ("norm.gamma", "g_bn/gamma", SAME),
    ("norm.beta", "g_bn/beta", SAME),
    ("norm.mean", "g_bn/moving_mean", SAME),
    ("norm.var", "g_bn/moving_variance", SAME),
    *_conv("to_rgb", "g_snconv_last"),
]
DISCRIMINATOR = [
    *_conv("blocks.0.conv1", "d_optimized_block1/sn_conv1"),
    *_conv("blocks.0.conv2", "d_optimized_block1/sn_conv2"),
    *_conv("blocks.0.shortcut", "d_optimized_block1/sn_conv3"),
    *_conv("blocks.{}.conv1", "d_block{}/sn_conv1"),
    *_conv("blocks.{}.conv2", "d_block{}/sn_conv2"),
    *_conv("blocks.{}.shortcut", "d_block{}/sn_conv3"),
    *_attention("d_non_local"),
    *_dense("linear", "d_sn_linear"),
    ("embedding.weight", "d_embedding/embedding_map", SAME),
    ("embedding.spectral.u", "d_embedding/u", ROW),
]
_ROWS = {
    network: {ours: (theirs, layout) for ours, theirs, layout in table}
    for network, table in {"generator": GENERATOR, "discriminator": DISCRIMINATOR}.items()
}
# Adam's slots and the counters of a training checkpoint
_NOT_WEIGHTS = re.compile(r"(.*/Adam(_\d+)?|beta[12]_power(_\d+)?|[dg]_step|global_step)$")


def official_name(ours: str, network: nn.Module) -> tuple[str, Layout]:
    """The TF name, without `model/`, and layout of one key of `network.state_dict()`.

    Raises UserError for a key that the official networks do not have.
    """
    rows = _ROWS["generator" if hasattr(network, "to_rgb") else "discriminator"]
    if ours in rows:
        return rows[ours]
    number = re.search(r"\d+", ours)
    general = re.sub(r"\d+", "{}", ours, count=1)
    if number is None or general not in rows:
        raise UserError(f"{ours} has no counterpart in the official SAGAN; build the network with its default options")
    theirs, layout = rows[general]
    return theirs.format(int(number[0]) + 1), layout


def official(content: Mapping[str, Any], recipe: Recipe) -> Imported:
    """A checkpoint's variables by their TF names; optimizer state and counters are passed over.

    Raises UserError when none of them is of this paper.
    """
    variables = tensors(content, "it")
    own = parts.outline(recipe)
    networks = {"generator": own.generator, "discriminator": own.discriminator}
    networks = {name: network for name, network in networks.items() if network is not None}
    names = {name: _names(network) for name, network in networks.items()}
    if not {name.removeprefix(PREFIX) for name in variables} & {
        name for table in names.values() for name in table.values()
    }:
        raise UserError(f'it holds no variable of SAGAN, such as "{PREFIX}g_snh0/Matrix".')
    found = {}
    for name, letter in (("generator", "g"), ("discriminator", "d")):
        mine = {key: value for key, value in variables.items() if _is_of(letter, key)}
        if mine:
            found[name] = from_official(mine, networks[name]) if name in networks else mine
    with_prefix = {name: {ours: PREFIX + theirs for ours, theirs in table.items()} for name, table in names.items()}
    return Imported(found, names=with_prefix)


def from_official(variables: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """TF variables of one network -> our state dict, without optimizer state and counters.

    One that the network has no place for keeps its name, one of another shape its layout, so that they do not load.
    """
    places = {theirs: ours for ours, theirs in _names(network).items()}
    own = network.state_dict()
    found: dict[str, Tensor] = {}
    for name, value in variables.items():
        theirs = name.removeprefix(PREFIX)
        if _NOT_WEIGHTS.match(theirs):
            continue
        ours = places.get(theirs)
        if ours is None:
            ours = f"{name} (not an official name)" if name in own else name  # it may be called as one of ours is
        else:
            layout = official_name(ours, network)[1]
            if value.shape == layout.to_theirs(own[ours]).shape:
                value = layout.to_ours(value)
            elif value.shape == own[ours].shape:
                ours = name  # somebody has transposed it, or it only looks right
        if ours in found:
            raise UserError(f"it holds {theirs} twice, with {PREFIX} in front and without.")
        found[ours] = value
    return found


def load_official(network: nn.Module, variables: Mapping[str, object]) -> None:
    """Fill a generator or discriminator from a checkpoint's variables (arrays or tensors by name), the other network's
    among them. Strict: torch's RuntimeError lists what is missing, left over or of another shape."""
    letter = "g" if hasattr(network, "to_rgb") else "d"
    mine = {name: torch.as_tensor(value) for name, value in variables.items() if _is_of(letter, name)}
    network.load_state_dict(from_official(mine, network))


def official_values(network: nn.Module, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """TF name with `model/` -> value in TF layout, of the state dict or of `tensors` by our names (gradients, say)."""
    values = {}
    for ours, tensor in (network.state_dict() if tensors is None else tensors).items():
        theirs, layout = official_name(ours, network)
        values[PREFIX + theirs] = layout.to_theirs(tensor)
    return values


def _names(network: nn.Module) -> dict[str, str]:
    """Our names -> TF's, without `model/`. Raises UserError for what the official networks do not have."""
    return {ours: official_name(ours, network)[0] for ours in network.state_dict()}


def _is_of(letter: str, name: str) -> bool:
    """Whether a variable belongs to the network of that letter; what belongs to neither is put to the generator."""
    return name.removeprefix(PREFIX).startswith("d_") == (letter == "d")
