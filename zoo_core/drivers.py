"""How the networks of a stage get their gradients and take their steps: by ourselves, or as accelerate wraps them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo_core.gradients import average, backward, clip, fill_missing, trainable
from zoo_core.program import Stage


class Driver:
    """Any number of networks, called as their losses like; the gradients are averaged over processes by ourselves."""

    def __init__(self, stage: Stage, accelerator: Accelerator, num_micro: int) -> None:
        self._stage, self._accelerator, self._num_micro = stage, accelerator, num_micro
        self.networks: Mapping[str, nn.Module] = stage.networks
        """The networks whose parameters have the gradients, and whose buffers move."""

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        """Around the loss of one micro-batch and its backward pass; `last` of the phase."""
        return nullcontext()

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Add each loss's gradient to its own network's, as a mean over the micro-batches."""
        backward(losses, self.networks, 1 / self._num_micro)

    def reduce(self, names: Iterable[str]) -> None:
        """Leave the networks with the same gradients in every process."""
        networks = [self.networks[name] for name in names]
        fill_missing(networks)
        average([parameter.grad for network in networks for parameter in trainable(network)], self._accelerator)

    def clip(self, name: str, limit: float) -> float:
        """The norm of the whole gradient, which is scaled to `limit` when it is longer; 0 never scales."""
        return float(clip(self.networks[name], limit))

    def step(self, name: str) -> None:
        """Move the weights, and forget the gradients."""
        self._stage.optimizers[name].step()
        self._stage.optimizers[name].zero_grad()

    def whole_state(self) -> AbstractContextManager[None]:
        """While it holds, the stage's optimizers in the main process have all moments; every process must enter."""
        return nullcontext()

    def end(self) -> None:
        """Leave the stage's networks as they came, but trained."""


class Wrapped(Driver):
    """One network as `Accelerator.prepare` gives it back: DDP in several processes, compiled where it is asked to.

    While a loss is computed the wrapped network stands in its place in `stage.networks`. The wrapper averages the
    gradients, once per phase.
    """

    def __init__(self, stage: Stage, accelerator: Accelerator, num_micro: int) -> None:
        super().__init__(stage, accelerator, num_micro)
        ((self._name, self._plain),) = stage.networks.items()
        accelerator.gradient_accumulation_steps = num_micro  # what its `backward` divides by
        network, self._optimizer = self._to_prepare()
        self._wrapped, self._stepper = accelerator.prepare(network, self._optimizer)
        self.networks = {self._name: network}

    def _to_prepare(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        return self._plain, self._stage.optimizers[self._name]

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """The gradients of all but the last are only added up."""
        self._stage.networks[self._name] = self._wrapped
        try:
            with nullcontext() if last else self._accelerator.no_sync(self._wrapped):
                yield
        finally:
            self._stage.networks[self._name] = self._plain

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """As accelerate does it, which scales by the micro-batches too."""
        self._accelerator.backward(losses[self._name])

    def reduce(self, names: Iterable[str]) -> None:
        """The wrapper has averaged them."""
        fill_missing(self.networks.values())

    def clip(self, name: str, limit: float) -> float:
        """As accelerate does it: of the whole network, wherever its parts are."""
        return float(self._accelerator.clip_grad_norm_(self._wrapped.parameters(), limit or math.inf))

    def step(self, name: str) -> None:
        """Move the weights, and forget the gradients."""
        self._stepper.step()
        self._stepper.zero_grad()

    def end(self) -> None:
        """Take the wrapper off."""
        self._accelerator.unwrap_model(self._wrapped, keep_fp32_wrapper=False)
        self._accelerator.gradient_accumulation_steps = 1
        self._accelerator.free_memory()
