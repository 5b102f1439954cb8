"""The generator and its parts give the official code's numbers, with weights that follow from names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from hit_goldens import arrays, keys, stored_part, variables
from parity import note, peak_error
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate

from zoo_core import parts, recipe
from zoo_core.interfaces import Site
from zoo_hit import convert
from zoo_hit.attention import DILATED, REGIONAL, CrossAttention, MultiAxisAttention, ProjectedAttention
from zoo_hit.blocks import Block, depth_to_space
from zoo_hit.generator import Generator
from zoo_hit.norm import BatchNorm

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4  # activations and images
ALONE = 1e-5  # parts that stand alone
MODES = {"infer": "inference", "train": "training"}
AFTER = "running statistics after a training pass"

GENERATORS = {
    "g_tiny32": {
        "latent_dim": 16,
        "channels": (32, 32, 16),
        "heads": (4, 4, 2),
        "blocks": (4, 4, 0),
        "depths": (2, 1, 1),
    },
    "g_tiny32p2": {
        "latent_dim": 24,
        "channels": (48, 24, 24),
        "heads": (6, 4, 2),
        "blocks": (2, 8, 0),
        "depths": (1, 1, 2),
    },
    "g_tiny64": {
        "latent_dim": 32,
        "channels": (64, 16, 32, 8),
        "heads": (8, 4, 4, 2),
        "blocks": (4, 4, 8, 0),
        "depths": (1, 2, 1, 1),
    },
}
GENERATORS["g_tiny32_layer_multihead"] = GENERATORS["g_tiny32"] | {"norm": "layer", "multi_query": False}
"""The golden cases, their tables as lists from 8 pixels on."""


def build(case: str) -> Generator:
    """The case's generator with its weights, imported as a checkpoint is."""
    options = {
        name: {8 << stage: each for stage, each in enumerate(value)} if isinstance(value, tuple) else value
        for name, value in GENERATORS[case].items()
    }
    changes = {"data.resolution": 4 << len(options["channels"]), "generator": options}
    wanted = recipe.load("hit", "imagenet128", list(changes.items()))
    generator = parts.build(wanted).generator
    generator.load_state_dict(convert.official(variables(keys(case)), wanted).networks["generator"])
    return generator


def fill(network: nn.Module, case: str, rows: Iterable[tuple[str, str, convert.Layout]]) -> None:
    """Load the case's weights by (our name, official name, layout)."""
    weights = variables(keys(case))
    network.load_state_dict({ours: layout.to_ours(weights.pop(theirs)) for ours, theirs, layout in rows})
    assert not weights


def kept(network: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """A table by golden name, which fills with the outputs of our modules when the network runs."""
    taken: dict[str, Tensor] = {}
    for theirs, ours in names.items():
        network.get_submodule(ours).register_forward_hook(
            lambda module, arguments, output, key=theirs: taken.__setitem__(key, output.detach())
        )
    return taken


def as_blocks(x: Tensor, block: int) -> Tensor:
    """A map `[B, H, W, C]` in the official layout `[B, blocks, pixels, C]`."""
    grid = x.unflatten(2, (-1, block)).unflatten(1, (-1, block)).unsqueeze(5)
    return grid.permute(REGIONAL[0]).flatten(3, 4).flatten(1, 2).squeeze(3)


def as_map(blocks: Tensor, block: int) -> Tensor:
    """The way back, of a square map."""
    count = int(blocks.shape[1] ** 0.5)
    grid = blocks.unflatten(2, (block, block)).unflatten(1, (count, count)).unsqueeze(5)
    return grid.permute(REGIONAL[1]).squeeze(5).flatten(3, 4).flatten(1, 2)


# -- the whole generator


@pytest.mark.parametrize("case", GENERATORS)
def test_generator_gives_the_official_image_and_activations(case: str) -> None:
    recorded = arrays(case)
    generator = build(case)
    stages = generator.decoder.stages
    names = {"stem": "stem", "tokens": "tokens"}
    for stage, module in enumerate(stages):
        names |= {f"cross{stage}": f"decoder.stages.{stage}.cross", f"stage{stage}": f"decoder.stages.{stage}"}
        if module.upsample is not None:
            names[f"up{stage}"] = f"decoder.stages.{stage}.upsample"
        if module.to_rgb is not None:
            names[f"rgb{stage}"] = f"decoder.stages.{stage}.to_rgb"
    taken = kept(generator, names)
    stages[0].cross.register_forward_pre_hook(lambda module, arguments: taken.__setitem__("blocked0", arguments[0]))
    z = torch.from_numpy(recorded["z"])
    for mode, words in MODES.items():
        generator.train(mode == "train")
        with torch.no_grad():
            taken["image"] = generator(z)
        assert {f"{mode}_{name}_stats" for name in taken} == {
            key for key in recorded if key.startswith(mode) and key.endswith("_stats")
        }
        for name, value in taken.items():
            whole = official_layout(name, value, GENERATORS[case]["blocks"])
            quantity = f"{'image' if name == 'image' else 'activations'}, {words}"
            compare(recorded, f"{mode}_{name}", whole, ("hit: generator", case, quantity))
    running = convert.to_official(generator.state_dict(), generator, "generator")
    for key in recorded:
        if key.startswith("after_train:"):
            error = peak_error(running[key.removeprefix("after_train:")], recorded[key])
            note("hit: generator", case, AFTER, error, TOLERANCE)


def official_layout(name: str, value: Tensor, blocks: tuple[int, ...]) -> Tensor:
    """One of our activations, as the official code has it."""
    if name == "stem":
        return value.unflatten(1, (8, 8, -1))
    if name == "tokens":
        return value.unsqueeze(1)
    if name == "image" or name.startswith("rgb"):
        return value.permute(0, 2, 3, 1)
    if name.startswith(("cross", "blocked")) and (block := blocks[int(name[-1])]):
        return as_blocks(value, block)
    return value


def compare(recorded: dict[str, np.ndarray], name: str, whole: Tensor, row: tuple[str, str, str]) -> None:
    """Note the stored part's error, and that of the figures of the whole: mean, deviation, peak, first, last."""
    note(*row, peak_error(stored_part(recorded, name, whole), recorded[name]), TOLERANCE)
    wide = whole.double()
    figures = [wide.mean(), wide.std(correction=0), wide.abs().max(), wide.flatten()[0], wide.flatten()[-1]]
    stats = recorded[f"{name}_stats"]
    assert np.abs(np.array([float(figure) for figure in figures]) - stats).max() <= TOLERANCE * stats[2], name


# -- attention and blocks alone


def block_rows(theirs: str) -> list[tuple[str, str, convert.Layout]]:
    return [(ours.removeprefix("."), name, layout) for ours, name, layout in convert.block_rows("", theirs)]


def attention_rows() -> list[tuple[str, str, convert.Layout]]:
    rows = [(ours, name.removeprefix("/"), layout) for ours, name, layout in block_rows("")]
    return [(ours.removeprefix("attention."), *row) for ours, *row in rows if ours.startswith("attention.")]


def compare_attention(
    module: ProjectedAttention, case: str, shown: Callable[[Tensor], Tensor], x: Tensor, *context: Tensor
) -> None:
    """Output, projections and concatenated heads; `shown`: from our layout to the official one."""
    recorded = arrays(case)
    fill(module, case, attention_rows())
    taken = kept(module, {f"{name}_proj": name for name in ("query", "key", "value")})
    module.output.register_forward_pre_hook(lambda layer, arguments: taken.__setitem__("heads_concat", arguments[0]))
    taken["y"] = module(x, *context)
    for name, value in taken.items():
        value = value.detach() if value.ndim == 4 else value.unsqueeze(1)  # tokens have an axis of length 1 there
        value = shown(value) if value.shape[1:3] == x.shape[1:3] else value
        if name != "y":
            value = value.unflatten(-1, (-1, module.head_dim))
        row = f"hit: {'cross-attention' if context else 'multi-axis attention'}", case, "output and projections"
        note(*row, peak_error(value, recorded[name]), ALONE)


@pytest.mark.parametrize("case", ["attn_local_dilated_mq", "attn_local_dilated_mh"])
def test_multi_axis_attention_gives_the_official_output_and_weights(case: str) -> None:
    recorded = arrays(case)
    x = as_map(torch.from_numpy(recorded["q"]), 4)
    side, heads = x.shape[1], int(recorded["num_heads"][0])
    module = MultiAxisAttention(Site(x.shape[3], heads, side), block=4, multi_query=case.endswith("mq"))
    compare_attention(module, case, lambda value: as_blocks(value, 4), x)
    everywhere = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    regional, dilated = module.weights(x, everywhere).flatten(3).chunk(2, dim=1)  # [B, N / 2, query, key]
    pixels = as_blocks(torch.arange(side**2).view(1, side, side, 1), 4)[0, ..., 0]  # [blocks, pixels]
    for axis, (half, meet) in enumerate(((regional, pixels), (dilated, pixels.t()))):
        ours = half[..., meet[:, :, None], meet[:, None, :]].transpose(1, 2)
        note("hit: multi-axis attention", case, "weights", peak_error(ours, recorded[f"prob_axis{axis}"]), ALONE)


@pytest.mark.parametrize("case", ["attn_cross_mq_blocked", "attn_cross_mq_fullres"])
def test_cross_attention_gives_the_official_output_and_weights(case: str) -> None:
    recorded = arrays(case)
    x, context = torch.from_numpy(recorded["q"]), torch.from_numpy(recorded["v"]).squeeze(1)  # blocks serve as rows
    module = CrossAttention(Site(x.shape[3], int(recorded["num_heads"][0]), x.shape[1], 0, context.shape[2]))
    compare_attention(module, case, lambda value: value, x, context)
    places = torch.cartesian_prod(*(torch.arange(side) for side in x.shape[1:3]))
    weights = module.weights(x, places, context).unflatten(2, x.shape[1:3]).unsqueeze(4)  # [B, N, H, W, 1, L]
    note("hit: cross-attention", case, "weights", peak_error(weights, recorded["prob_axis0"]), ALONE)


@pytest.mark.parametrize("case", ["block_self_batchnorm", "block_cross_batchnorm"])
def test_attention_block_gives_the_official_output_and_statistics(case: str) -> None:
    recorded = arrays(case)
    x = as_map(torch.from_numpy(recorded["q"]), 4)
    context = [torch.from_numpy(recorded["v"]).squeeze(1)] if "v" in recorded else []
    attention = (
        CrossAttention(Site(32, 4, 8, 0, context[0].shape[2]))
        if context
        else MultiAxisAttention(Site(32, 4, 8), block=4)
    )
    block = Block(attention, 32, "batch")
    rows = block_rows("block")
    fill(block, case, rows)
    for mode, words in MODES.items():
        block.train(mode == "train")
        error = peak_error(as_blocks(block(x, *context), 4), recorded[f"y_{mode}"])
        note("hit: attention block", case, f"output, {words}", error, ALONE)
    state = block.state_dict()
    compared = [(ours, recorded[f"after_train:{name}"]) for ours, name, _ in rows if f"after_train:{name}" in recorded]
    assert len(compared) == 4
    for ours, theirs in compared:
        error = peak_error(state[ours], theirs)
        note("hit: attention block", case, AFTER, error, ALONE)


# -- single operations


@pytest.fixture
def misc() -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays("misc").items()}


def test_blocks_are_cut_and_joined_as_the_official_ones(misc: dict[str, Tensor]) -> None:
    blocks = as_blocks(misc["block_in"], 4)
    note("hit: blocked layout", "misc", "blocks", peak_error(blocks, misc["block_out_p4"]), 0)
    assert torch.equal(as_map(blocks, 4), misc["block_in"])
    dilated = misc["block_in"].unflatten(2, (-1, 4)).unflatten(1, (-1, 4)).unsqueeze(5).permute(DILATED[0])
    assert torch.equal(dilated.flatten(3, 4).flatten(1, 2).squeeze(3), blocks.transpose(1, 2))


def test_depth_to_space_orders_channels_as_the_official_one(misc: dict[str, Tensor]) -> None:
    note("hit: depth to space", "misc", "output", peak_error(depth_to_space(misc["d2s_in"]), misc["d2s_out"]), 0)


def test_images_are_doubled_as_the_official_ones(misc: dict[str, Tensor]) -> None:
    doubled = interpolate(misc["up_in"].permute(0, 3, 1, 2), size=(8, 8), mode="nearest").permute(0, 2, 3, 1)
    note("hit: nearest doubling", "misc", "output", peak_error(doubled, misc["up_nearest2"]), 0)


def test_gelu_is_the_exact_one(misc: dict[str, Tensor]) -> None:
    note("hit: GELU", "misc", "output", peak_error(gelu(misc["gelu_in"]), misc["gelu_out"]), ALONE)


def test_batch_norm_gives_the_official_output_and_statistics(misc: dict[str, Tensor]) -> None:
    norm = BatchNorm(6)
    with torch.no_grad():
        norm.weight.copy_(misc["bn_gamma"])
        norm.bias.copy_(misc["bn_beta"])
    for mode, golden in (("train", "bn_train"), ("infer", "bn_infer_after")):
        norm.train(mode == "train")
        error = peak_error(norm(misc["bn_in"]), misc[golden])
        note("hit: batch norm", "misc", f"output, {MODES[mode]}", error, ALONE)
    for ours, golden in ((norm.running_mean, "bn_mm"), (norm.running_var, "bn_mv")):
        note("hit: batch norm", "misc", AFTER, peak_error(ours, misc[golden]), ALONE)
