"""How the autoencoder trains: against a discriminator, with an adaptive weight (spec 3; paper, section 3.1)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo_core.adversarial import split_loss
from zoo_core.errors import UserError
from zoo_core.interfaces import Discriminator
from zoo_core.parts import Parts
from zoo_core.program import Batch, Clock, Phase, Stage, adam
from zoo_core.recipe import Recipe
from zoo_vqgan.lpips import load_lpips
from zoo_vqgan.prior_sampling import evaluating
from zoo_vqgan.quantizers.usage import Usage
from zoo_vqgan.stage1_loss import Weights, autoencoder_loss, discriminator_loss
from zoo_vqgan.training import averages, optimizer


@dataclass(frozen=True)
class Terms:
    """What the loss section says beside the adversarial loss's own options. Defaults are the official ones."""

    perceptual: Literal["lpips", "none"] = "lpips"
    perceptual_weight: float = 1.0
    vgg: str = "timm"
    """LPIPS: VGG16's weights, from timm or a file."""
    vgg_sha256: str = ""
    linear: str = "lpips"
    """LPIPS: the linear layers, from the package lpips or a file."""
    quantizer_weight: float = 1.0
    adversarial_weight: float = 1.0
    """Official `disc_weight`: multiplies the adaptive weight."""
    adversarial_start_images: int = 0
    """Official `disc_start`, in images: before it the adversarial terms count for nothing."""
    delta: float = 1e-4
    """In the adaptive weight's denominator; the paper's is 1e-6."""
    limit: float = 1e4
    """Largest adaptive weight; 0, as in the paper, is none."""
    second_pass: bool = True
    """Official: the discriminator sees what the autoencoder draws after its step; false: what it drew before."""

    def weights(self) -> Weights:
        """As the loss takes them."""
        return Weights(self.perceptual_weight, self.quantizer_weight, self.adversarial_weight, self.delta, self.limit)


def autoencoder_stage(recipe: Recipe, parts: Parts) -> Stage:
    """The first stage; `recipe` is as this stage sees it. Raises UserError without a discriminator or loss."""
    if parts.discriminator is None or parts.loss is None:
        raise UserError("vqgan's first stage is adversarial: the recipe needs discriminator and loss sections.")
    game = _Game(parts)
    networks = {"autoencoder": game.autoencoder, "discriminator": game.discriminator}
    optimizers = {name: adam(network, optimizer(recipe, name)) for name, network in networks.items()}
    clip = {name: optimizer(recipe, name).clip_norm for name in networks}
    return Stage(
        networks=networks,
        optimizers=optimizers,
        phases=(
            Phase("autoencoder", ("autoencoder",), game.autoencoder_loss, clip_norm=clip["autoencoder"]),
            Phase("discriminator", ("discriminator",), game.discriminator_loss, clip_norm=clip["discriminator"]),
        ),
        averages=averages(recipe, networks),
        name="autoencoder",
        picture=game.picture,
    )


class _Game:
    """The autoencoder against the discriminator."""

    def __init__(self, parts: Parts) -> None:
        self.autoencoder = parts.generator.autoencoder
        self.discriminator: Discriminator = parts.discriminator
        self.pixels = parts.generator
        self.terms, self.loss = split_loss(parts, Terms)
        on_meta = next(self.autoencoder.parameters()).is_meta  # the recipe is only looked at
        self.distance = None
        if self.terms.perceptual == "lpips" and not on_meta:
            self.distance = load_lpips(vgg=self.terms.vgg, linear=self.terms.linear, vgg_sha256=self.terms.vgg_sha256)
        self._drawn: deque[Tensor] = deque()
        """Reconstructions of this step's micro-batches that the discriminator has not seen yet."""

    def autoencoder_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Reconstruction, codes, and the adversarial term with its adaptive weight."""
        reconstruction, quantized = self.autoencoder(batch.image, batch.rng.fork("quantizer"))
        if not self.terms.second_pass:
            self._drawn.append(reconstruction.detach())
        if self.distance is not None:
            self.distance.to(batch.image.device)
        found = autoencoder_loss(
            batch.image,
            reconstruction,
            quantized.loss,
            last_weight=self.autoencoder.last_weight,
            judge=lambda image: self.discriminator(image, self._label(batch)),
            loss=self.loss,
            distance=self.distance,
            weights=self.terms.weights(),
            factor=self._factor(clock),
        )
        for name, value in found.terms.items():
            clock.record(name, value)
        usage = Usage.of(quantized.codes, self.autoencoder.quantize.vocabulary)
        clock.record("codes_in_use", found.total.new_tensor(usage.share))
        clock.record("perplexity", found.total.new_tensor(usage.perplexity))
        return {"autoencoder": found.total}

    def discriminator_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The adversarial loss on the images and their reconstructions."""
        if self.terms.second_pass:
            with torch.no_grad():
                fake, _ = self.autoencoder(batch.image, batch.rng.fork("quantizer"))
        else:
            fake = self._drawn.popleft()
        real_logits = self.discriminator(batch.image, self._label(batch))
        with self.discriminator.on_fakes():
            fake_logits = self.discriminator(fake, self._label(batch))
        total = discriminator_loss(real_logits, fake_logits, loss=self.loss, factor=self._factor(clock))
        clock.record("discriminator", total)
        clock.record("logits_real", real_logits)
        clock.record("logits_fake", fake_logits)
        return {"discriminator": total}

    @torch.no_grad()
    def picture(self, real: Tensor) -> Tensor:
        """Each image beside its reconstruction: `[N, 3, H, W]` -> `[2 N, 3, H, W]` in [-1, 1]."""
        with evaluating(self.autoencoder):
            drawn, _ = self.autoencoder(real)
        return self.pixels.finish(torch.stack([real, drawn], 1).flatten(0, 1))

    def _factor(self, clock: Clock) -> float:
        return 1.0 if clock.images >= self.terms.adversarial_start_images else 0.0

    def _label(self, batch: Batch) -> Tensor | None:
        return batch.label if self.discriminator.num_classes else None
