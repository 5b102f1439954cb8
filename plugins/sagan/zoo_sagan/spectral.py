"""Layers whose weights are divided by their largest singular value (spectral norm, Miyato et al., arXiv 1802.05957).

A weight is seen as a matrix [outputs, rest]; `u [outputs]` is the running guess of its first left singular vector.
An embedding table [classes, dim] counts its classes as outputs, so its u has one entry per class.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo_core.errors import UserError, did_you_mean


class SpectralNorm(nn.Module):
    """The official spectral norm: one power iteration in every forward, gradients flow through it.

    v = l2(u M), u' = l2(M v), sigma = u' . M v, weight / sigma, with l2(a) = a / (|a| + epsilon); only the stored u
    is a constant. torch's own spectral norm detaches v and u' and takes max(|a|, epsilon) instead: see TorchNorm.

    DEVIATION: the official graph moves the generator's u in every forward, evaluation too, so it draws two different
    images of one z. Here u stays where it is in eval mode, so that the same seeds give the same images. An iteration
    is still computed from it, so the first image drawn from given weights is the official one. `u_moves_in_eval`
    restores the official behaviour.
    """

    def __init__(self, outputs: int, rest: int, epsilon: float = 1e-12) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.held = False
        """While True nothing is stored: see `hold_u`."""
        self.moves_in_eval = False
        self.register_buffer("u", torch.empty(outputs))
        nn.init.trunc_normal_(self.u, a=-2.0, b=2.0)  # not normalised, as in the official code

    def forward(self, weight: Tensor) -> Tensor:
        """`weight [outputs, ...]` -> the same divided by its largest singular value."""
        with _full_precision(weight):
            matrix = weight.flatten(1)
            u = self.u.clone()  # the graph keeps this one; the buffer may move before backward
            v = self._unit(u @ matrix)
            s = matrix @ v
            following = self._unit(s)
            sigma = s @ following
            if not self.held and (self.training or self.moves_in_eval):
                self.u.copy_(following.detach())
            return weight / sigma

    def _unit(self, a: Tensor) -> Tensor:
        return a / (a.square().sum().sqrt() + self.epsilon)


class TorchNorm(nn.Module):
    """Spectral norm as `torch.nn.utils.spectral_norm` does it, which StudioGAN and mmgeneration use.

    u and v carry no gradient; every training forward moves them (on fakes too); evaluation uses the stored pair.
    """

    def __init__(self, outputs: int, rest: int, epsilon: float = 1e-12) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.register_buffer("u", torch.randn(outputs))
        self.register_buffer("v", torch.randn(rest))
        if not self.u.is_meta:
            self.u /= self.u.norm()
            self.v /= self.v.norm()

    def forward(self, weight: Tensor) -> Tensor:
        """`weight [outputs, ...]` -> the same divided by its largest singular value."""
        with _full_precision(weight):
            matrix = weight.flatten(1)
            if self.training:
                with torch.no_grad():
                    self.v.copy_(F.normalize(self.u @ matrix, dim=0, eps=self.epsilon))
                    self.u.copy_(F.normalize(matrix @ self.v, dim=0, eps=self.epsilon))
            sigma = self.u.clone() @ (matrix @ self.v.clone())
            return weight / sigma


class NoNorm(nn.Module):
    """The weight as it is."""

    def __init__(self, outputs: int, rest: int, epsilon: float = 1e-12) -> None:
        super().__init__()

    def forward(self, weight: Tensor) -> Tensor:
        return weight


SPECTRAL_NORMS = {"official": SpectralNorm, "torch": TorchNorm, "none": NoNorm}
INITS = {"xavier": nn.init.xavier_uniform_, "orthogonal": nn.init.orthogonal_}


class Layer(nn.Module):
    """A weight [outputs, ...], a bias [outputs] that starts at zero (or none), and the weight's normalisation."""

    def __init__(self, shape: tuple[int, ...], bias: bool, style: Layers) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        if not self.weight.is_meta:
            INITS[style.init](self.weight)
        rest = self.weight.numel() // shape[0]
        self.spectral = SPECTRAL_NORMS[style.spectral_norm](shape[0], rest, style.epsilon)

    def normalised(self) -> Tensor:
        """The weight to use in this forward; call it once per forward, for it may move u."""
        return self.spectral(self.weight)

    def extra_repr(self) -> str:
        return f"weight={tuple(self.weight.shape)}, bias={self.bias is not None}"


class Conv(Layer):
    """A convolution of stride 1 that keeps the size; weight [outputs, inputs, k, k], k odd."""

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` -> `[B, outputs, H, W]`."""
        return F.conv2d(x, self.normalised(), self.bias, padding=self.weight.shape[-1] // 2)

    def halved(self, x: Tensor) -> Tensor:
        """The means of 2x2 pixels of the 3x3 convolution, as one of 4x4 and stride 2: 4/9 of the work."""
        return F.conv2d(x, _spread(self.normalised()) / 4, self.bias, stride=2, padding=1)

    def doubled(self, x: Tensor) -> Tensor:
        """The 3x3 convolution of the map with each pixel repeated 2x2, as a transposed one: 4/9 of the work."""
        weight = _spread(self.normalised()).flip(2, 3).transpose(0, 1)
        return F.conv_transpose2d(x, weight, self.bias, stride=2, padding=1)


class Linear(Layer):
    """A linear layer; weight [outputs, inputs]."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., inputs]` -> `[..., outputs]`."""
        return F.linear(x, self.normalised(), self.bias)


class Embedding(Layer):
    """A table of vectors; weight [classes, dim]."""

    def forward(self, label: Tensor) -> Tensor:
        """`[B]` int64 -> `[B, dim]`."""
        return F.embedding(label, self.normalised())


@dataclass(frozen=True)
class Layers:
    """How a network's weights are drawn and normalised; makes its layers. Raises UserError for an unknown name."""

    spectral_norm: str = "official"
    init: str = "xavier"
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        if self.spectral_norm not in SPECTRAL_NORMS:
            near = did_you_mean(self.spectral_norm, SPECTRAL_NORMS)
            raise UserError(f'no spectral_norm "{self.spectral_norm}"{near}')
        if self.init not in INITS:
            raise UserError(f'no init "{self.init}"{did_you_mean(self.init, INITS)}')

    def conv(self, inputs: int, outputs: int, kernel: int) -> Conv:
        return Conv((outputs, inputs, kernel, kernel), True, self)

    def linear(self, inputs: int, outputs: int, bias: bool = True) -> Linear:
        return Linear((outputs, inputs), bias, self)

    def embedding(self, classes: int, dim: int) -> Embedding:
        return Embedding((classes, dim), False, self)


@contextmanager
def hold_u(network: nn.Module) -> Iterator[None]:
    """Inside, the network's official spectral norms store nothing; may be nested, and undoes itself on an error."""
    norms = [module for module in network.modules() if isinstance(module, SpectralNorm)]
    before = [norm.held for norm in norms]
    try:
        for norm in norms:
            norm.held = True
        yield
    finally:
        for norm, held in zip(norms, before, strict=True):
            norm.held = held


def u_moves_in_eval(network: nn.Module, moves: bool = True) -> None:
    """Let the network's official spectral norms store u in eval mode too, as the official generator does."""
    for module in network.modules():
        if isinstance(module, SpectralNorm):
            module.moves_in_eval = moves


def _spread(weight: Tensor) -> Tensor:
    """The sum of the 3x3 kernels at their four places in 4x4: `[outputs, inputs, 4, 4]`."""
    return sum(F.pad(weight, (right, 1 - right, down, 1 - down)) for right in (0, 1) for down in (0, 1))


def _full_precision(weight: Tensor) -> torch.autocast:
    """No autocast: singular values are computed in the weight's own precision."""
    return torch.autocast("cpu" if weight.is_meta else weight.device.type, enabled=False)
