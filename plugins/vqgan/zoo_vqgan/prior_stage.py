"""How the prior trains: to predict the codes of the finished autoencoder (spec 4; paper, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_core.program import Batch, Clock, Phase, Stage
from zoo_core.recipe import Recipe
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
        with torch.no_grad(), evaluating(generator.autoencoder):
            codes = generator.autoencoder.codes(batch.image)
        entropy, _ = networks["prior"](codes, generator.tokens(batch.label, len(batch)), batch.rng)
        clock.record("nats_per_code", entropy)
        return {"prior": entropy}

    return Stage(
        networks=networks,
        optimizers={"prior": adam_w},
        phases=(Phase("prior", ("prior",), loss, clip_norm=spec.clip_norm),),
        averages=averages(recipe, networks),
        name="prior",
    )
