"""What `test_wrapped.py` starts in several processes: a stage that accelerate wraps in every way there is."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import toys
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
)
from torch import Tensor, nn

from zoo_core import checkpoint
from zoo_core.errors import UserError
from zoo_core.processes import open_accelerator
from zoo_core.program import Average, Batch, Clock, Phase, Stage
from zoo_core.recipe import Averaging, Recipe
from zoo_core.rng import seed_of
from zoo_core.trainer import Trainer
from zoo_core.wrapping import check

MICRO = {"plain": 0, "micro": 2}


class Student(nn.Module):
    """Learns the mean colour from noisy pixels; its tensors do not divide by two, and it keeps a buffer."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.enter = nn.Linear(3 * toys.RESOLUTION**2, 7)
        self.leave = nn.Linear(7, 3)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        """The loss."""
        if self.training:
            self.seen += 1
        predicted = self.leave(self.dropout(self.enter((image + noise).flatten(1)).tanh()))
        return (predicted - image.mean(dim=(2, 3))).square().mean()


def recipe(**changes: object) -> Recipe:
    """Ten steps of eight images, saved in the middle."""
    return toys.recipe(**{"images": 80, "batch": 8, "checkpoint_images": 40, "keep": 9, **changes})


def stage(*, wrapped: bool = True, adam: bool = False, clip: float = 0.5, dropout: float = 0.0, bad: int = -1) -> Stage:
    """Plain gradient descent in two groups of parameters, or Adam; the loss of step `bad` is multiplied by infinity."""
    torch.manual_seed(seed_of(0, "student"))
    student = Student(dropout)
    groups = [{"params": [student.enter.weight], "weight_decay": 0.1}]
    groups += [{"params": [student.leave.weight, student.leave.bias, student.enter.bias]}]
    optimizer = torch.optim.AdamW(groups, 1e-2, fused=True) if adam else torch.optim.SGD(groups, 1e-1)
    networks = {"student": student}

    def loss(batch: Batch, clock: Clock) -> dict[str, Tensor]:
        found = networks["student"](batch.image, batch.rng.normal(3, toys.RESOLUTION, toys.RESOLUTION) / 10)
        clock.record("colour", found)
        # Finite itself, and its gradient is not.
        return {"student": found + (found - found.detach()).sqrt() if clock.step == bad else found}

    return Stage(
        networks=networks,
        optimizers={"student": optimizer},
        phases=(Phase("student", ("student",), loss, clip_norm=clip),),
        averages=(Average("student", student, Averaging(half_life_images=20)),),
        schedules={"student": lambda clock: 1 - clock.images / 160},
        wrapped=wrapped,
    )


def trainer(folder: Path, runs_on: Accelerator, changes: dict[str, object] | None = None, **how: object) -> Trainer:
    return toys.trainer(folder, recipe(**(changes or {})), made=stage(**how), runs_on=runs_on)


@contextmanager
def sharded(runs_on: Accelerator) -> Iterator[None]:
    """As `accelerate launch --use_fsdp --fsdp_version 2` sets it up on GPUs: on a CPU accelerate leaves it out."""
    before = runs_on.distributed_type
    runs_on.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    runs_on.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    try:
        yield
    finally:
        runs_on.state.distributed_type = PartialState._shared_state["distributed_type"] = before


def run_all(folder: Path, runs_on: Accelerator) -> None:
    """Train in every manner that gives comparable numbers; their checkpoints are compared."""
    for name, micro in MICRO.items():
        trainer(folder / name, runs_on, {"micro_batch": micro}).run()
    how = {"adam": True, "dropout": 0.2}
    trainer(folder / "whole", runs_on, **how).run()
    trainer(folder / "parts", runs_on, {"images": 40}, **how).run()
    resumed = trainer(folder / "parts", runs_on, **how)
    resumed.restore(checkpoint.latest(folder / "parts" / "checkpoints"))
    resumed.run()


def diverges(folder: Path, runs_on: Accelerator) -> dict[str, object]:
    """What is said of a gradient that is not finite, and whether any weight moved in that step."""
    trains = trainer(folder, runs_on, {"checkpoint_images": 8}, bad=3)
    said = ""
    try:
        trains.run()
    except UserError as error:
        said = str(error)
    saved = checkpoint.latest(folder / "checkpoints")
    kept = all(torch.equal(saved.network("student")[key], value) for key, value in _weights(trains).items())
    return {"said": said, "saved": saved.step, "kept": kept}


def _weights(trains: Trainer) -> dict[str, Tensor]:
    return dict(trains.stage.networks["student"].named_parameters())


@contextmanager
def as_it_is(runs_on: Accelerator) -> Iterator[None]:
    """DDP."""
    yield


def deepspeed(stage: int) -> Accelerator:
    """As `accelerate launch --use_deepspeed` sets it up on GPUs; on a CPU somebody must name the backend."""
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    backend = InitProcessGroupKwargs(backend="gloo")
    return Accelerator(deepspeed_plugin=DeepSpeedPlugin(zero_stage=stage), kwargs_handlers=[backend])


def main(folder: Path, stage: int = 0) -> None:
    """Everything, with FSDP and DDP, or with a stage of DeepSpeed."""
    runs_on = deepspeed(stage) if stage else open_accelerator("fp32", folder)
    manners = {f"zero{stage}": as_it_is} if stage else {"fsdp": sharded, "ddp": as_it_is}
    check(runs_on, "fp32")
    for name, manner in manners.items():
        with manner(runs_on):
            run_all(folder / name, runs_on)
            end = diverges(folder / name / "bad", runs_on)
        (folder / name / f"{runs_on.process_index}.json").write_text(json.dumps(end))
    runs_on.end_training()
    # DTensor's caches keep FSDP's group, and so Gloo's threads: these need a moment to let go of their last tensors,
    # for one that does so while the interpreter shuts down aborts the process (`zoo_core.processes`).
    time.sleep(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
