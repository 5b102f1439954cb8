"""HiT as the decoder of another model's latent maps (the paper's VQ model).

The paper says that its upper part, which needs no blocks of attention over the whole map, decodes a VQ model's codes.
There is no official code of it; the widths, and what the cross-attention reads, are ours.
"""

from __future__ import annotations

from torch import Tensor, nn

from zoo_core.errors import UserError
from zoo_core.interfaces import Decoder as Base
from zoo_core.interfaces import Latent
from zoo_hit.decoder import Decoder
from zoo_hit.layers import linear
from zoo_hit.norm import Norm
from zoo_hit.sizes import FIRST, published, stage_sizes

Z_CHANNELS = 256
"""Of a latent map whose decoder has the published widths."""
WIDTH_UNIT = 32
"""Default widths are multiples of this, which every published number of heads divides."""


class LatentDecoder(Base):
    """A 1x1 projection of the latent map, then HiT's stages from its side to the image's.

    The cross-attention, which in the generator reads tokens of z, reads the map's own pixels here, in every stage.
    channels, heads, blocks, depths: by side of a stage's map, as the generator's options, in place of the published
    ones. Widths that are not given are the published ones times `latent.z_channels` / 256, in steps of 32.
    norm: "layer", which looks at one pixel at a time, so that an image does not depend on its batch; or "batch" as in
    the published generators. multi_query: one head of keys and values for all heads of queries, or one for each.
    Raises UserError for what HiT cannot draw: other than 3 channels, and sides that are no powers of two from 8 on.
    """

    def __init__(
        self,
        latent: Latent,
        *,
        channels: dict[int, int] | None = None,
        heads: dict[int, int] | None = None,
        blocks: dict[int, int] | None = None,
        depths: dict[int, int] | None = None,
        norm: Norm = "layer",
        multi_query: bool = True,
    ) -> None:
        super().__init__()
        if latent.out_channels != 3:
            raise UserError(f"HiT's decoder draws images of 3 channels, not of {latent.out_channels}; take another.")
        if latent.side < FIRST or latent.side & (latent.side - 1):
            raise UserError(
                f"HiT's decoder begins at a map of {FIRST}, 16, 32, .. pixels, not of {latent.side}; "
                "halve the image less often, or take another decoder."
            )
        sides = [latent.side << stage for stage in range((latent.resolution // latent.side).bit_length())]
        widths = {side: _width(side, latent) for side in sides} | (channels or {})
        sizes = stage_sizes(latent.resolution, widths, heads, blocks, depths, first=latent.side)
        self.side = latent.side
        self.project = linear(latent.z_channels, sizes[0].dim)
        self.decoder = Decoder(sizes, context_dim=sizes[0].dim, norm=norm, multi_query=multi_query)

    @property
    def last_weight(self) -> nn.Parameter:
        """The weight of the last layer that makes colours; those of earlier stages come before it."""
        return self.decoder.stages[-1].to_rgb.project.weight

    def forward(self, z: Tensor) -> Tensor:
        """`[B, z_channels, side, side]` -> `[B, 3, resolution, resolution]`.

        Raises UserError for a map of other sides: each stage has learnt its positions.
        """
        if z.shape[2:] != (self.side, self.side):
            raise UserError(
                f"HiT's decoder draws from maps of {self.side}x{self.side} only, not of {z.shape[3]}x{z.shape[2]}: "
                "other image sizes need a decoder without learnt positions."
            )
        x = self.project(z.permute(0, 2, 3, 1))  # [B, side, side, C]
        return self.decoder(x, x.flatten(1, 2))


def _width(side: int, latent: Latent) -> int:
    share = published(side, latent.resolution).dim * latent.z_channels / Z_CHANNELS
    return WIDTH_UNIT * max(1, round(share / WIDTH_UNIT))
