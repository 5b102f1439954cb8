"""The generator: a mapping network, and levels of styled transformer blocks that double in size (sections 3.1, 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo_core.errors import UserError
from zoo_core.interfaces import PIXELS, AttentionFactory, LatentGenerator, Site
from zoo_core.rng import Rng
from zoo_styleswin.attention import WindowAttention
from zoo_styleswin.blocks import Block, Mapping, ToRgb, Upsample
from zoo_styleswin.channels import channel_table, check_positive, check_resolution, check_unconditional, num_heads


class Level(nn.Module):
    """The blocks at one resolution, then the doubling (none at the last): `[B, H, W, C]` -> `[B, 2H, 2W, C']`."""

    def __init__(self, blocks: list[Block], upsample: Upsample | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.upsample = upsample

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, w)
        return x if self.upsample is None else self.upsample(x)


class Generator(LatentGenerator):
    """StyleSwin's generator; with another `attention` it is also the skeleton of papers that build on it.

    resolution: side of the image, a power of two from 8. num_classes: must be 0. attention: `Site -> Attention`, by
    default the paper's double window attention. style_dim: size of z and w. mapping_layers, mapping_lr: depth and
    learning-rate multiplier of the mapping network. channel_multiplier, max_channels, channels: width, see
    `channel_table`. min_heads: see `num_heads`. mlp_ratio: hidden over outer width of the MLPs. blocks_per_level:
    transformer blocks at each resolution.
    Draws in ImageNet-normalised pixels unless the recipe says otherwise. Raises UserError for sizes that do not fit.
    """

    pixels = PIXELS["imagenet"]
    default_attention: AttentionFactory = staticmethod(WindowAttention)
    """The attention when none is given; a paper that builds on this one overrides it."""

    def __init__(
        self,
        *,
        resolution: int,
        num_classes: int = 0,
        attention: AttentionFactory | None = None,
        style_dim: int = 512,
        mapping_layers: int = 8,
        mapping_lr: float = 0.01,
        channel_multiplier: float = 2,
        max_channels: int = 512,
        channels: dict[int, int] | None = None,
        min_heads: int = 4,
        mlp_ratio: float = 4,
        blocks_per_level: int = 2,
    ) -> None:
        super().__init__()
        check_unconditional(num_classes)
        check_resolution(resolution, least=8)
        check_positive(
            style_dim=style_dim,
            mapping_lr=mapping_lr,
            channel_multiplier=channel_multiplier,
            max_channels=max_channels,
            min_heads=min_heads,
            mlp_ratio=mlp_ratio,
            blocks_per_level=blocks_per_level,
        )
        self.resolution = resolution
        self.latent_dim = style_dim
        attention = attention or self.default_attention
        self.channels = width = channel_table(resolution, channel_multiplier, max_channels, channels)
        """By side of a level's map, as the option."""
        self.mapping = Mapping(style_dim, mapping_layers, mapping_lr)
        self.constant = nn.Parameter(torch.randn(1, width[4], 4, 4))
        self.levels = nn.ModuleList()
        self.to_rgb = nn.ModuleList()
        for level, (side, dim) in enumerate(width.items()):
            site = [
                Site(dim, num_heads(dim, min_heads), side, level * blocks_per_level + block)
                for block in range(blocks_per_level)
            ]
            blocks = [Block(attention(each), dim, style_dim, mlp_ratio) for each in site]
            last = side == resolution
            upsample = None if last else Upsample(dim, width[2 * side], side)
            self.levels.append(Level(blocks, upsample))
            # Colours are read after the doubling; so the last two levels both draw at the full resolution.
            self.to_rgb.append(ToRgb(dim if last else width[2 * side], doubles=not last))
        self._mean: tuple[int, Tensor, Tensor] | None = None

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """`z [B, style_dim]` -> image `[B, 3, H, W]` in the recipe's pixel space, not clamped."""
        if label is not None:
            raise UserError("this generator is unconditional; it takes no label.")
        return self.draw(self.style(z))

    def style(self, z: Tensor) -> Tensor:
        """z -> w, both `[B, style_dim]`; one w styles every block."""
        return self.mapping(z)

    def truncate(self, w: Tensor, truncation: float, mean: Tensor) -> Tensor:
        """Draw `w [B, style_dim]` towards `mean [1, style_dim]`; 1 is off (Karras et al., arXiv 1812.04948, B)."""
        return mean + truncation * (w - mean)

    def draw(self, w: Tensor) -> Tensor:
        """`w [B, style_dim]` -> image `[B, 3, H, W]`, not clamped."""
        x = self.constant.permute(0, 2, 3, 1).expand(len(w), -1, -1, -1)
        image = None
        for level, to_rgb in zip(self.levels, self.to_rgb, strict=True):
            x = level(x, w)
            image = to_rgb(x, image)
        return image

    @torch.no_grad()
    def sample(
        self, num: int, label: Tensor | None = None, rng: Rng | None = None, *, truncation: float = 1.0
    ) -> Tensor:
        """Draw `num` images `[num, 3, H, W]` in [-1, 1].

        `truncation` in [0, 1] draws w towards its mean: 1 is off, 0 always gives the mean image. Raises UserError
        outside that range.
        """
        if not 0 <= truncation <= 1:
            raise UserError(f"truncation is {truncation}; give a number from 0 (the mean image) to 1 (off).")
        _, rng = self.complete(num, label, rng)
        w = self.style(self.latent(rng))
        if truncation < 1:
            w = self.truncate(w, truncation, self.mean_style())
        return self.finish(self.draw(w))

    @torch.no_grad()
    def mean_style(self, num: int = 4096) -> Tensor:
        """The mean w of `num` fixed z, `[1, style_dim]`; remembered until the mapping network's weights change."""
        weights = torch.cat([parameter.flatten() for parameter in self.mapping.parameters()])
        if self._mean is None or self._mean[0] != num or not torch.equal(self._mean[1], weights):
            rng = Rng.of("mean style", rows=range(num), device=weights.device)
            self._mean = num, weights, self.style(self.latent(rng)).mean(0, keepdim=True)
        return self._mean[2]
