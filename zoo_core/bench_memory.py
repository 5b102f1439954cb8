"""Peak memory of sampling and of a training step, each formulation in a fresh process of its own."""

from __future__ import annotations

import gc
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from zoo_core.bench import FORMULATIONS, Build, Task, Workload
from zoo_core.errors import UserError
from zoo_core.recipe import Recipe

STEPS = 2
"""The second step finds the optimizers' state that the first one made."""


def peaks(recipe: Recipe, build: Build, formulation: str) -> dict[str, int]:
    """Bytes above what the process holds once the networks are built, at most: in `sampling` and in the `step`.

    The step's include gradients and the optimizers' state. Of several stages each has a `NAME: step`, and finds there
    what those before it leave, as in training. On CUDA the allocator's peak is read, elsewhere the resident
    set's. Raises UserError when the process is killed, which is how memory runs out.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_peaks, recipe, build, formulation).result()
        except BrokenProcessPool:
            raise UserError(
                f"the {formulation} formulation was killed while its memory was measured, most likely because there "
                "is not enough; lower --batch or data.resolution."
            ) from None


def _peaks(recipe: Recipe, build: Build, formulation: str) -> dict[str, int]:
    with TemporaryDirectory() as folder:
        workload = Workload(recipe, build, Path(folder))
        gc.collect()
        gauge = _Cuda() if workload.accelerator.device.type == "cuda" else _Resident()
        with FORMULATIONS[formulation]():
            found = {"sampling": gauge.peak(workload.sampling[:1])}
            for stage, tasks in workload.steps.items():
                found[f"{stage}: step" if stage else "step"] = gauge.peak(tasks * STEPS)
            return found


class _Resident:
    """The resident set of this process."""

    def __init__(self) -> None:
        self._reset()
        self._base = _high_water()

    def peak(self, tasks: list[Task]) -> int:
        """Run the tasks one after the other; the most that was held, above the beginning."""
        self._reset()
        for task in tasks:
            task.run()
        return _high_water() - self._base

    def _reset(self) -> None:
        with suppress(OSError):  # not Linux, or not allowed: then the mark stands at the most there ever was
            Path("/proc/self/clear_refs").write_text("5")


class _Cuda:
    """The memory that torch's allocator has given out."""

    def __init__(self) -> None:
        self._base = torch.cuda.memory_allocated()

    def peak(self, tasks: list[Task]) -> int:
        """Run the tasks one after the other; the most that was held, above the beginning."""
        torch.cuda.reset_peak_memory_stats()
        for task in tasks:
            task.run()
        return torch.cuda.max_memory_allocated() - self._base


def _high_water() -> int:
    """The largest resident set since the last reset, in bytes."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest
