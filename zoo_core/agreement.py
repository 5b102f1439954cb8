"""What the processes of one run must agree on in the middle of a step. One process agrees with itself at no cost.

Every process must come by, in the same order: nothing here belongs where the main process works alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def processes() -> int:
    """How many there are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def total(tensor: Tensor) -> Tensor:
    """The sum over processes, the same to the bit in each."""
    if processes() == 1:
        return tensor
    tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(tensor)
    return tensor


def mean(tensor: Tensor) -> Tensor:
    """The mean over processes."""
    return total(tensor) / processes()


def gather(tensor: Tensor) -> Tensor:
    """The rows of all processes `[N, ...]`, in the order of the whole batch; each has as many."""
    if processes() == 1:
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(processes())]
    distributed.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)
