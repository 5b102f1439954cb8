"""Times sampling and each phase of the training step, formulation against formulation, in turns.

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
from zoo_core.journal import Journal
from zoo_core.processes import open_accelerator
from zoo_core.program import Clock, Stage
from zoo_core.recipe import Recipe
from zoo_core.rng import Rng
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
    has_plain: bool = True
    """Whether it may differ between formulations; what cannot is measured once."""


@dataclass(frozen=True)
class Row:
    """What was measured of one task, or of the whole step, by formulation."""

    name: str
    every: int
    seconds: Mapping[str, Sequence[float]]
    """Of one batch, round by round."""
    flops: Mapping[str, float]
    """Of one batch."""

    def ratios(self) -> list[float]:
        """How many times as long the plain formulation took, round by round; () when it was not measured."""
        if "plain" not in self.seconds:
            return []
        return [plain / fast for fast, plain in zip(self.seconds["fast"], self.seconds["plain"], strict=True)]

    def summary(self, batch: int) -> dict[str, Any]:
        """Medians with their range, as JSON has them."""
        found: dict[str, Any] = {"name": self.name, "every": self.every}
        for name, seconds in self.seconds.items():
            middle = statistics.median(seconds)
            found[name] = {
                "ms": _spread([1000 * value for value in seconds]),
                "images_per_second": batch / middle,
                "gflop_per_image": self.flops[name] / batch / 1e9,
            }
        if ratios := self.ratios():
            found["plain_over_fast"] = _spread(ratios)
        return found


class Workload:
    """A recipe's networks at work on noise. Raises UserError for a recipe that cannot be built without its data."""

    def __init__(self, recipe: Recipe, build: Build, folder: Path) -> None:
        self.recipe = recipe
        self.accelerator = open_accelerator(recipe.train.precision, folder)
        if self.accelerator.num_processes > 1:
            raise UserError("bench measures one process; start it without a launcher.")
        built = parts.build(recipe)
        for network in (built.generator, built.discriminator):
            if network is not None:
                network.to(self.accelerator.device)
        self.generator = built.generator
        images = noise(recipe)
        stages = build(recipe, built)
        self.sampling = Task("sampling", self._sample, 0)
        self.step: list[Task] = []
        """The tasks of a training step."""
        for stage in stages:
            journal = Journal(folder / "metrics.jsonl", self.accelerator)
            trainer = Trainer(recipe, stage, images, self.accelerator, journal, folder)
            prefix = f"{stage.name}: " if len(stages) > 1 else ""
            for phase in stage.phases:
                self.step.append(Task(prefix + phase.name, lambda t=trainer, p=phase: t.run_phase(p), phase.every))
            if stage.averages:
                self.step.append(Task(f"{prefix}averages", lambda s=stage: _average(s, recipe), 1, has_plain=False))

    def _sample(self) -> None:
        """One batch, in eval mode."""
        num = self.recipe.train.batch
        self.generator.eval()
        with self.accelerator.autocast():
            self.generator.sample(num, rng=Rng.of("bench", rows=range(num), device=self.accelerator.device))
        self.generator.train()


def _average(stage: Stage, recipe: Recipe) -> None:
    for moving in stage.averages:
        moving.update(stage.networks[moving.of], Clock(0, recipe.train.batch, recipe.train.images))


def noise(recipe: Recipe) -> ImageSet:
    """One batch of noise, with random labels where the recipe has any."""
    batch, side, classes = recipe.train.batch, recipe.data.resolution, recipe.data.condition
    if recipe.data.labels and not classes:
        raise UserError(
            "this recipe counts its classes in the data, which bench does not open; "
            "set them, as in --set data.num_classes=10."
        )
    drawn = np.random.default_rng(0)
    return ImageSet(
        images=drawn.integers(0, 256, (batch, side, side, 3), dtype=np.uint8),
        labels=drawn.integers(0, classes, batch) if classes else None,
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


def measure(
    workload: Workload,
    formulations: Sequence[str],
    *,
    repeats: int,
    clock: str = "wall",
    advance: Callable[[int], None] = lambda number: None,
) -> list[Row]:
    """Warm up, counting operations, then time every task `repeats` times; the last row is the whole step.

    The formulations of one task follow each other at once, in another order in every round, so that a machine that
    slows down slows both. `clock` is "wall" or "cpu", this process's processor time.
    `advance` is told of each task done.
    """
    device = workload.accelerator.device
    if clock == "cpu" and device.type != "cpu":
        raise UserError(f"--clock cpu measures nothing on {device.type}; leave it out.")
    tasks = [workload.sampling, *workload.step]
    flops: dict[str, dict[str, float]] = {task.name: {} for task in tasks}
    seconds: dict[str, dict[str, list[float]]] = {task.name: {name: [] for name in formulations} for task in tasks}
    for task in tasks:
        for name in formulations:
            with FORMULATIONS[name]():
                flops[task.name][name] = count(task.run)
        advance(1)
    for turn in range(repeats):
        order = formulations if turn % 2 == 0 else formulations[::-1]
        for task in tasks:
            taken = {}
            for name in order if task.has_plain else formulations[:1]:
                with FORMULATIONS[name]():
                    taken[name] = _seconds(task.run, clock, device)
            for name in formulations:
                seconds[task.name][name].append(taken.get(name, taken[formulations[0]]))
            advance(1)
    rows = [Row(task.name, task.every, seconds[task.name], flops[task.name]) for task in tasks]
    return [*rows, _whole(rows[1:], formulations)]


def _whole(rows: Sequence[Row], formulations: Sequence[str]) -> Row:
    """The step on average: a phase that runs every n steps counts one n-th."""
    seconds = {
        name: [sum(parts) for parts in zip(*([s / row.every for s in row.seconds[name]] for row in rows), strict=True)]
        for name in formulations
    }
    flops = {name: sum(row.flops[name] / row.every for row in rows) for name in formulations}
    return Row("whole step", 1, seconds, flops)


def _seconds(act: Callable[[], Any], clock: str, device: torch.device) -> float:
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
