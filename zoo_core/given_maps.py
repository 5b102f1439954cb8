"""The maps that images are drawn from: files named by hand, and colours to show maps in."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo_core import maps
from zoo_core.errors import UserError
from zoo_core.images import Refused
from zoo_core.sources import Entry, Folder, Source, open_source

Maps = Callable[[range], Tensor]
"""Row numbers of a batch -> their maps `[n, 1, H, W]`: labels int64, or depth float32."""


def from_files(path: str | os.PathLike[str], kind: str, size: tuple[int, int]) -> Maps:
    """The maps in a file, or in a folder or zip, used in turn in order of their names.

    `size` is (height, width) of the images to be drawn, and every map must have it: nothing is resized.
    Raises UserError when there are none, or the first cannot be used; what it returns raises it for the others.
    """
    source, entries = _listed(Path(os.path.expanduser(path)))

    def one(row: int) -> np.ndarray:
        entry = entries[row % len(entries)]
        try:
            found = maps.decode(source.read(entry), kind)
        except Refused as refusal:
            raise UserError(f"the map {entry.name} cannot be used: {refusal}.") from None
        if found.values.shape != size:
            (height, width), (our_height, our_width) = found.values.shape, size
            raise UserError(
                f"the map {entry.name} is {height}x{width} (height x width), but the images to be drawn are "
                f"{our_height}x{our_width}; resize it, without blending labels, or ask for its size."
            )
        return found.values

    one(0)
    return lambda rows: as_tensor(np.stack([one(row) for row in rows]))


def as_tensor(values: np.ndarray) -> Tensor:
    """Maps as they are stored, `[n, H, W]`, -> as networks are given them: `[n, 1, H, W]`, int64 or float32."""
    wanted = np.int64 if values.dtype == maps.TYPES["labels"] else np.float32
    return torch.from_numpy(values[:, None].astype(wanted))


def colour(values: Tensor) -> Tensor:
    """Pictures of maps `[n, 1, H, W]`: uint8 `[n, 3, H, W]`.

    A label is given a colour by its bits, so that near labels differ and 0 is black, as PASCAL VOC does; depth is
    grey, each map from its least value to its greatest.
    """
    if values.is_floating_point():
        least, greatest = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
        grey = (values - least) / (greatest - least).clamp(min=torch.finfo(values.dtype).tiny)
        return (grey * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
    channels = [sum(((values >> 3 * i + channel) & 1) << 7 - i for i in range(6)) for channel in range(3)]
    return torch.cat(channels, dim=1).to(torch.uint8)


def _listed(path: Path) -> tuple[Source, list[Entry]]:
    if path.is_file() and not zipfile.is_zipfile(path):
        return Folder(path.parent), [Entry(path.name, path)]
    source = open_source(path)
    return source, source.files()
