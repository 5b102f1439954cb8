"""VQGAN as one generator: the transformer draws codes, the autoencoder's decoder draws the image (Esser et al.)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoo_core.errors import UserError
from zoo_core.interfaces import AttentionFactory, DecoderFactory, Latent
from zoo_core.interfaces import Generator as Base
from zoo_core.rng import Rng
from zoo_vqgan.autoencoder import AutoEncoder
from zoo_vqgan.conditions import Condition, Label, Unconditional
from zoo_vqgan.decoder import ConvolutionalDecoder
from zoo_vqgan.encoder import Encoder
from zoo_vqgan.filtering import Filter, chooser
from zoo_vqgan.gpt import GPT
from zoo_vqgan.options import PriorOptions, QuantizerOptions
from zoo_vqgan.permuters import Permuter
from zoo_vqgan.prior import Prior
from zoo_vqgan.prior_sampling import sample_codes
from zoo_vqgan.quantizers import Quantizer
from zoo_vqgan.quantizers.ema import MovingAverageQuantizer
from zoo_vqgan.quantizers.gumbel import GumbelQuantizer
from zoo_vqgan.quantizers.nearest import NearestQuantizer


class Generator(Base):
    """A codes' prior, unconditional or of a class, and the autoencoder that the codes are of.

    Two networks that two stages train: `autoencoder`, then `prior`. Options: `channels`, `multipliers`, `blocks`,
    `attention_resolutions`, `z_channels`, `dropout` of encoder and decoder (their widths are multiples of 32);
    `attention` and `decoder`, None for the paper's own; `attention_heads`; `quantizer` and `prior`, see
    `zoo_vqgan.options`. The defaults are the published f16 model. Raises UserError for an option out of range.
    """

    def __init__(
        self,
        *,
        resolution: int = 256,
        num_classes: int = 0,
        attention: AttentionFactory | None = None,
        attention_heads: int = 1,
        decoder: DecoderFactory | None = None,
        channels: int = 128,
        multipliers: tuple[int, ...] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        attention_resolutions: tuple[int, ...] = (16,),
        z_channels: int = 256,
        dropout: float = 0.0,
        quantizer: QuantizerOptions = QuantizerOptions(),  # noqa: B008 - frozen
        prior: PriorOptions = PriorOptions(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.resolution, self.num_classes = resolution, num_classes
        self.side = resolution >> (len(multipliers) - 1)
        """Of the map of codes."""
        if self.side < 1:
            raise UserError(f"{len(multipliers)} levels halve {resolution} px to nothing; give fewer multipliers.")
        shape = {
            "channels": channels,
            "multipliers": multipliers,
            "blocks": blocks,
            "attention_resolutions": attention_resolutions,
            "attention": attention,
            "attention_heads": attention_heads,
            "dropout": dropout,
        }
        latent = Latent(z_channels, self.side, resolution)
        self.autoencoder = AutoEncoder(
            encoder=Encoder(resolution=resolution, z_channels=z_channels, **shape),
            quantizer=_quantizer(quantizer, z_channels),
            decoder=decoder(latent) if decoder else ConvolutionalDecoder(latent, **shape),
            z_channels=z_channels,
            embed_dim=quantizer.embed_dim,
        )
        self.filtering = Filter(prior.temperature, prior.top_k, prior.top_p)
        self.condition: Condition = Label(num_classes) if num_classes else Unconditional(prior.start_token)
        self.condition.check_vocabulary(quantizer.num_codes)
        gpt = GPT(
            vocabulary=quantizer.num_codes,
            block_size=self.side**2,
            layers=prior.layers,
            heads=prior.heads,
            dim=prior.dim,
            embedding_dropout=prior.dropout,
            residual_dropout=prior.dropout,
            attention_dropout=prior.dropout,
        )
        self.prior = Prior(gpt, Permuter(prior.order, self.side, self.side), condition_length=1, kept=prior.kept)

    def networks(self) -> Mapping[str, nn.Module]:
        """The two networks, each of a stage."""
        return {"autoencoder": self.autoencoder, "prior": self.prior}

    def tokens(self, label: Tensor | None, num: int) -> Tensor:
        """The condition's tokens `[num, 1]`, on the prior's device."""
        return self.condition(label, num).to(self.prior.gpt.pos_emb.device)

    @torch.no_grad()
    def sample(
        self,
        num: int,
        label: Tensor | None = None,
        rng: Rng | None = None,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Tensor:
        """Draw codes one after the other, then decode them: `[num, 3, H, W]` in [-1, 1].

        A knob left out is the recipe's.
        """
        label, rng = self.complete(num, label, rng)
        own = self.filtering
        filtering = Filter(
            own.temperature if temperature is None else temperature,
            own.top_k if top_k is None else top_k,
            own.top_p if top_p is None else top_p,
        )
        codes = sample_codes(
            self.prior.gpt, self.tokens(label, num), self.side**2, chooser(rng.fork("codes")), filtering
        )
        codes = self.prior.permuter.inverse(codes).unflatten(1, (self.side, self.side))
        return self.finish(self.autoencoder.decode_codes(codes))


def _quantizer(options: QuantizerOptions, z_channels: int) -> Quantizer:
    size = {"num_codes": options.num_codes, "dim": options.embed_dim}
    if options.kind == "ema":
        return MovingAverageQuantizer(**size, beta=options.beta, decay=options.decay)
    if options.kind == "gumbel":
        return GumbelQuantizer(
            **size, inputs=options.embed_dim, kl_weight=options.kl_weight, temperature=options.temperature
        )
    return NearestQuantizer(**size, beta=options.beta, legacy=options.legacy)
