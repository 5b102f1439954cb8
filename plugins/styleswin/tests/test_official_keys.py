"""The published configurations have the official state dict's names and shapes, as they were recorded."""

from __future__ import annotations

import pytest
from style_keys import Keys, discriminator_keys, generator_keys
from torch import nn

from zoo_core import parts, recipe
from zoo_styleswin import convert


def official_shapes(network: nn.Module, table: convert.Table) -> Keys:
    return {key: tuple(value.shape) for key, value in convert.to_official(network.state_dict(), table).items()}


def attention(side: int, width: int) -> Keys:
    window, heads = min(side, 8), max(width // 32, 4)
    tables = {f"attn.{half}.relative_position_bias_table": ((2 * window - 1) ** 2, heads // 2) for half in (0, 1)}
    return tables | {
        "qkv.weight": (3 * width, width),
        "qkv.bias": (3 * width,),
        "proj.weight": (width, width),
        "proj.bias": (width,),
    }


@pytest.mark.parametrize(
    ("name", "multiplier", "entries", "of_discriminator"),
    [
        ("ffhq256", 2, 308, 131),
        ("church256", 2, 308, 131),
        ("celebahq256", 2, 308, 131),
        ("ffhq1024", 1, 394, 175),
        ("celebahq1024", 1, 394, 175),
    ],
)
def test_published_networks_have_the_official_names_and_shapes(
    name: str, multiplier: int, entries: int, of_discriminator: int
) -> None:
    wanted = recipe.load("styleswin", name)
    built, resolution = parts.outline(wanted), wanted.data.resolution
    keys = generator_keys(resolution, multiplier, attention)
    assert official_shapes(built.generator, convert.GENERATOR) == keys
    levels = resolution.bit_length() - 2
    # Fixed: two index tables a block, a mask from 16 px on, a dtype's bearer and a FIR kernel at each up-sampling.
    assert len(keys) + 4 * levels + 2 * (levels - 2) + 2 * (levels - 1) == entries

    keys = discriminator_keys(resolution)
    assert official_shapes(built.discriminator, convert.DISCRIMINATOR) == keys
    scales = resolution.bit_length() - 4
    # Fixed: the Haar filters, again with their inverse and a FIR kernel at each smaller scale, a blur at each.
    assert len(keys) + 4 + 9 * scales + scales == of_discriminator
