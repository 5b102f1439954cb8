"""Names and shapes of official weights, in the current layout and in the published files'."""

from __future__ import annotations

import pytest
import torch

from zoo_stylenat.convert import generator_from_official, generator_to_official
from zoo_stylenat.generator import Generator


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(resolution=16, style_dim=16, mapping_layers=1, channels={4: 16, 8: 16, 16: 16}, min_heads=4)


@pytest.mark.parametrize("legacy", [False, True])
def test_there_and_back_is_the_same(generator: Generator, legacy: bool) -> None:
    ours = generator.state_dict()
    back = generator_from_official(generator_to_official(ours, legacy=legacy), ours)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)


@pytest.mark.parametrize(
    ("legacy", "biases"),
    [
        (False, {"0.blocks.0.attn.rpb": 4, "1.blocks.0.attn.rpb.0": 4, "2.blocks.0.attn.rpb.0": 2}),
        (True, {"0.blocks.0.attn.rpb": 4, "1.blocks.0.attn.rpb0": 2, "2.blocks.0.attn.rpb0": 2}),
    ],
)
def test_only_the_legacy_layout_halves_a_single_groups_heads(
    generator: Generator, legacy: bool, biases: dict[str, int]
) -> None:
    official = generator_to_official(generator.state_dict(), legacy=legacy)
    assert {name: len(official[f"layers.{name}"]) for name in biases} == biases
    named = {name for name in official if ".rpb" in name and ".blocks.0." in name}
    second = {"layers.2.blocks.0.attn.rpb.1"}
    if legacy:
        second = {"layers.1.blocks.0.attn.rpb1", "layers.2.blocks.0.attn.rpb1"}
    assert named == {f"layers.{name}" for name in biases} | second


def test_stored_constants_are_dropped_and_strangers_keep_their_names(generator: Generator) -> None:
    official = generator_to_official(generator.state_dict())
    official["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16)
    assert generator_from_official(official, generator.state_dict()).keys() == generator.state_dict().keys()
    official["layers.1.blocks.0.attn.gamma"] = torch.zeros(1)
    found = generator_from_official(official, generator.state_dict())
    assert found.keys() - generator.state_dict().keys() == {"layers.1.blocks.0.attn.gamma"}
