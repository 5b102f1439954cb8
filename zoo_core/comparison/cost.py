"""What a contender is and takes: parameters, operations, throughput, memory; measured on noise, on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from zoo_core import bench, bench_memory, flops, parts
from zoo_core.comparison.results import Cost
from zoo_core.recipe import Recipe

REPEATS = 3


class Bill:
    """One recipe's prices, each measured when it is first asked for.

    `build` asks the recipe's plugin for its stages; `stages` are their names.
    """

    def __init__(self, recipe: Recipe, build: bench.Build, stages: Sequence[str]) -> None:
        self._recipe, self._build, self._stages = recipe, build, list(stages)

    def prices(self, kind: str) -> dict[str, float]:
        """FLOPs or seconds of one real image in each stage: all phases, one of every n steps counting one n-th."""
        with TemporaryDirectory() as folder:
            workload = bench.Workload(self._recipe, self._build, Path(folder))
            found = {}
            for stage in self._stages:
                tasks = workload.steps[stage if len(self._stages) > 1 else ""]
                device = workload.accelerator.device
                found[stage] = sum(_price(task, kind, device) / task.batch / task.every for task in tasks)
        return found

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
        with TemporaryDirectory() as folder:
            workload = bench.Workload(self._recipe, self._build, Path(folder))
            sampling = workload.sampling[0]
            operations = flops.count(sampling.run) / sampling.batch
            rate = sampling.batch / _seconds(sampling, workload.accelerator.device)
        return Cost(
            generator_parameters=sum(parameter.numel() for parameter in built.generator.parameters()),
            other_parameters=others,
            training_flops=sum(shares[name] * training_flops[name] for name in self._stages),
            sampling_flops=operations,
            images_per_second=rate,
            peak_memory=self._peak() if memory else 0,
        )

    def _peak(self) -> int:
        found = bench_memory.peaks(self._recipe, self._build, "fast")
        return max(value for name, value in found.items() if name != "sampling")


def _price(task: bench.Task, kind: str, device: torch.device) -> float:
    return float(flops.count(task.run)) if kind == "flops" else _seconds(task, device)


def _seconds(task: bench.Task, device: torch.device) -> float:
    """The median of some rounds, after one that warms up."""
    task.run()
    return statistics.median(bench.seconds(task.run, "wall", device) for _ in range(REPEATS))
