"""Checkpoints: safetensors and JSON, written whole or not at all, verified before they are believed.

checkpoints/step-N/, or checkpoints/STAGE/step-N/ where a run has several stages
    networks.safetensors     network/parameter or buffer
    averages.safetensors     network/parameter or buffer of the moving averages
    optimizers.safetensors   network/index/moment
    state.json               step, images, stage, numbers not yet logged
    manifest.json            size and sha256 of each file above; written last
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo_core.errors import UserError
from zoo_core.files import read_json
from zoo_core.program import Stage

MANIFEST = "manifest.json"
STATE = "state.json"
TENSORS = ("networks", "averages", "optimizers")
MAX_JSON_BYTES = 1_000_000

_STEP = re.compile(r"step-(0|[1-9]\d*)")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint folder."""

    path: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        return int(self.state["step"])

    @property
    def order(self) -> int:
        """Which of the run's stages it belongs to, from 0."""
        return int(self.state["order"])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """One file's tensors, `networks`, `averages` or `optimizers`, on the CPU."""
        try:
            return load_file(self.path / f"{name}.safetensors")
        except (OSError, SafetensorError) as error:
            raise UserError(f"the checkpoint {self.path} cannot be read: {name}.safetensors ({error}).") from None

    def network(self, name: str, *, averaged: bool = False) -> dict[str, Tensor] | None:
        """The state dict of one network, or None when the file does not have it."""
        prefix = f"{name}/"
        tensors = self.tensors("averages" if averaged else "networks")
        found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        return found or None


def save(folder: Path, stage: Stage, state: Mapping[str, Any], keep: int) -> Path:
    """Write `folder/step-N` and prune older ones down to `keep`. Raises UserError when the disk refuses."""
    final = folder / f"step-{state['step']}"
    temporary = folder / f".step-{state['step']}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".step-*.tmp"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir()
        _write(temporary, stage, state)
        if final.exists():  # it did not verify, or this state would not have been reached again
            shutil.rmtree(final)
        temporary.rename(final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write the checkpoint {final} ({getattr(error, 'strerror', None) or error}); "
            "free some space and repeat the command, which goes on from the checkpoint before it."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    found = _found(folder)
    newest = found.index(final)
    for old in found[:newest] + found[newest + keep :]:  # newer ones did not verify: this run came from before them
        shutil.rmtree(old, ignore_errors=True)
    return final


def _write(folder: Path, stage: Stage, state: Mapping[str, Any]) -> None:
    for name, tensors in _collect(stage).items():
        save_file(tensors, folder / f"{name}.safetensors")
    (folder / STATE).write_text(json.dumps(dict(state), indent=1))
    manifest = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in folder.iterdir()}
    for path in folder.iterdir():
        _sync(path)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    _sync(folder / MANIFEST)
    _sync(folder)


def latest(folder: Path, warn=print) -> Checkpoint | None:
    """The newest checkpoint that verifies; None when there never was one.

    Each that does not verify is named to `warn`. Raises UserError when there are checkpoints and none verifies.
    """
    found = _found(folder)
    for path in found:
        try:
            return open_checkpoint(path)
        except UserError as error:
            warn(str(error))
    if found:
        raise UserError(
            f"no checkpoint in {folder} can be used; move the whole run away, and repeat the command that trained it."
        )
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """Verify one checkpoint folder: the files that make it, and no others. Raises UserError naming the one that is
    wrong."""
    try:
        manifest = _read_json(path / MANIFEST)
        for name in (*(f"{name}.safetensors" for name in TENSORS), STATE):
            file, entry = path / name, manifest[name]
            if file.stat().st_size != entry["bytes"]:
                raise UserError(f"the checkpoint {path} is damaged: {name} has another size than its manifest says.")
            if _sha256(file) != entry["sha256"]:
                raise UserError(f"the checkpoint {path} is damaged: {name} does not match its checksum.")
        state = {"order": 0, **_read_json(path / STATE)}
        for name in ("step", "order"):
            if not isinstance(state[name], int) or state[name] < 0:
                raise ValueError(f"{name} {state[name]!r} in {STATE}")
    except FileNotFoundError as error:
        raise UserError(f"the checkpoint {path} is not complete: {Path(error.filename).name} is missing.") from None
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"no {error} in it" if isinstance(error, KeyError) else error
        raise UserError(f"the checkpoint {path} cannot be read ({reason}).") from None
    return Checkpoint(path, state)


def _read_json(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path.name} is too large")
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a mapping")
    return content


def restore(checkpoint: Checkpoint, stage: Stage) -> None:
    """Load everything into the stage's objects. Raises UserError when a tensor is missing, left over or misshapen."""
    networks = _by_owner(checkpoint, "networks", stage.networks)
    averages = _by_owner(checkpoint, "averages", [average.of for average in stage.averages])
    optimizers = _by_owner(checkpoint, "optimizers", stage.optimizers)
    for name, network in stage.networks.items():
        load_exactly(network, networks[name], f"{checkpoint.path}: {name}")
    for average in stage.averages:
        load_exactly(average.network, averages[average.of], f"{checkpoint.path}: averaged {average.of}")
    for name, optimizer in stage.optimizers.items():
        _restore_optimizer(optimizer, optimizers[name], f"{checkpoint.path}: the optimizer of {name}")


def load_exactly(network: torch.nn.Module, tensors: Mapping[str, Tensor], place: str) -> None:
    """`load_state_dict`, strict, whose complaint is one sentence."""
    own = network.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape]
    for fault, keys in (("lacks", missing), ("has unknown", extra), ("has a wrong shape for", sorted(shapes))):
        if keys:
            raise UserError(f"{place} does not fit this recipe: it {fault} {', '.join(keys[:3])} ({len(keys)} in all).")
    network.load_state_dict(tensors)


def _collect(stage: Stage) -> dict[str, dict[str, Tensor]]:
    networks = {
        f"{name}/{key}": value
        for name, network in stage.networks.items()
        for key, value in network.state_dict().items()
    }
    averages = {
        f"{average.of}/{key}": value
        for average in stage.averages
        for key, value in average.network.state_dict().items()
    }
    moments = {
        f"{name}/{index}/{moment}": value
        for name, optimizer in stage.optimizers.items()
        for index, state in optimizer.state_dict()["state"].items()
        for moment, value in state.items()
    }
    return {"networks": _own(networks), "averages": _own(averages), "optimizers": _own(moments)}


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU copies: safetensors refuses tensors that share memory."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], place: str) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = {str(number): number for number in range(len(parameters))}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, moment = key.partition("/")
        if number not in numbers:
            raise UserError(f"{place} does not fit this recipe: it has unknown {key}.")
        if value.ndim and value.shape != parameters[numbers[number]].shape:
            raise UserError(f"{place} does not fit this recipe: it has a wrong shape for {key}.")
        state.setdefault(numbers[number], {})[moment] = value.clone()  # not a part of the mapped file
    if state and (len(state) != len(parameters) or len({frozenset(moments) for moments in state.values()}) > 1):
        raise UserError(f"{place} does not fit this recipe: it lacks some moments.")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _by_owner(checkpoint: Checkpoint, file: str, owners: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """A file's tensors by the network that they belong to. Raises UserError for one that belongs to none."""
    found: dict[str, dict[str, Tensor]] = {name: {} for name in owners}
    for key, value in checkpoint.tensors(file).items():
        owner, _, name = key.partition("/")
        if owner not in found:
            raise UserError(f"{checkpoint.path} does not fit this recipe: {file}.safetensors has unknown {key}.")
        found[owner][name] = value
    return found


def any_in(folder: Path) -> bool:
    """Whether the folder holds checkpoints."""
    return bool(_found(folder))


def _found(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    if not folder.is_dir():
        return []
    steps = {int(match[1]): path for path in folder.iterdir() if (match := _STEP.fullmatch(path.name))}
    return [steps[step] for step in sorted(steps, reverse=True)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
