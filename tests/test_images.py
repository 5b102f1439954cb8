"""What is read from one image file, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from zoo_core import images
from zoo_core.images import FILTERS, Refused, decode


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(width: int = 32, height: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def raw_png(width: int, height: int, depth: int, pixels: bytes) -> bytes:
    """An RGB PNG put together by hand: Pillow writes neither 16-bit colour nor false sizes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def pages(format: str) -> bytes:
    return encoded(noise(), format, save_all=True, append_images=[noise().rotate(90)])


BAD = {
    "empty": (b"", "empty"),
    "text": (b"this is no picture\n" * 50, "not an image"),
    "header only": (encoded(noise())[:20], "truncated"),
    "truncated png": (encoded(noise())[:600], "truncated"),
    "truncated jpeg": (encoded(noise(), "JPEG")[:700], "truncated"),
    "animated gif": (pages("GIF"), "animated"),
    "animated png": (pages("PNG"), "animated"),
    "animated webp": (pages("WEBP"), "animated"),
    "pages of tiff": (pages("TIFF"), "more than one page"),
    "cmyk": (encoded(noise().convert("CMYK"), "JPEG"), "CMYK"),
    "lab": (encoded(Image.new("LAB", (32, 32)), "TIFF"), "LAB"),
    "16-bit grey": (encoded(Image.new("I;16", (32, 32))), "16-bit"),
    "16-bit colour": (raw_png(32, 32, 16, bytes(32 * (1 + 32 * 6))), "16-bit"),
    "16-bit tiff": (encoded(Image.new("I;16", (32, 32)), "TIFF"), "16-bit"),
    "float": (encoded(Image.new("F", (32, 32)), "TIFF"), "F;"),
    "one pixel": (encoded(noise(1, 1)), "1x1"),
    "thin": (encoded(noise(100, 7)), "under 8 pixels"),
    "other format": (encoded(noise(), "PCX"), "not an image"),
    "damaged": (raw_png(32, 32, 8, b"").replace(b"IDAT", b"IDAT\x00\x01"), ""),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_its_reason(case: str) -> None:
    data, reason = BAD[case]
    with pytest.raises(Refused) as refusal:
        decode(data, 16)
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("side", [8001, 30_000])
def test_a_huge_image_is_refused_before_it_is_decoded(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(Refused, match="more than 64 million pixels"):
        decode(raw_png(side, side, 8, b""), 16)


def test_the_limit_is_a_number_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 30 * 20)
    assert decode(encoded(noise(30, 20)), 16)[0].shape == (16, 16, 3)
    with pytest.raises(Refused, match="31x20"):
        decode(encoded(noise(31, 20)), 16)


@pytest.mark.parametrize("filter", FILTERS)
def test_an_image_of_the_right_size_keeps_its_pixels(filter: str) -> None:
    pixels, enlarged = decode(encoded(noise()), 32, filter)
    assert np.array_equal(pixels, np.asarray(noise()))
    assert not enlarged


def test_reduction_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    pixels, _ = decode(encoded(Image.fromarray(stripes)), 16, "lanczos")
    assert abs(pixels[:, 2:-2].astype(int) - 128).max() <= 3


def test_a_small_image_is_enlarged_and_says_so() -> None:
    pixels, enlarged = decode(encoded(noise(100, 31)), 32)
    assert pixels.shape == (32, 32, 3)
    assert enlarged


def test_center_keeps_the_middle_square_and_none_squashes() -> None:
    picture = np.zeros((32, 96, 3), dtype=np.uint8)
    picture[:, :32, 0], picture[:, 32:64, 1], picture[:, 64:, 2] = 255, 255, 255
    data = encoded(Image.fromarray(picture))
    middle, _ = decode(data, 32, "box", "center")
    assert np.array_equal(middle, picture[:, 32:64])
    whole, _ = decode(data, 32, "box", "none")
    assert whole[16, 2].tolist() == [255, 0, 0]
    assert whole[16, 29].tolist() == [0, 0, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "RGB", "1"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    """The left half is transparent, in each way that a PNG can say so; the right half is black."""
    picture = Image.new("RGBA", (32, 32), (0, 0, 0, 255))
    picture.paste((90, 90, 90, 0), (0, 0, 16, 32))
    if mode in ("RGBA", "LA"):
        data = encoded(picture.convert(mode))
    elif mode in ("P", "PA"):
        table = Image.new("P", (32, 32), 0)
        table.putpalette([0, 0, 0, 90, 90, 90])
        table.paste(1, (0, 0, 16, 32))
        # One transparent colour, or an alpha for each colour.
        data = encoded(table, transparency=1 if mode == "P" else bytes([255, 0]))
    else:
        data = encoded(
            picture.convert("RGB").convert(mode, dither=0), transparency={"L": 90, "RGB": (90, 90, 90)}.get(mode, 0)
        )
    pixels, _ = decode(data, 32)
    clear = pixels[:, 16:] if mode == "1" else pixels[:, :16]  # with one bit, black is the transparent one
    assert (clear == 255).all()
    if mode != "1":
        assert (pixels[:, 16:] == 0).all()


def test_half_transparent_is_mixed_with_white() -> None:
    pixels, _ = decode(encoded(Image.new("RGBA", (16, 16), (0, 0, 0, 51))), 16)
    assert (pixels == 204).all()


def test_greyscale_becomes_colour() -> None:
    pixels, _ = decode(encoded(noise().convert("L")), 32)
    assert np.array_equal(pixels, np.asarray(noise().convert("L").convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_the_orientation_of_the_camera_is_applied(orientation: int, format: str) -> None:
    """Row and column 0 of the stored picture are where EXIF 2.3, tag 0x0112, says."""
    upright = np.asarray(noise())
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, _ = decode(encoded(Image.fromarray(np.ascontiguousarray(stored)), format, exif=exif), 32)
    assert np.array_equal(pixels, upright)


def test_damaged_exif_does_not_lose_the_picture() -> None:
    pixels, _ = decode(encoded(noise(), exif=b"Exif\x00\x00garbage"), 32)
    assert np.array_equal(pixels, np.asarray(noise()))


def test_a_camera_s_mpo_is_its_first_picture() -> None:
    data = encoded(Image.new("RGB", (32, 32), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (32, 32))])
    pixels, _ = decode(data, 32)
    assert pixels[0, 0, 0] > 240
