"""How VQGAN trains: the autoencoder against a discriminator, then the prior over its frozen codes (spec 3 and 4)."""

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
from zoo_core.program import Average, Batch, Clock, Phase, Stage, adam
from zoo_core.recipe import Optimizer, Recipe, for_stage
from zoo_vqgan.generator import Generator
from zoo_vqgan.gpt import parameter_groups
from zoo_vqgan.lpips import load_lpips
from zoo_vqgan.prior_sampling import evaluating
from zoo_vqgan.quantizers.usage import Usage
from zoo_vqgan.stage1_loss import Weights, autoencoder_loss, discriminator_loss

NETWORKS = {"autoencoder": ("autoencoder", "discriminator"), "prior": ("prior",)}
"""Stage -> its networks."""


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


def build(recipe: Recipe, parts: Parts) -> list[Stage]:
    """The two stages."""
    if not isinstance(parts.generator, Generator):
        raise UserError(f"vqgan trains codes and a prior over them, which the generator {recipe.generator.name} lacks.")
    _check_names(recipe)
    return [_autoencoder_stage(recipe, parts), _prior_stage(recipe, parts.generator)]


def _autoencoder_stage(recipe: Recipe, parts: Parts) -> Stage:
    if parts.discriminator is None or parts.loss is None:
        raise UserError("vqgan's first stage is adversarial: the recipe needs discriminator and loss sections.")
    seen = for_stage(recipe, "autoencoder")
    game = _Game(parts)
    networks = {"autoencoder": game.autoencoder, "discriminator": game.discriminator}
    optimizers = {name: adam(network, _optimizer(seen, name)) for name, network in networks.items()}
    clip = {name: _optimizer(seen, name).clip_norm for name in networks}
    return Stage(
        networks=networks,
        optimizers=optimizers,
        phases=(
            Phase("autoencoder", ("autoencoder",), game.autoencoder_loss, clip_norm=clip["autoencoder"]),
            Phase("discriminator", ("discriminator",), game.discriminator_loss, clip_norm=clip["discriminator"]),
        ),
        averages=_averages(seen, networks),
        name="autoencoder",
        picture=game.picture,
    )


def _prior_stage(recipe: Recipe, generator: Generator) -> Stage:
    seen = for_stage(recipe, "prior")
    spec = _optimizer(seen, "prior")
    networks = {"prior": generator.prior}
    optimizer = torch.optim.AdamW(
        parameter_groups(generator.prior, spec.weight_decay), lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=True
    )

    def loss(batch: Batch, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad(), evaluating(generator.autoencoder):
            codes = generator.autoencoder.codes(batch.image)
        entropy, _ = networks["prior"](codes, generator.tokens(batch.label, len(batch)), batch.rng)
        clock.record("nats_per_code", entropy)
        return {"prior": entropy}

    return Stage(
        networks=networks,
        optimizers={"prior": optimizer},
        phases=(Phase("prior", ("prior",), loss, clip_norm=spec.clip_norm),),
        averages=_averages(seen, networks),
        name="prior",
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


def _averages(recipe: Recipe, networks: dict[str, torch.nn.Module]) -> tuple[Average, ...]:
    specs = recipe.train.averages
    return tuple(Average(name, networks[name], spec) for name, spec in specs.items() if name in networks)


def _optimizer(recipe: Recipe, name: str) -> Optimizer:
    if name not in recipe.train.optimizers:
        raise UserError(f"the recipe has no train.optimizers.{name}; give it an lr.")
    return recipe.train.optimizers[name]


def _check_names(recipe: Recipe) -> None:
    known = [name for names in NETWORKS.values() for name in names]
    for place in ("optimizers", "averages"):
        for name in getattr(recipe.train, place):
            if name not in known:
                raise UserError(f"train.{place}.{name}: there is no such network; there is {', '.join(known)}.")
