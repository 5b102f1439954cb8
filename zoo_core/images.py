"""Read one image that nobody vouches for: judged by its header first, then decoded to square 8-bit RGB.

Greyscale becomes RGB, transparency is laid on white, the camera's orientation is applied; a colour profile is ignored.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Names that are tried; every other file is no image and is passed over."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""The decoders that a file may reach, whatever it is called."""
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Pillow's filters by name; all but "nearest" are antialiased when they reduce."""
CROPS = ("center", "none")
"""center: the largest square in the middle. none: the whole picture, squashed to a square."""
ALPHA = "white"
"""What lies behind a transparent picture."""
MIN_SIDE = 8
MAX_PIXELS = 64 * 10**6
MAX_BYTES = 256 * 2**20

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")
_BITS_PER_SAMPLE = 258  # TIFF tag
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


Result = TypeVar("Result")


class Refused(Exception):
    """This image cannot be used; the message is the reason."""


def decode(data: bytes, resolution: int, filter: str = "lanczos", crop: str = "center") -> tuple[np.ndarray, bool]:
    """Return the picture as uint8 `[resolution, resolution, 3]`, and whether it had to be enlarged.

    Raises Refused.
    """
    return square(picture(data), resolution, filter, crop)


def picture(data: bytes) -> Image.Image:
    """Return the whole picture, upright, 8-bit RGB. Raises Refused."""
    return load(data, _judge, _rgb)


def square(picture: Image.Image, resolution: int, filter: str, crop: str) -> tuple[np.ndarray, bool]:
    """Crop and resize a picture: `decode`'s second half. At the border of the crop the filter sees the pixels beyond
    it, as in resizing first and cropping then."""
    left, top, right, bottom = box = cropped(picture.size, crop)
    small = picture.resize((resolution, resolution), FILTERS[filter], box=box)
    return np.asarray(small), min(right - left, bottom - top) < resolution


def cropped(size: tuple[int, int], crop: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what is kept of a picture of (width, height) pixels."""
    width, height = size
    side_x, side_y = (min(size),) * 2 if crop == "center" else size
    left, top = (width - side_x) / 2, (height - side_y) / 2
    return left, top, left + side_x, top + side_y


def load(data: bytes, judge: Callable[[Image.Image], None], convert: Callable[[Image.Image], Result]) -> Result:
    """Open a file, let `judge` refuse it by its header, decode it, turn it upright and return what `convert` makes.

    Raises Refused.
    """
    if not data:
        raise Refused("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            judge(image)
            image.load()
            return convert(_turn(image))
    except Refused:
        raise
    except UnidentifiedImageError:
        raise Refused("not an image, or its header is damaged") from None
    except Image.DecompressionBombError:
        raise Refused(_too_many()) from None
    except MemoryError:
        raise  # says something about this machine, not about the file
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        text = " ".join(str(error).split())
        raise Refused(
            "truncated" if "truncated" in text.lower() else f"damaged ({text or type(error).__name__})"
        ) from None


def judge_size(image: Image.Image) -> None:
    """Raise Refused for too many pixels, too few, or several pages, all by the header; nothing is decoded yet."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Refused(_too_many(f"{width}x{height}, "))
    if min(width, height) < MIN_SIDE:
        raise Refused(f"{width}x{height}, a side is under {MIN_SIDE} pixels")
    # A camera's MPO is a JPEG with further pictures behind it; the first is the photograph.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise Refused("more than one page" if image.format == "TIFF" else "animated")


def _judge(image: Image.Image) -> None:
    judge_size(image)
    if sixteen_bit(image):
        raise Refused("16-bit; convert it to 8 bits per channel")
    if image.mode not in _MODES:
        raise Refused(f"{image.mode}; convert it to RGB")


def sixteen_bit(image: Image.Image) -> bool:
    """Pillow opens 16-bit colour as "RGB" and drops the low byte without a word, so the mode does not tell."""
    if image.mode.startswith("I;16"):
        return True
    if image.format == "PNG":
        return any(str(tile[3]).endswith(";16B") for tile in image.tile)
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) == 16
    return False


def _turn(image: Image.Image) -> Image.Image:
    """Apply the camera's orientation; EXIF that cannot be read says nothing."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        orientation = 1
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _rgb(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    behind = Image.new("RGBA", image.size, ALPHA)
    return Image.alpha_composite(behind, image).convert("RGB")


def _too_many(size: str = "") -> str:
    return f"{size}more than {MAX_PIXELS // 10**6} million pixels"
