"""The paper's convolutional decoder (Esser et al., appendix A, Table 7)."""

from __future__ import annotations

from torch import Tensor, nn

from zoo_core.errors import UserError
from zoo_core.interfaces import AttentionFactory, Decoder, Latent
from zoo_vqgan.blocks import Level, Middle, Sites, Up, group_norm, swish
from zoo_vqgan.encoder import level_sides


class ConvolutionalDecoder(Decoder):
    """The paper's decoder: the encoder's mirror image with one more residual block in each level.

    Options as the encoder's. Any latent map will do; `resolution` only places the attention. Raises UserError for
    widths that 32 does not divide, and levels that do not lead from `latent.side` to `latent.resolution`.
    """

    def __init__(
        self,
        latent: Latent,
        *,
        channels: int = 128,
        multipliers: tuple[int, ...] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        attention_resolutions: tuple[int, ...] = (16,),
        attention: AttentionFactory | None = None,
        attention_heads: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sides = level_sides(latent.resolution, multipliers, blocks)
        if sides[-1] != latent.side:
            raise UserError(
                f"the decoder's {len(multipliers)} levels lead from {sides[-1]} to {latent.resolution}, "
                f"but the latent map is {latent.side} wide."
            )
        sites = Sites(attention, attention_heads)
        lowest = channels * multipliers[-1]
        self.conv_in = nn.Conv2d(latent.z_channels, lowest, 3, padding=1)
        self.mid = Middle(lowest, latent.side, sites, dropout)
        before, levels = lowest, []
        for side, multiplier in zip(reversed(sides), reversed(multipliers), strict=True):
            width = channels * multiplier
            resample = Up(width) if side != latent.resolution else None
            attend = sites if side in attention_resolutions else None
            levels.append(Level([before] + [width] * (blocks + 1), side, attend, dropout, resample))
            before = width
        self.up = nn.ModuleList(reversed(levels))  # stored from the image down, run from the latent map up
        self.norm_out = group_norm(before)
        self.conv_out = nn.Conv2d(before, latent.out_channels, 3, padding=1)

    @property
    def last_weight(self) -> nn.Parameter:
        """The weight of the last convolution."""
        return self.conv_out.weight

    def forward(self, z: Tensor) -> Tensor:
        """`[B, z_channels, h, w]` -> `[B, out_channels, f h, f w]`."""
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(swish(self.norm_out(x)))
