"""Pickles are read as data: what they name beside tensors and plain containers does nothing, and costs nothing."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from zoo_core import tensor_files
from zoo_core.errors import UserError
from zoo_core.restricted_pickle import Placeholder, placeholders


def read(file: Path) -> Any:
    return tensor_files.read(file)["x"]


def saved(folder: Path, content: object, **options: Any) -> Path:
    torch.save({"x": content}, folder / "file.pt", **options)
    return folder / "file.pt"


def written(folder: Path, program: bytes, **records: bytes) -> Path:
    """A file whose pickle is {"x": what `program` leaves on the stack}."""
    with zipfile.ZipFile(folder / "file.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}X\x01\x00\x00\x00x" + program + b"s.")
        for name, data in records.items():
            archive.writestr(f"a/{name}", data)
    return folder / "file.pt"


def test_what_torch_saves_comes_back(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float64)
    content = {
        "plain": [
            1,
            -5,
            2**40,
            2.5,
            True,
            False,
            None,
            "text",
            (),
            (1,),
            (1, 2),
            (1, 2, 3),
            (1, 2, 3, 4),
            {3: "three"},
        ],
        "views": (base.view(4, 6).t(), base[5:], base[:0], base[7]),
        "kinds": [torch.ones(3, dtype=kind) for kind in (torch.float16, torch.bfloat16, torch.uint8, torch.bool)],
        "parameter": torch.nn.Parameter(torch.eye(2)),
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "ordered": OrderedDict(a=OrderedDict()),
        "options": argparse.Namespace(size=256, inner=argparse.Namespace(name="x")),
        "module": torch.nn.BatchNorm2d(2).state_dict(),  # has attributes
    }
    found = read(saved(tmp_path, content))
    assert not placeholders(found) and found.keys() == content.keys()
    for name in ("plain", "size", "device", "ordered", "options"):
        assert found[name] == content[name]
    for name in ("views", "kinds"):
        for ours, theirs in zip(found[name], content[name], strict=True):
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    assert torch.equal(found["parameter"], content["parameter"])
    assert found["views"][0].untyped_storage().data_ptr() == found["views"][1].untyped_storage().data_ptr()
    assert all(torch.equal(found["module"][name], value) for name, value in content["module"].items())


def test_tensors_stay_in_the_file(tmp_path: Path) -> None:
    """What is written to the file after it was read is seen: nothing was copied."""
    file = saved(tmp_path, torch.zeros(10**6))
    found = read(file)
    data = file.read_bytes()
    start = data.index(bytes(4 * 10**6))
    with file.open("r+b") as opened:
        opened.seek(start)
        opened.write(torch.ones(10**6).numpy().tobytes())
    assert bool((found[1000:-1000] == 1).all())


def test_other_things_are_placeholders_by_their_names(tmp_path: Path) -> None:
    file = lightning.save(tmp_path / "last.ckpt", {"w": torch.ones(2)})
    content = tensor_files.read(file)
    assert placeholders(content) == [lightning.CONFIGURATION, lightning.CALLBACK]
    assert torch.equal(content["state_dict"]["w"], torch.ones(2)) and content["global_step"] == 1000
    (callback,) = content["callbacks"]
    assert isinstance(callback, Placeholder) and callback.name == lightning.CALLBACK
    assert isinstance(content["hyper_parameters"], Placeholder)
    assert not set(sys.modules) & {"pytorch_lightning", "omegaconf"}


class Calls:
    """Pickled as a call of any function, and then given a state, items and pairs."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments, {"a": 1}, iter([1, 2]), iter([("k", 1), ("l", 2)])

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.mkdir, ("marker",)),
        (eval, ("__import__('os').mkdir('marker')",)),
        (bytearray, (10**15,)),
        (torch.empty, (10**9, 10**9)),
        (torch.Size, (Calls(os.mkdir, "marker"),)),
        (torch._utils._rebuild_parameter, (Calls(os.mkdir, "marker"), False, OrderedDict())),
    ],
)
def test_a_call_does_nothing_and_neither_does_what_it_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = read(saved(tmp_path, Calls(function, *arguments)))
    assert isinstance(found, Placeholder)
    assert os.listdir() == ["file.pt"]


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK%ctQ"
"""The storage "0", of so many elements."""


def tensor(offset: bytes, size: bytes, stride: bytes, elements: int = 4) -> bytes:
    """A call of torch's function for tensors."""
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return rebuild + b"(" + STORAGE % bytes([elements]) + offset + size + stride + b"\x89}tR"


FOUR = {"data/0": torch.arange(4).float().numpy().tobytes()}
LONGEST = b"\x8a\x08" + b"\xff" * 7 + b"\x7f"  # 2**63 - 1


def test_a_tensor_by_hand(tmp_path: Path) -> None:
    found = read(written(tmp_path, tensor(b"K\x01", b"K\x03\x85", b"K\x01\x85"), **FOUR))
    assert torch.equal(found, torch.tensor([1.0, 2.0, 3.0]))


DAMAGED = {
    "a tensor beyond its storage": (tensor(b"K\x02", b"K\x03\x85", b"K\x01\x85"), FOUR),
    "a huge tensor": (tensor(b"K\x00", LONGEST + b"\x85", b"K\x01\x85"), FOUR),
    "a huge offset": (tensor(LONGEST, b"K\x01\x85", b"K\x01\x85"), FOUR),
    "a huge stride": (tensor(b"K\x00", b"K\x02\x85", LONGEST + b"\x85"), FOUR),
    "a size below zero": (tensor(b"K\x00", b"\x8a\x01\xff\x85", b"K\x01\x85"), FOUR),
    "a size of texts": (tensor(b"K\x00", b"X\x01\x00\x00\x00a\x85", b"K\x01\x85"), FOUR),
    "more dimensions than strides": (tensor(b"K\x00", b"K\x01K\x01\x86", b"K\x01\x85"), FOUR),
    "more dimensions than any tensor": (
        tensor(b"K\x00", b"(" + b"K\x01" * 99 + b"t", b"(" + b"K\x01" * 99 + b"t"),
        FOUR,
    ),
    "a storage of another size": (tensor(b"K\x00", b"K\x01\x85", b"K\x01\x85", 5), FOUR),
    "a storage that is not there": (tensor(b"K\x00", b"K\x01\x85", b"K\x01\x85"), {}),
    "no storage": (b"K\x01Q", {}),
    "an empty stack": (b"R", {}),
    "a memo that is not there": (b"j\xff\xff\xff\x7f", {}),
    "a call of a number": (b"K\x01)R", {}),
    "a parameter of a number": (b"ctorch._utils\n_rebuild_parameter\nK\x01\x89}\x87R", {}),
    "a size of a number": (b"ctorch\nSize\nK\x01\x85R", {}),
    "a mapping of mappings": (b"ccollections\nOrderedDict\n}\x85R", {}),
    "items for a number": (b"K\x01K\x01a", {}),
    "pairs for a list": (b"]K\x01K\x01s", {}),
    "a text longer than the file": (b"X\xff\xff\xff\x7fa", {}),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_makes_no_sense_is_damaged(tmp_path: Path, what: str) -> None:
    program, records = DAMAGED[what]
    with pytest.raises(UserError, match="cut short or damaged"):
        tensor_files.read(written(tmp_path, program, **records))


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (b"\x8c\x02os\x8c\x05mkdir\x93", "SHORT_BINUNICODE"),
        (b"(ios\nmkdir\n", "INST"),
        (b"(cos\nmkdir\no", "OBJ"),
        (b"\x82\x01", "EXT1"),
        (b"\x96" + bytes(8), "BYTEARRAY8"),
        (b"\x8f", "EMPTY_SET"),
    ],
)
def test_instructions_that_torch_does_not_write_are_refused_by_name(tmp_path: Path, program: bytes, name: str) -> None:
    with pytest.raises(UserError, match=f"uses {name}, which torch.save does not write; nothing of it was run"):
        tensor_files.read(written(tmp_path, program))


def test_a_memo_of_a_large_number_takes_no_memory(tmp_path: Path) -> None:
    assert read(written(tmp_path, b"K\x05r\xff\xff\xff\x7fj\xff\xff\xff\x7f0")) == 5


def test_containers_that_hold_each_other_many_times_over_are_no_keys(tmp_path: Path) -> None:
    doubled = b")" + b"".join(b"q%ch%c\x86" % (number, number) for number in range(60))  # 2**60 leaves
    started = time.monotonic()
    found = read(written(tmp_path, b"}" + doubled + b"K\x01s"))
    assert placeholders(found) == ["a container as key"]
    with pytest.raises(UserError, match="damaged"):
        storage = STORAGE.replace(b"%c", b"\x04").replace(b"X\x01\x00\x00\x000", doubled)
        tensor_files.read(written(tmp_path, storage, **FOUR))
    assert time.monotonic() - started < 5


def test_one_mapping_as_the_state_of_many_is_held_once(tmp_path: Path) -> None:
    many = b"]" + b"".join(b"cargparse\nNamespace\n)Rh\x00ba" for _ in range(100))
    found = read(written(tmp_path, b"}q\x00X\x01\x00\x00\x00aK\x01s0" + many))
    assert len(found) == 100 and all(vars(each) is vars(found[0]) for each in found)


def test_a_record_that_is_not_aligned_is_copied(tmp_path: Path) -> None:
    program = tensor(b"K\x00", b"K\x04\x85", b"K\x01\x85")
    for length in range(8):
        found = read(written(tmp_path, program, **{"x" * (length + 1): b"", **FOUR}))
        assert found.data_ptr() % 4 == 0 and torch.equal(found, torch.arange(4.0))


def test_another_byte_order_is_refused(tmp_path: Path) -> None:
    other = "big" if sys.byteorder == "little" else "little"
    with pytest.raises(UserError, match="another byte order"):
        tensor_files.read(written(tmp_path, b"K\x01", byteorder=other.encode()))
    assert read(written(tmp_path, b"K\x01", byteorder=sys.byteorder.encode())) == 1


def test_a_pickle_of_one_strange_object_is_named(tmp_path: Path) -> None:
    torch.save(Calls(os.mkdir, "marker"), tmp_path / "file.pt")
    with pytest.raises(UserError, match=r"holds posix.mkdir, which is not plain data; nothing of it was run"):
        tensor_files.read(tmp_path / "file.pt")


def test_a_pickle_larger_than_any_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a checkpoint: its a/data.pkl alone has"):
        tensor_files.read(written(tmp_path, b"]" * tensor_files.MAX_PICKLE_BYTES))


def test_pickles_of_python_itself_are_read_too(tmp_path: Path) -> None:
    content = {"list": [[1], {"a": (2, [3])}], "big": -(10**30), "same": [[]] * 2}
    file = written(tmp_path, pickle.dumps(content, 2)[2:-1])
    assert read(file) == content
