"""Read one map that nobody vouches for, and give it its image's geometry: labels are picked, never blended.

Labels: PNG, 8- or 16-bit greyscale, or palette, whose indices are the labels. Depth: PNG or TIFF, 8- or 16-bit
greyscale; TIFF of 32-bit floats; PNG whose four channels are the bytes of a little-endian 32-bit float.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from zoo_core import images
from zoo_core.images import Refused

TYPES = {"labels": np.dtype(np.uint16), "depth": np.dtype(np.float32)}
"""What the maps of each kind are kept as."""

_FORMATS = {"labels": ("PNG",), "depth": ("PNG", "TIFF")}
_MODES = {"labels": ("L", "P", "I;16"), "depth": ("L", "I;16", "I;16B", "F")}
_FEW_BITS = ("1", "L;2", "L;4")  # Pillow stretches their values to 0..255
_FARTHEST = 1e30  # bytes of an opaque colour picture, read as floats, are beyond it


@dataclass(frozen=True)
class Map:
    """One map at the size of its file."""

    values: np.ndarray
    """`[H, W]`, of its kind's type."""
    smooth: bool
    """Whether pixels may be averaged."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as Pillow has them."""
        return self.values.shape[1], self.values.shape[0]

    def square(self, resolution: int, crop: str) -> np.ndarray:
        """Crop and resize to `[resolution, resolution]` as `images.square` does with the image.

        Each pixel takes the nearest value, or, where they may be averaged, the mean over the antialiased triangle.
        """
        left, top, right, bottom = box = images.cropped(self.size, crop)
        if self.smooth:
            shape = (resolution, resolution)
            return np.asarray(Image.fromarray(self.values).resize(shape, Image.Resampling.BILINEAR, box=box))
        middles = (np.arange(resolution) + 0.5) / resolution
        rows, columns = (top + (bottom - top) * middles).astype(int), (left + (right - left) * middles).astype(int)
        return self.values[rows[:, None], columns]


def decode(data: bytes, kind: str) -> Map:
    """Read a map of this kind. Raises Refused."""
    return images.load(data, lambda image: _judge(image, kind), lambda image: _values(image, kind))


def _judge(image: Image.Image, kind: str) -> None:
    """Raise Refused on what the header alone tells."""
    images.judge_size(image)
    if image.format not in _FORMATS[kind]:
        raise Refused(f"{image.format}; maps of {kind} are {' or '.join(_FORMATS[kind])}")
    if _holds_floats(image, kind):
        return
    if image.mode == "1" or image.format == "PNG" and str(image.tile[0][3]) in _FEW_BITS:
        raise Refused("greyscale of less than 8 bits; save it with 8")
    if image.mode not in _MODES[kind]:
        raise Refused(f"a picture in colour ({image.mode}); a map has one channel")


def _values(image: Image.Image, kind: str) -> Map:
    if not _holds_floats(image, kind):
        values = np.asarray(image).astype(TYPES[kind])
        if not np.isfinite(values).all():
            raise Refused("some values are not finite")
        return Map(values, smooth=kind == "depth")
    values = np.ascontiguousarray(np.asarray(image)).view("<f4")[..., 0].astype(np.float32)
    if not (np.abs(values) < _FARTHEST).all():  # nor is nan
        raise Refused("a picture in colour (RGBA), or its bytes are no 32-bit floats")
    return Map(values, smooth=False)


def _holds_floats(image: Image.Image, kind: str) -> bool:
    """Whether the four channels are the bytes of a number. Asked of the turned image too, which has no format."""
    return kind == "depth" and image.mode == "RGBA" and not images.sixteen_bit(image)
