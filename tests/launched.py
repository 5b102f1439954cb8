"""What `test_launch.py` starts in several processes: every scenario in turn, with each process's end in a file."""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import torch
import toys
from accelerate import Accelerator
from safetensors.torch import save_file

from zoo_core import checkpoint, gradients
from zoo_core.errors import UserError
from zoo_core.processes import open_accelerator
from zoo_core.program import Stage
from zoo_core.recipe import Recipe
from zoo_core.trainer import Stopped, Trainer

LOSS = {"r1": 1.0, "r1_every": 4, "consistency_real": 1.0, "augment": ("color",), "generator_every": 2}


def recipe(**changes: object) -> Recipe:
    """Ten steps of eight labelled images."""
    return toys.recipe(**{"images": 80, "batch": 8, "labels": 3, "loss": LOSS, "checkpoint_images": 40, **changes})


def plainly(made: Stage) -> Stage:
    """With plain gradient descent: Adam turns rounding into whole steps where a gradient is next to nothing."""
    optimizers = {name: torch.optim.SGD(made.networks[name].parameters(), 1e-2) for name in made.optimizers}
    return dataclasses.replace(made, optimizers=optimizers)


def plain(folder: Path, runs_on: Accelerator) -> Trainer:
    gradients.BUCKET_ELEMENTS = 100  # several messages, and tensors larger than one
    return toys.trainer(folder, recipe(), runs_on=runs_on, change=plainly)


def norm(folder: Path, runs_on: Accelerator) -> Trainer:
    return toys.trainer(folder, recipe(), runs_on=runs_on, norm=True, change=plainly)


def adam(folder: Path, runs_on: Accelerator) -> Trainer:
    return toys.trainer(folder, recipe(images=40), runs_on=runs_on, norm=True)


def poisoned(folder: Path, runs_on: Accelerator) -> Trainer:
    """The last process alone meets a loss that is not a number."""

    def change(made: Stage) -> Stage:
        def loss(batch, clock):
            found = made.phases[0].loss(batch, clock)
            bad = clock.step == 6 and runs_on.is_last_process
            return {name: value * float("nan") if bad else value for name, value in found.items()}

        return toys.with_phase(made, "discriminator", loss=loss)

    return toys.trainer(folder, recipe(), runs_on=runs_on, change=change)


def stopped(folder: Path, runs_on: Accelerator) -> Trainer:
    """The last process alone is asked to stop, once the step's last message has gone."""
    trainer = toys.trainer(folder, recipe(), runs_on=runs_on)
    average = trainer.stage.averages[0]
    update = average.update

    def ask(network, clock, elapsed):
        update(network, clock, elapsed)
        if runs_on.is_last_process and clock.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    average.update = ask
    return trainer


def full(folder: Path, runs_on: Accelerator) -> Trainer:
    """The main process alone cannot write its checkpoint."""
    trainer = toys.trainer(folder, recipe(), runs_on=runs_on)
    if runs_on.is_main_process:
        trainer.checkpoints.write_text("in the way")
    runs_on.wait_for_everyone()
    return trainer


def strangers(folder: Path, runs_on: Accelerator) -> Trainer:
    """The processes have found different checkpoints."""
    trainer = toys.trainer(folder, recipe(), runs_on=runs_on)
    trainer.step = runs_on.process_index
    return trainer


SCENARIOS = (plain, norm, adam, poisoned, stopped, full, strangers)


def keep_threads(folder: Path) -> None:
    """Write down which threads this process still has when the interpreter shuts down."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    (folder / f"{os.environ['RANK']}.threads").write_text("\n".join(names))


def main(folder: Path) -> None:
    """Run every scenario in this process, and leave as a mistake would: without ending the training."""
    atexit.register(keep_threads, folder)  # before any other: what is registered first is called last
    runs_on = open_accelerator("fp32", folder)
    for scenario in SCENARIOS:
        place = folder / scenario.__name__
        trainer = scenario(place, runs_on)
        end = {"stopped": False, "error": ""}
        try:
            trainer.run()
        except Stopped:
            end["stopped"] = True
        except UserError as error:
            end["error"] = str(error)
        runs_on.wait_for_everyone()
        saved = checkpoint.latest(place / "checkpoints")
        end |= {"step": trainer.step, "saved": saved.step if saved else -1}
        save_file(toys.state(trainer.stage), place / f"{runs_on.process_index}.safetensors")
        (place / f"{runs_on.process_index}.json").write_text(json.dumps(end))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
