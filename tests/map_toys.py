"""Pictures whose maps are known, pixel by pixel, and a toy plugin that learns the colour of each label from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from zoo_core.interfaces import Generator
from zoo_core.parts import Parts
from zoo_core.program import Batch, Clock, Phase, Stage, adam
from zoo_core.recipe import Recipe

PALETTE = np.random.default_rng(5).permutation(np.arange(256 * 3).reshape(256, 3) % 256).astype(np.uint8)
"""The colour of each label in the pictures of `write_pairs`; no two labels share one."""
NUM_LABELS = 4


def labels_of(number: int, size: tuple[int, int], num_labels: int = NUM_LABELS) -> np.ndarray:
    """The label map of a picture of (width, height): blocks of 4 pixels, the same for each number."""
    width, height = size
    blocks = np.random.default_rng(number).integers(0, num_labels, (-(-height // 4), -(-width // 4)), dtype=np.uint8)
    return blocks.repeat(4, 0).repeat(4, 1)[:height, :width]


def write_pairs(
    folder: Path,
    num: int = 24,
    size: tuple[int, int] = (16, 16),
    classes: Sequence[str] = ("",),
    num_labels: int = NUM_LABELS,
) -> Path:
    """`images/CLASS/N.png`, and `labels/CLASS/N.png` with the label of each of its pixels; returns `folder`."""
    for number in range(num):
        labels = labels_of(number, size, num_labels)
        for kind, pixels in (("images", PALETTE[labels]), ("labels", labels)):
            path = folder / kind / classes[number % len(classes)] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


class Painter(Generator):
    """Paints each label of a map in the colour that it has learnt."""

    map_kind = "labels"

    def __init__(self, *, resolution: int, num_classes: int = 0) -> None:
        super().__init__()
        self.resolution, self.num_classes = resolution, num_classes
        self.colours = nn.Embedding(NUM_LABELS, 3)

    def paint(self, maps: Tensor) -> Tensor:
        return self.colours(maps[:, 0]).permute(0, 3, 1, 2)

    @torch.no_grad()
    def sample(
        self,
        num: int,
        label: Tensor | None = None,
        rng=None,
        *,
        maps: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        assert maps.shape == (num, 1, *(size or (self.resolution, self.resolution)))
        return self.finish(self.paint(maps))


def build(recipe: Recipe, parts: Parts) -> list[Stage]:
    """Squared error between the picture and its map painted."""
    painter = parts.generator

    def loss(batch: Batch, clock: Clock) -> dict[str, Tensor]:
        error = (painter.paint(batch.maps) - batch.image).square().mean()
        clock.record("error", error)
        return {"generator": error}

    optimizers = {"generator": adam(painter, recipe.train.optimizers["generator"])}
    return [Stage({"generator": painter}, optimizers, (Phase("paint", ("generator",), loss),))]
