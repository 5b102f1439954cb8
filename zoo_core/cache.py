"""Keep prepared images on disk: built once by one process, mapped into memory by all.

What lies where:
    $ZOO_CACHE (or $XDG_CACHE_HOME/zoo, or ~/.cache/zoo)
      images/<form>-<key>/   images.npy, labels.npy, maps.npy, meta.json; complete, being built elsewhere and renamed
      images/tmp-*           being built; while nobody holds its lock it is rubbish, and the next build removes it
      images/locks/          one lock per thing to build, held by the process that builds it
      images/sources/        fingerprint of a source -> hash of its content, so that a second run reads no image
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from zoo_core.errors import UserError
from zoo_core.files import read_json
from zoo_core.maps import TYPES

FORMAT = 1
"""Raised whenever the same files would give other arrays."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form:
    """What is done to the images of a source."""

    resolution: int
    filter: str
    crop: str
    maps: str = ""
    """The kind of the maps that go with them."""

    def key(self) -> dict[str, Any]:
        """All of it but what is off, so that entries from before there were maps are found."""
        return {name: value for name, value in asdict(self).items() if value or name != "maps"}


@dataclass(frozen=True)
class Filled:
    """What a builder answers once it has written every image."""

    content: str
    """sha256, hex, of what the source holds."""
    labels: np.ndarray | None
    """int64 `[N]`."""
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """A complete entry of the cache."""

    folder: Path
    images: np.ndarray
    """uint8 `[N, H, W, 3]`, mapped, read-only."""
    labels: np.ndarray | None
    maps: np.ndarray | None
    """`[N, H, W]`, uint16 labels or float32 depth, mapped, read-only."""
    meta: dict[str, Any]


class Writer:
    """Writes `images.npy`, and `maps.npy` where the form has maps."""

    def __init__(self, folder: Path, form: Form) -> None:
        self._arrays = {name: _Rows(folder / f"{name}.npy", *kind) for name, kind in _arrays(form).items()}

    @property
    def num(self) -> int:
        """Images so far."""
        return self._arrays["images"].num

    def append(self, image: np.ndarray, maps: np.ndarray | None = None) -> None:
        """Add uint8 `[n, H, W, 3]`, and their maps `[n, H, W]`."""
        given = {"images": image} if maps is None else {"images": image, "maps": maps}
        for name, rows in self._arrays.items():
            rows.append(given[name])

    def finish(self) -> None:
        """Everything is written: complete the files, and put them on the disk."""
        for rows in self._arrays.values():
            rows.finish()

    def close(self) -> None:
        """Let go of files that are not going to be finished."""
        for rows in self._arrays.values():
            rows.close()


class _Rows:
    """Writes one array row by row; how many rows there are is known at the end."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.num = 0
        self._shape, self._dtype = shape, dtype
        self._file = open(path, "wb")  # noqa: SIM115
        self._header()

    def append(self, rows: np.ndarray) -> None:
        assert rows.dtype == self._dtype and rows.shape[1:] == self._shape
        self._file.write(np.ascontiguousarray(rows).data)
        self.num += len(rows)

    def finish(self) -> None:
        """Put the true number into the header."""
        length = self._length
        self._file.seek(0)
        self._header()
        assert self._length == length  # numpy leaves room for the first axis to grow
        _sync(self._file)
        self._file.close()

    def close(self) -> None:
        with suppress(OSError):  # a full disk, met again while flushing
            self._file.close()

    def _header(self) -> None:
        about = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.num, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, about)
        self._length = self._file.tell()


def root() -> Path:
    """The folder that all caches of Zoo lie in."""
    if os.environ.get("ZOO_CACHE"):
        return Path(os.path.expanduser(os.environ["ZOO_CACHE"])).absolute()
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.path.expanduser(os.environ["XDG_CACHE_HOME"])).absolute() / "zoo"
    return Path(os.path.expanduser("~/.cache/zoo")).absolute()


def lookup(fingerprint: str, form: Form) -> Stored | None:
    """Return the entry of a source that has not changed since it was built; needs no right to write."""
    try:
        content = (_images() / "sources" / _remembered(fingerprint, form)).read_text("ascii")
    except (OSError, ValueError):
        return None
    return _open(content, form)


def build(fingerprint: str, form: Form, fill: Callable[[Writer], Filled], num: int) -> Stored:
    """Have `fill` write at most `num` images, unless another process did meanwhile, and return the entry.

    Raises UserError when the cache cannot be written; whatever goes wrong, nothing half-written stays or is mistaken
    for an entry.
    """
    folder, name = _images(), _digest(fingerprint, form.key())[:20]
    try:
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        with _locked(folder, name):
            stored = lookup(fingerprint, form)
            if stored is not None:
                return stored
            _sweep(folder, name)
            _check_room(folder, num * sum(math.prod(shape) * kind.itemsize for shape, kind in _arrays(form).values()))
            draft = folder / f"tmp-{name}-{os.getpid()}"
            try:
                draft.mkdir()
                content = _write(draft, form, fill)
                _place(draft, folder, content, form)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            _remember(folder / "sources", _remembered(fingerprint, form), content)
            stored = _open(content, form)
    except OSError as error:
        raise _unwritable(error.strerror or str(error)) from None
    assert stored is not None
    return stored


def _write(draft: Path, form: Form, fill: Callable[[Writer], Filled]) -> str:
    writer = Writer(draft, form)
    try:
        filled = fill(writer)
        writer.finish()
    finally:
        writer.close()
    labelled = filled.labels is not None
    if labelled:
        with open(draft / "labels.npy", "wb") as file:
            np.save(file, filled.labels)
            _sync(file)
    meta = {**_key(filled.content, form), "num": writer.num, "labelled": labelled, **filled.meta}
    with open(draft / "meta.json", "w", encoding="ascii") as file:
        json.dump(meta, file, indent=1)
        _sync(file)
    _sync_folder(draft)
    return filled.content


def _place(draft: Path, folder: Path, content: str, form: Form) -> None:
    """Give a complete draft its name."""
    target = folder / _entry(content, form)
    try:
        draft.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if _open(content, form) is not None:  # the same content from another place, built at the same time
            return
        _log.warning("the cached images in %s are damaged and are replaced", target)
        aside = draft.with_name(draft.name + "-damaged")
        target.rename(aside)
        draft.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    _sync_folder(folder)


def _remember(folder: Path, name: str, content: str) -> None:
    folder.mkdir(exist_ok=True)
    draft = folder / f"tmp-{name}-{os.getpid()}"
    draft.write_text(content, "ascii")
    draft.replace(folder / name)


def _remembered(fingerprint: str, form: Form) -> str:
    """The same files are another content when some of them are maps."""
    return f"{fingerprint}-{form.maps}" if form.maps else fingerprint


def _open(content: str, form: Form) -> Stored | None:
    """Map an entry; None when there is none or it is damaged."""
    folder = _images() / _entry(content, form)
    try:
        meta = read_json(folder / "meta.json")
        found = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _arrays(form)}
        labels = np.load(folder / "labels.npy") if meta["labelled"] else None
        whole = all(
            found[name].shape == (meta["num"], *shape) and found[name].dtype == kind
            for name, (shape, kind) in _arrays(form).items()
        )
        whole = whole and (labels is None or labels.shape == (meta["num"],))
    except PermissionError as error:
        raise _unwritable(error.strerror) from None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return Stored(folder, found["images"], labels, found.get("maps"), meta) if whole else None


def _arrays(form: Form) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of one row of each array that an entry has."""
    side = form.resolution
    arrays = {"images": ((side, side, 3), np.dtype(np.uint8))}
    return arrays | ({"maps": ((side, side), TYPES[form.maps])} if form.maps else {})


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Hold one lock; it falls with the process, however that ends."""
    with open(folder / "locks" / name, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("another process is preparing these images; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sweep(folder: Path, mine: str) -> None:
    """Remove what dead processes left: drafts whose lock is free, or is ours."""
    for draft in folder.glob("tmp-*"):
        name = draft.name.split("-")[1]
        if name == mine:
            shutil.rmtree(draft, ignore_errors=True)
            continue
        with open(folder / "locks" / name, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(draft, ignore_errors=True)


def _images() -> Path:
    return root() / "images"


def _key(content: str, form: Form) -> dict[str, Any]:
    return {"format": FORMAT, "pillow": PIL.__version__.split(".")[0], "content": content, **form.key()}


def _entry(content: str, form: Form) -> str:
    parts = (f"{form.resolution}px", form.filter, form.crop, form.maps, _digest(_key(content, form))[:20])
    return "-".join(filter(None, parts))


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise _unwritable(f"{needed / 2**30:.1f} GiB are needed and {free / 2**30:.1f} are free")


def _unwritable(reason: str) -> UserError:
    return UserError(f"the image cache in {root()} cannot be used ({reason}); set ZOO_CACHE to a folder with room.")


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
