"""A wrapped network of which no process holds all: a copy of it trains, the stage's own network follows."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from zoo_core.drivers import Wrapped
from zoo_core.program import Stage

Moments = Mapping[str, Tensor]
"""What an optimizer keeps for one parameter, whole; {} before its first step."""


class Followed(Wrapped):
    """One network that is trained as a copy; the stage's own has the copy's weights after every step.

    So checkpoints, averages and sample grids see whole weights without knowing of shards. It costs every process one
    whole copy of the weights (and one of each average) beside its share of weights, gradients and moments, and one
    more gathering of the weights a step. Moments are gathered to be saved, into the main process's ordinary memory.
    """

    def __init__(self, stage: Stage, accelerator: Accelerator, num_micro: int) -> None:
        super().__init__(stage, accelerator, num_micro)
        if any(self._restored):
            self._give(self._restored)
        del self._restored

    def _to_prepare(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        network, optimizer = copy.deepcopy(super()._to_prepare())
        self._parameters = parameters(optimizer)
        assert all(parameter.ndim for parameter in self._parameters), "a scalar cannot be told from a step counter"
        self._restored = [optimizer.state.get(parameter, {}) for parameter in self._parameters]
        optimizer.state.clear()
        self._stage.optimizers[self._name].state.clear()
        return network, optimizer

    def _give(self, moments: Sequence[Moments]) -> None:
        """Hand the optimizer its moments, one entry for each parameter in the order of its groups."""
        raise NotImplementedError

    def _gather(self) -> Iterator[Moments]:
        """The optimizer's moments in the same order; every process must ask for all."""
        raise NotImplementedError

    def _set_rates(self) -> None:
        """The learning rates that the trainer gave the stage's optimizer."""
        planned = self._stage.optimizers[self._name].param_groups
        for ours, theirs in zip(planned, self._optimizer.param_groups, strict=True):
            theirs["lr"] = ours["lr"]

    @torch.no_grad()
    def _follow(self) -> None:
        plain = self._plain.state_dict(keep_vars=True)
        for key, value in self.networks[self._name].state_dict(keep_vars=True).items():
            plain[key].copy_(whole(value))

    @contextmanager
    def whole_state(self) -> Iterator[None]:
        """Gather the moments; they are in one piece in the main process only."""
        optimizer = self._stage.optimizers[self._name]
        try:
            for parameter, moments in zip(parameters(optimizer), self._gather(), strict=True):
                if moments and self._accelerator.is_main_process:
                    optimizer.state[parameter] = {key: value.cpu() for key, value in moments.items()}
            yield
        finally:
            optimizer.state.clear()


class Sharded(Followed):
    """FSDP 2."""

    def __init__(self, stage: Stage, accelerator: Accelerator, num_micro: int) -> None:
        # Its short cut for loading trips over buffers, and saves nothing where every process has the weights anyway.
        accelerator.state.fsdp_plugin.cpu_ram_efficient_loading = False
        super().__init__(stage, accelerator, num_micro)

    def clip(self, name: str, limit: float) -> float:
        """As accelerate does it, over all shards."""
        norm = self._accelerator.clip_grad_norm_(self._wrapped.parameters(), limit or torch.inf)
        return float(whole(norm))

    def step(self, name: str) -> None:
        """Move the shards, and gather them."""
        self._set_rates()
        super().step(name)
        self._follow()

    def _give(self, moments: Sequence[Moments]) -> None:
        for parameter, found in zip(parameters(self._optimizer), moments, strict=True):
            self._optimizer.state[parameter] = {key: _shard(value, parameter) for key, value in found.items()}

    def _gather(self) -> Iterator[Moments]:
        for parameter in parameters(self._optimizer):
            yield {key: whole(value) for key, value in self._optimizer.state.get(parameter, {}).items()}


def parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All of an optimizer's, group after group."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def whole(value: Tensor) -> Tensor:
    """All of a sharded tensor; its processes must join."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _shard(value: Tensor, like: DTensor) -> Tensor:
    """A moment, cut as its parameter is; a step counter stays."""
    return distribute_tensor(value, like.device_mesh, like.placements) if value.ndim else value
