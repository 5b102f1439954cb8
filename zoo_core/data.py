"""The data door: a folder, a zip or the built-in drawings, as one array of square images, in an order per epoch."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_core import cache, ingest
from zoo_core.cache import Filled, Form, Stored, Writer
from zoo_core.errors import UserError, did_you_mean
from zoo_core.given_maps import Maps, as_tensor
from zoo_core.images import CROPS, FILTERS
from zoo_core.maps import TYPES
from zoo_core.rng import seed_of
from zoo_core.settings import Data
from zoo_core.sources import open_source

DRAWN = "drawn"
"""The name of the built-in set."""

_log = logging.getLogger(__name__)
_WARNINGS = 20


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Square images and where they came from."""

    images: np.ndarray
    """uint8 `[N, H, W, 3]`, mapped from disk, read-only."""
    labels: np.ndarray | None
    """int64 `[N]`, None when the source has no classes."""
    classes: tuple[str, ...]
    """Class names by label; () when the source has no classes."""
    name: str
    key: str
    """Name of the cache's entry: differs whenever the images or what was done to them differ."""
    content: str
    """sha256, hex, of file names and bytes (or the drawings' version); a zip and the same files in a folder agree."""
    resolution: int
    filter: str
    crop: str
    rejected: tuple[tuple[str, str], ...]
    """(file, reason) of each bad file."""
    meta: dict[str, Any] = field(repr=False)
    """What the cache's meta.json says."""
    maps: np.ndarray | None = None
    """A map for each image, uint16 labels or float32 depth `[N, H, W]`, mapped from disk; None without."""
    map_kind: str = ""
    """labels or depth; empty without maps."""
    _orders: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_drawn(self) -> bool:
        """Whether these are the built-in drawings: nothing else is stored without a filter."""
        return self.name == DRAWN and self.filter == "none"

    def describe(self) -> dict[str, Any]:
        """All that moves a figure measured on these images, for a manifest."""
        same = {key: self.meta[key] for key in ("content", "resolution", "filter", "crop", "alpha", "pillow", "num")}
        if self.map_kind:
            same["maps"] = self.map_kind
        return {"name": self.name, **same, "classes": list(self.classes), "num_rejected": len(self.rejected)}

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The order of one epoch, a permutation `[N]`: a function of (seed, epoch) alone."""
        if (seed, epoch) not in self._orders:
            # Sorting raw words, for numpy promises these for ever, but not what its `permutation` makes of them.
            words = np.random.Philox(seed_of(seed, "data", epoch)).random_raw(len(self))
            while len(self._orders) > 1:
                self._orders.pop(next(iter(self._orders)), None)
            order = np.argsort(words, kind="stable")
            order.setflags(write=False)
            self._orders[seed, epoch] = order
            return order
        return self._orders[seed, epoch]

    def rows(self, start: int, num: int, seed: int) -> tuple[Tensor, Tensor | None]:
        """Images `start` to `start + num` of the endless row of epochs: see `numbers` and `take`."""
        return self.take(self.numbers(start, num, seed))

    def numbers(self, start: int, num: int, seed: int) -> np.ndarray:
        """Which images these are, `[num]`: of the endless row of epochs, none left out at a seam."""
        parts = []
        while num > 0:
            epoch, offset = divmod(start, len(self))
            part = self.order(seed, epoch)[offset : offset + num]
            parts.append(part)
            start, num = start + len(part), num - len(part)
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def take(self, index: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """The images numbered `index [n]`: uint8 `[n, 3, H, W]`, and labels int64 `[n]` or None."""
        images = torch.from_numpy(self.images[index]).permute(0, 3, 1, 2).contiguous()
        return images, None if self.labels is None else torch.from_numpy(self.labels[index])

    def take_maps(self, index: np.ndarray) -> Tensor | None:
        """The maps of the images numbered `index [n]`: `[n, 1, H, W]`, labels int64 or depth float32; None without."""
        return None if self.maps is None else as_tensor(self.maps[index])

    def maps_in_turn(self, kind: str) -> Maps | None:
        """Maps for a generator of this `map_kind`: the same random order always, round and round; None for "".

        Raises UserError when there are none of this kind.
        """
        if not kind:
            return None
        if kind != self.map_kind:
            raise UserError(f"this generator draws from maps of {kind}, and {self.name} was opened without any.")
        return lambda rows: self.take_maps(self.order(0, 0)[np.asarray(rows) % len(self)])

    def halves(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Two random halves, sorted, of equal size, no image in both: for real against real."""
        if len(self) < 2:
            raise UserError(f"{self.name} has {len(self)} image; two halves need two.")
        order = np.argsort(np.random.Philox(seed_of(seed, "halves")).random_raw(len(self)), kind="stable")
        half = len(self) // 2
        return np.sort(order[:half]), np.sort(order[half : 2 * half])


def mirror(images: Tensor, which: Tensor) -> Tensor:
    """Mirror left and right the `images [B, C, H, W]` that `which [B]`, bool, names."""
    return torch.where(which.view(-1, 1, 1, 1), images.flip(-1), images)


def open_images(
    source: str | os.PathLike[str] | None,
    resolution: int,
    *,
    filter: str = "lanczos",
    crop: str = "center",
    maps: str = "",
    progress: bool = True,
) -> ImageSet:
    """Open a folder, a zip, or ("", "drawn" or None) the built-in set, at `resolution` pixels a side.

    The first time every image is read, and each bad file is named once; later runs map the cached array. Drawings are
    made at their size, so that `filter` and `crop` do not touch them. A folder called `drawn` is `./drawn`.
    With `maps`, labels or depth, the source has two folders, `images` and one of that name: see `Source.paired`.
    Raises UserError for a missing or damaged source, one with no images or too many bad ones, an unknown filter or
    crop, maps of a set that has none, and a cache that cannot be written.
    """
    if resolution < 1:
        raise UserError(f"the resolution must be at least 1, not {resolution}.")
    for option, value, known in (("filter", filter, FILTERS), ("crop", crop, CROPS)):
        if value not in known:
            raise UserError(f'no {option} "{value}"{did_you_mean(value, known)}')
    if maps and maps not in TYPES:
        raise UserError(f'no maps "{maps}"{did_you_mean(maps, TYPES)}')
    if source is None or str(source) in ("", DRAWN):
        if maps:
            raise UserError(
                f"the built-in drawings have no maps of {maps}; "
                f"name a folder or a zip that has two folders, images and {maps}."
            )
        return _drawn(resolution, progress)

    form = Form(resolution, filter, crop, maps)
    opened = open_source(source)
    path = opened.path.resolve()
    name = path.name if path.is_dir() else path.stem
    fingerprint = opened.fingerprint()
    stored = cache.lookup(fingerprint, form)
    if stored is not None:
        result = _image_set(stored, name)
        if result.rejected and progress:
            _log.warning("%d bad files are left out, see %s", len(result.rejected), stored.folder / "meta.json")
        return result

    entries = opened.paired(maps) if maps else opened.entries
    built = False

    def fill(writer: Writer) -> Filled:
        nonlocal built
        built = True
        return ingest.ingest(opened, entries, form, writer, progress)

    stored = cache.build(fingerprint, form, fill, len(entries))
    result = _image_set(stored, name)
    if built:  # not by another process, which has said it then
        _report(result, stored.folder / "meta.json")
    return result


def open_for(data: Data, source: str = "", progress: bool = True) -> ImageSet:
    """Open a recipe's images, or those of another source in the same form. Raises UserError as `open_images` does."""
    return open_images(
        source or data.source or None,
        data.resolution,
        filter=data.filter,
        crop=data.crop,
        maps=data.maps,
        progress=progress,
    )


def check_fit(data: Data, images: ImageSet, batches: Iterable[int]) -> None:
    """Raise UserError where a recipe cannot be trained on these images: for labels, for their number of classes, or for
    a batch of one of its stages."""
    if data.labels and images.labels is None:
        raise UserError(
            f"the recipe trains with labels, but {images.name} has no class folders; "
            "put each class in a subfolder, or set data.labels=false."
        )
    if data.labels and data.num_classes not in (0, len(images.classes)):
        raise UserError(
            f"the recipe is for {data.num_classes} classes and {images.name} has {len(images.classes)}; "
            "set data.num_classes=0 to build for the classes at hand."
        )
    for batch in batches:
        if len(images) < batch:
            raise UserError(f"{images.name} has {len(images)} images, less than one batch of {batch}.")


def _drawn(resolution: int, progress: bool) -> ImageSet:
    from zoo_core import drawn

    drawn.draw(np.arange(0), resolution)  # refuses a size that it is not made for before anything is written
    form = Form(resolution, "none", "none")
    content = hashlib.sha256(repr((DRAWN, drawn.VERSION, drawn.NUM, drawn.NAMES)).encode()).hexdigest()
    stored = cache.lookup(content, form)
    if stored is None:
        stored = cache.build(content, form, lambda writer: ingest.draw(content, form, writer, progress), drawn.NUM)
    return _image_set(stored, DRAWN)


def _image_set(stored: Stored, name: str) -> ImageSet:
    meta = stored.meta
    return ImageSet(
        images=stored.images,
        labels=stored.labels,
        classes=tuple(meta["classes"]),
        name=name,
        key=stored.folder.name,
        content=meta["content"],
        resolution=meta["resolution"],
        filter=meta["filter"],
        crop=meta["crop"],
        rejected=tuple((file, reason) for file, reason in meta["rejected"]),
        meta=meta,
        maps=stored.maps,
        map_kind=meta.get("maps", ""),
    )


def _report(images: ImageSet, listed: Path) -> None:
    """Name each bad file once, in one line."""
    for file, reason in images.rejected[:_WARNINGS]:
        _log.warning("%s is left out: %s", file, reason)
    if len(images.rejected) > _WARNINGS:
        _log.warning("and %d more; all are listed in %s", len(images.rejected) - _WARNINGS, listed)
    num_enlarged, side = images.meta["num_enlarged"], images.resolution
    if num_enlarged:
        _log.warning("%d of %d images are under %d pixels and are enlarged", num_enlarged, len(images), side)
