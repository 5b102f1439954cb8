"""From a recipe's options to networks: autoencoders of one shape, and the transformer that fits a sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zoo_core.errors import UserError
from zoo_core.interfaces import AttentionFactory, DecoderFactory, Latent
from zoo_vqgan.decoder import ConvolutionalDecoder
from zoo_vqgan.encoder import Encoder
from zoo_vqgan.gpt import GPT
from zoo_vqgan.options import PriorOptions, QuantizerOptions
from zoo_vqgan.quantizers import Quantizer
from zoo_vqgan.quantizers.ema import MovingAverageQuantizer
from zoo_vqgan.quantizers.gumbel import GumbelQuantizer
from zoo_vqgan.quantizers.nearest import NearestQuantizer
from zoo_vqgan.quantizers.remap import Remap


@dataclass(frozen=True)
class Shape:
    """What the autoencoders of a generator have in common; see `Encoder`. Raises UserError for too many levels."""

    resolution: int
    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention_resolutions: tuple[int, ...]
    z_channels: int
    dropout: float
    attention: AttentionFactory | None
    attention_heads: int

    def __post_init__(self) -> None:
        if min(self.channels, self.z_channels) < 1:
            raise UserError("generator.channels and generator.z_channels must be at least 1.")
        if self.side < 1:
            levels = len(self.multipliers)
            raise UserError(f"{levels} levels halve {self.resolution} px to nothing; give fewer multipliers.")

    @property
    def factor(self) -> int:
        """Pixels on the side of a code's area (the paper's f)."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def side(self) -> int:
        """Of the map of codes."""
        return self.resolution // self.factor

    def parts(
        self, quantizer: QuantizerOptions, *, channels: int = 3, decoder: DecoderFactory | None = None
    ) -> dict[str, Any]:
        """What an `AutoEncoder` of pictures of so many channels is built from; `decoder` None is the paper's own."""
        shape = {
            "channels": self.channels,
            "multipliers": self.multipliers,
            "blocks": self.blocks,
            "attention_resolutions": self.attention_resolutions,
            "attention": self.attention,
            "attention_heads": self.attention_heads,
            "dropout": self.dropout,
        }
        latent = Latent(self.z_channels, self.side, self.resolution, channels)
        return {
            "encoder": Encoder(resolution=self.resolution, in_channels=channels, z_channels=self.z_channels, **shape),
            "quantizer": build_quantizer(quantizer),
            "decoder": decoder(latent) if decoder else ConvolutionalDecoder(latent, **shape),
            "z_channels": self.z_channels,
            "embed_dim": quantizer.embed_dim,
        }


def build_quantizer(options: QuantizerOptions) -> Quantizer:
    """The quantizer of these options. Raises UserError for a remap that cannot be read."""
    remap = Remap.load(options.remap, options.num_codes, options.unknown) if options.remap else None
    common = {"num_codes": options.num_codes, "dim": options.embed_dim, "remap": remap}
    if options.kind == "ema":
        return MovingAverageQuantizer(**common, beta=options.beta, decay=options.decay)
    if options.kind == "gumbel":
        return GumbelQuantizer(**common, kl_weight=options.kl_weight, schedule=options.temperature_at)
    return NearestQuantizer(**common, beta=options.beta, legacy=options.legacy)


def build_gpt(options: PriorOptions, *, vocabulary: int, num_codes: int, condition_length: int) -> GPT:
    """The transformer; its block, unless the options give it, is as long as in the published models."""
    return GPT(
        vocabulary=vocabulary,
        block_size=options.block_size or num_codes + (condition_length if condition_length > 1 else 0),
        layers=options.layers,
        heads=options.heads,
        dim=options.dim,
        embedding_dropout=options.dropout,
        residual_dropout=options.dropout,
        attention_dropout=options.dropout,
    )
