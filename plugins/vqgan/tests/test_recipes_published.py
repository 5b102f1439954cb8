"""The published recipes at full size, without memory: sizes, official keys, and how they train."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch

from zoo_core import parts, recipe, session
from zoo_core.program import Stage
from zoo_core.recipe import Recipe
from zoo_vqgan.autoencoder_stage import Terms
from zoo_vqgan.convert import DISCRIMINATOR, PREFIXES, official_name
from zoo_vqgan.gpt import GPT

PERCEPTUAL = 33
"""LPIPS's tensors in a VQModel: 26 of VGG16, 5 linear layers, 2 of the scaling."""
BASE_RATE = 4.5e-6


@dataclass(frozen=True)
class Published:
    """What is known of one."""

    autoencoder: int
    """Parameters."""
    prior: int
    block: int
    discriminator: int = 2_765_633
    condition: int = 0
    start: int = 250_001
    """Of the adversarial loss, in steps."""
    weight: float = 0.8
    batches: tuple[int, ...] = (12, 2)
    """Of the stages."""
    keys: int = 0
    """Tensors of the Net2NetTransformer."""


LABEL = 128 * 9 + 128 * 9 + 1
"""What one channel more of its pictures costs an autoencoder: in the first and the last convolution."""

UNCONDITIONAL = 304_932_864 - 256 * 1024
"""The prior of 24 layers, with 256 positions fewer."""

PUBLISHED = {
    "imagenet-f16-1024": Published(72_141_699, UNCONDITIONAL, 256),
    "imagenet-f16-16384": Published(76_073_859, 1_410_640_896, 256, 663_361, start=0, weight=0.75),
    "cin": Published(76_073_859, 1_410_640_896, 256, 663_361, start=0, weight=0.75, keys=1164),
    "openimages-f8-gumbel": Published(68_995_971, 320_137_216, 1024),
    "faceshq-f16": Published(72_141_699, UNCONDITIONAL, 256, start=30_001, batches=(3, 2)),
    "faceshq": Published(72_141_699, 304_932_864, 512, start=30_001, batches=(3, 2), keys=756),
    "drin": Published(72_141_699, 304_932_864, 512, condition=72_141_699 - 2 * LABEL, batches=(12, 3, 2), keys=1099),
    "sflckr": Published(
        72_141_699, 304_932_864, 512, condition=72_141_699 + 179 * LABEL, batches=(12, 12, 2), keys=1100
    ),
}
"""The counts of Gumbel's model are our own."""


@cache
def outline(name: str) -> tuple[Recipe, parts.Parts, list[Stage]]:
    wanted = recipe.load("vqgan", name)
    with torch.device("meta"):
        built = parts.build(wanted)
        return wanted, built, session.build_stages(wanted, built)


def test_every_recipe_is_listed() -> None:
    assert {*recipe.names("vqgan")} == {*PUBLISHED, "tiny"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes(name: str) -> None:
    expected, (_, built, _) = PUBLISHED[name], outline(name)
    networks = {**built.generator.networks(), "discriminator": built.discriminator}
    found = {key: sum(value.numel() for value in network.parameters()) for key, network in networks.items()}
    assert found == {
        "autoencoder": expected.autoencoder,
        **({"condition": expected.condition} if expected.condition else {}),
        "prior": expected.prior,
        "discriminator": expected.discriminator,
    }
    gpt: GPT = built.generator.prior.gpt
    assert gpt.block_size == expected.block and len(gpt.blocks) in (24, 48)


@pytest.mark.parametrize("name", PUBLISHED)
def test_stages(name: str) -> None:
    expected, (wanted, built, stages) = PUBLISHED[name], outline(name)
    assert [stage.name for stage in stages] == list(built.generator.networks())
    for stage, batch in zip(stages, expected.batches, strict=True):
        train = recipe.for_stage(wanted, stage.name).train
        assert train.batch == batch and not stage.averages and not stage.schedules
        for network, optimizer in stage.optimizers.items():
            kind, betas = (torch.optim.AdamW, (0.9, 0.95)) if network == "prior" else (torch.optim.Adam, (0.5, 0.9))
            assert type(optimizer) is kind
            for group in optimizer.param_groups:
                assert group["lr"] == pytest.approx(batch * BASE_RATE) and group["betas"] == betas
                assert group["eps"] == 1e-8 and (network == "prior" or group["weight_decay"] == 0)
        assert all(phase.clip_norm == 0 and phase.every == 1 for phase in stage.phases)
    decays = [group["weight_decay"] for group in stages[-1].optimizers["prior"].param_groups]
    assert decays == [0.01, 0]

    terms = Terms(**wanted.loss.options)
    assert wanted.loss.name == "hinge" and terms.perceptual == "lpips" and terms.second_pass
    assert (terms.perceptual_weight, terms.quantizer_weight, terms.delta, terms.limit) == (1, 1, 1e-4, 1e4)
    assert terms.adversarial_weight == expected.weight
    assert terms.adversarial_start_images == expected.start * expected.batches[0]
    data = wanted.data
    assert (data.resolution, data.pixels, data.filter, data.mirror) == (256, "symmetric", "bilinear", name == "drin")
    assert data.num_classes == (1000 if name in ("cin", "imagenet-f16-16384") else 0) == data.condition


@pytest.mark.parametrize(("name", "keys"), [("imagenet-f16-1024", 398), ("imagenet-f16-16384", 398 - 6)])
def test_a_first_stage_has_the_official_keys(name: str, keys: int) -> None:
    _, built, _ = outline(name)
    state = {official_name(key): value for key, value in built.generator.autoencoder.state_dict().items()}
    judge = [f"{DISCRIMINATOR}main.{key}" for key in (0, 2, 3, 5, 6, 8) + ((9, 11) if keys == 398 else ())]
    found = {f"{DISCRIMINATOR}{key}" for key in built.discriminator.state_dict()}
    assert {key.rpartition(".")[0] for key in found} == {*judge}
    assert len(state) + len(found) + PERCEPTUAL == keys
    num_codes = built.generator.autoencoder.quantize.num_codes
    for key, shape in {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "encoder.down.2.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "encoder.down.3.downsample.conv.weight": (256, 256, 3, 3),
        "encoder.down.4.attn.1.proj_out.weight": (512, 512),  # official: (512, 512, 1, 1)
        "encoder.mid.attn_1.q.weight": (512, 512),
        "encoder.conv_out.weight": (256, 512, 3, 3),
        "decoder.conv_in.weight": (512, 256, 3, 3),
        "decoder.up.4.attn.2.norm.weight": (512,),
        "decoder.up.1.upsample.conv.weight": (128, 128, 3, 3),
        "decoder.conv_out.weight": (3, 128, 3, 3),
        "quantize.embedding.weight": (num_codes, 256),
        "quant_conv.weight": (256, 256, 1, 1),
        "post_quant_conv.weight": (256, 256, 1, 1),
    }.items():
        assert state[key].shape == shape, key


def test_gumbels_first_stage_has_the_official_keys() -> None:
    _, built, _ = outline("openimages-f8-gumbel")
    state = {official_name(key): value for key, value in built.generator.autoencoder.state_dict().items()}
    assert state["quantize.proj.weight"].shape == (8192, 256, 1, 1) and state["quantize.embed.weight"].shape == (
        8192,
        256,
    )
    assert {key for key in state if key.startswith("quantize.")} == {
        "quantize.proj.weight",
        "quantize.proj.bias",
        "quantize.embed.weight",
    }
    assert {key.split(".")[2] for key in state if key.startswith("encoder.down.")} == {"0", "1", "2", "3"}
    assert {key.split(".")[2] for key in state if ".attn." in key and key.startswith("encoder")} == {"3"}
    assert built.generator.side == 32


@pytest.mark.parametrize("name", [name for name, published in PUBLISHED.items() if published.keys])
def test_both_stages_have_the_official_keys(name: str) -> None:
    _, built, _ = outline(name)
    layers, dim, block = len(built.generator.prior.gpt.blocks), built.generator.prior.gpt.dim, PUBLISHED[name].block
    networks = {key: network.state_dict() for key, network in built.generator.networks().items()}
    assert {PREFIXES[key] for key in networks} >= {"first_stage_model.", "transformer."}
    assert sum(map(len, networks.values())) + layers == PUBLISHED[name].keys  # a mask in each layer
    prior = {key.removeprefix("gpt."): value.shape for key, value in networks["prior"].items()}
    inner = f"blocks.{layers - 1}."
    for key, shape in {
        "tok_emb.weight": (built.generator.autoencoder.quantize.num_codes, dim),
        "pos_emb": (1, block, dim),
        f"{inner}ln1.bias": (dim,),
        f"{inner}attn.query.weight": (dim, dim),
        f"{inner}attn.proj.bias": (dim,),
        f"{inner}mlp.0.weight": (4 * dim, dim),
        f"{inner}mlp.2.weight": (dim, 4 * dim),
        "ln_f.weight": (dim,),
        "head.weight": (built.generator.autoencoder.quantize.num_codes, dim),
    }.items():
        assert prior[key] == shape, key
    channels = {"drin": 1, "sflckr": 182}.get(name)
    if channels:
        second = {official_name(key): value.shape for key, value in networks["condition"].items()}
        assert second["encoder.conv_in.weight"] == (128, channels, 3, 3)
        assert second["decoder.conv_out.weight"] == (channels, 128, 3, 3)
        assert ("colorize" in second) == (name == "sflckr")
