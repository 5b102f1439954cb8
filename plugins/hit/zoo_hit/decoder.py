"""The upper part of the generator: from a feature map, through stages that double it, to an image.

Shapes: B batch, H W grid, C channels, L context tokens of width E; maps `[B, H, W, C]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import count

from torch import Tensor, nn

from zoo_core.interfaces import AttentionFactory, Site
from zoo_hit.attention import CrossAttention, MultiAxisAttention
from zoo_hit.blocks import Block, Mlp, ToRgb, Upsample
from zoo_hit.layers import embedding
from zoo_hit.norm import Norm
from zoo_hit.sizes import Size


class Stage(nn.Module):
    """Position, a block of cross-attention, then blocks of self-attention or MLPs; `[B, H, W, C]` -> the same.

    `to_rgb` and `upsample` are what the decoder does with it next, None where it does not.
    """

    def __init__(
        self,
        size: Size,
        cross: Block,
        blocks: Iterable[Block],
        mlps: Iterable[Mlp],
        to_rgb: ToRgb | None,
        upsample: Upsample | None,
    ) -> None:
        super().__init__()
        self.position = embedding(1, size.side, size.side, size.dim)
        self.cross = cross
        self.blocks = nn.ModuleList(blocks)
        self.mlps = nn.ModuleList(mlps)
        self.to_rgb = to_rgb
        self.upsample = upsample

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = self.cross(x + self.position, context)
        for each in (*self.blocks, *self.mlps):
            x = each(x)
        return x


class Decoder(nn.Module):
    """A feature map and context tokens -> an image.

    HiT's generator feeds it a map of 8 pixels and tokens that it draws from z. It can stand alone, to decode an
    encoder's map, say (the paper's VQ model): `sizes` may begin at any side, and the context may be anything of width
    `context_dim`, the map's own pixels too: `decoder(x, x.flatten(1, 2))`.

    sizes: the stages, each twice as large as the one before; the image has the last one's side. context_dim: E.
    norm: "batch" or "layer". multi_query: one head of keys for all heads. attention: `Site -> Attention` in place of
    the paper's multi-axis self-attention; the cross-attention stays.
    """

    def __init__(
        self,
        sizes: Sequence[Size],
        *,
        context_dim: int,
        norm: Norm = "batch",
        multi_query: bool = True,
        attention: AttentionFactory | None = None,
    ) -> None:
        super().__init__()
        layers = count()  # of self-attention
        self.stages = nn.ModuleList()
        for stage, size in enumerate(sizes):
            dim, last = size.dim, stage == len(sizes) - 1
            cross = CrossAttention(Site(dim, size.heads, size.side, stage, context_dim), multi_query=multi_query)
            mixer = attention or partial(MultiAxisAttention, block=size.block, multi_query=multi_query)
            num_blocks, num_mlps = (size.depth, 0) if size.block else (0, size.depth)
            sites = [Site(dim, size.heads, size.side, next(layers)) for _ in range(num_blocks)]
            blocks = [Block(mixer(site), dim, norm) for site in sites]
            mlps = [Mlp(dim, norm) for _ in range(num_mlps)]
            # Colours are read where there is no self-attention, and at the end.
            to_rgb = ToRgb(dim, norm) if last or not size.block else None
            upsample = None if last else Upsample(dim, sizes[stage + 1].dim)
            self.stages.append(Stage(size, Block(cross, dim, norm), blocks, mlps, to_rgb, upsample))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """`x [B, H, W, C]` of the first stage's size, `context [B, L, E]` -> `[B, 3, H', W']`, not clamped."""
        image = None
        for stage in self.stages:
            x = stage(x, context)
            if stage.to_rgb is not None:
                image = stage.to_rgb(x, image)
            if stage.upsample is not None:
                x = stage.upsample(x)
        return image
