"""Differentiable augmentation (Zhao et al., arXiv 2006.10738): pure functions of an image batch and its draws.

Images are `[B, C, H, W]` in the recipe's pixel space; a draw has one entry for each image, so each is changed on its
own. All are differentiable in the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo_core.errors import UserError, did_you_mean
from zoo_core.rng import Rng


def flip(image: Tensor, which: Tensor) -> Tensor:
    """Mirror left to right the images where `which [B]` is true."""
    return torch.where(which.view(-1, 1, 1, 1), image.flip(3), image)


def brightness(image: Tensor, amount: Tensor) -> Tensor:
    """Add `amount [B]`."""
    return image + amount.view(-1, 1, 1, 1)


def saturation(image: Tensor, factor: Tensor) -> Tensor:
    """Scale by `factor [B]` about each pixel's mean over the colours."""
    mean = image.mean(1, keepdim=True)
    return (image - mean) * factor.view(-1, 1, 1, 1) + mean


def contrast(image: Tensor, factor: Tensor) -> Tensor:
    """Scale by `factor [B]` about each image's mean over colours and pixels."""
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return (image - mean) * factor.view(-1, 1, 1, 1) + mean


def translation(image: Tensor, shift: Tensor) -> Tensor:
    """Pixel (i, j) takes the value of (i + shift[b, 0], j + shift[b, 1]), zero outside; `shift [B, 2]` int64."""
    height, width = image.shape[2:]
    rows, row_inside = _moved(height, shift[:, 0])
    columns, column_inside = _moved(width, shift[:, 1])
    moved = image.gather(2, rows[:, None, :, None].expand(-1, image.shape[1], -1, width))
    moved = moved.gather(3, columns[:, None, None, :].expand(-1, image.shape[1], height, -1))
    inside = row_inside[:, None, :, None] & column_inside[:, None, None, :]
    return torch.where(inside, moved, 0)  # not a product: zero must stay zero beside an infinite pixel


def cutout(image: Tensor, centre: Tensor, size: int) -> Tensor:
    """Zero a square of side `size` about `centre [B, 2]` (row, column; int64), less what falls outside the image.

    It covers `centre - size // 2` up to, but without, `centre - size // 2 + size`.
    """
    height, width = image.shape[2:]
    rows = _covered(height, centre[:, 0], size)
    columns = _covered(width, centre[:, 1], size)
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], 0, image)


def augment(image: Tensor, rng: Rng, policy: Sequence[str]) -> Tensor:
    """Apply the named steps in order, each with draws of its own from `rng` (one row for each image).

    flip: with probability 1/2. translation: up to n/8 pixels on each axis. brightness: U(-0.5, 0.5). saturation:
    U(0, 2). contrast: U(0.5, 1.5). color: the last three. cutout: a square of side n/2, centred anywhere.
    Fractions are rounded half up; n is the side. Raises UserError for an unknown name.
    """
    if len(rng) != len(image):
        raise ValueError(f"the rng has {len(rng)} rows, the batch has {len(image)} images")
    for step in check_policy(policy):
        image = _STEPS[step](image, rng)
    return image


def check_policy(policy: Sequence[str]) -> tuple[str, ...]:
    """Return the policy as single steps ("color" spelt out). Raises UserError for an unknown name."""
    steps: list[str] = []
    for name in (policy,) if isinstance(policy, str) else policy:
        if name not in _GROUPS and name not in _STEPS:
            raise UserError(f"no augmentation {name!r}{did_you_mean(str(name), (*_STEPS, *_GROUPS))}")
        steps.extend(_GROUPS.get(name, (name,)))
    return tuple(steps)


def _moved(size: int, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Source index of each position, kept within the image, and whether it was inside: both `[B, size]`."""
    source = torch.arange(size, device=shift.device) + shift[:, None]
    return source.clamp(0, size - 1), (source >= 0) & (source < size)


def _covered(size: int, centre: Tensor, length: int) -> Tensor:
    """Whether each position lies in the interval about `centre`: `[B, size]`."""
    position = torch.arange(size, device=centre.device)
    start = centre[:, None] - length // 2
    return (position >= start) & (position < start + length)


def _fraction(size: int, ratio: float) -> int:
    return int(size * ratio + 0.5)


def _translate(image: Tensor, rng: Rng) -> Tensor:
    reach = [_fraction(side, 1 / 8) for side in image.shape[2:]]
    shift = torch.stack([rng.integers(-limit, limit + 1) for limit in reach], 1)
    return translation(image, shift.to(image.device))


def _cut_out(image: Tensor, rng: Rng) -> Tensor:
    # One square, of half the height, as on a square image. The centre's range is the original's: it includes the far
    # edge when the side is even, so that both edges are treated alike.
    size = _fraction(image.shape[2], 1 / 2)
    centre = torch.stack([rng.integers(0, side + 1 - size % 2) for side in image.shape[2:]], 1)
    return cutout(image, centre.to(image.device), size)


def _uniform(rng: Rng, image: Tensor, low: float, high: float) -> Tensor:
    return (rng.uniform() * (high - low) + low).to(image)


_STEPS: dict[str, Callable[[Tensor, Rng], Tensor]] = {
    "flip": lambda image, rng: flip(image, (rng.uniform() < 0.5).to(image.device)),
    "translation": _translate,
    "brightness": lambda image, rng: brightness(image, _uniform(rng, image, -0.5, 0.5)),
    "saturation": lambda image, rng: saturation(image, _uniform(rng, image, 0, 2)),
    "contrast": lambda image, rng: contrast(image, _uniform(rng, image, 0.5, 1.5)),
    "cutout": _cut_out,
}
_GROUPS = {"color": ("brightness", "saturation", "contrast")}
