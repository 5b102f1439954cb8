"""What a contender is and takes: parameters, operations, throughput, memory; measured on noise, on this machine."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from zoo_core import bench, bench_memory, flops, parts
from zoo_core.comparison.budget import STARTS
from zoo_core.comparison.matching import parameters
from zoo_core.comparison.results import Cost
from zoo_core.recipe import Part, Recipe, for_stage
from zoo_core.schema import coerce

REPEATS = 3
SAMPLED = 16
"""Images that are drawn at a time to measure sampling, the same for all whatever they are trained with."""


class Bill:
    """One recipe's prices, each measured when it is first asked for.

    `build` asks the recipe's plugin for its stages; `stages` are their names.
    """

    def __init__(self, recipe: Recipe, build: bench.Build, stages: Sequence[str]) -> None:
        self._recipe, self._build, self._stages = recipe, build, list(stages)

    def prices(self, kind: str) -> dict[str, float]:
        """FLOPs or seconds of one real image in each stage: all phases, one of every n steps counting one n-th, and
        what begins later in the training counting for the part of it that is left."""
        return {
            stage: sum(part * self._amortised(recipe, stage, kind) for part, recipe in _moments(self._recipe, stage))
            for stage in self._stages
        }

    def _amortised(self, recipe: Recipe, stage: str, kind: str) -> float:
        """An image's price in the first step, a penalty of every n steps counting one n-th where it is no phase of its
        own, too."""
        whole, phases = self._first_step(recipe, stage, kind)
        for penalty, every in _lazy(recipe):
            if every not in phases:
                without, _ = self._first_step(_with_loss(recipe, {penalty: 0}), stage, kind)
                whole = without + (whole - without) / every
        return whole

    def _first_step(self, recipe: Recipe, stage: str, kind: str) -> tuple[float, set[int]]:
        """An image's price, and how seldom phases run."""
        with TemporaryDirectory() as folder:
            workload = bench.Workload(recipe, self._build, Path(folder))
            tasks = workload.steps[stage if len(self._stages) > 1 else ""]
            device = workload.accelerator.device
            price = sum(_price(task, kind, device) / task.batch / task.every for task in tasks)
        return price, {task.every for task in tasks}

    def cost(self, shares: dict[str, float], training_flops: dict[str, float], *, memory: bool) -> Cost:
        """The whole; `shares` are the stages' parts of the images."""
        built = parts.outline(self._recipe)
        networks = set(map(id, built.generator.parameters()))
        stages = self._build(self._recipe, built)
        trained = {
            id(parameter): parameter
            for stage in stages
            for network in stage.networks.values()
            for parameter in network.parameters()
        }
        others = sum(value.numel() for key, value in trained.items() if key not in networks)
        train = dataclasses.replace(self._recipe.train, batch=SAMPLED, micro_batch=0)
        with TemporaryDirectory() as folder:
            workload = bench.Workload(self._recipe.replace(train=train), self._build, Path(folder))
            sampling = workload.sampling[0]
            operations = flops.count(sampling.run) / sampling.batch
            rate = sampling.batch / _seconds(sampling, workload.accelerator.device)
        return Cost(
            generator_parameters=parameters(self._recipe),
            other_parameters=others,
            training_flops=sum(shares[name] * training_flops[name] for name in self._stages),
            sampling_flops=operations,
            images_per_second=rate,
            peak_memory=self._peak() if memory else 0,
        )

    def _peak(self) -> int:
        """Of any stage's step, with everything that begins in the course of the training."""
        _, ending = _moments(self._recipe, self._stages[0])[-1]
        found = bench_memory.peaks(ending, self._build, "fast")
        return max(value for name, value in found.items() if name != "sampling")


def _moments(recipe: Recipe, stage: str) -> list[tuple[float, Recipe]]:
    """Parts of a stage's training, from one loss's beginning to the next; each with a recipe of which the first step
    is like all steps of that part."""
    images = for_stage(recipe, stage).train.images
    starts = {name: coerce(value, int, name) for name, value in _loss(recipe).items() if STARTS.search(name)}
    ends = sorted({0, images, *(min(start, images) for start in starts.values())})
    return [
        ((end - begin) / images, _with_loss(recipe, {name: 0 for name, start in starts.items() if start <= begin}))
        for begin, end in pairwise(ends)
    ]


def _lazy(recipe: Recipe) -> list[tuple[str, int]]:
    """Penalties that the loss section gives a weight, and in every how many steps they count: `r1` has `r1_every`."""
    options = _loss(recipe)
    lazy = {name: coerce(options.get(f"{name}_every", 1), int, name) for name in options}
    return [(name, every) for name, every in lazy.items() if every > 1 and options[name]]


def _loss(recipe: Recipe) -> Mapping[str, Any]:
    return recipe.loss.options if recipe.loss else {}


def _with_loss(recipe: Recipe, options: Mapping[str, Any]) -> Recipe:
    return recipe.replace(loss=Part(recipe.loss.name, {**recipe.loss.options, **options})) if options else recipe


def _price(task: bench.Task, kind: str, device: torch.device) -> float:
    return float(flops.count(task.run)) if kind == "flops" else _seconds(task, device)


def _seconds(task: bench.Task, device: torch.device) -> float:
    """The median of some rounds, after one that warms up."""
    task.run()
    return statistics.median(bench.seconds(task.run, "wall", device) for _ in range(REPEATS))
