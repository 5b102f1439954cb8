"""`zoo import`: the run that it makes is a run like any other; a stranger's file runs nothing and leaves nothing."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import imports
import numpy as np
import pytest
import torch
import toys
from calls import call
from safetensors.numpy import save_file

from zoo_core import importing, load, parts, recipe, runs, tensor_files
from zoo_core.errors import UserError
from zoo_sagan.convert import official_values

SMALL = {
    "generator.channels": 4,
    "generator.latent_dim": 8,
    "discriminator.channels": 4,
    "data.num_classes": 3,
    "train.batch": 8,
}
TINY = ("sagan", "tiny", SMALL)


def variables() -> dict[str, np.ndarray]:
    """A small network's weights under their official names."""
    built = parts.build(recipe.load("sagan", "tiny", list(SMALL.items())))
    found = official_values(built.generator) | official_values(built.discriminator)
    return {name: value.numpy() for name, value in found.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole small checkpoint in a file."""
    file = tmp_path_factory.mktemp("official") / "official.npz"
    np.savez(file, **variables())
    return file


# --- the run ---


def test_an_imported_run_is_sampled_shown_measured_and_loaded(checkpoint: Path, tmp_path: Path) -> None:
    found = call(tmp_path, imports.arguments(checkpoint, *TINY))
    assert found.code == 0, found.err
    assert "The file holds no averaged generator: the average starts from its own weights." in found.out
    run = tmp_path / "runs" / "sagan-tiny-imported"
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    opened = load(str(run))
    assert opened.step == 0 and opened.generator.num_classes == 3 and opened.discriminator is not None
    drawn = call(tmp_path, ["sample", str(run), "--num", "2", "--label", "2", "--grid", "--out", "drawn"])
    assert drawn.code == 0, drawn.err
    arguments = ["evaluate", str(run), "--num", "6", "--extractor", "random-conv", "--metric", "prc", "--json"]
    measured = call(tmp_path, [*arguments, "--data", str(toys.write_pictures(tmp_path / "pics"))])
    assert measured.code == 0, measured.err
    shown = call(tmp_path, ["show", str(run)])
    assert shown.code == 0, shown.err
    size = checkpoint.stat().st_size
    for text in (f"imported: official.npz, {size:,} bytes, sha256 ", "held: generator, discriminator", "plugin: sagan"):
        assert text in shown.out
    assert call(run.parent, ["show", run.name]).out.partition("\n")[2] == shown.out.partition("\n")[2]


@pytest.mark.parametrize("named", ["tiny", "run/recipe.yaml"])
def test_training_goes_on_from_an_imported_run(checkpoint: Path, tmp_path: Path, named: str) -> None:
    _, before = imports.run(tmp_path, checkpoint, *TINY)
    toys.write_pictures(tmp_path / "pics")
    changes = SMALL | {"train.images": 8}
    words = [word for path, value in changes.items() for word in ("--set", f"{path}={value}")]
    command = [
        "train",
        "--plugin",
        "sagan",
        "--recipe",
        named,
        "--out",
        "run",
        "--data",
        "pics",
        "--no-measure",
        *words,
    ]
    found = call(tmp_path, command)
    assert found.code == 0, found.err
    assert "Going on with sagan" in found.out and "Resuming from step 0" in found.out
    after = runs.load(tmp_path / "run", "cpu")
    assert after.step == 1 and after.recipe.data.classes == ("cat", "dog", "owl")
    manifest = runs.read_manifest(tmp_path / "run")
    assert manifest["imported"]["file"] == "official.npz" and manifest["data"]["content"]
    old = before.generator.state_dict()
    moved = [name for name, value in after.checkpoint.network("generator").items() if not torch.equal(value, old[name])]
    assert moved
    assert call(tmp_path, command).code == 0  # the same command again: it has its images now
    other = call(tmp_path, [*command, "--set", "data.mirror=false"])
    assert other.code == 2 and "data.mirror" in other.err


# --- files that must run nothing ---


class Calls:
    """Pickled as a call of any function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.mkdir, ("marker",)),
        (eval, ("__import__('os').mkdir('marker')",)),
        (bytearray, (10**12,)),
        (torch.Tensor, (2, 2)),
    ],
)
def test_a_pickle_that_calls_anything_is_refused_and_runs_nothing(
    tmp_path: Path, function: Callable[..., object], arguments: tuple[object, ...], old: bool
) -> None:
    file = tmp_path / "hostile.pt"
    content = {"g_ema": {}, "args": argparse.Namespace(size=Calls(function, *arguments))}
    torch.save(content, file, _use_new_zipfile_serialization=not old)
    said = imports.refused(tmp_path, file, *TINY)
    assert "nothing of it was r" in said and "--trust-pickle" in said
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("old", [False, True])
def test_only_a_trusted_pickle_runs_its_code_and_says_so_before(tmp_path: Path, old: bool) -> None:
    file = tmp_path / "hostile.pt"
    torch.save({"x": Calls(print, "marker", None)}, file, _use_new_zipfile_serialization=not old)
    assert "marker" not in call(tmp_path, imports.arguments(file, *TINY)).out
    found = call(tmp_path, imports.arguments(file, *TINY, "--trust-pickle"))
    assert found.code == 2 and "marker" in found.out
    assert found.err.startswith("warning: --trust-pickle: reading") and "runs whatever code" in found.err


def test_a_pickle_with_the_newer_way_of_naming_a_function_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "hostile.pt"
    torch.save({"x": Calls(os.mkdir, "marker")}, file, pickle_protocol=4)
    assert "nothing of it was run" in imports.refused(tmp_path, file, *TINY)


# --- files that are damaged, made to harm, or something else ---


def write_pt(file: Path, content: object = None, method: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    """A zip as torch.save makes it, by hand."""
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a/data.pkl", members.pop("data", pickle.dumps(content or {}, 2)))
        archive.writestr("a/version", "3\n")
        for name, data in members.items():
            archive.writestr(f"a/{name}", data)


def write_header(file: Path, shape: tuple[int, ...], dtype: str, data: bytes = b"") -> None:
    """An `.npz` of one array whose header says what it likes."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data)


def overlap(file: Path) -> None:
    """Two members that share their bytes, as zip bombs have them."""
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("x.npy", "y.npy"):
            archive.writestr(name, bytes(64))
        archive.filelist[1].header_offset = 0


def declare_more(file: Path) -> None:
    """A tensor of more elements than its storage has."""
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.zeros(1).untyped_storage(), dtype=torch.float32, _internal=True
    )
    torch.save({"x": Calls(torch._utils._rebuild_tensor_v2, storage, 0, (10**12,), (1,), False, None)}, file)


FILES = {
    "a text": (lambda file: file.write_text("hello world, this is text"), "none of the files that can be read"),
    "nothing": (lambda file: file.write_bytes(b""), "is empty"),
    "a folder": (lambda file: file.mkdir(), "is a folder"),
    "no file": (lambda file: None, "cannot read"),
    "a device": (lambda file: os.mkfifo(file), "is not a regular file"),
    "a zip of texts": (lambda file: _texts(file), "zip of something else"),
    "a deflated .pt": (lambda file: write_pt(file, None, zipfile.ZIP_DEFLATED), "which torch.save never does"),
    "a pickled list": (lambda file: torch.save([1], file), "holds a list"),
    "a pickled text": (lambda file: write_pt(file, data=b"hello"), "cut short or damaged"),
    "an endless pickle": (lambda file: write_pt(file, data=b"\x80\x02" + b"]" * 10**5), "cut short or damaged"),
    "a nested pickle": (
        lambda file: write_pt(file, data=b"\x80\x02" + b"]" * 10**5 + b"a" * 99999 + b"."),
        "holds a list",
    ),
    "more than a storage holds": (declare_more, "cut short or damaged"),
    "overlapping members": (overlap, "made to harm"),
    "more than an array holds": (lambda file: write_header(file, (10**9, 10**3), "<f4"), "declares another size for x"),
    "a shape below zero": (lambda file: write_header(file, (-1, -4), "<f4", bytes(16)), "cut short or damaged"),
    "an array of objects": (lambda file: _objects(file), "type object"),
    "an array of texts": (lambda file: write_header(file, (4,), "<U4", bytes(64)), "type <U4"),
    "a header of code": (lambda file: write_header(file, (1,), "<f4' + exit() + '", bytes(4)), "cut short or damaged"),
    "bad safetensors": (lambda file: file.write_bytes(struct.pack("<Q", 10**6) + b"{}"), "cut short or damaged"),
}


def _texts(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("read.me", "x")


def _objects(file: Path) -> None:
    with file.open("wb") as opened:
        np.savez(opened, x=np.array([Calls(os.mkdir, "marker")], dtype=object))


@pytest.mark.parametrize("what", FILES)
def test_what_is_no_checkpoint_ends_in_a_sentence(tmp_path: Path, what: str) -> None:
    make, says = FILES[what]
    make(tmp_path / "file")
    assert says in imports.refused(tmp_path, tmp_path / "file", *TINY)


@pytest.mark.parametrize("kind", ["npz", "safetensors", "pt"])
def test_a_file_that_is_cut_short_ends_in_a_sentence(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"official.{kind}"
    arrays = {name: np.asarray(value) for name, value in variables().items()}
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    {"npz": lambda: np.savez(file, **arrays), "safetensors": lambda: save_file(arrays, file)}.get(
        kind, lambda: torch.save(tensors, file)
    )()
    whole = file.read_bytes()
    for part in (0.02, 0.5, 0.999):
        file.write_bytes(whole[: int(len(whole) * part)])
        assert "cut short or damaged" in imports.refused(tmp_path, file, *TINY)
    if kind == "npz":  # one bit of an array: the zip has its checksum
        file.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
        assert "cut short or damaged" in imports.refused(tmp_path, file, *TINY)


def test_what_unpacks_to_more_than_half_of_the_memory_is_refused(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "bomb.npz"
    np.savez_compressed(file, x=np.zeros(10**6, np.float32))
    monkeypatch.setattr(tensor_files, "memory", lambda: 7 * 10**6)
    assert "unpacks to 4,000,128 bytes" in imports.refused(tmp_path, file, *TINY)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    file = tmp_path / "official.npz"
    found = variables()
    found["model/g_bn/beta"] = np.full(len(found["model/g_bn/beta"]), value)
    np.savez(file, **found)
    assert "the generator is not finite in norm.beta (1 tensors in all)" in imports.refused(tmp_path, file, *TINY)


def test_a_checkpoint_of_another_paper_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    said = imports.refused(tmp_path, checkpoint, "styleswin", "ffhq256", {})
    assert "holds none of g, g_ema and d" in said
    file = tmp_path / "style.pt"
    torch.save({"g_ema": {"style.1.weight": torch.zeros(2, 2)}, "d": {}}, file)
    assert "sagan cannot use this checkpoint: it holds 'g_ema', a dict" in imports.refused(tmp_path, file, *TINY)
    torch.save({"style.1.weight": torch.zeros(2, 2)}, file)
    assert 'holds no variable of SAGAN, such as "model/g_snh0/Matrix"' in imports.refused(tmp_path, file, *TINY)


def test_a_tensor_that_is_no_plain_array_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "odd.pt"
    for odd in (torch.eye(2).to_sparse(), torch.empty(2, device="meta")):
        torch.save({"model/g_bn/beta": odd}, file)
        found = call(tmp_path, imports.arguments(file, *TINY, "--trust-pickle"))
        assert found.code == 2 and "sparse or without data" in found.err


def test_part_of_a_tensorflow_checkpoint_names_the_tool(tmp_path: Path) -> None:
    file = tmp_path / "model.ckpt-7.data-00000-of-00001"
    file.write_bytes(b"tensors")
    assert "tools/dump_tf_checkpoint.py" in imports.refused(tmp_path, file, *TINY)


# --- where the run goes ---


def test_a_folder_that_is_taken_is_refused_before_the_file_is_read(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("kept")
    for file in (checkpoint, tmp_path / "nowhere.pt"):
        assert "run exists already" in imports.refused(tmp_path, file, *TINY, "--out", "run")
    (tmp_path / "run" / "mine").unlink()
    imports.run(tmp_path, checkpoint, *TINY)


def test_a_run_that_cannot_be_written_leaves_nothing(checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    def full(*arguments: object) -> None:
        raise UserError("the disk is full.")

    monkeypatch.setattr(importing.checkpoint, "save", full)
    assert "disk is full" in imports.refused(tmp_path, checkpoint, *TINY, "--out", "new/folder/run")
    monkeypatch.undo()
    (tmp_path / "file").write_text("not a folder")
    assert "cannot make the run folder" in imports.refused(tmp_path, checkpoint, *TINY, "--out", "file/run")


def test_a_plugin_without_official_checkpoints_says_so(checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    plugin = importing.catalog.plugin("sagan")
    monkeypatch.setattr(importing.catalog, "plugin", lambda name: argparse.Namespace(name=plugin.name, convert=""))
    with pytest.raises(UserError, match="sagan reads no official checkpoints"):
        importing._convert({}, argparse.Namespace(plugin="sagan"))


def test_a_long_list_of_differences_is_cut_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "official.npz"
    found = variables() | {f"model/g_more{number}": np.zeros(1, np.float32) for number in range(60)}
    np.savez(file, **found)
    said = imports.refused(tmp_path, file, *TINY)
    assert len(said.splitlines()) == 1 + importing.MOST_LISTED + 2 and "... and 10 more" in said


def test_the_manifest_says_which_file_it_was(checkpoint: Path, tmp_path: Path) -> None:
    import hashlib

    imports.run(tmp_path, checkpoint, *TINY)
    kept = json.loads((tmp_path / "run" / "manifest.json").read_text())["imported"]
    assert kept == {
        "file": "official.npz",
        "bytes": checkpoint.stat().st_size,
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "networks": ["generator", "discriminator"],
    }
