"""Times sampling and each phase of every stage's training step, formulation against formulation, in turns.

The networks, losses, phases and optimizers are those that training uses; only the images are noise.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo_core import formulation, parts
from zoo_core.data import ImageSet
from zoo_core.errors import UserError
from zoo_core.flops import count
from zoo_core.given_maps import as_tensor
from zoo_core.interfaces import Work
from zoo_core.journal import Journal
from zoo_core.processes import open_accelerator
from zoo_core.program import Clock, Stage
from zoo_core.recipe import Recipe, for_stage
from zoo_core.rng import Rng
from zoo_core.sampling import checked_knobs
from zoo_core.trainer import Trainer

FORMULATIONS: Mapping[str, Callable[[], AbstractContextManager]] = {"fast": nullcontext, "plain": formulation.plain}

Build = Callable[[Recipe, parts.Parts], list[Stage]]
"""Asks the recipe's plugin for its stages."""


@dataclass(frozen=True)
class Task:
    """One piece of work on one batch."""

    name: str
    run: Callable[[], Any]
    every: int
    """It is part of every so many training steps; 0: of none."""
    batch: int
    """Images in it."""
    stage: str = ""
    """The stage whose step it is part of, where there are several."""
    has_plain: bool = True
    """Whether it may differ between formulations; what cannot is measured once."""
    work: Work = Work()
    """What it does for each image, where that is more than one step."""


@dataclass(frozen=True)
class Row:
    """What was measured of one task, or of a stage's whole step, by formulation."""

    task: Task
    seconds: Mapping[str, Sequence[float]]
    """Of one batch, round by round."""
    flops: Mapping[str, float]
    """Of one batch."""

    def ratios(self) -> list[float]:
        """How many times as long the plain formulation took, round by round; () when it was not measured."""
        if "plain" not in self.seconds:
            return []
        return [plain / fast for fast, plain in zip(self.seconds["fast"], self.seconds["plain"], strict=True)]

    def summary(self) -> dict[str, Any]:
        """Medians with their range, as JSON has them."""
        task = self.task
        found: dict[str, Any] = {"name": task.name, "stage": task.stage, "batch": task.batch, "every": task.every}
        if task.work.steps > 1:
            found |= {"steps": task.work.steps, "unit": task.work.unit}
        for name, seconds in self.seconds.items():
            rate = task.batch / statistics.median(seconds)
            found[name] = {
                "ms": _spread([1000 * value for value in seconds]),
                "images_per_second": rate,
                "gflop_per_image": self.flops[name] / task.batch / 1e9,
            }
            if task.work.steps > 1:
                found[name]["steps_per_second"] = rate * task.work.steps
        if ratios := self.ratios():
            found["plain_over_fast"] = _spread(ratios)
        return found


class Workload:
    """A recipe's networks at work on noise. `size`: (height, width) of larger images to be sampled, too.

    Raises UserError for a recipe that cannot be built without its data, and a size for a generator that has none.
    """

    def __init__(self, recipe: Recipe, build: Build, folder: Path, size: tuple[int, int] | None = None) -> None:
        self.recipe = recipe
        self.accelerator = open_accelerator(recipe.train.precision, folder)
        if self.accelerator.num_processes > 1:
            raise UserError("bench measures one process; start it without a launcher.")
        built = parts.build(recipe)
        for network in (built.generator, built.discriminator):
            if network is not None:
                network.to(self.accelerator.device)
        self.generator = built.generator
        self.sampling = [self._sampling()]
        if size:
            checked_knobs(self.generator, {}, size)
            self.sampling.append(self._sampling(size))
        stages = build(recipe, built)
        self.steps: dict[str, list[Task]] = {}
        """The tasks of each stage's training step; the only stage is called ""."""
        for stage in stages:
            name = stage.name if len(stages) > 1 else ""
            self.steps[name] = self._step(for_stage(recipe, stage.name), stage, name, folder)

    @property
    def tasks(self) -> list[Task]:
        """All of them."""
        return [*self.sampling, *(task for tasks in self.steps.values() for task in tasks)]

    def _sampling(self, size: tuple[int, int] | None = None) -> Task:
        """One batch of the first stage's size, in eval mode."""
        num, name = self.recipe.train.batch, "sampling {}x{}".format(*size) if size else "sampling"
        knobs: dict[str, Any] = {"size": size} if size else {}
        if kind := self.generator.map_kind:
            sides = size or (self.recipe.data.resolution, self.recipe.data.resolution)
            knobs["maps"] = as_tensor(noise_maps(kind, num, *sides)).to(self.accelerator.device)

        def run() -> None:
            self.generator.eval()
            with self.accelerator.autocast():
                rng = Rng.of("bench", rows=range(num), device=self.accelerator.device)
                self.generator.sample(num, rng=rng, **knobs)
            self.generator.train()

        return Task(name, run, 0, num, work=self.generator.work(size))

    def _step(self, recipe: Recipe, stage: Stage, name: str, folder: Path) -> list[Task]:
        """The phases and averages of a stage, `recipe` as it sees it."""
        batch = recipe.train.batch
        journal = Journal(folder / "metrics.jsonl", self.accelerator)
        trainer = Trainer(recipe, stage, noise(recipe), self.accelerator, journal, folder)
        tasks = [
            Task(phase.name, lambda p=phase: trainer.run_phase(p), phase.every, batch, name) for phase in stage.phases
        ]
        if stage.averages:
            tasks.append(Task("averages", lambda: _average(stage, recipe), 1, batch, name, has_plain=False))
        return tasks


def _average(stage: Stage, recipe: Recipe) -> None:
    for moving in stage.averages:
        moving.update(stage.networks[moving.of], Clock(0, recipe.train.batch, recipe.train.images))


def noise(recipe: Recipe) -> ImageSet:
    """One batch of noise, with random labels and maps where the recipe has any."""
    batch, side, classes = recipe.train.batch, recipe.data.resolution, recipe.data.condition
    if recipe.data.labels and not classes:
        raise UserError(
            "this recipe counts its classes in the data, which bench does not open; "
            "set them, as in --set data.num_classes=10."
        )
    drawn = np.random.default_rng(0)
    kind = recipe.data.maps
    return ImageSet(
        images=drawn.integers(0, 256, (batch, side, side, 3), dtype=np.uint8),
        labels=drawn.integers(0, classes, batch) if classes else None,
        maps=noise_maps(kind, batch, side, side) if kind else None,
        map_kind=kind,
        classes=tuple(map(str, range(classes))),
        name="noise",
        key="",
        content="",
        resolution=side,
        filter="none",
        crop="none",
        rejected=(),
        meta={},
    )


def noise_maps(kind: str, num: int, height: int, width: int) -> np.ndarray:
    """Maps of this kind `[num, height, width]`: noise for depth; label 0, for only a plugin knows others."""
    if kind == "labels":
        return np.zeros((num, height, width), np.uint16)
    return np.random.default_rng(1).random((num, height, width), np.float32)


def measure(
    workloads: Mapping[str, Workload],
    *,
    repeats: int,
    clock: str = "wall",
    advance: Callable[[int], None] = lambda number: None,
) -> list[Row]:
    """Warm up, counting operations, then time every task `repeats` times; after each stage's rows its whole step.

    `workloads`: what each formulation works on, the same or of recipes that take the same steps. The formulations of
    one task follow each other at once, in another order in every round, so that a machine that slows down slows both.
    `clock` is "wall" or "cpu", this process's processor time. `advance` is told of each task done.
    Raises UserError where the workloads' tasks differ.
    """
    formulations = list(workloads)
    first = workloads[formulations[0]]
    device = first.accelerator.device
    if clock == "cpu" and device.type != "cpu":
        raise UserError(f"--clock cpu measures nothing on {device.type}; leave it out.")
    rows = []
    for same in pairs(workloads):
        flops = {}
        for name, task in same.items():
            with FORMULATIONS[name]():
                flops[name] = count(task.run)
        rows.append((same, Row(same[formulations[0]], {name: [] for name in formulations}, flops)))
        advance(1)
    for turn in range(repeats):
        order = formulations if turn % 2 == 0 else formulations[::-1]
        for same, row in rows:
            taken = {}
            for name in order if row.task.has_plain else formulations[:1]:
                with FORMULATIONS[name]():
                    taken[name] = seconds(same[name].run, clock, device)
            for name in formulations:
                row.seconds[name].append(taken.get(name, taken[formulations[0]]))
            advance(1)
    found = [row for _, row in rows if not row.task.every]
    for stage in first.steps:
        step = [row for _, row in rows if row.task.every and row.task.stage == stage]
        found += [*step, _whole(step, stage)]
    return found


def pairs(workloads: Mapping[str, Workload]) -> list[dict[str, Task]]:
    """Each task of the workloads, by formulation. Raises UserError where they differ."""
    what = [[(task.name, task.stage, task.every, task.batch) for task in each.tasks] for each in workloads.values()]
    if any(other != what[0] for other in what[1:]):
        raise UserError("the two recipes take different steps, or other batches, so there is nothing to compare.")
    together = zip(*(each.tasks for each in workloads.values()), strict=True)
    return [dict(zip(workloads, tasks, strict=True)) for tasks in together]


def _whole(rows: Sequence[Row], stage: str) -> Row:
    """The step on average: a phase that runs every n steps counts one n-th."""
    formulations = list(rows[0].seconds)
    seconds = {
        name: [
            sum(parts) for parts in zip(*([s / row.task.every for s in row.seconds[name]] for row in rows), strict=True)
        ]
        for name in formulations
    }
    flops = {name: sum(row.flops[name] / row.task.every for row in rows) for name in formulations}
    return Row(Task("whole step", lambda: None, 1, rows[0].task.batch, stage), seconds, flops)


def seconds(act: Callable[[], Any], clock: str, device: torch.device) -> float:
    """How long `act` takes, by the "wall" or this process's "cpu" time; on CUDA by the device's own events."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        act()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    now = time.process_time if clock == "cpu" else time.perf_counter
    before = now()
    act()
    return now() - before


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
