"""One picture of where attention looks: the image with its points, then a section for each layer.

A section has a row for each point and a column for each head; a tile is the darkened image with the weights over it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zoo_core.attending import Looked, Point

LARGE, SMALL = 128, 64
"""Sides of a tile in pixels."""
REACH = 1e-36
"""The weight above which a key counts as within reach: a mask of -100 leaves less, though no exact zero."""
MANY = 256
"""Tiles in a sheet from which on they are small."""
WIDTH = 1208
"""Of the sections that stand side by side."""
MARGIN, GAP, LINE, LABEL = 16, 6, 16, 52
INK, FAINT, MARK = (25, 25, 30), (105, 105, 115), (0, 235, 255)
EXPLANATION = (
    "Rows are points, columns are heads. Frame: the token that looks. Colour: the weight of a token that it looks at,",
    "from 0 to the tile's largest, which stands below it. Grey: the image, where it cannot look.",
    "4x: the tile is an excerpt, enlarged so much, for the head sees only a small part of the map.",
    "Numbered squares: context tokens, which have no place in the image.",
)


def _ramp() -> np.ndarray:
    """Uint8 `[256, 3]`, dark violet to pale yellow, of steadily rising lightness."""
    anchors = np.array(
        [(20, 8, 48), (72, 16, 104), (136, 32, 112), (200, 60, 84), (240, 118, 44), (252, 192, 60), (254, 250, 190)]
    )
    at = np.linspace(0, len(anchors) - 1, 256)
    return np.stack([np.interp(at, range(len(anchors)), channel) for channel in anchors.T], 1).round().astype(np.uint8)


RAMP = _ramp()


@dataclass(frozen=True)
class Excerpt:
    """A part of a square map, in fractions of its sides."""

    top: float = 0.0
    left: float = 0.0
    zoom: int = 1

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, upper, right and lower border on a map of that size."""
        return (
            self.left * width,
            self.top * height,
            (self.left + 1 / self.zoom) * width,
            (self.top + 1 / self.zoom) * height,
        )


def excerpt(weights: np.ndarray, place: tuple[float, float]) -> Excerpt:
    """The part of a map `[h, w]` that is worth drawing; `place` is the query's row and column, in [0, 1].

    All of it, unless the keys within reach lie, with the query, in a quarter of its side: then at least twice that part
    (and 16 tokens), enlarged by a power of two.
    """
    sides = np.array(weights.shape)
    own = np.minimum((np.array(place) * sides).astype(int), sides - 1)
    seen = np.vstack([np.argwhere(weights > REACH), own])
    low, high = seen.min(0), seen.max(0) + 1
    zoom = 1
    while (sides >= 2 * zoom * np.maximum(16, 2 * (high - low))).all() and not (sides % (2 * zoom)).any():
        zoom *= 2
    shown = sides // zoom
    top, left = np.clip((low + high - shown) // 2, 0, sides - shown) / sides
    return Excerpt(float(top), float(left), zoom)


class Sheet:
    """Sections in the order in which they are added.

    `image` is uint8 `[height, width, 3]`; `num_tiles`, how many there will be, decides how large they are.
    """

    def __init__(self, image: np.ndarray, points: Sequence[Point], title: str, num_tiles: int) -> None:
        self.image = Image.fromarray(image)
        self.points = points
        self.tile = SMALL if num_tiles > MANY else LARGE
        grey = np.asarray(self.image.convert("L"), np.float32) * 0.45 + 25
        self._grey = Image.fromarray(grey.astype(np.uint8))
        self._sections = [self._head(title)]

    def add(self, looked: Looked) -> None:
        """Append one layer's section."""
        num_heads, num_points = looked.weights.shape[:2]
        step = self.tile + GAP
        across = min((WIDTH - LABEL) // step, num_heads)
        bands = math.ceil(num_heads / across)
        band_height = LINE + num_points * (self.tile + LINE + 2) + GAP
        title = math.ceil(max(_font(14).getlength(looked.title), _font(12).getlength(looked.details)))
        section = _canvas(max(LABEL + across * step, title), 4 * LINE + bands * band_height)
        pen = ImageDraw.Draw(section)
        pen.line((0, 0, section.width, 0), (200, 200, 205))
        pen.text((0, 6), looked.title, INK, _font(14))
        pen.text((0, 24), looked.details, FAINT, _font(12))
        for band in range(bands):
            top = 3 * LINE + band * band_height
            heads = range(band * across, min((band + 1) * across, num_heads))
            for column, head in enumerate(heads):
                pen.text((LABEL + column * step + self.tile / 2, top), f"head {head}", FAINT, _font(11), anchor="ma")
            for row in range(num_points):
                y = top + LINE + row * (self.tile + LINE + 2)
                _chip(pen, (22, y + self.tile // 2 - 8), row)
                pen.text((22, y + self.tile // 2 + 6), "{},{}".format(*self.points[row]), FAINT, _font(11), anchor="ma")
                for column, head in enumerate(heads):
                    tile, caption = self._tile(looked, head, row)
                    x = LABEL + column * step
                    section.paste(tile, (x, y))
                    pen.text((x + self.tile / 2, y + self.tile + 2), caption, FAINT, _font(11), anchor="ma")
        self._sections.append(section)

    def picture(self) -> Image.Image:
        """The head, then the sections from left to right, in as many rows as they need."""
        places = [(0, 0)]
        x, y, bottom = 0, self._sections[0].height + MARGIN, 0
        for section in self._sections[1:]:
            if x and x + section.width > WIDTH:
                x, y = 0, bottom + MARGIN
            places.append((x, y))
            x, bottom = x + section.width + MARGIN, max(bottom, y + section.height)
        ends = [(x + section.width, y + section.height) for (x, y), section in zip(places, self._sections, strict=True)]
        whole = _canvas(*(max(end[axis] for end in ends) + 2 * MARGIN for axis in (0, 1)))
        for (x, y), section in zip(places, self._sections, strict=True):
            whole.paste(section, (x + MARGIN, y + MARGIN))
        return whole

    def save(self, path: Path) -> None:
        """Write the picture as PNG, whatever the path's ending."""
        self.picture().save(path, format="PNG", optimize=True)

    def _head(self, title: str) -> Image.Image:
        factor = max(1, 256 // max(self.image.size))
        shrunk = min(1.0, 384 / max(self.image.size))
        size = tuple(max(1, round(side * factor * shrunk)) for side in self.image.size)
        shown = self.image.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS)
        text_left = size[0] + 20
        texts = [(title, INK, 14), ("", INK, 14), *((line, FAINT, 12) for line in EXPLANATION)]
        width = max(_font(height).getlength(line) for line, _, height in texts)
        head = _canvas(text_left + math.ceil(width), max(size[1], 20 * len(texts) + 50))
        head.paste(shown, (0, 0))
        pen = ImageDraw.Draw(head)
        for number, (x, y) in enumerate(self.points):
            centre = ((x + 0.5) * size[0] / self.image.width, (y + 0.5) * size[1] / self.image.height)
            _chip(pen, tuple(min(max(at, 9), side - 9) for at, side in zip(centre, size, strict=True)), number)
        for row, (line, ink, height) in enumerate(texts):
            pen.text((text_left, 20 * row), line, ink, _font(height))
        y = 20 * len(texts) + 8
        head.paste(Image.fromarray(np.repeat(RAMP[None], 14, 0)), (text_left + 12, y))
        pen.text((text_left, y - 1), "0", FAINT, _font(12))
        pen.text((text_left + 12 + len(RAMP) + 6, y - 1), "the largest", FAINT, _font(12))
        return head

    def _tile(self, looked: Looked, head: int, row: int) -> tuple[Image.Image, str]:
        """The tile, and what stands below it."""
        weights = looked.weights[head, row]
        largest = float(weights.max())
        shares = weights / max(largest, REACH)
        caption = f"{largest:.2g}"
        if weights.ndim == 1:
            return _tokens(shares, self.tile), caption
        sides = looked.grid
        token = looked.places[row]
        part = excerpt(weights, tuple((at + 0.5) / side for at, side in zip(token, sides, strict=True)))
        tile = self._overlay(_crop(shares, part), _crop(weights, part) > REACH, part)
        left, top, *_ = part.box(sides[1], sides[0])
        scale = [self.tile * part.zoom / side for side in sides]
        _frame(ImageDraw.Draw(tile), (token[1] - left) * scale[1], (token[0] - top) * scale[0], scale[1], scale[0])
        return tile, caption if part.zoom == 1 else f"{caption}   ({part.zoom}x)"

    def _overlay(self, shares: np.ndarray, reach: np.ndarray, part: Excerpt) -> Image.Image:
        """`shares [h, w]` in [0, 1] over the same part of the grey image, where `reach [h, w]` is true."""
        side = self.tile
        enlarging = self.image.width / part.zoom < side
        sampling = Image.Resampling.NEAREST if enlarging else Image.Resampling.BOX
        grey = self._grey.resize((side, side), sampling, box=part.box(*self.image.size))
        shares, reach = (_enlarge(values, side) for values in (shares, reach))
        heat = RAMP[(shares * 255).round().astype(int)]
        opacity = (reach * np.maximum(0.4, 0.92 * np.sqrt(shares)))[..., None]
        return Image.fromarray((np.asarray(grey)[..., None] * (1 - opacity) + heat * opacity).astype(np.uint8))


def _crop(shares: np.ndarray, part: Excerpt) -> np.ndarray:
    left, top, right, bottom = (round(border) for border in part.box(shares.shape[1], shares.shape[0]))
    return shares[top:bottom, left:right]


def _enlarge(values: np.ndarray, side: int) -> np.ndarray:
    """`[h, w]` -> `[side, side]`. A key is two pixels wide at least; of several in one place the largest counts."""
    for axis in (0, 1):
        count = min(values.shape[axis], side // 2)
        values = np.maximum.reduceat(values, np.arange(count) * values.shape[axis] // count, axis)
        values = np.take(values, np.arange(side) * count // side, axis)
    return values


def _tokens(shares: np.ndarray, side: int) -> Image.Image:
    """Context tokens have no place in the image: a square of cells, row by row, numbered where there is room."""
    tile = Image.new("RGB", (side, side), (235, 235, 238))
    pen = ImageDraw.Draw(tile)
    columns = math.ceil(math.sqrt(len(shares)))
    cell = side / columns
    for number, share in enumerate(shares):
        x, y = number % columns * cell, number // columns * cell
        pen.rectangle((x, y, x + cell - 2, y + cell - 2) if cell > 4 else (x, y, x + cell, y + cell), _colour(share))
        if cell >= 15:
            ink = (20, 20, 20) if share > 0.6 else (235, 235, 235)
            pen.text((x + cell / 2 - 1, y + cell / 2 - 1), str(number), ink, _font(10), anchor="mm")
    return tile


def _colour(share: float) -> tuple[int, int, int]:
    return tuple(int(value) for value in RAMP[round(float(share) * 255)])


def _frame(pen: ImageDraw.ImageDraw, x: float, y: float, width: float, height: float) -> None:
    """A bright frame with a dark one round it, at least 7 pixels wide."""
    wider, higher = max(7 - width, 0) / 2, max(7 - height, 0) / 2
    left, top = round(x - wider), round(y - higher)
    right, bottom = round(x + width + wider) - 1, round(y + height + higher) - 1
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(0, 0, 0))
    pen.rectangle((left, top, right, bottom), outline=MARK)


def _chip(pen: ImageDraw.ImageDraw, centre: tuple[float, float], number: int) -> None:
    """A point's number on a disc."""
    x, y = centre
    pen.ellipse((x - 9, y - 9, x + 9, y + 9), MARK, (0, 0, 0))
    pen.text((x, y), str(number), (0, 0, 0), _font(12), anchor="mm")


def _canvas(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (255, 255, 255))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
