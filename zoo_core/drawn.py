"""The built-in labelled data set: small cartoon animals that the project draws itself.

Image i is a function of i and `VERSION` alone, the same design at every resolution. Distant parts agree by
construction, so that long-range consistency can be measured on samples (see `structure`): each picture equals its
mirror image, the ears have the colour of the feet, and the headband has as many spots as the shirt has buttons (and
its colour). All else (kind, fur, outfit, background, small changes of size and shade) is drawn independently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo_core.drawn_animals import (
    ANIMALS,
    BACKGROUND_COLOURS,
    FUR_COLOURS,
    OUTFIT_COLOURS,
    PAIR_COLOURS,
    Look,
    paint_animal,
)
from zoo_core.drawn_shapes import Canvas
from zoo_core.errors import UserError

VERSION = 1
"""Raised whenever the pictures change."""
NUM = 20_000
"""Images in the set, unless told otherwise."""
NAMES: tuple[str, ...] = tuple(ANIMALS)
"""Class names; image i has label i % len(NAMES)."""
NUM_COUNTS = 3
"""Spots and buttons number from 1 to this."""
RESOLUTIONS = (16, 32, 64, 128, 256)

_CHUNK_PIXELS = 2**18
"""Pixels drawn at a time, which bounds the memory and fits the cache."""


@dataclass(frozen=True)
class Attributes:
    """What is drawn in n images, int64 `[n]` each."""

    label: np.ndarray
    """Index into `NAMES`."""
    pair: np.ndarray
    """Index into `PAIR_COLOURS`: ears and feet."""
    fur: np.ndarray
    """Index into `FUR_COLOURS`."""
    outfit: np.ndarray
    """Index into `OUTFIT_COLOURS`: headband and shirt."""
    background: np.ndarray
    """Index into `BACKGROUND_COLOURS`."""
    count: np.ndarray
    """Spots on the headband, and buttons on the shirt, 1 to `NUM_COUNTS`."""


def attributes(indices: np.ndarray) -> Attributes:
    """The ground truth of the images numbered `indices [n]`. Raises UserError for a negative number."""
    indices = _checked(indices)

    def choice(field: int, num: int) -> np.ndarray:
        return (_hash(indices, field) % np.uint64(num)).astype(np.int64)

    return Attributes(
        label=indices % len(NAMES),
        pair=choice(0, len(PAIR_COLOURS)),
        fur=choice(1, len(FUR_COLOURS)),
        outfit=choice(2, len(OUTFIT_COLOURS)),
        background=choice(3, len(BACKGROUND_COLOURS)),
        count=choice(4, NUM_COUNTS) + 1,
    )


def draw(indices: np.ndarray, resolution: int) -> np.ndarray:
    """Draw the images numbered `indices [n]`: uint8 `[n, resolution, resolution, 3]`, RGB.

    Raises UserError for a resolution that is not a power of two from 16 to 256, and for a negative number.
    """
    if resolution not in RESOLUTIONS:
        raise UserError(
            f"the built-in data set cannot be drawn at resolution {resolution}; choose one of "
            f"{', '.join(map(str, RESOLUTIONS))}."
        )
    indices = _checked(indices)
    images = np.empty((len(indices), resolution, resolution, 3), dtype=np.uint8)
    # Small pictures are drawn larger and averaged, so that they look like the large ones seen from afar.
    shrink = max(1, 64 // resolution)
    chunk = max(1, _CHUNK_PIXELS // (resolution * shrink) ** 2)
    for label, name in enumerate(NAMES):
        (places,) = np.nonzero(indices % len(NAMES) == label)
        for start in range(0, len(places), chunk):
            part = places[start : start + chunk]
            look = _look(indices[part])
            canvas = Canvas(resolution * shrink, look.background)
            paint_animal(name, canvas, look)
            images[part] = canvas.finish(shrink)
    return images


def _look(indices: np.ndarray) -> Look:
    known = attributes(indices)

    def near_one(field: int, spread: float) -> np.ndarray:
        unit = (_hash(indices, field) >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
        return np.float32(1) + np.float32(spread) * (2 * unit - 1)

    def shaded(colours: np.ndarray, choice: np.ndarray, field: int) -> np.ndarray:
        return np.minimum(colours[choice].astype(np.float32) * near_one(field, 0.04)[:, None], 255)

    return Look(
        pair=PAIR_COLOURS[known.pair].astype(np.float32),
        fur=shaded(FUR_COLOURS, known.fur, 8),
        outfit=OUTFIT_COLOURS[known.outfit].astype(np.float32),
        background=shaded(BACKGROUND_COLOURS, known.background, 9),
        count=known.count,
        ear_size=near_one(10, 0.07),
        eye_size=near_one(11, 0.1),
        head_width=near_one(12, 0.04),
        body_width=near_one(13, 0.06),
    )


def _checked(indices: np.ndarray) -> np.ndarray:
    indices = np.asarray(indices, dtype=np.int64).reshape(-1)
    if (indices < 0).any():
        raise UserError(f"images are numbered from 0; there is no image {indices.min()}.")
    return indices


def _hash(indices: np.ndarray, field: int) -> np.ndarray:
    """Uniform uint64 `[n]`, unrelated for different fields: the finalizer of SplitMix64 over image and field."""
    golden, state = np.uint64(0x9E3779B97F4A7C15), indices.astype(np.uint64)
    for word in (np.uint64(field), np.uint64(VERSION)):
        state = (state + word + np.uint64(1)) * golden
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state
