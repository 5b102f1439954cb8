"""The networks give the official code's numbers, with weights that both derive from names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pytest
import style_checks
import torch
from goldens import Case
from torch import Tensor

from zoo_core.attention import FullAttention
from zoo_core.interfaces import AttentionFactory, Site
from zoo_stylenat import convert
from zoo_stylenat.attention import hydra
from zoo_stylenat.generator import Generator
from zoo_styleswin.convert import GENERATOR_WITHOUT_ATTENTION, from_official, to_official

pytestmark = pytest.mark.parity


def build(case: Case, attention: AttentionFactory) -> Generator:
    ctor = case.meta["ctor"]
    return Generator(
        resolution=ctor["size"],
        style_dim=ctor["style_dim"],
        mapping_layers=ctor["n_mlp"],
        mapping_lr=ctor["lr_mlp"],
        channel_multiplier=ctor["channel_multiplier"],
        min_heads=ctor["min_heads"],
        mlp_ratio=ctor["mlp_ratio"],
        attention=attention,
    )


@pytest.mark.parametrize("name", ["g_s32", "g_s32_legacy", "g_s64_church"])
def test_generator_gives_the_official_image_activations_and_gradients(name: str) -> None:
    case = Case(f"stylenat/{name}")
    ctor = case.meta["ctor"]
    assert {tuple(kernels) for kernels in ctor["kernels"][1:]} == {(7,)}
    dilations = {4 << level: tuple(chosen) for level, chosen in enumerate(ctor["dilations"])}
    generator = build(case, partial(hydra, dilations=dilations, qkv_bias=ctor["qkv_bias"]))
    generator.load_state_dict(convert.generator_from_official(case.weights("g"), generator.state_dict()))
    to_current_or_legacy = partial(convert.generator_to_official, legacy=ctor["legacy"])
    in_attention = {"attn": "attention", "attn.qkv": "attention.qkv"}
    style_checks.check_generator(case, generator, in_attention, to_current_or_legacy)


def jumbled(site: Site) -> FullAttention:
    """Full attention as the official block type `transformer` has it.

    That one forgets to bring its heads back: laid out as head, sample, token and feature, they are read as sample,
    token and channel. So tokens, and even samples of a batch, get mixed up. Nobody would want that: it lives here only.
    """
    attention = FullAttention(site, qkv_bias=False)

    def misread(module: torch.nn.Module, arguments: tuple[Tensor]) -> Tensor:
        heads = arguments[0].flatten(1, 2).unflatten(-1, (site.heads, -1))  # [B, L, N, D]
        return heads.permute(2, 0, 1, 3).reshape(arguments[0].shape)

    attention.proj.register_forward_pre_hook(misread)
    return attention


def test_generator_with_the_cores_full_attention_gives_the_official_transformer_variants_numbers() -> None:
    case = Case("stylenat/g_s16_transformer")
    generator = build(case, jumbled)
    layers = ("query.weight", "key_value.weight", "proj.weight", "proj.bias")
    attention = [
        (f"layers.{{level}}.blocks.{{block}}.attn.{name}", f"levels.{{level}}.blocks.{{block}}.attention.{name}")
        for name in layers
    ]
    table = (*GENERATOR_WITHOUT_ATTENTION, *attention)

    theirs = case.weights("g")
    for key in [key for key in theirs if key.endswith(".qkv.weight")]:
        qkv = theirs.pop(key)
        sizes = [qkv.shape[1], 2 * qkv.shape[1]]
        theirs[key.replace("qkv", "query")], theirs[key.replace("qkv", "key_value")] = qkv.split(sizes)
    generator.load_state_dict(from_official(theirs, table))

    def joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = to_official(state, table)
        for key in [key for key in found if key.endswith(".query.weight")]:
            parts = [found.pop(key), found.pop(key.replace("query", "key_value"))]
            found[key.replace("query", "qkv")] = torch.cat(parts)
        return found

    style_checks.check_generator(case, generator, {"attn": "attention"}, joined)


def test_discriminator_gives_the_official_logits_activations_and_r1() -> None:
    style_checks.check_discriminator(Case("stylenat/d_s32_sn"))
