"""Runs a stage's phases over the data, and keeps the run's books. It knows networks by name only."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from zoo_core import checkpoint
from zoo_core.data import ImageSet, mirror
from zoo_core.drivers import Driver
from zoo_core.errors import UserError
from zoo_core.gradients import Diverged, RunningState, first_bad_gradient, first_bad_weight
from zoo_core.interfaces import PIXELS
from zoo_core.journal import Journal
from zoo_core.processes import check_agreement, on_main
from zoo_core.program import Batch, Clock, Phase, Stage
from zoo_core.recipe import Recipe
from zoo_core.rng import Rng, seed_of
from zoo_core.wrapping import driver

Observer = Callable[[Clock, Stage], None]
"""Called in the main process with the state after a step: draws sample grids, say."""


class Stopped(Exception):
    """The user asked to stop; the state was saved."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images


class Trainer:
    """One stage of one run.

    Raises Diverged when a loss or gradient is not finite, Stopped after Ctrl-C, UserError when a checkpoint cannot
    be written or the batch cannot be divided.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: Stage,
        images: ImageSet,
        accelerator: Accelerator,
        journal: Journal,
        checkpoints: Path,
        observe: Observer = lambda clock, stage: None,
        order: int = 0,
    ) -> None:
        self.recipe, self.stage, self.images = recipe, stage, images
        self.accelerator, self.journal, self.checkpoints, self.observe = accelerator, journal, checkpoints, observe
        self.order = order
        self.batch = recipe.train.batch
        self.share, self.micro = divide(recipe, accelerator.num_processes)
        self.total_images = recipe.train.images
        self.num_steps = num_steps(recipe)
        self.base_lr = {name: [group["lr"] for group in opt.param_groups] for name, opt in stage.optimizers.items()}
        self.step = 0
        self._driver: Driver | None = None
        """Made when training begins: what it wraps must have been restored."""
        self._saved_step = -1
        self._unlogged: dict[str, float] = {}
        self._asked = False
        """Whether this process was asked to stop."""
        self._stop = False
        """Whether all processes know that one of them was."""

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Go on from a checkpoint."""
        self._release()
        checkpoint.restore(found, self.stage)
        self.step = self._saved_step = found.step
        self._unlogged = dict(found.state.get("unlogged", {}))

    def run(self) -> None:
        """Train to the end of the budget."""
        train = self.recipe.train
        check_agreement(self.accelerator, self.step)
        seen = self.step * self.batch
        with self._interruptible(), self._driven(), self.journal.progress(self.total_images, seen) as progress:
            if self.step == 0:
                self._observe()
            while self.step < self.num_steps:
                numbers = self._one_step()
                self.step += 1
                progress(min(self.step * self.batch, self.total_images), numbers)
                done = self.step == self.num_steps
                self._unlogged |= numbers  # a phase that is seldom due is in the next line all the same
                if done or self._crossed(train.log_images or self.total_images // 1000):
                    self.journal.log(self.step, self.step * self.batch, self._unlogged)
                    self._unlogged = {}
                if done or (train.sample_images and self._crossed(train.sample_images)):
                    self._observe()
                if done or self._stop or (train.checkpoint_images and self._crossed(train.checkpoint_images)):
                    self.save()
                if self._stop and not done:
                    raise Stopped(self.step * self.batch)

    def save(self) -> None:
        """Write a checkpoint of the state after the last whole step. Raises Diverged when it is not finite."""
        if self.step == self._saved_step:
            return
        for name, network in self.stage.networks.items():
            if weight := first_bad_weight(network):
                self._diverged(f"after step {self.step - 1}, {weight} of {name}", step=self.step - 1)
        state = {"step": self.step, "images": self.step * self.batch, "stage": self.stage.name}
        state |= {"order": self.order, "unlogged": self._unlogged}
        keep = self.recipe.train.keep
        with self._driving().whole_state():
            on_main(self.accelerator, lambda: checkpoint.save(self.checkpoints, self.stage, state, keep))
        self._saved_step = self.step

    def _observe(self) -> None:
        on_main(self.accelerator, lambda: self.observe(self._clock(), self.stage))

    def _one_step(self) -> dict[str, float]:
        start = time.perf_counter()
        clock = self._clock()
        for name, optimizer in self.stage.optimizers.items():
            factor = self.stage.schedules[name](clock) if name in self.stage.schedules else 1.0
            for group, lr in zip(optimizer.param_groups, self.base_lr[name], strict=True):
                group["lr"] = lr * factor
        numbers: dict[str, float] = {}
        trained: set[str] = set()
        for phase in self.stage.phases:
            if phase.due(self.step):
                numbers |= self.run_phase(phase)
                trained |= set(phase.trains)
        if self.stage.conclude:
            numbers |= self.stage.conclude(clock)
        for moving in self.stage.averages:
            if moving.of in trained:
                moving.update(self.stage.networks[moving.of], clock, self._steps_since_trained(moving.of))
        numbers |= {f"lr/{name}": opt.param_groups[0]["lr"] for name, opt in self.stage.optimizers.items()}
        numbers["seconds"] = time.perf_counter() - start
        return numbers

    def _steps_since_trained(self, network: str) -> int:
        """How many steps ago the network was trained before this one; 1 if it never was."""
        phases = [phase for phase in self.stage.phases if network in phase.trains]
        before = (step for step in range(self.step - 1, -1, -1) if any(phase.due(step) for phase in phases))
        return self.step - next(before, self.step - 1)

    def run_phase(self, phase: Phase) -> dict[str, float]:
        """Run one phase of this step; what it measured, by name. Raises Diverged."""
        driving = self._driving()
        num_micro = self.share // self.micro
        first = self.accelerator.process_index * num_micro
        running = RunningState(driving.networks.values(), num_micro, self.accelerator)
        totals: dict[str, Tensor] = {}
        for index in range(num_micro):
            clock = self._clock()
            running.begin_micro(index)
            # For what draws from torch's own state, such as dropout: a resumed run draws the same. Per process only.
            torch.manual_seed(seed_of(self.recipe.train.seed, "torch", self.step, phase.name, first + index))
            with driving.micro_batch(last=index == num_micro - 1):
                with self.accelerator.autocast():
                    losses = phase.loss(self._load(phase, index), clock)
                driving.backward(losses)
            running.end_micro()
            terms = clock.terms | {f"{phase.name} -> {name}": loss.detach().float() for name, loss in losses.items()}
            totals = {name: totals.get(name, 0) + value / num_micro for name, value in terms.items()}
        running.finish()
        driving.reduce(phase.trains)
        numbers = self._gather(totals)
        self._check(numbers, phase)
        for name in phase.trains:
            norm = driving.clip(name, phase.clip_norm)
            if not math.isfinite(norm):
                self._diverged_in(phase, f"the gradient of {name} ({first_bad_gradient(driving.networks[name])})")
            numbers[f"gradient/{phase.name}.{name}"] = norm
            driving.step(name)
        return {name: value for name, value in numbers.items() if " -> " not in name}

    @contextmanager
    def _driven(self) -> Iterator[None]:
        """While it holds, the networks may be wrapped."""
        self._driving()
        try:
            yield
        finally:
            self._release()

    def _driving(self) -> Driver:
        if self._driver is None:
            self._driver = driver(self.stage, self.accelerator, self.share // self.micro)
        return self._driver

    def _release(self) -> None:
        if self._driver is not None:
            self._driver.end()
            self._driver = None

    def _load(self, phase: Phase, index: int) -> Batch:
        """This process's rows of this micro-batch; every row's draws depend on its number in the whole batch only."""
        train, data, device = self.recipe.train, self.recipe.data, self.accelerator.device
        first = self.accelerator.process_index * self.share + index * self.micro
        rows = range(first, first + self.micro)
        numbers = self.images.numbers(self.step * self.batch + first, self.micro, train.seed)
        image, label = self.images.take(numbers)
        image = image.to(device).float() / 255
        maps = self.images.take_maps(numbers)
        maps = None if maps is None else maps.to(device)
        if data.mirror:
            mirrored = Rng.of(train.seed, "mirror", self.step, rows=rows, device=device).uniform() < 0.5
            image = mirror(image, mirrored)
            maps = None if maps is None else mirror(maps, mirrored)
        rng = Rng.of(train.seed, "train", self.step, phase.name, rows=rows, device=device)
        return Batch(PIXELS[data.pixels].encode(image), label.to(device) if data.labels else None, rng, maps)

    def _gather(self, totals: dict[str, Tensor]) -> dict[str, float]:
        """Average the terms over processes; the same message tells everyone that someone was asked to stop."""
        message = torch.stack([*totals.values(), torch.tensor(float(self._asked), device=self.accelerator.device)])
        if self.accelerator.num_processes > 1:
            message = self.accelerator.reduce(message, "mean")
        *values, stop = message.tolist()
        self._stop = self._stop or stop > 0
        return dict(zip(totals, values, strict=True))

    def _check(self, numbers: dict[str, float], phase: Phase) -> None:
        for name, value in numbers.items():
            if not math.isfinite(value):
                self._diverged_in(phase, f"the term {name.split(' -> ')[-1]}")

    def _diverged_in(self, phase: Phase, term: str) -> None:
        place = f"in phase {phase.name} of step {self.step}"
        self._diverged(f"{place}, {term}", step=self.step, phase=phase.name, term=term)

    def _diverged(self, what: str, **details: Any) -> None:
        self.journal.event("diverged", **details)
        where = f"the checkpoint of step {self._saved_step}" if self._saved_step >= 0 else "no checkpoint yet"
        raise Diverged(
            f"training diverged: {what} is not finite. "
            f"The last good state is {where}; a lower learning rate or another train.seed may help."
        )

    def _clock(self) -> Clock:
        return Clock(self.step, self.batch, self.total_images)

    def _crossed(self, images: int) -> bool:
        """Whether the step just done passed a multiple of `images`."""
        every = max(images, 1)
        return (self.step * self.batch) // every > ((self.step - 1) * self.batch) // every

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM ask for a stop after the step; a second one ends at once."""

        def ask(number: int, frame: object) -> None:
            if self._asked:
                raise KeyboardInterrupt
            self._asked = True

        try:
            before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread, as in a notebook's worker
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def num_steps(recipe: Recipe) -> int:
    """Whole batches in the budget, the last one filled up."""
    return -(-recipe.train.images // recipe.train.batch)


def divide(recipe: Recipe, num_processes: int) -> tuple[int, int]:
    """Images per process and per micro-batch. Raises UserError when the batch cannot be divided so."""
    batch = recipe.train.batch
    if batch % num_processes:
        raise UserError(f"train.batch={batch} cannot be divided among {num_processes} processes; give it a multiple.")
    share = batch // num_processes
    micro = recipe.train.micro_batch or share
    if share % micro:
        raise UserError(
            f"train.micro_batch={micro} does not divide each process's share of {share} images; "
            "choose one that does, or 0 for the whole share."
        )
    return share, micro
