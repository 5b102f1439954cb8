"""Counts the floating-point operations that are executed: matrix products, convolutions, fused attention.

A multiply and an add are two. What is counted is what runs, so work that a tiling wastes on a tile's border counts too.
Two kernels are taken at their formula instead of what they skip or repeat inside: fused attention counts all keys, also
under a causal mask, and its backward pass counts the scores once more, as it computes them again.
Element-wise work (softmax, norms, activations, outer products, optimizers) is left out.

An operator that torch does not know is counted by the formula that its author gives to torch's own registry, with
`torch.utils.flop_counter.register_flop_formula`. One that computes with torch's operators needs none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


def _matrix_vector(matrix: Tensor, vector: Tensor, **rest: Any) -> int:
    return 2 * matrix.numel()


def _added_matrix_vector(start: Tensor, matrix: Tensor, vector: Tensor, **rest: Any) -> int:
    return 2 * matrix.numel()


def _dot(first: Tensor, second: Tensor, **rest: Any) -> int:
    return 2 * first.numel()


def _convolution_backward(
    slope: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
    **rest: Any,
) -> int:
    """The gradients of image and weight take as much as the forward pass each. Torch's formula forgets the groups."""
    places = (x if transposed else slope).shape[2:]
    return 2 * len(x) * math.prod(places) * weight.numel() * (mask[0] + mask[1])


_OURS: Mapping[Any, Callable[..., int]] = {
    aten.mv: _matrix_vector,
    aten.addmv: _added_matrix_vector,
    aten.addmv_: _added_matrix_vector,
    aten.dot: _dot,
    aten.vdot: _dot,
    aten.convolution_backward: _convolution_backward,
}
_SAME: Mapping[Any, Any] = {
    aten.addmm_: aten.addmm,
    aten._addmm_activation: aten.addmm,
    aten.baddbmm_: aten.baddbmm,
    aten.addbmm: aten.baddbmm,
    aten.addbmm_: aten.baddbmm,
    aten._scaled_dot_product_fused_attention_overrideable: aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_fused_attention_overrideable_backward: aten._scaled_dot_product_flash_attention_backward,
}
"""Operators that torch has no formula for -> one of the same arguments."""


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
        kwargs = kwargs or {}
        packet = func._overloadpacket
        formula = _OURS.get(packet) or flop_registry.get(_SAME.get(packet, packet))
        if formula is None:
            with self:  # in inference mode composite operators, such as `linear`, come whole
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=out)
        return out
