"""Read the pickle of a stranger's `.pt` as data: tensors and plain containers. Nothing that it names is ever called.

A pickle is a program for a small stack machine. This one knows only the instructions that torch.save writes, does the
few calls in `CALLS` by code of its own, and puts an inert `Placeholder` for every other thing that the pickle names,
and for whatever is made with one. So training checkpoints that keep classes of their framework beside the weights can
be read, and a hostile one does nothing.

Memory: no instruction makes more than a small object, or a container of what lies on the stack already, so a pickle of
n bytes takes at most some hundred n. Tensors are views of the file, which is mapped, not read.
"""

from __future__ import annotations

import argparse
import pickletools
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_core.errors import UserError

MOST_NAMED = 5
"""Names that a sentence lists."""
MOST_LETTERS = 80
"""Of a name."""
MOST_DIMENSIONS = 16
"""Of a tensor."""

REMEDY = (
    "nothing of it was run. Get a file that holds tensors only, or, if you trust whoever made this one, "
    "add --trust-pickle."
)


class Placeholder:
    """What a pickle names that is not plain data, or is made with such a thing. It does nothing."""

    def __init__(self, name: str) -> None:
        self.name = name[:MOST_LETTERS]

    def __repr__(self) -> str:
        return f"<{self.name}>"


class _Known(Placeholder):
    """The name of one of `CALLS` or of a storage, as long as it is not called."""


def _rebuilt(storage: Any, offset: Any, size: Any, stride: Any, *ignored: Any) -> Tensor:
    """`torch._utils._rebuild_tensor_v2`: a view of a storage. Raises ValueError where it would leave the storage."""
    dtype, data = storage
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > MOST_DIMENSIONS or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("a tensor of no shape")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(data) // dtype.itemsize:
        raise ValueError("a tensor of more elements than its storage has")
    return torch.empty(0, dtype=dtype).set_(data, offset, size, stride)


def _parameter(data: Tensor, *ignored: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError("a parameter without a tensor")
    return data


def _size(size: tuple[int, ...]) -> tuple[int, ...]:
    if type(size) is not tuple:
        raise ValueError("a size that is no row of numbers")
    return size


CALLS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_tensor_v2": _rebuilt,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "torch.device": torch.device,
    "argparse.Namespace": argparse.Namespace,
}
"""What a pickle may call, and what is done for it. Training scripts save their options in a Namespace."""

_STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}


def read(path: Path) -> Any:
    """What `torch.save` wrote to `path`, with a Placeholder for all that is neither a tensor nor a plain container.

    Tensors are views of the mapped file. Raises UserError for instructions that torch.save does not write, ValueError
    and its like for a pickle that makes no sense.
    """
    storages = _Storages(path)
    return _Machine(path, storages).run(storages.pickle)


def placeholders(content: Any) -> list[str]:
    """The names of the placeholders in what was read, sorted."""
    names: set[str] = set()
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Placeholder):
            names.add(item.name)
        elif isinstance(item, dict | list | tuple | argparse.Namespace) and id(item) not in seen:
            seen.add(id(item))
            inner = vars(item) if isinstance(item, argparse.Namespace) else item
            waiting += [*inner, *inner.values()] if isinstance(inner, dict) else inner
    return sorted(names)


def listed(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


class _Storages:
    """The records of a `.pt`, as views of the mapped file."""

    def __init__(self, path: Path) -> None:
        self._file = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
        self._found: dict[str, torch.UntypedStorage] = {}
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            self.pickle = archive.read(name)
            root = name.removesuffix("data.pkl")
            order = f"{root}byteorder"
            if order in archive.namelist() and archive.read(order) != sys.byteorder.encode():
                raise UserError(f"{path} was written on a machine of another byte order; save it anew on this one.")
            start = f"{root}data/"
            members = [member for member in archive.infolist() if member.filename.startswith(start)]
            self._places = {member.filename.removeprefix(start): _place(file, member) for member in members}

    def get(self, identity: Any) -> tuple[torch.dtype, torch.UntypedStorage]:
        """The storage that a persistent id names, and what its numbers are."""
        word, kind, key, _, elements = identity
        if word != "storage" or type(key) is not str or type(kind) is not _Known or type(elements) is not int:
            raise ValueError("a storage of unknown kind")
        dtype, (place, size) = _STORAGES[kind.name], self._places[key]
        if elements * dtype.itemsize != size or place + size > len(self._file):
            raise ValueError(f"the storage {key} has another size than its record")
        if key not in self._found:
            data = self._file[place : place + size]
            self._found[key] = data.clone() if place % 8 else data  # torch.save leaves none unaligned
        return dtype, self._found[key]


def _place(file: Any, member: zipfile.ZipInfo) -> tuple[int, int]:
    """Where a record's bytes begin, and how many they are."""
    file.seek(member.header_offset)
    name, extra = struct.unpack("<26xHH", file.read(30))
    return member.header_offset + 30 + name + extra, member.file_size


class _Machine:
    """The stack machine. Whatever breaks it (an empty stack, an unknown memo) raises."""

    def __init__(self, path: Path, storages: _Storages) -> None:
        self.path, self.storages = path, storages
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, pickle: bytes) -> Any:
        """The object that the pickle describes."""
        for operation, argument, _ in pickletools.genops(pickle):
            name = operation.name
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _ARGUMENTS:
                self.stack.append(argument)
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name == "STOP":
                return self.stack.pop()
            elif name != "PROTO":
                raise UserError(f"{self.path} uses {name}, which torch.save does not write; {REMEDY}")

    def marked(self) -> list[Any]:
        """Take everything above the last mark from the stack."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def put(self, argument: int) -> None:
        self.memo[argument] = self.stack[-1]

    def get(self, argument: int) -> None:
        self.stack.append(self.memo[argument])

    def named(self, argument: str) -> None:
        """A function or class, by "module name"."""
        name = argument.replace(" ", ".")
        self.stack.append((_Known if name in CALLS or name in _STORAGES else Placeholder)(name))

    def call(self, argument: None) -> None:
        """REDUCE and NEWOBJ."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Placeholder):
            raise ValueError("a call of what is no function")
        strange = [each for each in (function, *_row(function, arguments)) if type(each) is Placeholder]
        self.stack.append(Placeholder(strange[0].name) if strange else CALLS[function.name](*arguments))

    def build(self, argument: None) -> None:
        """Give an object its attributes: a Namespace takes them, no other does."""
        state = self.stack.pop()
        if type(self.stack[-1]) is argparse.Namespace and type(state) is dict:
            self.stack[-1].__dict__ = state

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is list:
            self.stack[-1].extend(items)
        elif type(self.stack[-1]) is not Placeholder:
            raise ValueError("items for what is no list")

    def update(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is dict:
            self.stack[-1].update((_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))
        elif type(self.stack[-1]) is not Placeholder:
            raise ValueError("items for what is no mapping")

    def pack(self, length: int) -> None:
        items = [self.stack.pop() for _ in range(length)]
        self.stack.append(tuple(reversed(items)))


def _row(function: Placeholder, arguments: Any) -> tuple[Any, ...]:
    """A call's arguments; of an unknown function they do not matter."""
    if type(function) is Placeholder:
        return ()
    if type(arguments) is not tuple:
        raise ValueError("a call without a row of arguments")
    return arguments


def _key(key: Any) -> Any:
    """A mapping's key. Containers are none: the hash of one that holds itself twice, and so on, takes for ever."""
    return key if key is None or isinstance(key, str | int | float | Placeholder) else Placeholder("a container as key")


_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_ARGUMENTS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "BINSTRING", "SHORT_BINSTRING")
"""Instructions that push their own argument."""
_STEPS: Mapping[str, Callable[[_Machine, Any], Any]] = {
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.marked(),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.named,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": lambda machine, _: machine.stack.append(machine.storages.get(machine.stack.pop())),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.marked()),
    "SETITEM": lambda machine, _: machine.update([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.update(machine.marked()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.marked())),
    "TUPLE1": lambda machine, _: machine.pack(1),
    "TUPLE2": lambda machine, _: machine.pack(2),
    "TUPLE3": lambda machine, _: machine.pack(3),
}
