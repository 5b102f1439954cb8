"""A run on disk: what it was asked to do, what it did, and the networks that came of it."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core import checkpoint, parts, recipe
from zoo_core.errors import UserError
from zoo_core.files import read_json, replacing
from zoo_core.interfaces import Discriminator, Generator, Reconstructing
from zoo_core.plain_yaml import parse_yaml, read_text
from zoo_core.plugins import installed
from zoo_core.recipe import Recipe

RECIPE = "recipe.yaml"
CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"
IMPORTED = "imported"
"""The manifest's section on the file that a run was made from, if it was imported."""
LOCK = ".lock"
_LOCK_FILES = (LOCK, f".{RECIPE}.tmp")
_FIRST_FILES = (*_LOCK_FILES, RECIPE, MANIFEST, "metrics.jsonl", "evaluation.json")
"""What a session writes before its first step."""
FREE_TO_CHANGE = ("images", "checkpoint_images", "sample_images", "log_images", "keep")
"""Fields of `train` that a resumed run may be given anew; `images` only where no schedule depends on it."""


@dataclasses.dataclass
class Run:
    """A run folder or one of its checkpoints, opened for use."""

    path: Path
    recipe: Recipe
    checkpoints: Sequence[checkpoint.Checkpoint]
    """One of each stage that has any, in the order of training."""
    device: torch.device

    @property
    def checkpoint(self) -> checkpoint.Checkpoint:
        """The last stage's."""
        return self.checkpoints[-1]

    @property
    def step(self) -> int:
        """Steps taken, in the last stage."""
        return self.checkpoint.step

    @cached_property
    def generator(self) -> Generator:
        """The generator with averaged weights, or its own where the run averages none; eval mode."""
        return self._with(self._parts.generator.networks())

    @cached_property
    def reconstructing(self) -> Generator:
        """The generator with those networks alone that it reconstructs with, so that later stages may be untrained.

        It is `Reconstructing`, and good for nothing else. Raises UserError where the generator is not.
        """
        if not isinstance(self._parts.generator, Reconstructing):
            raise UserError(
                f"the generator of {self.recipe.plugin} has no encoder, so it reconstructs nothing; "
                f"`zoo sample {self.path}` draws from it."
            )
        return self._with(self._parts.generator.reconstructs_with)

    def step_of(self, names: Iterable[str]) -> int:
        """Steps taken in the last of the stages that trained these networks."""
        return max((self._trained(name, averaged=True)[0] for name in names), key=lambda found: found.order).step

    @cached_property
    def discriminator(self) -> Discriminator | None:
        """The discriminator, eval mode; None for a run without one."""
        if self._parts.discriminator is None:
            return None
        return self._load(self._parts.discriminator, "discriminator", averaged=False)

    def network(self, name: str) -> nn.Module:
        """One of the networks that the generator consists of, with averaged weights where there are any; eval mode.

        Raises UserError for one that has not been trained yet.
        """
        return self._load(self._parts.generator.networks()[name], name, averaged=True)

    @cached_property
    def _parts(self) -> parts.Parts:
        return parts.build(self.recipe)

    def _with(self, names: Iterable[str]) -> Generator:
        for name in names:
            self.network(name)
        return self._parts.generator.eval().requires_grad_(False).to(self.device)

    def _load(self, network: nn.Module, name: str, *, averaged: bool) -> Any:
        found, tensors = self._trained(name, averaged=averaged)
        checkpoint.load_exactly(network, tensors, f"{found.path}: {name}")
        return network.eval().requires_grad_(False).to(self.device)

    def _trained(self, name: str, *, averaged: bool) -> tuple[checkpoint.Checkpoint, dict[str, Tensor]]:
        for found in reversed(self.checkpoints):
            tensors = (averaged and found.network(name, averaged=True)) or found.network(name)
            if tensors:
                return found, tensors
        raise UserError(f"{self.path} has no trained {name}; repeat the command that trains it to go on.")


def load(path: str | Path, device: str | torch.device | None = None) -> Run:
    """Open a run folder (its newest good checkpoints) or a checkpoint folder. Raises UserError when there is none."""
    folder = Path(os.path.expanduser(path))
    try:
        if not folder.is_dir():
            raise UserError(f"there is no run folder {path}; `zoo train` makes one under runs/.")
        home, chosen = _home(folder)
        if not (home / RECIPE).exists():
            raise UserError(f"{home} is not a run: it has no {RECIPE}.")
    except OSError as error:  # a path that is too long, or one that is closed to us
        raise UserError(f"cannot look at the run folder {path} ({error.strerror}); name another.") from None
    found = [checkpoint.open_checkpoint(chosen)] if chosen else []
    for stage in _stage_folders(home / CHECKPOINTS):
        if not chosen or stage != chosen.parent:
            newest = checkpoint.latest(stage, warn=lambda text: print(f"warning: {text}", file=sys.stderr))
            found += [newest] if newest else []
    if not found:
        raise UserError(f"{path} has no checkpoint yet; let `zoo train` reach its first one.")
    found.sort(key=lambda each: each.order)
    return Run(home, read_recipe(home), found, torch.device(device) if device else default_device())


def _home(folder: Path) -> tuple[Path, Path | None]:
    """The run folder, and the checkpoint in it that was named, if one was."""
    if not (folder / RECIPE).exists():
        real = folder.resolve()
        for above in (real.parent, real.parent.parent):  # a stage's own folder may stand between
            if above.name == CHECKPOINTS:
                return above.parent, real
    return folder, None


def _stage_folders(checkpoints: Path) -> list[Path]:
    """Where checkpoints lie: the folder itself, or one in it for each of several stages."""
    if not checkpoints.is_dir():
        return []
    inner = [entry for entry in sorted(checkpoints.resolve().iterdir()) if checkpoint.any_in(entry)]
    return inner or [checkpoints.resolve()]


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read_recipe(folder: Path) -> Recipe:
    """The resolved recipe that a run keeps."""
    path = folder / RECIPE
    return recipe.check(parse_yaml(read_text(path), str(path)), str(path))


def prepare(folder: Path, wanted: Recipe) -> bool:
    """Make the run folder, or check that it is a run of the same recipe; returns whether it is new.

    Raises UserError for a run of another recipe, naming the first difference.
    """
    if (folder / RECIPE).exists():
        before = read_recipe(folder)
        if IMPORTED in (kept := read_manifest(folder)) and "data" not in kept:  # no images belong to it yet
            data = dataclasses.replace(before.data, source=wanted.data.source, classes=wanted.data.classes)
            before = before.replace(data=data)
        _check_same(before, wanted, folder)
        new = False
    else:
        new = True
    write_text(folder / RECIPE, recipe.to_yaml(wanted))
    return new


def write_text(path: Path, text: str) -> None:
    """Replace a small text file in one step. Raises UserError when the disk refuses."""
    with replacing(path) as temporary:
        temporary.write_text(text)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder against a second training; a new one in which training never began is removed again.

    Raises UserError when another process holds it, and for a folder of anything else but a run.
    """
    try:
        missing = [above for above in (folder, *folder.parents) if not above.exists()]
        new = missing or not (folder / RECIPE).exists()
        if new and not missing and any(entry.name not in _LOCK_FILES for entry in folder.iterdir()):
            raise UserError(f"{folder} exists and is not a run; name another folder with --out.")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use the run folder {folder} ({error.strerror}); name another with --out.") from None
    try:
        with held(folder):
            yield
    except Busy:
        raise
    except UserError:
        if new and not any(folder.glob("samples/*.png")) and not any(folder.glob(f"{CHECKPOINTS}/*")):
            _withdraw(folder, missing)
        raise


class Busy(UserError):
    """Another process works in the folder."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if need be, against a second process. Raises UserError, Busy where there is one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise UserError(f"cannot use the folder {folder} ({error.strerror}); name another with --out.") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another process is working in {folder}; wait for it, or name another --out.") from None
        yield
    finally:
        os.close(descriptor)


def _withdraw(folder: Path, made: Sequence[Path]) -> None:
    """Remove what a session writes before its first step, and the folders that it made."""
    with suppress(OSError):
        for name in _FIRST_FILES:
            (folder / name).unlink(missing_ok=True)
        for path in (folder / "samples", folder / CHECKPOINTS):
            if path.exists():
                path.rmdir()
        for path in made:
            path.rmdir()


def manifest(wanted: Recipe, data: Mapping[str, Any], num_processes: int) -> dict[str, Any]:
    """Everything that moves the numbers and is not in the recipe."""
    packages = ("torch", "accelerate", "numpy", "pillow", "torch-fidelity")
    return {
        "command": sys.argv[1:],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "plugins": {
            name: {"package": found.package, "version": found.version or _version("zoo-core")}
            for name, found in installed().loaded.items()
        },
        "hardware": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
            "processes": num_processes,
        },
        "git": _git_commit(),
        "seed": wanted.train.seed,
        "data": dict(data),
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `manifest.json` says; nothing where there is none, or none that can be read."""
    try:
        found = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def keep_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest where there is none yet; one of an import is kept within it.

    Raises UserError when there is one, of other images.
    """
    found = read_manifest(folder)
    before = found.get("data")
    if not isinstance(before, dict) or "content" not in before:
        origin = {IMPORTED: found[IMPORTED]} if IMPORTED in found else {}
        write_text(folder / MANIFEST, json.dumps({**content, **origin}, indent=1))
    elif before["content"] != content["data"]["content"]:
        raise UserError(
            f"the images in {before.get('name')} are not the ones that {folder} was trained on so far; "
            "name another folder with --out, or put the images back."
        )


def _check_same(old: Recipe, new: Recipe, folder: Path) -> None:
    free = {name for name in FREE_TO_CHANGE if not (name == "images" and new.train.decay_from_images)}
    before, after = flat(recipe.to_dict(old)), flat(recipe.to_dict(new))
    for key in sorted(before.keys() | after.keys()):
        if key.startswith("train.") and key.rpartition(".")[2] in free:
            continue
        if before.get(key) != after.get(key):
            there, here = before.get(key), after.get(key)
            raise UserError(
                f"{folder} holds a run of another recipe: {key} is {there!r} there and {here!r} here. "
                "Name another folder with --out, or repeat the first command to go on with that run."
            )


def flat(values: Any, place: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted path."""
    if not isinstance(values, dict):
        return {place: values}
    parts = (flat(value, f"{place}.{name}".strip(".")) for name, value in values.items())
    return {key: item for part in parts for key, item in part.items()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _git_commit() -> str:
    """The commit of the checkout that the core runs from, if it is one; read from files, no git needed."""
    git = Path(__file__).resolve().parent.parent / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        name = head.removeprefix("ref: ")
        if name == head:
            return head
        if (git / name).is_file():
            return (git / name).read_text().strip()
        packed = (line.split() for line in (git / "packed-refs").read_text().splitlines())
        return next((words[0] for words in packed if words[1:] == [name]), "")
    except OSError:
        return ""
