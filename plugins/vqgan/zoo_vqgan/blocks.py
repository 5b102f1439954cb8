"""What encoder and decoder are made of (Esser et al., appendix A, Table 7): residual blocks, attention, resampling.

Shapes: B batch, C channels, H W map, L = H W tokens, Q queries of a picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, interpolate, pad, scaled_dot_product_attention, silu

from zoo_core.attention import offered_heads
from zoo_core.errors import UserError
from zoo_core.formulation import is_plain
from zoo_core.interfaces import Attention, AttentionFactory, Site

GROUPS = 32
"""Groups of every group norm."""


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of 32 groups. Raises UserError when they do not divide the channels."""
    if channels < 1 or channels % GROUPS:
        raise UserError(f"every width must be a multiple of {GROUPS}, the groups of the norms; {channels} is not.")
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


def swish(x: Tensor) -> Tensor:
    """`x * sigmoid(x)`."""
    return x * torch.sigmoid(x) if is_plain() else silu(x)


class ResidualBlock(nn.Module):
    """norm, swish, 3x3 convolution, twice, beside a shortcut; dropout before the second convolution."""

    def __init__(self, inputs: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = group_norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` -> `[B, outputs, H, W]`."""
        h = self.conv1(swish(self.norm1(x)))
        h = self.conv2(self.dropout(swish(self.norm2(h))))
        return self.nin_shortcut(x) + h


class SpatialAttention(Attention):
    """Single-head softmax attention of every position to every other: softmax(q k^T / sqrt(C)) v, then a linear layer.

    The paper's own attention, whose 1x1 convolutions are linear layers here. `site.heads` is not used; any grid fits.
    The fused kernel is as fast as matrix products on a CPU, and never holds the L x L map.
    Raises UserError for a site that passes context tokens.
    """

    second_order = False  # the fused kernel is differentiable once

    def __init__(self, site: Site) -> None:
        super().__init__()
        if site.context_dim is not None:
            raise UserError("this attention looks only at its own map; use one that takes context here.")
        self.q, self.k, self.v, self.proj_out = (_pointwise(site.dim) for _ in range(4))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`x [B, H, W, C]` -> the same shape; without norm and residual, which are the host's."""
        x = x.contiguous()  # one copy here instead of one in each linear layer
        if is_plain():
            o_BLC = self._map(self.q(x).flatten(1, 2), x) @ self.v(x).flatten(1, 2)
        else:
            q_B1LC, k_B1LC, v_B1LC = (layer(x).flatten(1, 2)[:, None] for layer in (self.q, self.k, self.v))
            o_BLC = scaled_dot_product_attention(q_B1LC, k_B1LC, v_B1LC)[:, 0]
        return self.proj_out(o_BLC).view_as(x)

    def weights(self, x: Tensor, queries: Tensor, context: Tensor | None = None) -> Tensor:
        """Where points of the grid look: `queries [Q, 2]` -> `[B, 1, Q, H, W]`."""
        rows, columns = queries.unbind(1)
        map_BQL = self._map(self.q(x[:, rows, columns]), x)
        return map_BQL.unflatten(2, x.shape[1:3])[:, None]

    def _map(self, q_BQC: Tensor, x: Tensor) -> Tensor:
        """Softmax over all positions of `x`: `[B, Q, L]`."""
        k_BLC = self.k(x).flatten(1, 2)
        return torch.softmax(q_BQC @ k_BLC.mT * x.shape[-1] ** -0.5, dim=-1)


def _pointwise(channels: int) -> nn.Linear:
    """A linear layer; its default initialisation is that of a 1x1 convolution."""
    return nn.Linear(channels, channels)


class AttentionBlock(nn.Module):
    """`x + attention(norm(x))` on `[B, C, H, W]`."""

    def __init__(self, mixer: Attention, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions of a map."""
        return x + self.mixer(self.norm(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Sites:
    """Builds a network's attention blocks and numbers them."""

    def __init__(self, factory: AttentionFactory | None, heads: int = 0) -> None:
        """`factory` None is the paper's own; `heads` is what another attention is offered and must divide the widths,
        0 for about one per 32 channels."""
        self.factory = factory or SpatialAttention
        self.heads = heads
        self.count = 0

    def block(self, channels: int, resolution: int) -> AttentionBlock:
        """The next block, for a map of nominally `resolution` squared."""
        heads = self.heads or offered_heads(channels)
        if heads < 1 or channels % heads:
            raise UserError(f"attention_heads={heads} does not divide the {channels} channels of a level.")
        site = Site(dim=channels, heads=heads, resolution=resolution, layer=self.count)
        self.count += 1
        return AttentionBlock(self.factory(site), channels)


class Level(nn.Module):
    """The blocks of one resolution: residual blocks, an attention block after each where `sites` is given."""

    def __init__(
        self, widths: list[int], resolution: int, sites: Sites | None, dropout: float, resample: nn.Module | None
    ) -> None:
        """`widths`: of the input, then after each block; `resample` comes last, None for none."""
        super().__init__()
        pairs = list(zip(widths, widths[1:], strict=False))
        self.block = nn.ModuleList(ResidualBlock(inputs, outputs, dropout) for inputs, outputs in pairs)
        self.attn = nn.ModuleList(sites.block(width, resolution) for width in widths[1:] if sites)
        self.resample = resample or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Run the level."""
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        return self.resample(x)


class Middle(nn.Sequential):
    """Residual block, attention, residual block, at the lowest resolution."""

    def __init__(self, channels: int, resolution: int, sites: Sites, dropout: float) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, dropout)
        self.attn_1 = sites.block(channels, resolution)
        self.block_2 = ResidualBlock(channels, channels, dropout)


class Down(nn.Module):
    """Half the side: a zero row below and a zero column to the right, then a 3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C, H / 2, W / 2]`; an odd side is rounded down."""
        return self.conv(pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    """Twice the side: nearest neighbour, then a 3x3 convolution.

    Large maps take one transposed convolution of 4x4, the same numbers for 4/9 of the work; where a map has few pixels
    for its channels, making that kernel would cost more than it saves.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C, 2 H, 2 W]`."""
        batch, channels, height, width = x.shape
        if is_plain() or batch * height * width < 4 * channels:
            return self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))
        weight = self.conv.weight.transpose(0, 1).flip(2, 3)
        # A pixel stands in four places, each of which the kernel sees: its sum over them, shifted.
        weight = sum(pad(weight, (left, 1 - left, top, 1 - top)) for left in (0, 1) for top in (0, 1))
        return conv_transpose2d(x, weight, self.conv.bias, stride=2, padding=1)
