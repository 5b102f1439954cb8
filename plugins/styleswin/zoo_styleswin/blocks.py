"""The parts of the generator around its attention: style, normalisation, up-sampling, colour (section 3).

Shapes: B batch, H W grid, C channels, S style; tokens `[B, H, W, C]`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, instance_norm, interpolate, linear

from zoo_core.errors import UserError
from zoo_core.formulation import is_plain
from zoo_core.interfaces import Attention
from zoo_core.layers import EqualLinear, pixel_norm, sinusoid_table
from zoo_core.resample import fir_kernel, upsample_fir


def plain_linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer, W ~ N(0, 0.02) and b = 0. Not equalised: the authors report that this makes training collapse."""
    layer = nn.Linear(inputs, outputs, bias)
    nn.init.trunc_normal_(layer.weight, std=0.02)  # cut at +-2 absolute, that is, never
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Mapping(nn.Module):
    """z -> w: pixel norm, then equalised layers with leaky ReLU; `[B, S]` -> `[B, S]`."""

    def __init__(self, style_dim: int, num_layers: int, lr_multiplier: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EqualLinear(style_dim, style_dim, lr_multiplier, activate=True) for _ in range(num_layers)
        )

    def forward(self, z: Tensor) -> Tensor:
        w = pixel_norm(z)
        for layer in self.layers:
            w = layer(w)
        return w


class AdaIN(nn.Module):
    """Adaptive instance normalisation: `gamma(w) * normalised + beta(w)`; there is no "1 + gamma"."""

    def __init__(self, dim: int, style_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.affine = EqualLinear(style_dim, 2 * dim)
        self.eps = eps

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """`x [B, H, W, C]`, `w [B, S]` -> `[B, H, W, C]`."""
        gamma, beta = self.affine(w)[:, None, None].chunk(2, dim=-1)  # [B, 1, 1, C]
        if is_plain():
            normalised = instance_norm(x.flatten(1, 2).transpose(1, 2), eps=self.eps)  # [B, C, H W]
            return gamma * normalised.transpose(1, 2).view(x.shape) + beta
        # In two passes: on the CPU several times faster than torch.var_mean or instance_norm on this layout.
        centred = x - x.mean(dim=(1, 2), keepdim=True)
        variance = centred.square().mean(dim=(1, 2), keepdim=True)
        return torch.addcmul(beta, centred, gamma * torch.rsqrt(variance + self.eps))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between; `[.., C]` -> `[.., C]`."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.expand = plain_linear(dim, hidden)
        self.contract = plain_linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(gelu(self.expand(x)))


class Block(nn.Module):
    """A transformer block: styled attention, styled MLP, each with a residual; `[B, H, W, C]` -> the same."""

    def __init__(self, attention: Attention, dim: int, style_dim: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = AdaIN(dim, style_dim)
        self.attention = attention
        self.norm2 = AdaIN(dim, style_dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x, w))
        return x + self.mlp(self.norm2(x, w))


class Upsample(nn.Module):
    """Bilinear doubling, layer norm, projection, sinusoidal position; `[B, H, W, C]` -> `[B, 2H, 2W, C']`."""

    table: Tensor

    def __init__(self, dim: int, dim_next: int, resolution: int) -> None:
        super().__init__()
        if dim_next % 4 or dim_next < 8:
            raise UserError(
                f"the generator has {dim_next} channels at {2 * resolution} pixels; its sinusoidal positions need "
                "a multiple of 4, at least 8: change max_channels, channel_multiplier or channels."
            )
        self.norm = nn.LayerNorm(dim)
        self.project = plain_linear(dim, dim_next, bias=False)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.register_buffer("table", sinusoid_table(2 * resolution, dim_next // 2), persistent=False)  # [2H, C'/2]

    def forward(self, x: Tensor) -> Tensor:
        x = interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear", align_corners=False)
        x = self.project(self.norm(x.permute(0, 2, 3, 1)))
        side = self.table.shape[0]
        columns, rows = self.table[None, :].expand(side, -1, -1), self.table[:, None].expand(-1, side, -1)
        return torch.addcmul(x, self.alpha, torch.cat([columns, rows], -1).to(x.dtype))


class ToRgb(nn.Module):
    """Tokens -> colours, added to the image so far: `[B, H, W, C]`, `[B, 3, ..]` -> `[B, 3, H, W]`.

    `doubles`: the image so far is half as large, and is enlarged first.
    """

    kernel: Tensor

    def __init__(self, dim: int, doubles: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, dim, 1, 1))  # a 1 x 1 convolution's, as in the checkpoints
        nn.init.xavier_normal_(self.weight, gain=0.02)
        # Two biases, as in the original: together they learn at twice the pace of one.
        self.conv_bias = nn.Parameter(torch.zeros(3))
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.doubles = doubles
        self.register_buffer("kernel", fir_kernel(gain=4), persistent=False)

    def forward(self, x: Tensor, image: Tensor | None) -> Tensor:
        rgb = linear(x, self.weight.flatten(1), self.conv_bias).permute(0, 3, 1, 2) + self.bias
        if image is None:
            return rgb
        return rgb + (upsample_fir(image, self.kernel) if self.doubles else image)
