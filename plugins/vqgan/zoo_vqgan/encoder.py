"""The convolutional encoder (Esser et al., appendix A, Table 7)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from zoo_core.errors import UserError
from zoo_core.interfaces import AttentionFactory
from zoo_vqgan.blocks import Down, Level, Middle, Sites, group_norm, swish


class Encoder(nn.Module):
    """Images `[B, in_channels, H, W]` -> maps `[B, z_channels, H / f, W / f]`, f = 2^(levels - 1).

    `channels` times `multipliers[i]` is the width of level i. `blocks` residual blocks stand in a level, each followed
    by attention where the level's nominal side, `resolution / 2^i`, is in `attention_resolutions`; the middle always
    attends. `resolution` says no more than that: any image whose sides f divides will do. `attention` None is the
    paper's own single-head attention, `attention_heads` is for others (0: about one per 32 channels). `dropout`, 0 in
    all published models, is torch's own and follows its global seed. Raises UserError for widths that 32 does not
    divide, and for a `resolution` that f does not.
    """

    def __init__(
        self,
        *,
        resolution: int,
        in_channels: int = 3,
        z_channels: int = 256,
        channels: int = 128,
        multipliers: tuple[int, ...] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        attention_resolutions: tuple[int, ...] = (16,),
        attention: AttentionFactory | None = None,
        attention_heads: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sides = level_sides(resolution, multipliers, blocks)
        widths = [channels * multiplier for multiplier in multipliers]
        sites = Sites(attention, attention_heads)
        self.z_channels, self.in_channels, self.factor = z_channels, in_channels, 2 ** (len(widths) - 1)
        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.down = nn.ModuleList()
        before = channels
        for side, width in zip(sides, widths, strict=True):
            resample = Down(width) if side != sides[-1] else None
            attend = sites if side in attention_resolutions else None
            self.down.append(Level([before] + [width] * blocks, side, attend, dropout, resample))
            before = width
        self.mid = Middle(before, sides[-1], sites, dropout)
        self.norm_out = group_norm(before)
        self.conv_out = nn.Conv2d(before, z_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Encode. Raises UserError for an image of other channels, or of sides that f does not divide."""
        if image.shape[1] != self.in_channels:
            raise UserError(f"the encoder takes images of {self.in_channels} channels, not of {image.shape[1]}.")
        height, width = image.shape[2:]
        if height % self.factor or width % self.factor:
            raise UserError(f"the sides of an image must be multiples of {self.factor}; {width}x{height} is not.")
        x = self.conv_in(image)
        for level in self.down:
            x = level(x)
        return self.conv_out(swish(self.norm_out(self.mid(x))))


def level_sides(resolution: int, multipliers: Sequence[int], blocks: int) -> list[int]:
    """The nominal side of each level, from the image's down. Raises UserError when one is no whole number."""
    if not multipliers or min(multipliers) < 1 or blocks < 1:
        raise UserError("multipliers and blocks must be whole numbers of at least 1, and multipliers not empty.")
    factor = 2 ** (len(multipliers) - 1)
    if resolution < factor or resolution % factor:
        raise UserError(
            f"{len(multipliers)} levels need a resolution that is a multiple of {factor}; {resolution} is not."
        )
    return [resolution // 2**level for level in range(len(multipliers))]
