"""Counts the floating-point operations that are executed: matrix products, convolutions, fused attention.

A multiply and an add are two. What is counted is what runs, so work that a tiling wastes on a tile's border counts too.
Element-wise work (softmax, norms, activations, optimizers) and matrix-vector products are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_FORMULAS: Mapping[Any, Callable[..., int]] = {
    **flop_registry,
    torch.ops.aten.baddbmm_: flop_registry[torch.ops.aten.baddbmm],
}
"""Torch's own formulas, and the in-place product that they lack."""


def count(act: Callable[[], Any]) -> int:
    """Run `act`, with the backward passes in it, and count."""
    with _Counter() as counter:
        act()
    return counter.total


class _Counter(TorchDispatchMode):
    """Torch's own counter also follows modules, which fails on parameters that are seen without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out
