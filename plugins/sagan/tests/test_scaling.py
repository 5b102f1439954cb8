"""The recipes of ImageNet at other sizes than their own, by the scaling table."""

from __future__ import annotations

import pytest

from zoo_core import parts, recipe
from zoo_core.interfaces import Generator


def built(name: str, resolution: int, num_classes: int) -> parts.Parts:
    settings = [("data.resolution", resolution), ("data.num_classes", num_classes)]
    return parts.outline(recipe.load("sagan", name, settings))


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
@pytest.mark.parametrize("name", ["imagenet128", "imagenet128-paper", "imagenet128-modern"])
def test_every_imagenet_recipe_builds_at_every_size(name: str, resolution: int) -> None:
    networks = built(name, resolution, 1000)
    assert networks.generator.resolution == networks.discriminator.resolution == resolution
    assert networks.generator.attention_after >= 0 and networks.discriminator.attention_after >= 0


def test_official_recipe_at_64_pixels_has_the_parameters_of_the_table() -> None:
    networks = built("imagenet128", 64, 100)
    counts = [
        sum(parameter.numel() for parameter in network.parameters())
        for network in (networks.generator, networks.discriminator)
    ]
    assert counts == [12_811_396, 19_650_242]


def test_every_size_has_its_row_of_widths() -> None:
    units = {32: (4, 4, 4, 4), 64: (16, 8, 4, 2, 1), 128: (16, 16, 8, 4, 2, 1), 256: (16, 16, 8, 8, 4, 2, 1)}
    for resolution, row in units.items():
        generator: Generator = built("imagenet128", resolution, 2).generator
        widths = [generator.blocks[0].conv1.weight.shape[1]]
        widths += [block.conv1.weight.shape[0] for block in generator.blocks]
        assert widths == [64 * unit for unit in row]
