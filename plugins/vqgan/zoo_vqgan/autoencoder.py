"""The first stage's network: encoder, quantizer, decoder (Esser et al., section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo_core.interfaces import Decoder
from zoo_core.rng import Rng
from zoo_vqgan.encoder import Encoder
from zoo_vqgan.quantizers import Quantized, Quantizer


class AutoEncoder(nn.Module):
    """Images <-> maps of codes. Any encoder, quantizer and decoder; two 1x1 convolutions join their widths.

    `z_channels` are those of encoder and decoder, `embed_dim` those of the quantizer.
    """

    def __init__(
        self, *, encoder: Encoder, quantizer: Quantizer, decoder: Decoder, z_channels: int, embed_dim: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.quantize = quantizer
        self.quant_conv = nn.Conv2d(z_channels, embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)

    @property
    def last_weight(self) -> nn.Parameter:
        """The decoder's, for the adaptive weight."""
        return self.decoder.last_weight

    def forward(self, image: Tensor, rng: Rng | None = None) -> tuple[Tensor, Quantized]:
        """Reconstruct `image [B, 3, H, W]`; the answer is not clamped. `rng` is for quantizers that draw."""
        quantized = self.encode(image, rng)
        return self.decode(quantized.z_q), quantized

    def latent(self, image: Tensor) -> Tensor:
        """What the quantizer is given: `[B, embed_dim, h, w]`."""
        return self.quant_conv(self.encoder(image))

    def encode(self, image: Tensor, rng: Rng | None = None) -> Quantized:
        """`[B, 3, H, W]` -> vectors, codes and the quantizer's loss."""
        return self.quantize(self.latent(image), rng)

    def decode(self, z_q: Tensor) -> Tensor:
        """`[B, embed_dim, h, w]` -> `[B, 3, H, W]`, not clamped."""
        return self.decoder(self.post_quant_conv(z_q))

    def codes(self, image: Tensor, rng: Rng | None = None) -> Tensor:
        """`[B, 3, H, W]` -> `[B, h, w]` int64."""
        return self.encode(image, rng).codes

    def decode_codes(self, codes: Tensor) -> Tensor:
        """`[B, h, w]` int64 -> `[B, 3, H, W]`. Raises UserError for codes out of the vocabulary."""
        return self.decode(self.quantize.entry(codes))


class LabelColours(nn.Module):
    """The official model's colours of its labels, a part of its files. Pictures here have the core's colours."""

    colorize: Tensor

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.register_buffer("colorize", torch.randn(3, num_labels, 1, 1))
