"""How the prior trains: to predict the codes of the finished autoencoder (paper, section 3.2 and 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_core.program import Batch, Clock, Phase, Stage
from zoo_core.recipe import Recipe
from zoo_vqgan.cropping import corners, crop
from zoo_vqgan.generator import Generator
from zoo_vqgan.gpt import parameter_groups
from zoo_vqgan.prior_sampling import evaluating
from zoo_vqgan.training import averages, optimizer


def prior_stage(recipe: Recipe, generator: Generator) -> Stage:
    """The last stage; `recipe` is as this stage sees it."""
    spec = optimizer(recipe, "prior")
    networks = {"prior": generator.prior}
    adam_w = torch.optim.AdamW(
        parameter_groups(generator.prior, spec.weight_decay), lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=True
    )

    def loss(batch: Batch, clock: Clock) -> dict[str, Tensor]:
        codes, condition = codes_and_condition(generator, batch)
        entropy, _ = networks["prior"](codes, condition, batch.rng)
        clock.record("nats_per_code", entropy)
        return {"prior": entropy}

    return Stage(
        networks=networks,
        optimizers={"prior": adam_w},
        phases=(Phase("prior", ("prior",), loss, clip_norm=spec.clip_norm),),
        averages=averages(recipe, networks),
        name="prior",
        wrapped=True,
    )


@torch.no_grad()
def codes_and_condition(generator: Generator, batch: Batch) -> tuple[Tensor, Tensor]:
    """The codes `[B, side, side]` of the batch, and the condition's tokens.

    Where the prior sees less than the images, these are of a random crop of each, from any pixel on; maps and the
    whole picture's coordinates are cropped alike.
    """
    image, size = batch.image, tuple(batch.image.shape[2:])
    value = generator.conditioner.value(len(batch), size, batch.label, batch.maps)
    side = generator.side * generator.factor
    if size != (side, side):
        places = corners(batch.rng, size, side)
        image = crop(image, places, side)
        if generator.conditioner.spatial:
            value = crop(value, places, side)
    with evaluating(generator.autoencoder):
        codes = generator.autoencoder.codes(image, batch.rng.fork("quantizer"))
    return codes, generator.tokens(value, len(batch))
