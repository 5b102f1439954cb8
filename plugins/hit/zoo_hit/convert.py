"""Official TensorFlow checkpoints <-> our state dicts: one table of names and layouts.

Their names are the keys of an object-based checkpoint: `generator/dense_layer/layer_with_weights-0/kernel`, with or
without `/.ATTRIBUTES/VARIABLE_VALUE`. Variables' own names (`conv2d/kernel:0`) are of no use: they repeat.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from zoo_core import parts
from zoo_core.errors import UserError
from zoo_core.official import Imported, tensors
from zoo_core.recipe import Recipe
from zoo_hit.attention import ProjectedAttention

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
BOOKKEEPING = re.compile(
    r"(generator_optim|discriminator_optim|save_counter|global_step|_CHECKPOINTABLE_OBJECT_GRAPH)(/|$)"
    r"|.*/\.OPTIMIZER_SLOT/"
)
"""What a training checkpoint holds besides the networks."""


@dataclass(frozen=True)
class Layout:
    """How a tensor is laid out there and here. Where theirs has an axis of heads, ours comes with a head's width."""

    to_ours: Callable[[Tensor], Tensor]
    to_theirs: Callable[[Tensor, int], Tensor]


SAME = Layout(lambda a: a, lambda a, head_dim: a)
DENSE = Layout(lambda a: a.t(), lambda a, head_dim: a.t())  # in out <-> out in
CONV = Layout(lambda a: a.permute(3, 2, 0, 1), lambda a, head_dim: a.permute(2, 3, 1, 0))  # h w in out <-> out in h w
IN_HEADS = Layout(  # in N D <-> (N D) in
    lambda a: a.flatten(1).t(), lambda a, head_dim: a.t().unflatten(1, (-1, head_dim))
)
HEADS_BIAS = Layout(lambda a: a.flatten(), lambda a, head_dim: a.unflatten(0, (-1, head_dim)))  # N D <-> (N D)
OUT_HEADS = Layout(  # N D out <-> out (N D)
    lambda a: a.flatten(0, 1).t(), lambda a, head_dim: a.t().unflatten(0, (-1, head_dim))
)
FLAT_MAP = Layout(  # (h w c) out <-> out (c h w), of a map of 4 x 4
    lambda a: a.unflatten(0, (4, 4, -1)).permute(3, 2, 0, 1).flatten(1),
    lambda a, head_dim: a.unflatten(1, (-1, 4, 4)).permute(2, 3, 1, 0).flatten(0, 2),
)

Row = tuple[str, str, Layout]
"""Our name, the official one below its root, the layout."""


def _norm(ours: str, theirs: str) -> Iterator[Row]:
    for our_part, part in (
        ("weight", "gamma"),
        ("bias", "beta"),
        ("running_mean", "moving_mean"),
        ("running_var", "moving_variance"),
    ):
        yield f"{ours}.{our_part}", f"{theirs}/{part}", SAME


def _layer(ours: str, theirs: str, kernel: Layout, bias: Layout = SAME) -> Iterator[Row]:
    yield f"{ours}.weight", f"{theirs}/kernel", kernel
    yield f"{ours}.bias", f"{theirs}/bias", bias


def _mlp(ours: str, theirs: str) -> Iterator[Row]:
    yield from _norm(f"{ours}.norm", f"{theirs}/norm_layer")
    yield from _layer(f"{ours}.expand", f"{theirs}/mlp_block/layer_with_weights-0", DENSE)
    yield from _layer(f"{ours}.contract", f"{theirs}/mlp_block/layer_with_weights-1", DENSE)


def block_rows(ours: str, theirs: str) -> Iterator[Row]:
    """Of one block: attention and MLP."""
    yield from _norm(f"{ours}.norm", f"{theirs}/norm")
    for name in ("query", "key", "value"):
        yield from _layer(f"{ours}.attention.{name}", f"{theirs}/attention_layer/{name}_dense", IN_HEADS, HEADS_BIAS)
    yield from _layer(f"{ours}.attention.output", f"{theirs}/attention_layer/output_dense", OUT_HEADS)
    yield from _mlp(f"{ours}.mlp", f"{theirs}/mlp_block")


_STAGE = "decoder.stages.{stage}"
# {next} is {block} + 1: their lists begin with the cross-attention, and with the convolution that reads the image.
_THEIRS = "blocks/{stage}/layer_with_weights-{next}"

GENERATOR: tuple[Row, ...] = (
    *_layer("stem", "dense_layer/layer_with_weights-0", DENSE),
    *_layer("tokens.project", "embedding_layer/layer_with_weights-0", DENSE),
    ("tokens.position", "embedding_layer/layer_with_weights-1/embedding_weight", SAME),
    *_norm("tokens.norm", "embedding_layer/layer_with_weights-2"),
    (f"{_STAGE}.position", "position_embeddings/{stage}/embedding_weight", SAME),
    *block_rows(f"{_STAGE}.cross", "blocks/{stage}/layer_with_weights-0"),
    *block_rows(f"{_STAGE}.blocks.{{block}}", _THEIRS),
    *_mlp(f"{_STAGE}.mlps.{{block}}", _THEIRS),
    *_layer(f"{_STAGE}.upsample.project", "umsamplings/{stage}/dense_layer", DENSE),  # so spelt
    *_norm(f"{_STAGE}.to_rgb.norm", "to_rgb_layers/{stage}/output_layer/layer_with_weights-0"),
    *_layer(f"{_STAGE}.to_rgb.project", "to_rgb_layers/{stage}/output_layer/layer_with_weights-1", DENSE),
)

DISCRIMINATOR: tuple[Row, ...] = (
    *_layer("from_rgb", "conv_blocks/layer_with_weights-0", CONV),
    *_layer("blocks.{block}.conv1", "conv_blocks/layer_with_weights-{next}/conv_layers/layer_with_weights-0", CONV),
    *_layer("blocks.{block}.conv2", "conv_blocks/layer_with_weights-{next}/conv_layers/layer_with_weights-1", CONV),
    (
        "blocks.{block}.skip.weight",
        "conv_blocks/layer_with_weights-{next}/skip_layers/layer_with_weights-0/kernel",
        CONV,
    ),
    *_layer("last", "final_layers/layer_with_weights-0", CONV),
    *_layer("hidden", "final_layers/layer_with_weights-1", FLAT_MAP),
    *_layer("logit", "final_layers/layer_with_weights-2", DENSE),
)


def _pattern(template: str) -> re.Pattern[str]:
    """`a.{stage}.b` -> a regular expression with the group `stage`."""
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", re.escape(template)))


_TABLES = {
    root: [(_pattern(ours), theirs, layout) for ours, theirs, layout in table]
    for root, table in (("generator", GENERATOR), ("ema_generator", GENERATOR), ("discriminator", DISCRIMINATOR))
}
"""By root, the first part of an official name."""


def official(content: Mapping[str, Any], recipe: Recipe) -> Imported:
    """A checkpoint's tensors in our names: `generator/`, `discriminator/` and, the average, `ema_generator/`.

    What the recipe's networks have no place for stays under its own name, and what has not the shape of its place keeps
    its layout: for the core to list. Raises UserError when the file holds no tensor of HiT, one of them
    twice, or what is no tensor.
    """
    content = tensors(content, "the file")
    built = parts.outline(recipe)
    networks = {"generator": built.generator, "ema_generator": built.generator, "discriminator": built.discriminator}
    places = {root: _places(network, root) for root, network in networks.items()}
    found: dict[str, dict[str, Tensor]] = {}
    known = False
    for name, tensor in content.items():
        if BOOKKEEPING.match(name):
            continue
        name = name.removesuffix(SUFFIX)
        root = name.split("/")[0]
        place = places.get(root, {}).get(name)
        known = known or place is not None
        ours, tensor = _put(name, tensor, place)
        state = found.setdefault(root if root in networks else "generator", {})
        if ours in state:
            raise UserError(f"the file holds {name} twice, with {SUFFIX} at its end and without.")
        state[ours] = tensor
    if not known:
        raise UserError(
            'the file holds no tensor of HiT, such as "generator/dense_layer/layer_with_weights-0/kernel"; '
            "is it a checkpoint of another paper, or are its tensors named otherwise?"
        )
    names = {
        root.removeprefix("ema_"): {place.ours: name for name, place in places[root].items()}
        for root in ("ema_generator", "generator", "discriminator")
        if root in found
    }
    averages = {"generator": found.pop("ema_generator")} if "ema_generator" in found else {}
    return Imported(networks=found, averages=averages, names=names)


def to_official(state: Mapping[str, Tensor], network: nn.Module, root: str) -> dict[str, Tensor]:
    """Tensors by our names (weights, gradients) -> by the official names, in the official layout.

    `root`: "generator", "ema_generator" or "discriminator". Raises UserError for a tensor without a counterpart.
    """
    theirs = {}
    for ours, tensor in state.items():
        row = _row(ours, network, root)
        if row is None:
            raise UserError(f"{ours} has no counterpart in the official HiT; build the network with its own attention.")
        name, layout, head_dim = row
        theirs[name] = layout.to_theirs(tensor, head_dim)
    return theirs


@dataclass(frozen=True)
class _Place:
    """Where an official tensor goes: our name, and the shapes there and here."""

    ours: str
    layout: Layout
    their_shape: tuple[int, ...]
    our_shape: tuple[int, ...]


def _places(network: nn.Module | None, root: str) -> dict[str, _Place]:
    """By official name. Our tensors without a counterpart have none."""
    places = {}
    for ours, tensor in network.state_dict().items() if network is not None else ():
        if row := _row(ours, network, root):
            name, layout, head_dim = row
            places[name] = _Place(ours, layout, layout.to_theirs(tensor, head_dim).shape, tensor.shape)
    return places


def _put(name: str, tensor: Tensor, place: _Place | None) -> tuple[str, Tensor]:
    """Our name and layout; what does not belong there is given back in a way that the core must notice."""
    if place is None:  # a name without a slash may be called as one of ours is
        return name if "/" in name else f"{name} (not an official name)", tensor
    if tensor.shape == place.their_shape:
        return place.ours, place.layout.to_ours(tensor).contiguous()
    # Misshapen; yet one that has our shape, by chance or because somebody has transposed it, would pass for right.
    return name if tensor.shape == place.our_shape else place.ours, tensor


def _row(ours: str, network: nn.Module, root: str) -> tuple[str, Layout, int] | None:
    """The official name with its root, the layout and a head's width, of one of our tensors."""
    for pattern, theirs, layout in _TABLES[root]:
        if match := pattern.fullmatch(ours):
            numbers = {key: int(value) for key, value in match.groupdict().items()}
            name = theirs.format(**numbers, next=numbers.get("block", 0) + 1)
            if ".attention." not in ours:
                return f"{root}/{name}", layout, 0
            attention = network.get_submodule(ours.rsplit(".", 2)[0])
            if isinstance(attention, ProjectedAttention):  # another paper's may have tensors of the same names
                return f"{root}/{name}", layout, attention.head_dim
    return None
