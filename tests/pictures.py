"""Make, pack and open small pictures, for the tests of the data door."""

from __future__ import annotations

import zipfile
from pathlib import Path

from PIL import Image

from zoo_core.data import ImageSet, open_images

COLOURS = {"blue": (0, 0, 255), "green": (0, 200, 0), "red": (255, 0, 0)}


def shade(name: str, i: int) -> tuple[int, ...]:
    return tuple(round(value * (1 - i / 20)) for value in COLOURS[name])


def save(path: Path, colour: tuple[int, ...], side: int = 12) -> None:
    Image.new("RGB", (side, side), colour).save(path)


def pack(folder: Path, path: Path, top: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, top + str(file.relative_to(folder)))
    return path


def opened(source: Path | str | None, resolution: int = 12, **options) -> ImageSet:
    return open_images(source and str(source), resolution, progress=False, **options)


def drafts(store: Path) -> list[Path]:
    return list(store.glob("tmp-*"))
