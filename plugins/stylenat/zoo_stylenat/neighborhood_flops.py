"""Operations of NATTEN's kernels, for torch's counter, which cannot look into them.

They are counted at the definition, `kernel_size` keys a query; what the kernels waste on their own tiles is not known.
Shapes: queries `[B, H, W, h, D]`, values `[B, H, W, h, E]`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula

KERNELS = ("na2d", "hopper_na2d", "blackwell_na2d")


def register() -> None:
    """Tell torch's counter of the kernels that the installed NATTEN has; again is harmless."""
    for kernel in KERNELS:
        for direction, formula in (("forward", forward_flops), ("backward", backward_flops)):
            operator = getattr(torch.ops.natten, f"{kernel}_{direction}", None)
            if operator is not None and operator not in flop_registry:
                register_flop_formula(operator)(formula)


def forward_flops(
    q: Sequence[int], k: Sequence[int], v: Sequence[int], kernel_size: Sequence[int], *_: Any, **__: Any
) -> int:
    """Scores and mixing."""
    return 2 * math.prod(q[:-1]) * math.prod(kernel_size) * (q[-1] + v[-1])


def backward_flops(
    q: Sequence[int],
    k: Sequence[int],
    v: Sequence[int],
    out: Sequence[int],
    slope: Sequence[int],
    logsumexp: Sequence[int],
    kernel_size: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """The scores once more, then the gradients of weights, values, queries and keys."""
    return 2 * math.prod(q[:-1]) * math.prod(kernel_size) * (3 * q[-1] + 2 * v[-1])
