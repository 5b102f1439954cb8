"""One phase's gradients: micro-batches summed, processes averaged in flat messages, everything checked to be finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo_core.errors import UserError

BUCKET_ELEMENTS = 16 * 2**20
"""Elements of one message: 64 MiB of float32."""


class Diverged(UserError):
    """Training produced a number that is not finite."""


def backward(losses: Mapping[str, Tensor], networks: Mapping[str, nn.Module], scale: float) -> None:
    """Add each loss's gradient to its own network's `.grad`, and to no other's."""
    for i, (name, loss) in enumerate(losses.items()):
        last = i == len(losses) - 1
        (loss * scale).backward(inputs=trainable(networks[name]), retain_graph=not last)


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimizer may move."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def fill_missing(networks: Iterable[nn.Module]) -> None:
    """Give parameters that a loss did not reach a zero gradient, so that every process and step treats them alike."""
    for network in networks:
        for parameter in trainable(network):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


def average(tensors: Sequence[Tensor], accelerator: Accelerator) -> None:
    """Average tensors over processes in place, in flat messages."""
    if accelerator.num_processes == 1:
        return
    for bucket in _buckets(tensors):
        flat = accelerator.reduce(torch.cat([tensor.reshape(-1) for tensor in bucket]), "mean")
        for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Sequence[Tensor]) -> Iterable[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.numel() > BUCKET_ELEMENTS or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket


def clip(network: nn.Module, limit: float) -> Tensor:
    """Return the gradient's norm, after scaling the gradient to `limit` when it is longer; 0 never scales."""
    parameters = trainable(network)
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def first_bad_gradient(network: nn.Module) -> str:
    """The name of the first parameter whose gradient is not finite."""
    for name, parameter in network.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return name
    return "their norm"


def first_bad_weight(network: nn.Module) -> str:
    """The name of the first trainable parameter that is not finite, "" when all are."""
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            return name
    return ""


class RunningState:
    """Running statistics of the networks over the micro-batches and processes of one phase.

    Every micro-batch starts from the state before the phase, and the state after it has moved by the mean of their
    moves. So a phase of two micro-batches, or of two processes, leaves what they would have agreed on, and processes
    never drift apart. What did not move stays to the bit. Counters end where one micro-batch would leave them.
    """

    def __init__(self, networks: Iterable[nn.Module], num_micro: int, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._num_micro = num_micro
        self._active = num_micro > 1 or accelerator.num_processes > 1
        self._buffers = _buffers(networks) if self._active else []
        self._before = [buffer.clone() for buffer in self._buffers]
        self._moves = [torch.zeros_like(buffer) for buffer in self._buffers]

    def begin_micro(self, index: int) -> None:
        """Go back to the state before the phase."""
        if index:
            for buffer, before in zip(self._buffers, self._before, strict=True):
                buffer.copy_(before)

    def end_micro(self) -> None:
        """Note how this micro-batch moved the state."""
        for buffer, before, moves in zip(self._buffers, self._before, self._moves, strict=True):
            if buffer.is_floating_point():
                moves.add_((buffer - before).masked_fill_(buffer == before, 0))  # an infinity that stays has no move

    def finish(self) -> None:
        """Leave the mean."""
        floating = [i for i, buffer in enumerate(self._buffers) if buffer.is_floating_point()]
        moves = [self._moves[i].div_(self._num_micro) for i in floating]
        average(moves, self._accelerator)
        for i, move in zip(floating, moves, strict=True):
            self._buffers[i].copy_(torch.where(move == 0, self._before[i], self._before[i] + move))


def _buffers(networks: Iterable[nn.Module]) -> list[Tensor]:
    return [
        value
        for network in networks
        for value in network.state_dict(keep_vars=True).values()
        if not isinstance(value, nn.Parameter)
    ]
