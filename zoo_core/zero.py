"""A wrapped network under DeepSpeed's ZeRO 1 and 2, which keep gradients and moments in parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo_core.program import Stage
from zoo_core.sharded import Followed, Moments, parameters


class Zero(Followed):
    """DeepSpeed's engine, in float32.

    A group of parameters is one flat tensor there, of which each process has a part: one `step` counter serves a group.
    """

    def __init__(self, stage: Stage, accelerator: Accelerator, num_micro: int) -> None:
        accelerator.state.deepspeed_plugin.deepspeed_config |= {
            "train_batch_size": num_micro * accelerator.num_processes,
            "train_micro_batch_size_per_gpu": 1,  # only the ratio of the two counts
            "gradient_accumulation_steps": num_micro,
            "gradient_clipping": stage.phases[0].clip_norm,
        }
        super().__init__(stage, accelerator, num_micro)

    def _to_prepare(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        network, optimizer = super()._to_prepare()
        self._groups = [group["params"][:] for group in optimizer.param_groups]
        return network, optimizer

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """The engine is told when a phase ends."""
        self._wrapped.set_gradient_accumulation_boundary(last)
        with super().micro_batch(last):
            yield

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """The engine's, which scales by the micro-batches. Not accelerate's, which would move the weights at once."""
        self._wrapped.backward(losses[self._name])

    def reduce(self, names: Iterable[str]) -> None:
        """The engine has averaged them, and keeps them to itself."""

    def clip(self, name: str, limit: float) -> float:
        """DeepSpeed clips and moves the weights in one; not where the gradient is not finite: its norm is inf then."""
        self._set_rates()
        self._wrapped.step()
        return float(self._wrapped.get_global_grad_norm())

    def step(self, name: str) -> None:
        """They have moved."""
        self._follow()

    def _give(self, moments: Sequence[Moments]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        left = iter(moments)
        for flat, group in zip(parameters(self._optimizer), self._groups, strict=True):
            first, *_ = [next(left) for _ in group]
            self._optimizer.state[flat] = {
                key: torch.zeros_like(flat) if value.ndim else value.clone() for key, value in first.items()
            }
        self._link()
        for parameter, found in zip(self._parameters, moments, strict=True):
            for key, value in found.items():
                if value.ndim:
                    safe_set_full_optimizer_state(parameter, value, key)

    def _gather(self) -> Iterator[Moments]:
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link()
        for flat, group in zip(parameters(self._optimizer), self._groups, strict=True):
            state = self._optimizer.state[flat]
            for parameter in group:
                yield {
                    key: safe_get_full_optimizer_state(parameter, key) if value.ndim else value
                    for key, value in state.items()
                }

    def _link(self) -> None:
        """Show each parameter its part of the moments.

        DeepSpeed (0.19) does so once, after the first group's first step, when the others have no moments yet.
        """
        self._wrapped.optimizer._hp_optimizer_states_linked = False
        self._wrapped.optimizer._lazy_init_hp_params_optimizer_state()
