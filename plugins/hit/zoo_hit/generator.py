"""The generator: z becomes a small map and sixteen tokens; the decoder makes the image."""

from __future__ import annotations

from torch import Tensor, nn

from zoo_core.errors import UserError
from zoo_core.interfaces import AttentionFactory, LatentGenerator
from zoo_hit.decoder import Decoder
from zoo_hit.layers import embedding, linear
from zoo_hit.norm import Norm, make_norm
from zoo_hit.sizes import FIRST, stage_sizes

NUM_TOKENS = 16


class Tokens(nn.Module):
    """`z [B, latent_dim]` -> latent tokens `[B, 16, C]`, which every stage's cross-attention reads."""

    def __init__(self, latent_dim: int, dim: int, norm: Norm) -> None:
        super().__init__()
        self.project = linear(latent_dim, NUM_TOKENS * dim)
        self.position = embedding(1, 1, NUM_TOKENS, dim)
        self.norm = make_norm(norm, dim)

    def forward(self, z: Tensor) -> Tensor:
        tokens = self.project(z).unflatten(1, self.position.shape[1:])  # [B, 1, 16, C]
        return self.norm(tokens + self.position).flatten(1, 2)


class Generator(LatentGenerator):
    """HiT's generator: stem and tokens, then the decoder.

    resolution: side of the image, a power of two from 8. num_classes: must be 0. latent_dim: size of z, 256 in the
    ImageNet model and 512 in the others. channels, heads, blocks, depths: by side of a stage's map, as in
    `{8: 512, 16: 512}`, in place of the published ones, see `stage_sizes`; `blocks` gives the sides of the blocks of
    self-attention, 0 for a stage of MLPs, `depths` how many of either follow the cross-attention. norm: "batch" as
    published, or "layer". multi_query: one head of keys and values for all heads of queries, as published, or one for
    each. attention: `Site -> Attention` in place of the self-attention; the cross-attention stays the paper's.
    Raises UserError for sizes that do not fit.
    """

    def __init__(
        self,
        *,
        resolution: int,
        num_classes: int = 0,
        attention: AttentionFactory | None = None,
        latent_dim: int = 512,
        channels: dict[int, int] | None = None,
        heads: dict[int, int] | None = None,
        blocks: dict[int, int] | None = None,
        depths: dict[int, int] | None = None,
        norm: Norm = "batch",
        multi_query: bool = True,
    ) -> None:
        super().__init__()
        if num_classes:
            raise UserError("HiT's generator is unconditional and takes no labels; set data.labels=false.")
        if latent_dim < 1:
            raise UserError(f"latent_dim must be above 0, not {latent_dim}.")
        sizes = stage_sizes(resolution, channels, heads, blocks, depths)
        self.resolution = resolution
        self.latent_dim = latent_dim
        self.channels = {size.side: size.dim for size in sizes}
        """By side of a stage's map, as the option."""
        self.dim = sizes[0].dim
        self.stem = linear(latent_dim, FIRST * FIRST * self.dim)
        self.tokens = Tokens(latent_dim, self.dim, norm)
        self.decoder = Decoder(sizes, context_dim=self.dim, norm=norm, multi_query=multi_query, attention=attention)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """`z [B, latent_dim]` -> image `[B, 3, H, W]` in the recipe's pixel space, not clamped.

        Raises UserError when a label is given.
        """
        if label is not None:
            raise UserError("this generator is unconditional; it takes no label.")
        x = self.stem(z).view(-1, FIRST, FIRST, self.dim)
        return self.decoder(x, self.tokens(z))
