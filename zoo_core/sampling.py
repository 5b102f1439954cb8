"""Seeds -> images -> picture files. Image i of a seed is the same in every batch, up to float rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_core.errors import UserError, did_you_mean
from zoo_core.files import replacing
from zoo_core.interfaces import Generator
from zoo_core.rng import Rng
from zoo_core.schema import coerce, options_of

STREAM = "sample"


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
    progress: Callable[[int], None] | None = None,
) -> Iterator[Tensor]:
    """Yield uint8 batches `[b, 3, H, W]` of images `first` to `first + num`, in eval mode.

    A conditional generator draws a class per image, unless `label` fixes it or `by_turns` goes round the classes.
    """
    device = next(generator.parameters()).device
    training = generator.training
    generator.eval()
    try:
        for start in range(first, first + num, batch):
            rows = range(start, min(start + batch, first + num))
            given = _labels(generator, rows, label, by_turns)
            rng = Rng.of(STREAM, seed, rows=rows, device=device)
            image = generator.sample(len(rows), given, rng, **(knobs or {}))
            yield to_uint8(image).cpu()
            if progress:
                progress(len(rows))
    finally:
        generator.train(training)


def to_uint8(image: Tensor) -> Tensor:
    """[-1, 1] float -> uint8, rounded to nearest."""
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int = 0, gap: int = 1) -> np.ndarray:
    """uint8 `[N, 3, H, W]` -> one picture `[h, w, 3]`, row by row on white."""
    num, _, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet


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


def checked_knobs(generator: Generator, knobs: dict[str, Any]) -> dict[str, Any]:
    """Knobs that this generator's `sample` has. Raises UserError for one that it has not."""
    known = options_of(type(generator).sample)
    for name in knobs:
        if name not in known:
            raise UserError(f'this generator has no knob "{name}"{did_you_mean(name, known)}')
    return {name: coerce(value, known[name].kind, name) for name, value in knobs.items()}


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


def name_of(step: int, seed: int, label: int | None, truncation: float | None) -> str:
    """A name for each set of pictures, so that none are mixed."""
    parts = [f"step-{step}", f"seed-{seed}"]
    parts += [f"label-{label}"] if label is not None else []
    parts += [f"truncation-{truncation:g}"] if truncation is not None else []
    return "-".join(parts)


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
