"""The published configurations have the official names and shapes, in both layouts, as they were recorded."""

from __future__ import annotations

import pytest
from style_keys import Keys, generator_keys

from zoo_core import parts, recipe
from zoo_stylenat import convert

HYDRA = {
    side: (heads // 2, heads // 2)
    for side, heads in zip((16, 32, 64, 128, 256, 512, 1024), (16, 16, 16, 8, 4, 4, 4), strict=True)
}
CHURCH = {16: (8, 8), 32: (5, 5, 6), 64: (4, 4, 4, 4), 128: (1, 1, 2, 2, 2), 256: (1, 1, 1, 1, 2, 2)}
"""Heads of each partition, by the level's side."""


@pytest.mark.parametrize(
    ("name", "groups", "legacy", "entries"),
    [
        ("ffhq256", {8: (16,)} | HYDRA, False, 268),
        ("ffhq256", {8: (8, 8)} | HYDRA, True, 270),
        ("ffhq1024", {8: (16,)} | HYDRA, False, 342),
        ("church256", {8: (16,)} | CHURCH, False, 288),
    ],
)
def test_published_generators_have_the_official_names_and_shapes(
    name: str, groups: dict[int, tuple[int, ...]], legacy: bool, entries: int
) -> None:
    def attention(side: int, width: int) -> Keys:
        biases = {"attn.rpb": (16, 7, 7)}
        if side > 4:
            dot = "" if legacy else "."
            biases = {f"attn.rpb{dot}{number}": (heads, 13, 13) for number, heads in enumerate(groups[side])}
        return biases | {
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
        }

    wanted = recipe.load("stylenat", name)
    state = parts.outline(wanted).generator.state_dict()
    official = convert.generator_to_official(state, legacy=legacy)
    keys = generator_keys(wanted.data.resolution, 2, attention)
    assert {key: tuple(value.shape) for key, value in official.items()} == keys
    # Fixed: two index tables at 4 x 4, a dtype's bearer and a FIR kernel at each up-sampling.
    assert len(keys) + 2 + 2 * (wanted.data.resolution.bit_length() - 3) == entries
