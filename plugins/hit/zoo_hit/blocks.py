"""What a stage is made of: attention block, MLP, doubling, colours.

Shapes: B batch, H W grid, C channels; tokens `[B, H, W, C]`, images `[B, 3, H, W]`.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate

from zoo_core.interfaces import Attention
from zoo_hit.layers import linear
from zoo_hit.norm import Norm, make_norm


class Mlp(nn.Module):
    """`x + W2 gelu(W1 norm(x))`, four times as wide inside; `[B, H, W, C]` -> the same."""

    def __init__(self, dim: int, norm: Norm) -> None:
        super().__init__()
        self.norm = make_norm(norm, dim)
        self.expand = linear(dim, 4 * dim)
        self.contract = linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.contract(gelu(self.expand(self.norm(x))))


class Block(nn.Module):
    """Attention on the normalised map, with a residual, then the MLP; `[B, H, W, C]` -> the same.

    `context [B, L, C']` goes to the attention as it is.
    """

    def __init__(self, attention: Attention, dim: int, norm: Norm) -> None:
        super().__init__()
        self.norm = make_norm(norm, dim)
        self.attention = attention
        self.mlp = Mlp(dim, norm)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.mlp(x + self.attention(self.norm(x), context))


class Upsample(nn.Module):
    """Depth to space, then a projection: `[B, H, W, C]` -> `[B, 2H, 2W, C']`. `C' = C / 4` needs no projection."""

    def __init__(self, dim: int, dim_next: int) -> None:
        super().__init__()
        self.project = nn.Identity() if dim // 4 == dim_next else linear(dim // 4, dim_next)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(depth_to_space(x))


def depth_to_space(x: Tensor) -> Tensor:
    """`[B, H, W, C]` -> `[B, 2H, 2W, C / 4]`; channels are (row, column, channel), unlike torch's pixel shuffle."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height, width, 2, 2, channels // 4)
    return x.transpose(2, 3).reshape(batch, 2 * height, 2 * width, channels // 4)


class ToRgb(nn.Module):
    """Tokens -> colours, added to the image so far, each pixel of it repeated: -> `[B, 3, H, W]`."""

    def __init__(self, dim: int, norm: Norm) -> None:
        super().__init__()
        self.norm = make_norm(norm, dim)
        self.project = linear(dim, 3)

    def forward(self, x: Tensor, image: Tensor | None) -> Tensor:
        rgb = self.project(self.norm(x)).permute(0, 3, 1, 2)
        return rgb if image is None else rgb + interpolate(image, size=rgb.shape[2:], mode="nearest")
