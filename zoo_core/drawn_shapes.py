"""Anti-aliased flat shapes on a batch of mirror-symmetric canvases.

A picture is 32 units wide and high, whatever its resolution. Only the right half is drawn: x runs from 0 at the
vertical mid-line to 16 at the edge, y from 0 at the top to 32 at the bottom; the left half is its mirror image.
A shape is a signed distance in units, negative inside, and covers a pixel by how far inside its centre lies.

n images, h w rows and columns of a window of the half canvas. Only +, -, *, /, sqrt, min and max are used: IEEE 754
fixes their every bit, so that pictures are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

SIDE = 32
"""Width and height of a picture in units."""

Number = float | np.ndarray
Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""x `[1, 1, w]`, y `[1, h, 1]` in units -> distance `[n or 1, h, w]` in units."""


def _column(value: Number) -> np.ndarray:
    """A number, or one number for each image `[n]`, ready to meet `[n, h, w]`."""
    return np.asarray(value, dtype=np.float32).reshape(-1, 1, 1)


def disc(x: Number, y: Number, radius: Number) -> Shape:
    """A circle; one of radius far below 0 is nowhere."""
    x, y, radius = _column(x), _column(y), _column(radius)
    return lambda px, py: np.sqrt((px - x) * (px - x) + (py - y) * (py - y)) - radius


def ellipse(x: Number, y: Number, radius_x: Number, radius_y: Number) -> Shape:
    """An ellipse; the distance is first-order exact at the rim."""
    x, y, radius_x, radius_y = (_column(value) for value in (x, y, radius_x, radius_y))
    inverse_x, inverse_y = 1 / (radius_x * radius_x), 1 / (radius_y * radius_y)

    def distance(px: np.ndarray, py: np.ndarray) -> np.ndarray:
        along_x, along_y = (px - x) * inverse_x, (py - y) * inverse_y
        level = (px - x) * along_x + ((py - y) * along_y - 1)
        slope = np.sqrt(along_x * along_x + (along_y * along_y + np.float32(1e-6)))
        return level / (2 * slope)

    return distance


def tilted(shape: Shape, x: Number, y: Number, run: float, rise: float) -> Shape:
    """Draw `shape`, given about its own origin, at (x, y) with its y axis turned to point along (run, rise)."""
    x, y = _column(x), _column(y)
    length = math.sqrt(run * run + rise * rise)
    cosine, sine = np.float32(rise / length), np.float32(run / length)
    return lambda px, py: shape((px - x) * cosine - (py - y) * sine, (px - x) * sine + (py - y) * cosine)


def segment(x0: Number, y0: Number, x1: Number, y1: Number, radius: Number) -> Shape:
    """A line from (x0, y0) to (x1, y1) with round ends."""
    x0, y0, x1, y1, radius = (_column(value) for value in (x0, y0, x1, y1, radius))
    run, rise = x1 - x0, y1 - y0
    inverse = 1 / (run * run + rise * rise)

    def distance(px: np.ndarray, py: np.ndarray) -> np.ndarray:
        along = np.clip(((px - x0) * run + (py - y0) * rise) * inverse, 0, 1)
        off_x, off_y = px - x0 - along * run, py - y0 - along * rise
        return np.sqrt(off_x * off_x + off_y * off_y) - radius

    return distance


def polygon(*corners: tuple[Number, Number], rounding: float = 0.6) -> Shape:
    """A convex polygon, corners clockwise as seen on screen, each rounded off over about `rounding` units."""
    points = [(_column(x), _column(y)) for x, y in corners]
    edges = []
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        run, rise = x1 - x0, y1 - y0
        length = np.sqrt(run * run + rise * rise)
        edges.append((rise / length, -run / length, x0, y0))

    def distance(px: np.ndarray, py: np.ndarray) -> np.ndarray:
        inside = [(px - x) * normal_x + (py - y) * normal_y for normal_x, normal_y, x, y in edges]
        furthest = inside[0]
        for other in inside[1:]:
            near = np.maximum(rounding - np.abs(furthest - other), 0)
            furthest = np.maximum(furthest, other) + near * near * np.float32(0.25 / rounding)
        return furthest

    return distance


def band(top: Number, bottom: Number) -> Shape:
    """Everything between two heights."""
    middle, half = (_column(top) + _column(bottom)) / 2, (_column(bottom) - _column(top)) / 2
    return lambda px, py: np.abs(py - middle) - half + 0 * px


def both(*shapes: Shape) -> Shape:
    """What lies in every one of the shapes."""
    return lambda px, py: np.maximum.reduce(np.broadcast_arrays(*(shape(px, py) for shape in shapes)))


def outline(shape: Shape, thickness: float) -> Shape:
    """A line of the given thickness along the rim of `shape`."""
    return lambda px, py: np.abs(shape(px, py)) - thickness / 2


class Canvas:
    """The right halves of n pictures, `[n, 3, resolution, resolution / 2]` float32 in 0..255."""

    def __init__(self, resolution: int, colour: np.ndarray) -> None:
        """Fill with `colour [n, 3]`."""
        self._scale = np.float32(resolution / SIDE)
        centres = (np.arange(resolution, dtype=np.float32) + np.float32(0.5)) / self._scale
        self._x, self._y = centres[None, None, : resolution // 2], centres[None, :, None]
        shape = (len(colour), 3, resolution, resolution // 2)
        self.pixels = np.empty(shape, dtype=np.float32)
        self.pixels[:] = colour[:, :, None, None]

    def paint(self, shape: Shape, colour: np.ndarray, window: tuple[float, float, float, float]) -> None:
        """Paint `shape` in `colour [n or 1, 3]`; `window` (left, top, right, bottom) bounds it, for speed."""
        left, top, right, bottom = (max(0, round(edge * float(self._scale))) for edge in window)
        distance = shape(self._x[:, :, left:right], self._y[:, top:bottom])
        cover = np.clip(np.float32(0.5) - distance * self._scale, 0, 1)[:, None]
        part = self.pixels[:, :, top:bottom, left:right]
        part += cover * (colour[:, :, None, None] - part)

    def finish(self, shrink: int) -> np.ndarray:
        """Average blocks of `shrink` by `shrink` pixels, round, and mirror: uint8 `[n, side, side, 3]`."""
        half = self.pixels
        while shrink > 1:
            half = (half[:, :, 0::2] + half[:, :, 1::2]) * np.float32(0.5)
            half = (half[..., 0::2] + half[..., 1::2]) * np.float32(0.5)
            shrink //= 2
        half = np.floor(half + np.float32(0.5)).astype(np.uint8).transpose(0, 2, 3, 1)
        return np.concatenate([half[:, :, ::-1], half], axis=2)
