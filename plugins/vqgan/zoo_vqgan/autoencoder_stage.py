"""How the autoencoder trains: against a discriminator, with an adaptive weight (paper, section 3.1)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from zoo_core.adversarial import split_loss
from zoo_core.errors import UserError
from zoo_core.formulation import is_plain
from zoo_core.interfaces import Discriminator
from zoo_core.lpips import LPIPS, load_lpips
from zoo_core.parts import Parts
from zoo_core.program import Batch, Clock, Phase, Stage, adam
from zoo_core.recipe import Recipe
from zoo_vqgan.code_health import CodeHealth
from zoo_vqgan.generator import Generator
from zoo_vqgan.prior_sampling import evaluating
from zoo_vqgan.stage1_loss import Distance, Weights, autoencoder_loss, discriminator_loss
from zoo_vqgan.training import averages, optimizer

WITHOUT = "Such a path is loss.vgg or loss.linear; `perceptual: none` trains without the perceptual loss."


@dataclass(frozen=True)
class Terms:
    """What the loss section says beside the adversarial loss's own options. Defaults are the official ones."""

    perceptual: Literal["lpips", "none"] = "lpips"
    perceptual_weight: float = 1.0
    perceptual_dropout: bool = True
    """LPIPS: half of the squared differences are dropped at random, the others doubled. Official training does so,
    as its LPIPS is switched to training mode together with all other modules; the paper does not speak of it."""
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

    def __post_init__(self) -> None:
        for name in (
            *("perceptual_weight", "quantizer_weight", "adversarial_weight"),
            *("adversarial_start_images", "delta", "limit"),
        ):
            if getattr(self, name) < 0:
                raise UserError(f"loss.{name} cannot be negative; it is {getattr(self, name)}.")

    def weights(self) -> Weights:
        """As the loss takes them."""
        return Weights(self.perceptual_weight, self.quantizer_weight, self.adversarial_weight, self.delta, self.limit)


def autoencoder_stage(recipe: Recipe, parts: Parts) -> Stage:
    """The first stage; `recipe` is as this stage sees it. Raises UserError without a discriminator or loss."""
    if parts.discriminator is None or parts.loss is None:
        raise UserError("vqgan's first stage is adversarial: the recipe needs discriminator and loss sections.")
    game = _Game(recipe, parts)
    networks = {"autoencoder": game.autoencoder, "discriminator": game.discriminator}
    optimizers = {name: adam(network, optimizer(recipe, name)) for name, network in networks.items()}
    clip = {name: optimizer(recipe, name).clip_norm for name in networks}
    return Stage(
        networks=networks | {"code_usage": game.health.tally},
        optimizers=optimizers,
        phases=(
            Phase("autoencoder", ("autoencoder",), game.autoencoder_loss, clip_norm=clip["autoencoder"]),
            Phase("discriminator", ("discriminator",), game.discriminator_loss, clip_norm=clip["discriminator"]),
        ),
        averages=averages(recipe, networks),
        name="autoencoder",
        picture=side_by_side,
        sheets={"usage": game.health.sheet},
        conclude=game.health.conclude,
        begin=lambda images: game.load(),
        pretrained=("VGG16 of ImageNet (LPIPS)",) if game.terms.perceptual == "lpips" else (),
    )


@torch.no_grad()
def side_by_side(shown: Generator, real: Tensor) -> Tensor:
    """Each image beside its reconstruction: `[N, 3, H, W]` -> `[2 N, 3, H, W]` in [-1, 1]."""
    with evaluating(shown.autoencoder):
        drawn, _ = shown.autoencoder(real)
    return shown.finish(torch.stack([real, drawn], 1).flatten(0, 1))


class _Game:
    """The autoencoder against the discriminator."""

    def __init__(self, recipe: Recipe, parts: Parts) -> None:
        self.autoencoder = parts.generator.autoencoder
        self.discriminator: Discriminator = parts.discriminator
        self.health = CodeHealth(self.autoencoder.quantize, parts.generator.quantizer, recipe.train.seed)
        self.terms, self.loss = split_loss(parts, Terms)
        self.lpips: LPIPS | None = None
        self._drawn: deque[Tensor] = deque()
        """Reconstructions of this step's micro-batches that the discriminator has not seen yet."""

    def load(self) -> None:
        """Load LPIPS, if the recipe wants it. Raises UserError where its weights cannot be had."""
        if self.terms.perceptual == "lpips" and self.lpips is None:
            self.lpips = load_lpips(
                vgg=self.terms.vgg, linear=self.terms.linear, vgg_sha256=self.terms.vgg_sha256, without=WITHOUT
            )

    def autoencoder_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Reconstruction, codes, and the adversarial term with its adaptive weight."""
        z = self.autoencoder.latent(batch.image)
        quantized = self.health.quantize(z, batch.rng.fork("quantizer"), clock)
        reconstruction = self.autoencoder.decode(quantized.z_q)
        if not self.terms.second_pass:
            self._drawn.append(reconstruction.detach())
        found = autoencoder_loss(
            batch.image,
            reconstruction,
            quantized.loss,
            last_weight=self.autoencoder.last_weight,
            judge=lambda image: self._judge_fake(image, batch),
            loss=self.loss,
            distance=self._distance(batch.image.device),
            weights=self.terms.weights(),
            factor=self._factor(clock),
        )
        for name, value in found.terms.items():
            clock.record(name, value)
        return {"autoencoder": found.total}

    def discriminator_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The adversarial loss on the images and their reconstructions."""
        if self.terms.second_pass:
            # The official code builds a graph that it does not use; there a moving table would move again, too.
            with torch.set_grad_enabled(is_plain()), self.autoencoder.quantize.held():
                fake, _ = self.autoencoder(batch.image, batch.rng.fork("quantizer"))
            fake = fake.detach()
        else:
            fake = self._drawn.popleft()
        real_logits = self.discriminator(batch.image, self._label(batch))
        fake_logits = self._judge_fake(fake, batch)
        total = discriminator_loss(real_logits, fake_logits, loss=self.loss, factor=self._factor(clock))
        clock.record("discriminator", total)
        clock.record("logits_real", real_logits)
        clock.record("logits_fake", fake_logits)
        return {"discriminator": total}

    def _distance(self, device: torch.device) -> Distance | None:
        """LPIPS for one pass."""
        self.load()  # for those who run a phase by itself
        if self.lpips is None:
            return None
        self.lpips.to(device)
        if not self.terms.perceptual_dropout:
            return self.lpips
        seed = int(torch.randint(2**62, ()))  # of torch's own state, which the trainer sets before each micro-batch
        return partial(self.lpips, generator=torch.Generator(device).manual_seed(seed))

    def _factor(self, clock: Clock) -> float:
        return 1.0 if clock.images >= self.terms.adversarial_start_images else 0.0

    def _judge_fake(self, image: Tensor, batch: Batch) -> Tensor:
        with self.discriminator.on_fakes():
            return self.discriminator(image, self._label(batch))

    def _label(self, batch: Batch) -> Tensor | None:
        return batch.label if self.discriminator.num_classes else None
