"""Turn a source of images, or the built-in drawings, into rows of the cache."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from zoo_core import images, maps, sources
from zoo_core.cache import Filled, Form, Writer
from zoo_core.errors import UserError
from zoo_core.images import Refused
from zoo_core.sources import Entry, Source

MAX_BAD = 0.05
"""The share of bad files up to which a source is used without them."""

_SHOWN = 5
_DRAWN_AT_ONCE = 256


@dataclass(frozen=True)
class _Read:
    digest: bytes
    pixels: np.ndarray | None = None
    """uint8 `[1, H, W, 3]`."""
    map: np.ndarray | None = None
    """`[1, H, W]`, where the form has maps."""
    enlarged: bool = False
    reason: str = ""
    """Why there are no pixels."""


def ingest(source: Source, entries: Sequence[Entry], form: Form, writer: Writer, progress: bool) -> Filled:
    """Decode all these images of a source in turn, reading each file once. Raises UserError when too many are bad."""
    labelled = sources.labelled(entries)
    digest = hashlib.sha256(b"labelled" if labelled else b"unlabelled")
    good: list[Entry] = []
    rejected: list[tuple[str, str]] = []
    num_enlarged = 0

    def read(entry: Entry) -> _Read:
        return _read(source, entry, form)

    workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    # Pillow's warnings speak of files that we judge ourselves. Threads will do: its decoders let go of the GIL.
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool, _bar(len(entries), "read", progress) as step:
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for some in _chunks(entries, 16 * workers):  # bounds what is decoded and not yet written
            for entry, result in zip(some, pool.map(read, some), strict=True):
                name = os.fsencode(entry.path)
                digest.update(b"%d %b %b" % (len(name), name, result.digest))
                if result.pixels is None:
                    rejected.append((_printable(entry.path), result.reason))
                else:
                    good.append(entry)
                    writer.append(result.pixels, result.map)
                    num_enlarged += result.enlarged
                step(1)

    if len(rejected) > MAX_BAD * len(entries):
        raise UserError(_too_many_bad(source, rejected, len(entries)))
    classes = sorted({entry.class_name for entry in good}) if labelled else []
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number[entry.class_name] for entry in good], dtype=np.int64) if labelled else None
    names = [_printable(name) for name in classes]
    meta = {"classes": names, "rejected": rejected, "num_enlarged": num_enlarged, "alpha": images.ALPHA}
    return Filled(digest.hexdigest(), labels, meta)


def draw(content: str, form: Form, writer: Writer, progress: bool) -> Filled:
    """Draw the built-in set. Raises UserError for a resolution that it is not made for."""
    from zoo_core import drawn

    with _bar(drawn.NUM, "draw", progress) as step:
        for some in _chunks(range(drawn.NUM), _DRAWN_AT_ONCE):
            writer.append(drawn.draw(np.asarray(some), form.resolution))
            step(len(some))
    labels = np.arange(drawn.NUM, dtype=np.int64) % len(drawn.NAMES)
    meta = {"classes": list(drawn.NAMES), "rejected": [], "num_enlarged": 0, "alpha": "none"}
    return Filled(content, labels, meta)


def _read(source: Source, entry: Entry, form: Form) -> _Read:
    try:
        if entry.fault:
            raise Refused(_printable(entry.fault))
        data = source.read(entry)
    except Refused as refusal:
        return _Read(hashlib.sha256(b"unread " + str(refusal).encode()).digest(), reason=str(refusal))
    if entry.map:
        return _read_pair(source, data, entry.map, form)
    digest = hashlib.sha256(data).digest()
    try:
        pixels, enlarged = images.decode(data, form.resolution, form.filter, form.crop)
    except Refused as refusal:
        return _Read(digest, reason=_printable(str(refusal)))
    return _Read(digest, pixels[None], None, enlarged)


def _read_pair(source: Source, data: bytes, entry: Entry, form: Form) -> _Read:
    """An image, whose bytes are `data`, and the map at `entry`."""
    digest = hashlib.sha256(hashlib.sha256(data).digest())
    named = ""
    try:
        picture = images.picture(data)
        named = f"its map {entry.path}: "
        map_data = source.read(entry)
        digest.update(map_data)
        map = maps.decode(map_data, form.maps)
        if map.size != picture.size:
            raise Refused("{}x{}, but the image is {}x{}".format(*map.size, *picture.size))
    except Refused as refusal:
        return _Read(digest.digest(), reason=_printable(f"{named}{refusal}"))
    pixels, enlarged = images.square(picture, form.resolution, form.filter, form.crop)
    return _Read(digest.digest(), pixels[None], map.square(form.resolution, form.crop)[None], enlarged)


def _too_many_bad(source: Source, rejected: list[tuple[str, str]], num: int) -> str:
    first = ", ".join(f"{name} ({reason})" for name, reason in rejected[:_SHOWN])
    more = ", ..." if len(rejected) > _SHOWN else ""
    share = f"more than {MAX_BAD * 100:g} %"
    return (
        f"{len(rejected)} of {num} images in {source.path} cannot be used, {share}: {first}{more}; remove or mend them."
    )


def _printable(text: str) -> str:
    """File names may hold anything, and end up in a terminal and in JSON."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _chunks(items, size: int) -> Iterator:
    items = iter(items)
    while some := list(itertools.islice(items, size)):
        yield some


@contextmanager
def _bar(total: int, doing: str, progress: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not (progress and sys.stderr.isatty()):
        yield lambda num: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{doing}ing images", total=total)
        yield lambda num: bar.advance(task, num)
