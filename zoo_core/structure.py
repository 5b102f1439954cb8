"""How consistent pictures of the built-in data set are over long distances: measured on pixels, without any network.

In `drawn` each picture equals its mirror image, the ears have the colour of the feet, and the headband has as many
spots as the shirt has buttons. Here these are read back from pictures alone, at the fixed places where `drawn_animals`
puts them; the kind of animal need not be known. Each figure says little alone: `report` puts it beside its value on
real pictures and on pictures with the halves shuffled, what a generator without long-range consistency would get.
On pictures of anything else only `symmetry_error` has a meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from zoo_core.drawn_animals import (
    BACKGROUND_COLOURS,
    BEAK,
    BUTTON_Y,
    EARS,
    FEET,
    FUR_COLOURS,
    INK,
    OUTFIT_COLOURS,
    PAIR_COLOURS,
    PINK,
    SPOT_X,
    SPOT_Y,
    WHITE,
)
from zoo_core.drawn_shapes import SIDE
from zoo_core.errors import UserError

UNREADABLE = -1
"""What a reader answers for a picture in which it finds nothing clear."""

_CHUNK_PIXELS = 2**19
"""Pixels looked at a time, which bounds the memory."""
_READ_COLOURS = np.concatenate(
    [PAIR_COLOURS, FUR_COLOURS, OUTFIT_COLOURS, BACKGROUND_COLOURS, WHITE, INK, PINK, BEAK]
).astype(np.float32)
_LEAST_AREA = 6.0
"""A colour is read where it covers this many square units (of 32 x 32)."""
_LEAST_SHARE = 0.6
"""... and this part of all that is coloured like any of the pair colours."""
_DOT_LEVEL = 0.3
"""Dots are read where the brightest slot reaches this, 0 being the cloth around it and 1 the white of a drawn dot."""
_DOT_SHARE = 0.5
"""... and a dot is there where its slot reaches this part of the brightest: blur dims all of them alike."""
_LEAST_CONTRAST = 60.0
"""Cloth must be darker than the white of a dot by this much, of 255."""


@dataclass(frozen=True)
class Shuffled:
    """Pictures uint8 `[n, h, w, 3]` put together from the halves of two."""

    top_bottom: np.ndarray
    """The top of each with the bottom of another: colours and counts no longer agree."""
    left_right: np.ndarray
    """The left of each with the right of another: the mirror symmetry is gone."""


def structure(images: np.ndarray) -> dict[str, float]:
    """Measure `images`, uint8 `[n, h, w, 3]`, square, the side a power of two from 16, at least two of them.

    symmetry_error   mean absolute difference between left halves and their mirrored right halves, divided by the same
                     with the right half of another picture of the set: 0 exact symmetry, about 1 none. Where the
                     pictures of the set hardly differ (a collapsed generator), it nears 1 too: nothing is shared then
                     between the halves of one picture that is not shared by all.
    pair_agreement   rate of pictures whose ears and feet read as the same of the pair colours; chance is
                     1 / len(PAIR_COLOURS). pair_readable: rate of pictures in which both could be read at all.
    count_agreement  rate of pictures that read as many spots as buttons; chance is 1 / 3. count_readable: as above.
                     Unreadable counts as disagreement. Below 32 pixels a dot is too small to be read: both are nan.

    Larger pictures are averaged down to 32 pixels for reading; the symmetry is taken at full size.
    Raises UserError for pictures of another shape or type.
    """
    _check(images)
    ears, feet = read_pair(images)
    spots, buttons = read_counts(images)
    pair_readable = (ears != UNREADABLE) & (feet != UNREADABLE)
    count_readable = (spots != UNREADABLE) & (buttons != UNREADABLE)
    small = images.shape[1] < SIDE
    return {
        "symmetry_error": _symmetry_error(images),
        "pair_agreement": float(np.mean(pair_readable & (ears == feet))),
        "pair_readable": float(np.mean(pair_readable)),
        "count_agreement": float("nan") if small else float(np.mean(count_readable & (spots == buttons))),
        "count_readable": float("nan") if small else float(np.mean(count_readable)),
    }


def report(images: np.ndarray, real: np.ndarray, seed: int = 0) -> dict[str, dict[str, float]]:
    """Put each figure of `structure` beside what it should and should not be.

    Answers, for each figure: `images`, the value asked for; `real`, the value on real pictures, which no generator need
    surpass; `real_shuffled`, on real pictures with their halves shuffled, which is chance; and `images_shuffled`, which
    shows how much of an agreement is owed to lack of variety (a generator that only knows red feet keeps it).
    """
    columns = {}
    for name, pictures in (("images", images), ("real", real)):
        columns[name] = structure(pictures)
        shuffled = shuffle_halves(pictures, seed)
        broken = structure(shuffled.top_bottom)
        broken["symmetry_error"] = _symmetry_error(shuffled.left_right)
        columns[f"{name}_shuffled"] = broken
    return {figure: {name: column[figure] for name, column in columns.items()} for figure in columns["images"]}


def shuffle_halves(images: np.ndarray, seed: int) -> Shuffled:
    """Join each picture's top, and left, to the bottom, and right, of another one, drawn by `seed`."""
    _check(images)
    other = images[_others(len(images), seed)]
    half = images.shape[1] // 2
    return Shuffled(
        top_bottom=np.concatenate([images[:, :half], other[:, half:]], axis=1),
        left_right=np.concatenate([images[:, :, :half], other[:, :, half:]], axis=2),
    )


def read_pair(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read the colours of ears and feet: two int64 `[n]` of indices into `PAIR_COLOURS`, or `UNREADABLE`."""
    pictures = [(_read_colour(small, EARS), _read_colour(small, FEET)) for small in _small(images)]
    ears, feet = (np.concatenate(column) for column in zip(*pictures, strict=True))
    return ears, feet


def read_counts(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the spots and the buttons: two int64 `[n]` from 1 to 3, or `UNREADABLE` (always, below 32 pixels)."""
    if images.shape[1] < SIDE:
        return (np.full(len(images), UNREADABLE),) * 2
    middle = SIDE // 2
    spot_slots = [(middle + x, SPOT_Y) for x in (-SPOT_X[1], SPOT_X[0], SPOT_X[1])]
    button_slots = [(middle, y) for y in BUTTON_Y]
    spots, buttons = [], []
    for small in _small(images):
        grey = small.mean(axis=3)
        between = grey[:, int(SPOT_Y) - 1 : int(SPOT_Y) + 1, [middle - 3, middle - 2, middle + 1, middle + 2]]
        spots.append(_read_count(grey, spot_slots, cloth=between))
        rows = slice(int(BUTTON_Y[0]) - 1, int(BUTTON_Y[-1]) + 1)
        beside = grey[:, rows, [middle - 4, middle - 3, middle + 2, middle + 3]]
        buttons.append(_read_count(grey, button_slots, cloth=beside))
    return np.concatenate(spots), np.concatenate(buttons)


def _read_colour(small: np.ndarray, window: tuple[float, float, float, float]) -> np.ndarray:
    """Let the pixels of a window and its mirror image vote for the pair colour that most are nearest to."""
    side = small.shape[1]
    left, top, right, bottom = (round(edge * side / SIDE) for edge in window)
    middle = side // 2
    columns = np.r_[middle - right : middle - left, middle + left : middle + right]
    pixels = small[:, top:bottom][:, :, columns].reshape(len(small), -1, 3)
    # |pixel - colour|^2 without the part that all colours share
    distance = (_READ_COLOURS**2).sum(axis=1) - 2 * pixels @ _READ_COLOURS.T
    nearest = distance.argmin(axis=2)
    votes = np.stack([(nearest == colour).sum(axis=1) for colour in range(len(PAIR_COLOURS))], axis=1)
    most = votes.max(axis=1)
    clear = (most * (SIDE / side) ** 2 >= _LEAST_AREA) & (most >= _LEAST_SHARE * votes.sum(axis=1))
    return np.where(clear, votes.argmax(axis=1), UNREADABLE)


def _read_count(grey: np.ndarray, slots: list[tuple[float, float]], cloth: np.ndarray) -> np.ndarray:
    """Count the dots on three slots, of which the middle one, the outer two or all may be taken. `grey [n, 32, 32]`."""
    ground = np.median(cloth.reshape(len(grey), -1), axis=1)
    contrast = WHITE.mean() - ground
    slot = [grey[:, int(y) - 1 : int(y) + 1, int(x) - 1 : int(x) + 1].mean(axis=(1, 2)) for x, y in slots]
    level = np.stack([mean - ground for mean in slot])
    brightest = level.max(axis=0)
    first, middle, last = level >= _DOT_SHARE * brightest
    count = first.astype(np.int64) + middle + last
    clear = (contrast >= _LEAST_CONTRAST) & (brightest >= _DOT_LEVEL * contrast) & (first == last)
    return np.where(clear, count, UNREADABLE)


def _symmetry_error(images: np.ndarray) -> float:
    half = images.shape[2] // 2
    others = _others(len(images), seed=0)
    own = other = 0
    for rows in _chunks(images):
        left = images[rows, :, :half]
        own += _difference(left, images[rows, :, : half - 1 : -1])
        other += _difference(left, images[others[rows], :, : half - 1 : -1])
    return own / other if other else float(own > 0)


def _difference(a: np.ndarray, b: np.ndarray) -> int:
    """Sum of absolute differences of uint8 arrays, which cannot be subtracted the wrong way round."""
    return int((np.maximum(a, b) - np.minimum(a, b)).sum(dtype=np.int64))


def _others(num: int, seed: int) -> np.ndarray:
    """For each of `num` pictures the number of another one; each is used once."""
    order = np.random.default_rng(seed).permutation(num)
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)
    return others


def _small(images: np.ndarray) -> Iterator[np.ndarray]:
    """Float32 chunks `[chunk, s, s, 3]` of the pictures averaged down to s = 32 where they are larger."""
    for rows in _chunks(images):
        part = images[rows].astype(np.float32)
        while part.shape[1] > SIDE:
            part = (part[:, 0::2] + part[:, 1::2]) / 2
            part = (part[:, :, 0::2] + part[:, :, 1::2]) / 2
        yield part


def _chunks(images: np.ndarray) -> Iterator[slice]:
    chunk = max(1, _CHUNK_PIXELS // images.shape[1] ** 2)
    return (slice(start, start + chunk) for start in range(0, len(images), chunk))


def _check(images: np.ndarray) -> None:
    side = images.shape[1] if images.ndim == 4 else 0
    power_of_two = side >= 16 and side & (side - 1) == 0
    if images.dtype != np.uint8 or not power_of_two or images.shape[1:] != (side, side, 3) or len(images) < 2:
        raise UserError(
            f"structure needs at least two uint8 pictures [n, side, side, 3] with a side of 16, 32, 64 ... pixels; "
            f"these are {images.dtype} {list(images.shape)}."
        )
