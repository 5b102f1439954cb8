"""A checkpoint is written whole or not at all, and verified before it is believed."""

from __future__ import annotations

import dataclasses
import errno
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import toys
from safetensors.torch import load_file, save_file
from torch import nn

from zoo_core import checkpoint
from zoo_core.errors import UserError

FILES = ("averages.safetensors", "networks.safetensors", "optimizers.safetensors", "state.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `checkpoints` folder of a toy run: steps 5 and 10."""
    folder = tmp_path_factory.mktemp("trained")
    toys.trainer(folder, toys.recipe(images=40, checkpoint_images=20)).run()
    return folder / "checkpoints"


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(trained, tmp_path / "checkpoints"))


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and make the manifest agree with it, as somebody who means harm would."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[name] = {"bytes": len(content), "sha256": checkpoint._sha256(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


# -- what lies in it


def test_checkpoint_is_tensors_and_json_only(trained):
    for folder in trained.iterdir():
        assert sorted(path.name for path in folder.iterdir()) == ["averages.safetensors", "manifest.json", *FILES[1:]]
        manifest = json.loads((folder / "manifest.json").read_text())
        assert sorted(manifest) == list(FILES)
        for name in FILES:
            if name.endswith(".safetensors"):
                assert all(value.device.type == "cpu" for value in load_file(folder / name).values())
    state = json.loads((trained / "step-10" / "state.json").read_text())
    assert (state["step"], state["images"], state["stage"]) == (10, 40, "main")


def test_checkpoint_holds_all_that_was_learnt(trained):
    """A trainer of another seed, restored, is the trainer that saved."""
    recipe = toys.recipe(images=40, checkpoint_images=20)
    first = toys.trainer(trained.parent / "again", recipe)
    first.run()
    second = toys.trainer(trained.parent / "other", dataclasses.replace(recipe, train=toys.recipe(seed=9).train))
    second.restore(checkpoint.latest(trained))
    toys.assert_same(toys.state(first.stage), toys.state(second.stage))
    assert second.step == 10


# -- what is wrong with it


@pytest.mark.parametrize("name", FILES)
def test_flipped_byte_is_found(home, name):
    path = home / "step-10" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"step-10.*{name}"):
        checkpoint.open_checkpoint(home / "step-10")


@pytest.mark.parametrize("name", FILES)
def test_truncated_file_is_found(home, name):
    path = home / "step-10" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"step-10.*{name}.*size"):
        checkpoint.open_checkpoint(home / "step-10")


@pytest.mark.parametrize("name", (*FILES, "manifest.json"))
def test_missing_file_is_found(home, name):
    (home / "step-10" / name).unlink()
    with pytest.raises(UserError, match=f"step-10.*{name} is missing"):
        checkpoint.open_checkpoint(home / "step-10")


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b"[]",
        b"3",
        b"{}",
        b'{"state.json": 3}',
        b'{"state.json": {"bytes": "many"}}',
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
    ],
)
def test_manifest_that_is_no_manifest_is_a_users_error(home, manifest):
    (home / "step-10" / "manifest.json").write_bytes(manifest)
    with pytest.raises(UserError, match="step-10") as caught:
        checkpoint.open_checkpoint(home / "step-10")
    assert len(str(caught.value)) < 500
    said = []
    assert checkpoint.latest(home, warn=said.append).step == 5
    assert len(said) == 1


def test_huge_manifest_is_not_read(home):
    path = home / "step-10" / "manifest.json"
    path.write_bytes(path.read_bytes() + b" " * checkpoint.MAX_JSON_BYTES)
    with pytest.raises(UserError, match="manifest.json is too large"):
        checkpoint.open_checkpoint(home / "step-10")


@pytest.mark.parametrize(
    "state", [b"[]", b"{}", b'{"step": "10"}', b'{"step": -1}', b'{"step": 1e999}', b'{"step": null}', b"[" * 100_000]
)
def test_hostile_state_is_a_users_error(home, state):
    rewrite(home / "step-10", "state.json", state)
    with pytest.raises(UserError, match="step-10"):
        checkpoint.open_checkpoint(home / "step-10")


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "..", "", "deeper/x.safetensors"])
def test_manifest_cannot_name_files_elsewhere(home, name, monkeypatch):
    """They are not opened, let alone trusted in the place of the checkpoint's own."""
    (home.parent / "secret").write_bytes(b"secret")
    folder = home / "step-10"
    manifest = json.loads((folder / "manifest.json").read_text())
    opened = []
    known = checkpoint._sha256
    monkeypatch.setattr(checkpoint, "_sha256", lambda path: opened.append(path.name) or known(path))
    (folder / "manifest.json").write_text(json.dumps({**manifest, name: {"bytes": 6, "sha256": "0"}}))
    checkpoint.open_checkpoint(folder)
    assert sorted(opened) == list(FILES)
    instead = {**manifest, name: manifest["state.json"]}
    del instead["networks.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(instead))
    with pytest.raises(UserError, match="networks.safetensors"):
        checkpoint.open_checkpoint(folder)


def test_pickles_beside_it_are_never_read(home, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    for name in ("networks.pt", "networks.bin", "state.pkl", "optimizer.pth"):
        (home / "step-10" / name).write_bytes(pickle.dumps(Bomb()))
    trainer = toys.trainer(tmp_path, toys.recipe())
    trainer.restore(checkpoint.latest(home))
    assert trainer.step == 10 and not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"x" * 100, (2**62).to_bytes(8, "little") + b"{}", b"\x80\x04K\x01."])
def test_tensors_that_cannot_be_read_are_a_users_error(home, tmp_path, content):
    rewrite(home / "step-10", "averages.safetensors", content)
    trainer = toys.trainer(tmp_path / "new", toys.recipe())
    with pytest.raises(UserError, match="averages.safetensors"):
        trainer.restore(checkpoint.open_checkpoint(home / "step-10"))


# -- which one is used


def test_damaged_newest_is_named_and_the_one_before_is_used(home):
    (home / "step-10" / "networks.safetensors").write_bytes(b"garbage")
    said = []
    found = checkpoint.latest(home, warn=said.append)
    assert found.step == 5
    assert len(said) == 1 and "step-10" in said[0] and "networks.safetensors" in said[0]


def test_none_left_is_an_error_and_never_zero_in_silence(home):
    for folder in home.iterdir():
        (folder / "manifest.json").unlink()
    said = []
    with pytest.raises(UserError, match="move the whole run away, and repeat"):
        checkpoint.latest(home, warn=said.append)
    assert len(said) == 2


def test_never_one_is_none(tmp_path):
    assert checkpoint.latest(tmp_path / "nowhere") is None
    (tmp_path / ".step-5.tmp").mkdir()
    (tmp_path / "step-x").mkdir()
    assert checkpoint.latest(tmp_path) is None


def test_newest_is_by_number_not_by_name(home):
    shutil.copytree(home / "step-5", home / "step-9")
    assert checkpoint.latest(home).path.name == "step-10"


# -- how it is written


class Killed(BaseException):
    """Stands for a kill: no handler of ordinary exceptions sees it."""


@pytest.mark.parametrize("calls", range(4))
def test_interrupted_save_leaves_no_half_checkpoint(home, tmp_path, monkeypatch, calls):
    """Interrupted after so many files; the older ones stay, and the next save is whole."""
    trainer = toys.trainer(tmp_path / "run", toys.recipe())
    trainer.restore(checkpoint.latest(home))
    trainer.step = 15
    trainer.checkpoints = home
    count = 0

    def save(*arguments):
        nonlocal count
        count += 1
        if count > calls:
            raise Killed
        save_file(*arguments)

    def sync(path):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", save)
        patched.setattr(checkpoint, "_sync", sync)
        with pytest.raises(Killed):
            trainer.save()
    assert sorted(path.name for path in home.iterdir()) == ["step-10", "step-5"]
    trainer.save()
    assert checkpoint.latest(home).step == 15


def test_draft_of_a_killed_process_is_no_checkpoint_and_is_swept(home, tmp_path):
    shutil.copytree(home / "step-10", home / ".step-12.tmp")
    trainer = toys.trainer(tmp_path / "run", toys.recipe())
    trainer.restore(checkpoint.latest(home))
    assert trainer.step == 10
    trainer.step = 15
    trainer.checkpoints = home
    trainer.save()
    assert sorted(path.name for path in home.iterdir()) == ["step-10", "step-15"]


def test_pruning_comes_after_the_rename(home, tmp_path, monkeypatch):
    trainer = toys.trainer(tmp_path / "run", toys.recipe(keep=1))
    trainer.restore(checkpoint.latest(home))
    trainer.step, trainer.checkpoints = 15, home
    order = []
    rename, remove = Path.rename, shutil.rmtree
    monkeypatch.setattr(Path, "rename", lambda path, to: order.append(f"rename {to.name}") or rename(path, to))
    monkeypatch.setattr(
        shutil, "rmtree", lambda path, **options: order.append(f"remove {path.name}") or remove(path, **options)
    )
    trainer.save()
    order = [what for what in order if "tmp" not in what]
    assert order == ["rename step-15", "remove step-10", "remove step-5"]


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_only_so_many_are_kept(tmp_path, keep):
    toys.trainer(tmp_path, toys.recipe(checkpoint_images=16, keep=keep)).run()
    kept = sorted(int(path.name.split("-")[1]) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [4, 8, 12, 16, 20][-keep:]


def test_good_checkpoint_is_not_pruned_for_a_damaged_newer_one(home, tmp_path):
    """The run goes on from step 5; its next checkpoint is of an earlier step than the damaged one."""
    (home / "step-10" / "networks.safetensors").write_bytes(b"garbage")
    trainer = toys.trainer(tmp_path / "run", toys.recipe(keep=1))
    trainer.restore(checkpoint.latest(home, warn=lambda text: None))
    trainer.step, trainer.checkpoints = 7, home
    trainer.save()
    said = []
    assert checkpoint.latest(home, warn=said.append).step == 7
    assert not said


def test_damaged_checkpoint_is_replaced_when_its_step_is_reached_again(home, tmp_path):
    (home / "step-10" / "networks.safetensors").write_bytes(b"garbage")
    trainer = toys.trainer(tmp_path, toys.recipe(images=40, checkpoint_images=20))
    trainer.restore(checkpoint.latest(home, warn=lambda text: None))
    trainer.run()
    assert checkpoint.latest(home).step == 10


@pytest.mark.parametrize("place", ["save_file", "_sync"])
def test_full_disk_is_a_users_error_and_the_one_before_stays(home, tmp_path, monkeypatch, place):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer = toys.trainer(tmp_path / "run", toys.recipe())
    trainer.restore(checkpoint.latest(home))
    trainer.step, trainer.checkpoints = 15, home
    monkeypatch.setattr(checkpoint, place, full)
    with pytest.raises(UserError, match=r"step-15 \(No space left on device\).*free some space"):
        trainer.save()
    assert sorted(path.name for path in home.iterdir()) == ["step-10", "step-5"]
    assert checkpoint.latest(home).step == 10


def test_saving_the_same_step_again_writes_nothing(home, tmp_path):
    trainer = toys.trainer(tmp_path, toys.recipe())
    trainer.restore(checkpoint.latest(home))
    before = (home / "step-10").stat().st_mtime_ns
    trainer.save()
    assert (home / "step-10").stat().st_mtime_ns == before


# -- what it fits


def test_what_does_not_fit_is_named():
    network = nn.Linear(2, 3)
    good = {name: value.clone() for name, value in network.state_dict().items()}
    checkpoint.load_exactly(network, good, "here")
    for change, complaint in (
        ({"bias": None}, r"here does not fit this recipe: it lacks bias \(1 in all\)"),
        ({"more": torch.zeros(1)}, "it has unknown more"),
        ({"weight": torch.zeros(3, 3)}, "it has a wrong shape for weight"),
        ({"weight": torch.zeros(())}, "it has a wrong shape for weight"),
    ):
        wrong = {name: value for name, value in {**good, **change}.items() if value is not None}
        with pytest.raises(UserError, match=complaint):
            checkpoint.load_exactly(network, wrong, "here")
    assert torch.equal(network.weight, good["weight"])


def test_checkpoint_of_another_architecture_is_refused(home, tmp_path):
    wider = toys.stage(toys.recipe(), channels=9)
    trainer = toys.trainer(tmp_path, toys.recipe(), made=wider)
    with pytest.raises(UserError, match=r"step-10: discriminator does not fit this recipe: .*enter"):
        trainer.restore(checkpoint.latest(home))


@pytest.mark.parametrize(
    "file, change, complaint",
    [
        ("networks", lambda tensors: tensors | {"critic/weight": torch.zeros(1)}, "unknown critic/weight"),
        ("networks", lambda tensors: tensors | {"generator/critic": torch.zeros(1)}, "unknown critic"),
        ("averages", lambda tensors: {}, "lacks enter.bias"),
        ("optimizers", lambda tensors: tensors | {"generator/99/exp_avg": torch.zeros(1)}, "unknown 99/exp_avg"),
        ("optimizers", lambda tensors: tensors | {"generator/x/exp_avg": torch.zeros(1)}, "unknown x/exp_avg"),
        ("optimizers", lambda tensors: tensors | {"generator": torch.zeros(1)}, "unknown"),
        ("optimizers", lambda tensors: tensors | {"generator/0/exp_avg": torch.zeros(1)}, "wrong shape for 0/exp_avg"),
        ("optimizers", lambda tensors: {k: v for k, v in tensors.items() if "/0/" not in k}, "lacks some moments"),
        ("optimizers", lambda tensors: {k: v for k, v in tensors.items() if k != "generator/0/step"}, "lacks some"),
    ],
)
def test_tensor_that_belongs_nowhere_or_is_missing_is_named(home, tmp_path, file, change, complaint):
    folder = home / "step-10"
    save_file(change(load_file(folder / f"{file}.safetensors")), tmp_path / "changed")
    rewrite(folder, f"{file}.safetensors", (tmp_path / "changed").read_bytes())
    with pytest.raises(UserError, match=complaint):
        toys.trainer(tmp_path / "run", toys.recipe()).restore(checkpoint.open_checkpoint(folder))


def test_tied_tensors_stay_tied(tmp_path):
    """safetensors refuses tensors that share memory; a checkpoint keeps a copy for each name."""

    def tied():
        recipe = toys.recipe(images=20)
        made = toys.stage(recipe)
        for network in (made.networks["generator"], made.averages[0].network):
            network.also = network.leave
        return toys.trainer(tmp_path, recipe, made=made)

    first = tied()
    first.run()
    second = tied()
    second.restore(checkpoint.latest(tmp_path / "checkpoints"))
    toys.assert_same(toys.state(first.stage), toys.state(second.stage))
    network = second.stage.networks["generator"]
    assert network.also.weight is network.leave.weight


def test_run_without_averages_is_saved_and_restored(tmp_path):
    recipe = toys.recipe(images=20, averages={})
    first = toys.trainer(tmp_path, recipe)
    first.run()
    second = toys.trainer(tmp_path, recipe)
    second.restore(checkpoint.latest(tmp_path / "checkpoints"))
    toys.assert_same(toys.state(first.stage), toys.state(second.stage))
    assert checkpoint.latest(tmp_path / "checkpoints").network("generator", averaged=True) is None
