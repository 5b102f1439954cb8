"""Batch norms of the generator: affine parameters by class, and two rules for the moving statistics."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo_core.errors import UserError, did_you_mean
from zoo_sagan.spectral import Layers


@dataclass(frozen=True)
class Statistics:
    """How batch statistics are used and remembered: `moving <- decay * moving + (1 - decay) * batch`."""

    decay: float
    epsilon: float
    unbiased: bool
    """Whether the remembered variance divides by n - 1; the variance that normalises always divides by n."""


OFFICIAL_BLOCK = Statistics(decay=0.999, epsilon=1e-5, unbiased=False)
OFFICIAL_LAST = Statistics(decay=0.9999, epsilon=1.001e-5, unbiased=True)  # TF's fused kernel: cuDNN's least epsilon
STUDIO = Statistics(decay=0.9, epsilon=1e-4, unbiased=True)  # PyTorch-StudioGAN
TORCH = Statistics(decay=0.9, epsilon=1e-5, unbiased=True)  # torch's defaults


class BatchNorm(nn.Module):
    """Batch norm over N, H, W with one gain and shift per channel; the label is not looked at.

    Statistics are of this process's batch: the official code, too, normalises each GPU's images by themselves.
    """

    def __init__(self, channels: int, statistics: Statistics) -> None:
        super().__init__()
        self.statistics = statistics
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self._make_affine(channels)

    def _make_affine(self, channels: int) -> None:
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """`x [B, C, H, W]`, `label [B]` -> `[B, C, H, W]`; a training forward moves the statistics."""
        return self._normalise(x, self.gamma, self.beta)

    def _normalise(self, x: Tensor, gain: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        rule = self.statistics
        if not self.training:
            return F.batch_norm(x, self.mean, self.var, gain, shift, eps=rule.epsilon)
        mean, var = torch.zeros_like(self.mean), torch.zeros_like(self.var)  # momentum 1 leaves the batch's own here
        normal = F.batch_norm(x, mean, var, gain, shift, training=True, momentum=1.0, eps=rule.epsilon)
        if not rule.unbiased:
            count = x.numel() // x.shape[1]
            var = var * ((count - 1) / count)
        with torch.no_grad():
            self.mean.lerp_(mean, 1 - rule.decay)
            self.var.lerp_(var, 1 - rule.decay)
        return normal


class TableBatchNorm(BatchNorm):
    """Conditional batch norm of the official code: gain and shift are rows of plain tables [classes, C]."""

    def __init__(self, channels: int, statistics: Statistics, num_classes: int, layers: Layers) -> None:
        self.num_classes = num_classes
        super().__init__(channels, statistics)

    def _make_affine(self, channels: int) -> None:
        self.gamma = nn.Parameter(torch.ones(self.num_classes, channels))
        self.beta = nn.Parameter(torch.zeros(self.num_classes, channels))

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        gain_BC, shift_BC = F.embedding(label, self.gamma), F.embedding(label, self.beta)
        return torch.addcmul(shift_BC[:, :, None, None], self._normalise(x), gain_BC[:, :, None, None])


class ProjectedBatchNorm(BatchNorm):
    """Conditional batch norm of PyTorch-StudioGAN: gain 1 + W y and shift V y, W and V spectrally normalised."""

    def __init__(self, channels: int, statistics: Statistics, num_classes: int, layers: Layers) -> None:
        super().__init__(channels, statistics)
        self.gain = layers.linear(num_classes, channels, bias=False)
        self.shift = layers.linear(num_classes, channels, bias=False)

    def _make_affine(self, channels: int) -> None:
        pass

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        gain_BC = 1 + self.gain.normalised().t()[label]  # a row per label is W times its one-hot vector
        shift_BC = self.shift.normalised().t()[label]
        return torch.addcmul(shift_BC[:, :, None, None], self._normalise(x), gain_BC[:, :, None, None])


@dataclass(frozen=True)
class Norms:
    """Makes the norms of one generator."""

    conditional: type[BatchNorm]
    in_block: Statistics
    last: Statistics

    def block(self, channels: int, num_classes: int, layers: Layers) -> BatchNorm:
        """The norm inside a block: plain when there are no classes."""
        if num_classes == 0:
            return BatchNorm(channels, self.in_block)
        return self.conditional(channels, self.in_block, num_classes, layers)

    def final(self, channels: int) -> BatchNorm:
        """The norm before the last convolution, plain in every case."""
        return BatchNorm(channels, self.last)


NORMS = {
    "tables": Norms(TableBatchNorm, OFFICIAL_BLOCK, OFFICIAL_LAST),
    "tables-torch": Norms(TableBatchNorm, TORCH, TORCH),
    "projected": Norms(ProjectedBatchNorm, STUDIO, STUDIO),
}


def norms(name: str, decay: float = 0.0) -> Norms:
    """Look up a family of norms; `decay` other than 0 replaces its published ones. Raises UserError."""
    if name not in NORMS:
        raise UserError(f'no norm "{name}"{did_you_mean(name, NORMS)}')
    if not 0 <= decay < 1:
        raise UserError(f"norm_decay must be from 0 (as published) to below 1, not {decay}")
    chosen = NORMS[name]
    if decay == 0:
        return chosen
    return replace(chosen, in_block=replace(chosen.in_block, decay=decay), last=replace(chosen.last, decay=decay))
