"""Learned tensors as the paper draws them, each independently."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def truncated_normal_(tensor: Tensor) -> Tensor:
    """Fill with N(0, 0.02), cut at two standard deviations."""
    return nn.init.trunc_normal_(tensor, std=0.02, a=-0.04, b=0.04)


def embedding(*shape: int) -> nn.Parameter:
    """A learned table."""
    return nn.Parameter(truncated_normal_(torch.empty(shape)))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with a bias, which starts at 0."""
    layer = nn.Linear(inputs, outputs)
    truncated_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
