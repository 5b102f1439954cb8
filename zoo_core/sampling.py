"""Seeds -> images -> picture files. Image i of a seed is the same in every batch, up to float rounding."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_core.data import open_for
from zoo_core.errors import UserError, did_you_mean
from zoo_core.files import replacing
from zoo_core.given_maps import Maps, from_files
from zoo_core.interfaces import Generator
from zoo_core.progress import Advance, counting
from zoo_core.rng import Rng
from zoo_core.schema import coerce, options_of
from zoo_core.settings import Data

STREAM = "sample"

OF_THE_CORE = ("maps", "size", "progress")
"""Knobs of `sample` that the core turns itself; a user says them in other words, if at all."""


def draw(
    generator: Generator,
    num: int,
    seed: int,
    *,
    label: int | None = None,
    by_turns: bool = False,
    first: int = 0,
    batch: int = 64,
    knobs: dict[str, Any] | None = None,
    maps: Maps | None = None,
    progress: Advance | None = None,
) -> Iterator[Tensor]:
    """Yield uint8 batches `[b, 3, H, W]` of images `first` to `first + num`, in eval mode.

    A conditional generator draws a class per image, unless `label` fixes it or `by_turns` goes round the classes.
    One that draws from maps is given those that `maps` has for these rows; UserError is raised when there are none.
    `progress` is told of the generator's steps, see `Generator.work`: while it draws, if it has the knob.
    """
    if generator.map_kind and maps is None:
        raise UserError(f"this generator draws each image from a map of {generator.map_kind}, and none are given.")
    device = next(generator.parameters()).device
    training = generator.training
    knobs = dict(knobs or {})
    steps = generator.work(knobs.get("size")).steps
    tells = progress is not None and "progress" in options_of(type(generator).sample)
    if tells:
        knobs["progress"] = progress
    generator.eval()
    try:
        for start in range(first, first + num, batch):
            rows = range(start, min(start + batch, first + num))
            given = _labels(generator, rows, label, by_turns)
            rng = Rng.of(STREAM, seed, rows=rows, device=device)
            shown = {"maps": maps(rows).to(device)} if maps and generator.map_kind else {}
            image = generator.sample(len(rows), given, rng, **shown, **knobs)
            yield to_uint8(image).cpu()
            if progress and not tells:
                progress(len(rows) * steps)
    finally:
        generator.train(training)


def maps_for(
    generator: Generator, data: Data, path: Path | None = None, size: tuple[int, int] | None = None
) -> Maps | None:
    """What a generator draws from, if it draws from maps: those at `path`, or those of the `data` of its run.

    `size`: (height, width) of the images, None for the run's own. Raises UserError where there are no maps of it.
    """
    kind, trained = generator.map_kind, (data.resolution, data.resolution)
    if not kind:
        if path:
            raise UserError("this generator draws from no maps; leave --maps out.")
        return None
    if path:
        return from_files(path, kind, size or trained)
    if not data.source or (size or trained) != trained:
        height, width = size or trained
        raise UserError(f"this generator draws from maps of {kind}; name some of {height}x{width} pixels with --maps.")
    return open_for(data).maps_in_turn(kind)


@contextmanager
def counting_steps(generator: Generator, num: int, size: tuple[int, int] | None = None) -> Iterator[Advance]:
    """What `draw` tells its `progress`: a bar of `num` images, or of steps with their rate where one takes several."""
    work = generator.work(size)
    with counting("sampling", num * work.steps, work.unit if work.steps > 1 else "") as advance:
        yield advance


def to_uint8(image: Tensor) -> Tensor:
    """[-1, 1] float -> uint8, rounded to nearest."""
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int = 0, gap: int = 1) -> np.ndarray:
    """uint8 `[N, 3, H, W]` -> one picture `[h, w, 3]`, row by row on white; about square where no columns are given."""
    num, _, height, width = images.shape
    columns = columns or min(num, math.ceil(math.sqrt(num * height / width)))
    rows = math.ceil(num / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Make a folder for pictures; a user's mistake that shows only now leaves no empty one.

    Raises UserError where it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} ({error.strerror}); name another with --out.") from None
    try:
        yield
    except UserError:
        with suppress(OSError):  # a folder with something in it stays
            for path in missing:
                path.rmdir()
        raise


def remove_numbered(folder: Path, *endings: str) -> None:
    """Remove the pictures that an earlier call numbered, `000000.png`, or `000000-ENDING.png` for each of the endings.

    Only beside a `grid.png`, with which such a call ends: without one the pictures may be somebody's own.
    """
    if not (folder / "grid.png").is_file():
        return
    name = re.compile("[0-9]{6}" + (f"-({'|'.join(endings)})" if endings else "") + r"\.png")
    for path in folder.iterdir():
        if name.fullmatch(path.name):
            path.unlink()


def save_png(path: Path, picture: np.ndarray, scale: int = 1) -> None:
    """Write `[h, w, 3]` uint8 as PNG, whole or not at all; small pictures may be enlarged by whole factors."""
    from PIL import Image

    if scale > 1:
        picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def enlargement(resolution: int) -> int:
    """How much to enlarge a grid so that people can see it."""
    return max(1, 64 // resolution)


def checked_knobs(
    generator: Generator, knobs: Mapping[str, Any], size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Knobs that this generator's `sample` has, `size` among them. Raises UserError for one that it has not."""
    known = options_of(type(generator).sample)
    own = [name for name in known if name not in OF_THE_CORE]
    for name in knobs:
        if name not in own:
            raise UserError(f'this generator has no knob "{name}"{did_you_mean(name, own)}')
    if size and "size" not in known:
        side = generator.resolution
        raise UserError(f"this generator draws images of {side}x{side} pixels only; leave --size out.")
    chosen = {name: coerce(value, known[name].kind, name) for name, value in knobs.items()}
    return chosen | ({"size": size} if size else {})


def parse_size(text: str) -> tuple[int, int] | None:
    """`512x768` -> (512, 768), height and width in pixels; None for none. Raises UserError for anything else."""
    if not text:
        return None
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if not match:
        raise UserError(f'--size takes HEIGHTxWIDTH in pixels, such as 512x768, not "{text}".')
    return int(match[1]), int(match[2])


def class_number(text: str, classes: tuple[str, ...], num_classes: int) -> int | None:
    """The number of the class that is named, or numbered; None for none. Raises UserError for one that is not there."""
    if not text:
        return None
    if not num_classes:
        raise UserError("this generator is unconditional; leave --label out.")
    if text in classes:
        return classes.index(text)
    if text.isdecimal() and int(text) < num_classes:
        return int(text)
    if text.lstrip("-").isdecimal():
        raise UserError(f"there is no class {text}; there are 0 to {num_classes - 1}.")
    raise UserError(f'there is no class "{text}"{did_you_mean(text, classes)}')


def name_of(step: int, seed: int, label: int | None, knobs: Mapping[str, Any]) -> str:
    """A name for each set of pictures, so that none are mixed."""
    parts = [f"step-{step}", f"seed-{seed}"]
    parts += [f"label-{label}"] if label is not None else []
    parts += [f"{name}-{_word(value)}" for name, value in sorted(knobs.items())]
    return "-".join(parts)


def _word(value: Any) -> str:
    """A knob's value as part of a file's name: 0.5, 512x768."""
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list | tuple):
        return "x".join(map(_word, value))
    return re.sub(r"[^\w.+-]", "_", str(value))


def _labels(generator: Generator, rows: range, label: int | None, by_turns: bool) -> Tensor | None:
    classes = generator.num_classes
    if label is not None:
        if not classes:
            raise UserError("this generator is unconditional; leave --label out.")
        if not 0 <= label < classes:
            raise UserError(f"label {label} does not exist; there are 0 to {classes - 1}.")
        return torch.full((len(rows),), label)
    if classes and by_turns:
        return torch.tensor([row % classes for row in rows])
    return None
