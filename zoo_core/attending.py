"""Where a generator's attention looks while it draws one image: its layers, the points asked about, the `.npz`.

Shapes: H W a layer's grid, N heads, Q points, h w the grid of keys, L context tokens.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_core import sampling
from zoo_core.errors import UserError, did_you_mean
from zoo_core.given_maps import Maps
from zoo_core.interfaces import Attention, Generator

Point = tuple[int, int]
"""A pixel of the image: x, then y."""


@dataclass(frozen=True)
class Looked:
    """Where one layer looks from some points."""

    title: str
    """The layer's number and path, for people."""
    details: str
    """Its kind, grid and heads."""
    grid: tuple[int, int]
    """Rows and columns of the layer's tokens."""
    places: np.ndarray
    """`[Q, 2]` int64: the token under each point, row and column."""
    weights: np.ndarray
    """`[N, Q, h, w]` over the map, or `[N, Q, L]` over context tokens; float32, summing to 1 over the keys."""


@dataclass(frozen=True)
class Layer:
    """One attention layer, with what it mixed while the image was drawn."""

    number: int
    path: str
    attention: Attention
    x: Tensor
    """`[1, H, W, C]`."""
    context: Tensor | None

    @property
    def kind(self) -> str:
        return type(self.attention).__name__

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.x.shape[1], self.x.shape[2]

    @property
    def shape(self) -> tuple[int, ...]:
        """Heads, then the sides of the grid of keys, or the number of context tokens. Raises as `look` does."""
        num_heads, _, *keys = self.look([(0, 0)], self.grid).weights.shape
        return num_heads, *keys

    @torch.no_grad()
    def look(self, points: Sequence[Point], size: tuple[int, int]) -> Looked:
        """The weights from each point of an image of `size` (height, width).

        Raises UserError for an attention that does not say where it looks.
        """
        places = torch.tensor([(y * self.grid[0] // size[0], x * self.grid[1] // size[1]) for x, y in points])
        try:
            weights = self.attention.weights(self.x, places.to(self.x.device), self.context)[0].float().cpu().numpy()
        except NotImplementedError:
            raise UserError(
                f"layer {self.number}, {self.path}: {self.kind} does not say where it looks; "
                "name other layers with --layer, `--list` prints them all."
            ) from None
        heads = f"{len(weights)} head{'s' if len(weights) > 1 else ''}"
        details = f"{self.kind}, {_by(self.grid)} tokens, {heads}"
        return Looked(f"layer {self.number}: {self.path}", details, self.grid, places.numpy(), weights)


def draw(
    generator: Generator,
    seed: int,
    *,
    label: int | None = None,
    knobs: dict[str, Any] | None = None,
    maps: Maps | None = None,
) -> tuple[np.ndarray, list[Layer]]:
    """Image 0 of `seed`, uint8 `[height, width, 3]`, and the layers that took part, in the order of their first call.

    The image is the one that `sampling.draw` gives. Of a layer that is called several times the last call is kept.
    Raises UserError when no attention took part.
    """
    calls: dict[str, tuple[Tensor, Tensor | None]] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: Attention, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = arguments[0] if arguments else named["x"]
            context = arguments[1] if len(arguments) > 1 else named.get("context")
            calls[path] = x.clone(), None if context is None else context.clone()  # the host may change them in place

        return hook

    modules = {path: module for path, module in generator.named_modules() if isinstance(module, Attention)}
    hooks = [module.register_forward_pre_hook(keep(path), with_kwargs=True) for path, module in modules.items()]
    try:
        (images,) = sampling.draw(generator, 1, seed, label=label, knobs=knobs, maps=maps)
    finally:
        for hook in hooks:
            hook.remove()
    if not calls:
        raise UserError("this generator draws without any attention layer, so there is nothing to show.")
    layers = [Layer(number, path, modules[path], *call) for number, (path, call) in enumerate(calls.items())]
    return images[0].permute(1, 2, 0).numpy(), layers


def table(layers: Sequence[Layer]) -> str:
    """The layers in lines: number, path, kind, tokens, heads, keys."""
    rows = [("layer", "path", "kind", "tokens", "heads", "keys")]
    for layer in layers:
        try:
            heads, *keys = layer.shape
            shown = (str(heads), _by(keys) if len(keys) == 2 else f"{keys[0]} of the context")
        except UserError:
            shown = ("-", "does not say where it looks")
        rows.append((str(layer.number), layer.path, layer.kind, _by(layer.grid), *shown))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(map(str.rstrip, padded))


def select(layers: Sequence[Layer], wanted: Sequence[str]) -> list[Layer]:
    """The layers of these paths or numbers, in the generator's order; all when none is named.

    Raises UserError for one that does not exist.
    """
    paths = {layer.path: layer for layer in layers}
    known = paths | {str(layer.number): layer for layer in layers}
    for name in wanted:
        if name not in known:
            hint = f"; there are 0 to {len(layers) - 1}." if name.isdecimal() else did_you_mean(name, paths)
            raise UserError(f'this generator draws without a layer "{name}"{hint}')
    chosen = {known[name].number for name in wanted}
    return [layer for layer in layers if not wanted or layer.number in chosen]


def parse_point(text: str) -> Point:
    """`12,20` -> (12, 20). Raises UserError for anything else."""
    match = re.fullmatch(r"\s*(-?\d{1,6})\s*,\s*(-?\d{1,6})\s*", text)
    if not match:
        raise UserError(f'the query "{text}" is no point; write X,Y in pixels from the upper left, such as 12,20.')
    return int(match[1]), int(match[2])


def check_points(points: Sequence[Point], size: tuple[int, int]) -> None:
    """Raise UserError for a point outside an image of `size` (height, width)."""
    height, width = size
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(
                f"the query {x},{y} lies outside the image: X goes from 0 to {width - 1}, Y from 0 to {height - 1}."
            )


def striking_points(image: np.ndarray, count: int = 4) -> list[Point]:
    """Up to `count` pixels that stand out from the background and lie far apart; always the same for one image.

    The image is averaged over a grid of at most 32 x 32 cells. A cell stands out by the distance of its colour from the
    border's median colour, averaged over the 3 x 3 cells around it. The first point is the cell that stands out most;
    each further one has the largest product of standing out and distance to the nearest point so far. Cells that stand
    out less than a tenth of the first are left alone; of an image in one colour the middle is taken.
    """
    height, width = image.shape[:2]
    tops, lefts = (np.arange(min(side, 32)) * side // min(side, 32) for side in (height, width))
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.float64), tops, 0), lefts, 1)
    heights, widths = np.diff(tops, append=height), np.diff(lefts, append=width)
    cells = sums / (heights[:, None] * widths)[..., None]
    border = np.concatenate([cells[0], cells[-1], cells[1:-1, 0], cells[1:-1, -1]])
    contrast = np.linalg.norm(cells - np.median(border, 0), axis=-1)
    padded = np.pad(contrast, 1, mode="edge")
    near = [padded[y : y + len(tops), x : x + len(lefts)] for y in range(3) for x in range(3)]
    contrast = np.round(np.mean(near, 0), 3)  # so that the last bit of a sum decides nothing
    if not contrast.any():
        return [(width // 2, height // 2)]
    rows, columns = np.indices(contrast.shape)
    apart, found = np.ones(contrast.shape), []
    while len(found) < count:
        score = np.where(contrast >= contrast.max() / 10, contrast * apart, 0)
        if not score.any():
            break
        row, column = np.unravel_index(score.argmax(), score.shape)
        found.append((row, column))
        apart = np.min([np.hypot(rows - y, columns - x) for y, x in found], 0)
    return [(int(lefts[x] + widths[x] // 2), int(tops[y] + heights[y] // 2)) for y, x in found]


@contextmanager
def arrays(path: Path) -> Iterator[Callable[[str, Any], None]]:
    """Write an `.npz`; yields `add(name, array)`, so that only one array need be in memory. Nothing is pickled."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, array: Any) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)

        yield add


def _by(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))
