"""A toy plugin of two stages that reconstructs: greys in a few levels, and a sample with the knobs of a slow one."""

from __future__ import annotations

from collections.abc import Callable

import torch
import two_stages
from torch import Tensor

from zoo_core.errors import UserError
from zoo_core.interfaces import Reconstructing, Reconstruction, Work
from zoo_core.rng import Rng

build = two_stages.build
LEVELS = 8
VOCABULARY = 12
"""More than there are levels, so that some tokens never occur."""
STEPS = 6


class Greys(two_stages.TwoNetworks, Reconstructing):
    """Keeps one of eight levels of each pixel's brightness; `noise` blurs the levels, `exact` keeps the image."""

    reconstructs_with = ("table",)

    def __init__(self, *, resolution: int, num_classes: int = 0, noise: float = 0.0, exact: bool = False) -> None:
        super().__init__(resolution=resolution, num_classes=num_classes)
        self.noise, self.exact = noise, exact

    def work(self, size: tuple[int, int] | None = None) -> Work:
        return Work(STEPS, "tokens")

    @torch.no_grad()
    def sample(
        self,
        num: int,
        label: Tensor | None = None,
        rng: Rng | None = None,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        size: tuple[int, int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        if temperature is not None and temperature < 0:
            raise UserError("temperature must be at least 0.")
        image = super().sample(num, label, rng) * (1 if temperature is None else temperature)
        for _ in range(STEPS if progress else 0):
            progress(num)
        height, width = size or image.shape[2:]
        return image[:, :, :1, :1].expand(-1, -1, height, width)

    def reconstruct(self, image: Tensor, rng: Rng | None = None) -> Reconstruction:
        if self.exact:
            return Reconstruction(image)
        grey = image.mean(1, keepdim=True)
        if self.noise:
            grey = (grey + self.noise * rng.normal(1, *grey.shape[2:])).clamp(-1, 1)
        tokens = ((grey + 1) / 2 * LEVELS).floor().clamp(max=LEVELS - 1).long()
        middle = (tokens.float() + 0.5) / LEVELS * 2 - 1
        return Reconstruction(middle.expand(-1, 3, -1, -1), tokens[:, 0], VOCABULARY)
