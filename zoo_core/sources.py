"""List and read the images of a folder or a zip; nothing is extracted, nothing is decoded.

Immediate subfolders are the classes. Folders that hold everything (the one at the top of most zips) are unwrapped.
Hidden files, `__MACOSX` and files of other extensions are passed over. Images beside class folders are an error.
A source of images with maps has two folders, `images` and one named after the maps' kind: see `Source.paired`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from zoo_core.errors import UserError
from zoo_core.images import EXTENSIONS, MAX_BYTES, Refused

IMAGES = "images"
"""The folder of the images in a source that has maps too."""

_Found = list[tuple[tuple[str, ...], object]]
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "eval"}
_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others cannot be decompressed within a bound


@dataclass(frozen=True)
class Entry:
    """One image of a source."""

    name: str
    """Path below the unwrapped top, parts joined by "/"."""
    where: object
    """What its source needs to read it."""
    folder: str = ""
    """What stands above `name` in a source with maps."""
    map: Entry | None = None
    """The map that belongs to it."""
    fault: str = ""
    """Why it cannot be used, where the listing tells."""

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.name}" if self.folder else self.name

    @property
    def class_name(self) -> str:
        return self.name.partition("/")[0]


class Source(ABC):
    """A folder or a zip of images."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash sizes and times, so that unchanged files need no reading."""

    @abstractmethod
    def read(self, entry: Entry) -> bytes:
        """Return a file's bytes; raises Refused. Safe to call from several threads."""

    @abstractmethod
    def _list(self) -> _Found:
        """Return (parts of the path, where) of every image."""

    @cached_property
    def entries(self) -> list[Entry]:
        """All images, sorted by name. Raises UserError when there is none, or the folders make no sense."""
        found = self._some()
        depth = _wrapped(found)
        entries = [Entry("/".join(parts[depth:]), where) for parts, where in found]
        entries.sort(key=lambda entry: entry.name)
        beside = [entry.name for entry in entries if "/" not in entry.name]
        folders = {entry.class_name for entry in entries if "/" in entry.name}
        if beside and folders:
            raise UserError(
                f"{self.path} has images ({beside[0]}, {len(beside)} in all) beside folders of images ({min(folders)}, "
                f"{len(folders)} in all), so the classes are unclear; move the images into a folder of their own."
            )
        self._refuse_splits(folders, "name one of these folders instead")
        return entries

    def paired(self, kind: str) -> list[Entry]:
        """All images with their maps of this kind, sorted by name: `images/a/b.jpg` with `labels/a/b.png`.

        What has no counterpart, or more than one, comes with its `fault`. Folders below `images` are classes where
        every image lies in one. Raises UserError when one of the two folders is missing.
        """
        found = self._some()
        folders: set[str] = set()
        for depth in range(_wrapped(found) + 1):
            tops = {parts[depth] for parts, _ in found if len(parts) > depth + 1}
            folders |= tops
            if {IMAGES, kind} <= tops:
                break
        else:
            missing = " and ".join(f'no folder "{name}"' for name in (IMAGES, kind) if name not in folders)
            raise UserError(
                f"{self.path} has {missing or 'its folders in different places'}; with maps of {kind} a source has two "
                f"folders beside each other, with files of the same names: {IMAGES}/a/b.jpg and {kind}/a/b.png."
            )
        ours, theirs = (
            [(parts[depth + 1 :], where) for parts, where in found if parts[depth] == name and len(parts) > depth + 1]
            for name in (IMAGES, kind)
        )
        above = _wrapped(ours)
        images = [Entry("/".join(parts[above:]), where, "/".join((IMAGES, *parts[:above]))) for parts, where in ours]
        maps = [Entry("/".join(parts), where, kind) for parts, where in theirs]
        entries = sorted(_matched(images, maps, kind), key=lambda entry: (entry.name, entry.folder))
        if labelled(entries):
            classes = {entry.class_name for entry in entries if not entry.fault}
            self._refuse_splits(classes, f"make a folder of {IMAGES} and {kind} for each of them")
        return entries

    def files(self) -> list[Entry]:
        """Every file of it, whatever folder it lies in, sorted by name. Raises UserError when there is none."""
        return sorted((Entry("/".join(parts), where) for parts, where in self._some()), key=lambda entry: entry.name)

    def _some(self) -> _Found:
        found = self._list()
        if not found:
            raise UserError(f"{self.path} holds no images (files named {', '.join(EXTENSIONS)}).")
        return found

    def _refuse_splits(self, folders: set[str], remedy: str) -> None:
        if len(folders) > 1 and {folder.lower() for folder in folders} <= _SPLITS:
            raise UserError(
                f"{self.path} is split into {' and '.join(sorted(folders))}, which are no classes; {remedy}."
            )


class Folder(Source):
    """Images in a folder and the folders below it; links are followed, but never round in a circle."""

    def fingerprint(self) -> str:
        digest = hashlib.sha256(os.fsencode(self.path.resolve()))
        for parts, where in sorted(self._found):
            try:
                info = os.stat(where)
                stamp = (info.st_size, info.st_mtime_ns, info.st_ctime_ns)
            except OSError as error:
                stamp = (error.errno,)
            digest.update(repr((parts, stamp)).encode())
        return digest.hexdigest()

    def read(self, entry: Entry) -> bytes:
        try:
            info = os.stat(entry.where)
            if not stat.S_ISREG(info.st_mode):
                raise Refused("not a regular file")  # opening a pipe would wait for ever
            if info.st_size > MAX_BYTES:
                raise Refused(_too_big(info.st_size))
            with open(entry.where, "rb") as file:
                return file.read(MAX_BYTES)
        except OSError as error:
            broken = isinstance(error, FileNotFoundError) and os.path.islink(entry.where)
            raise Refused("broken link" if broken else f"cannot be read ({error.strerror})") from None

    def _list(self) -> _Found:
        return self._found

    @cached_property
    def _found(self) -> list[tuple[tuple[str, ...], str]]:
        found = []
        todo = [(str(self.path), (), frozenset())]
        while todo:
            folder, parts, above = todo.pop()
            try:
                info = os.stat(folder)
                me = (info.st_dev, info.st_ino)
                if me in above:  # a link to a folder that we are in
                    continue
                items = list(os.scandir(folder))
            except OSError as error:
                raise UserError(f"the folder {folder} cannot be read: {error.strerror}.") from None
            for item in items:
                if _hidden(item.name):
                    continue
                if _is_folder(item):
                    todo.append((item.path, (*parts, item.name), above | {me}))
                elif _is_image(item.name):
                    found.append(((*parts, item.name), item.path))
        return found


class Zip(Source):
    """Images in a zip, read where they lie."""

    def fingerprint(self) -> str:
        info = os.stat(self.path)
        key = (os.fsencode(self.path.resolve()), info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)
        return hashlib.sha256(repr(key).encode()).hexdigest()

    def read(self, entry: Entry) -> bytes:
        member: zipfile.ZipInfo = entry.where
        if member.flag_bits & 1:
            raise Refused("encrypted")
        if member.compress_type not in _READABLE:
            raise Refused("compressed in a way other than deflate")
        if member.file_size > MAX_BYTES:
            raise Refused(_too_big(member.file_size))
        try:
            with self._zip.open(member) as file:
                data = file.read(member.file_size + 1)  # a bound: a bomb cannot unfold past its declared size
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
            raise Refused(f"damaged inside the zip ({error or type(error).__name__})") from None
        if len(data) != member.file_size:
            raise Refused("truncated inside the zip")
        return data

    def _list(self) -> _Found:
        found = []
        for member in self._zip.infolist():
            parts = tuple(part for part in member.filename.replace("\\", "/").split("/") if part)
            if not member.is_dir() and parts and _is_image(parts[-1]) and not any(map(_hidden, parts)):
                found.append((parts, member))
        return found

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
            raise UserError(f"the zip {self.path} is damaged or cannot be read: {error}.") from None


def open_source(path: str | os.PathLike[str]) -> Source:
    """Return the folder or zip at `path`. Raises UserError when there is neither."""
    path = Path(os.path.expanduser(path))
    if path.is_dir():
        return Folder(path)
    if path.is_file():
        if path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
            return Zip(path)
        raise UserError(f"{path} is neither a folder nor a zip of images.")
    raise UserError(f"there is no {path}; name a folder or a zip of images, or leave it out for the built-in set.")


def labelled(entries: Sequence[Entry]) -> bool:
    """Whether every image that can be used lies in a class folder."""
    return all("/" in entry.name for entry in entries if not entry.fault)


def _wrapped(found: _Found) -> int:
    """How many folders hold everything, one inside the other."""
    depth = 0
    while all(len(parts) > depth + 1 and parts[depth] == found[0][0][depth] for parts, _ in found):
        depth += 1
    return depth


def _matched(images: Sequence[Entry], maps: Sequence[Entry], kind: str) -> list[Entry]:
    """Give each image its map, and a fault to every file that has not exactly one counterpart."""
    groups: dict[str, tuple[list[Entry], list[Entry]]] = {}
    for entries, side in ((images, 0), (maps, 1)):
        for entry in entries:
            stem = entry.path.partition("/")[2].rpartition(".")[0]
            groups.setdefault(stem, ([], []))[side].append(entry)
    matched = []
    for stem, (ours, theirs) in groups.items():
        if len(ours) == len(theirs) == 1:
            matched.append(replace(ours[0], map=theirs[0]))
            continue
        several = "one of several files of this name"
        matched += [replace(entry, fault=several if theirs else f"no map {kind}/{stem}.png") for entry in ours]
        matched += [replace(entry, fault=several if ours else f"no image {IMAGES}/{stem}.*") for entry in theirs]
    return matched


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself
        return False


def _too_big(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.0f} MiB, more than {MAX_BYTES // 2**20}"
