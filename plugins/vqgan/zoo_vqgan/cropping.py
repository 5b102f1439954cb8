"""Squares at random places of pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_core.rng import Rng


def corners(rng: Rng, size: tuple[int, int], side: int) -> list[tuple[int, int]]:
    """The upper left pixel of a square in each picture of `size` (height, width), any that fits being as probable."""
    draws = rng.fork("crop")
    tops, lefts = (draws.integers(0, length - side + 1).tolist() for length in size)
    return list(zip(tops, lefts, strict=True))


def crop(picture: Tensor, places: list[tuple[int, int]], side: int) -> Tensor:
    """`[B, C, H, W]` -> `[B, C, side, side]`, of each picture the square at its own place."""
    rows = [image[:, top : top + side, left : left + side] for image, (top, left) in zip(picture, places, strict=True)]
    return torch.stack(rows)
