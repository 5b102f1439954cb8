"""Read a stranger's file of tensors: PyTorch's `.pt`, NumPy's `.npz`, or safetensors, told apart by their content.

No code from a file is run. PyTorch's files are pickles inside a zip, which `restricted_pickle` reads as data. What a
file declares is compared with its size before anything of that size is made.
"""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from zoo_core import restricted_pickle
from zoo_core.errors import UserError

MAX_PICKLE_BYTES = 16 * 2**20
"""Of the pickle in a `.pt`, which describes the tensors and does not hold them; published ones are below 1 MiB."""

TRUSTED = (
    "--trust-pickle: reading {} as a full pickle runs whatever code its author put into it, with your rights on this "
    "machine."
)

_DAMAGED = "{} is cut short or damaged ({}); fetch it again."


def read(path: Path, *, trust_pickle: bool = False) -> Mapping[str, Any]:
    """The file's content: names to tensors, or for `.pt` the mapping that was saved. Large tensors stay in the file.

    What a `.pt` holds beside tensors and plain containers is a `restricted_pickle.Placeholder`. `trust_pickle` reads it
    as a full pickle, which runs any code in it. Raises UserError for a file that cannot be read so, or is damaged.
    """
    reader = _READERS[_kind(path)]
    try:
        content = reader(path, trust_pickle)
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{path} needs more memory than this machine has free.") from None
    except Exception as error:  # parsers of damaged or hostile bytes raise anything
        raise UserError(_DAMAGED.format(path, _reason(error))) from error
    if isinstance(content, restricted_pickle.Placeholder):
        raise UserError(f"{path} holds {content.name}, which is not plain data; {restricted_pickle.REMEDY}")
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a mapping of names to tensors.")
    return content


def _kind(path: Path) -> str:
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the checkpoint file in it.")
    if re.search(r"\.(index|meta|data-\d+-of-\d+)$", path.name):
        raise UserError(f"{path} is part of a TensorFlow checkpoint; tools/dump_tf_checkpoint.py makes an .npz of one.")
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a regular file.")
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}).") from None
    if not head:
        raise UserError(f"{path} is empty; fetch it again.")
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if head[8:] == b"{":
        return "safetensors"
    if head.startswith(b"\x80"):
        return "old pickle"
    raise UserError(f"{path} is none of the files that can be read: .pt of torch.save, .npz, .safetensors.")


def _kind_of_zip(path: Path) -> str:
    names = [member.filename for member in _members(path)]
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    if all(name.endswith(".npy") for name in names):
        return "numpy"
    raise UserError(f"{path} is a zip of something else: neither a .pt of torch.save nor an .npz of NumPy.")


def _members(path: Path) -> list[zipfile.ZipInfo]:
    """The zip's directory. Raises UserError when it is damaged, or its members repeat or overlap each other."""
    try:
        with zipfile.ZipFile(path) as archive:
            members, end = archive.infolist(), archive.start_dir
    except Exception as error:  # as above
        raise UserError(_DAMAGED.format(path, _reason(error))) from None
    if len({member.filename for member in members}) < len(members):
        raise UserError(f"{path} holds two members of one name, which no program writes.")
    for member in sorted(members, key=lambda member: member.header_offset, reverse=True):
        if member.header_offset < 0 or member.header_offset + member.compress_size > end:
            raise UserError(f"{path} declares more than it holds ({member.filename}); it is damaged, or made to harm.")
        end = member.header_offset
    return members


def _read_torch(path: Path, trust_pickle: bool) -> Any:
    for member in _members(path):
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise UserError(f"{path} is compressed ({member.filename}), which torch.save never does.")
        if member.filename.endswith(".pkl") and member.file_size > MAX_PICKLE_BYTES:
            raise UserError(f"{path} is not a checkpoint: its {member.filename} alone has {member.file_size:,} bytes.")
    if trust_pickle:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    return restricted_pickle.read(path)


def _read_old_pickle(path: Path, trust_pickle: bool) -> Any:
    if not trust_pickle:
        raise UserError(
            f"{path} is a bare pickle, as torch.save wrote before torch 1.6, and nothing of it was read. Load it where "
            "you trust it and save it again with torch.save; or, if you trust whoever made it, add --trust-pickle."
        )
    return torch.load(path, map_location="cpu", weights_only=False)


def _read_numpy(path: Path, trust_pickle: bool) -> dict[str, Tensor]:
    members = _members(path)
    declared, limit = sum(member.file_size for member in members), memory() // 2
    if declared > limit:  # the other half is for the networks made of it
        raise UserError(f"{path} unpacks to {declared:,} bytes, more than half of this machine's memory ({limit:,}).")
    with zipfile.ZipFile(path) as archive:
        return {member.filename.removesuffix(".npy"): _array(path, archive, member) for member in members}


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    """One array, once its header agrees with the size of its member."""
    name = member.filename.removesuffix(".npy")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if dtype.hasobject or dtype.kind not in "fiub":
            raise UserError(f"{path} holds {name} of type {dtype}; only arrays of numbers are read.")
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise UserError(f"{path} declares another size for {name} than it holds; it is damaged, or made to harm.")
        file.seek(0)
        array = np.lib.format.read_array(file, allow_pickle=False)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _read_safetensors(path: Path, trust_pickle: bool) -> dict[str, Tensor]:
    return load_file(path)


def memory() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _reason(error: Exception) -> str:
    """The first line of an error, short enough for a sentence."""
    text = " ".join((str(error).splitlines() or [""])[0].split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."


_READERS = {
    "torch": _read_torch,
    "old pickle": _read_old_pickle,
    "numpy": _read_numpy,
    "safetensors": _read_safetensors,
}
