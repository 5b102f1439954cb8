"""The networks give the official code's numbers, with weights that both derive from names and shapes."""

from __future__ import annotations

from functools import partial

import goldens
import pytest
import torch
from goldens import Case
from torch import Tensor

from zoo_core.attention import FullAttention
from zoo_core.interfaces import AttentionFactory
from zoo_stylenat import convert
from zoo_stylenat.attention import hydra
from zoo_stylenat.generator import Generator
from zoo_styleswin.convert import GENERATOR_WITHOUT_ATTENTION, from_official, to_official

pytestmark = goldens.needed

IN_ATTENTION = {"attn": "attention", "attn.qkv": "attention.qkv"}


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


def recorded(generator: Generator, attention: dict[str, str]) -> dict[str, Tensor]:
    taken: dict[str, Tensor] = {}
    goldens.record(generator, goldens.block_names(len(generator.levels), attention), taken)
    return taken


@pytest.mark.parametrize("name", ["g_s32", "g_s32_legacy", "g_s64_church"])
def test_generator_gives_the_official_image_activations_and_gradients(name: str) -> None:
    case = Case(f"stylenat/{name}")
    ctor = case.meta["ctor"]
    assert {tuple(kernels) for kernels in ctor["kernels"][1:]} == {(7,)}
    dilations = {4 << level: tuple(chosen) for level, chosen in enumerate(ctor["dilations"])}
    generator = build(case, partial(hydra, dilations=dilations, qkv_bias=ctor["qkv_bias"]))
    state = convert.generator_from_official(case.weights("g"), generator.state_dict())
    generator.load_state_dict(state)
    taken = recorded(generator, IN_ATTENTION)
    goldens.check_generator(case, generator, taken, partial(convert.generator_to_official, legacy=ctor["legacy"]))


def test_generator_with_full_attention_gives_the_official_transformer_variants_numbers() -> None:
    case = Case("stylenat/g_s16_transformer")
    generator = build(case, partial(FullAttention, qkv_bias=False))
    theirs = case.weights("g")
    qkv = [key for key in theirs if key.endswith(".qkv.weight")]
    for key in qkv:
        width = theirs[key].shape[1]
        theirs[key.replace("qkv", "query")], theirs[key.replace("qkv", "key_value")] = theirs.pop(key).split(
            [width, 2 * width]
        )
    table = (
        *GENERATOR_WITHOUT_ATTENTION,
        *(
            (f"layers.{{level}}.blocks.{{block}}.attn.{part}", f"levels.{{level}}.blocks.{{block}}.attention.{part}")
            for part in ("query.weight", "key_value.weight", "proj.weight", "proj.bias")
        ),
    )
    generator.load_state_dict(from_official(theirs, table))

    def official(state: dict[str, Tensor]) -> dict[str, Tensor]:
        found = to_official(state, table)
        for key in qkv:
            found[key] = torch.cat([found.pop(key.replace("qkv", part)) for part in ("query", "key_value")])
        return found

    goldens.check_generator(case, generator, recorded(generator, {"attn": "attention"}), official)


def test_discriminator_is_styleswins() -> None:
    goldens.check_discriminator(Case("stylenat/d_s32_sn"))
