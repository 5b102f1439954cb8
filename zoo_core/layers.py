"""Building blocks that several papers share: equalised and spectrally normalised layers, activations, statistics.

Shapes: B batch, C channels; images `[B, C, H, W]`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear, normalize


def scaled_leaky_relu(x: Tensor, bias: Tensor | None = None, slope: float = 0.2) -> Tensor:
    """`leaky_relu(x + bias) * sqrt(2)`, `bias [C]` on axis 1; the gain keeps the variance of a normal input."""
    if bias is not None:
        x = x + bias.view(-1, *[1] * (x.ndim - 2))
    return leaky_relu(x, slope).mul_(math.sqrt(2))  # in place: neither backward needs this value


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Divide each vector (last axis) by its root mean square (Karras et al., arXiv 1710.10196, section 4.2)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def minibatch_stddev(x: Tensor, group: int = 4, eps: float = 1e-8) -> Tensor:
    """Append one channel with the batch's average standard deviation (Karras et al., arXiv 1710.10196, section 3).

    `[B, C, H, W]` -> `[B, C + 1, H, W]`. Sample b is compared with the samples congruent to it modulo `B / group`.
    Where `group` does not divide B, the largest divisor of B below it is used: for a prime B that is 1, and the
    channel is all but zero.
    """
    batch, _, height, width = x.shape
    size = next(size for size in range(min(group, batch), 0, -1) if batch % size == 0)
    grouped = x.reshape(size, batch // size, *x.shape[1:])
    deviation = torch.sqrt(grouped.var(0, unbiased=False) + eps).mean(dim=(1, 2, 3))  # [B / size]
    return torch.cat([x, deviation.repeat(size).view(batch, 1, 1, 1).expand(batch, 1, height, width)], 1)


def sinusoid_table(length: int, channels: int) -> Tensor:
    """Sines then cosines of positions 1 .. `length` (position 0 is the padding's): `[length, channels]` float32.

    Frequencies fall geometrically from 1 to 1/10000, both ends included (Vaswani et al., arXiv 1706.03762, section
    3.5, in the variant with `channels / 2 - 1` steps). `channels` is even and at least 4. Angles are float32.
    """
    half = channels // 2
    frequency = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000) / (half - 1)))
    angle = torch.arange(1, length + 1, dtype=torch.float32)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1)


class EqualLinear(nn.Module):
    """A linear layer whose weight is scaled at run time (equalised learning rate; arXiv 1710.10196, section 4.1).

    `y = x (W * m / sqrt(fan_in))^T + b * m`, W ~ N(0, 1) / m, b = 0, where m is `lr_multiplier`; with `activate`,
    scaled leaky ReLU of that.
    """

    def __init__(self, inputs: int, outputs: int, lr_multiplier: float = 1.0, activate: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.lr_multiplier = lr_multiplier
        self.activate = activate
        self.scale = lr_multiplier / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight * self.scale, self.bias * self.lr_multiplier
        return scaled_leaky_relu(linear(x, weight), bias) if self.activate else linear(x, weight, bias)


class EqualConv2d(nn.Conv2d):
    """A convolution whose weight is scaled at run time: W ~ N(0, 1), used as `W / sqrt(fan_in)`; bias 0."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * (1 / math.sqrt(self.weight[0].numel())), self.bias)


class SpectralNorm(nn.Module):
    """Divides a weight by its largest singular value, estimated by power iteration (Miyato et al., arXiv 1802.05957).

    One iteration for each training pass, v before u, as `torch.nn.utils.spectral_norm` does. That one cannot be
    deep-copied after a pass and iterates in bfloat16 under autocast; `parametrizations.spectral_norm` iterates in the
    other order, so it follows another trajectory from the same u and v. Hence these lines.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, eps: float = 1e-12) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.eps = eps
        self.register_buffer("u", normalize(torch.randn(rows), dim=0, eps=eps))
        self.register_buffer("v", normalize(torch.randn(columns), dim=0, eps=eps))

    def forward(self, weight: Tensor) -> Tensor:
        """`weight / sigma`; the first axis is the output's."""
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            if self.training:
                with torch.no_grad():
                    self.v.copy_(normalize(torch.mv(matrix.t(), self.u), dim=0, eps=self.eps))
                    self.u.copy_(normalize(torch.mv(matrix, self.v), dim=0, eps=self.eps))
            # Copies, because the backward of this pass may come after another pass has moved u and v.
            sigma = torch.dot(self.u.clone(), torch.mv(matrix, self.v.clone()))
            return weight / sigma


class SpectralConv2d(nn.Conv2d):
    """`nn.Conv2d` with its weight spectrally normalised; torch's default initialisation."""

    def __init__(self, *args: int, **options: int | bool) -> None:
        super().__init__(*args, **options)
        self.norm = SpectralNorm(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.norm(self.weight), self.bias)


class SpectralLinear(nn.Linear):
    """`nn.Linear` with its weight spectrally normalised; torch's default initialisation."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        self.norm = SpectralNorm(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.norm(self.weight), self.bias)
