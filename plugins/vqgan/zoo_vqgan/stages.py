"""How VQGAN trains: the autoencoder against a discriminator, then the prior over its frozen codes (spec 3 and 4)."""

from __future__ import annotations

from zoo_core.errors import UserError
from zoo_core.parts import Parts
from zoo_core.program import Stage
from zoo_core.recipe import Recipe, for_stage
from zoo_vqgan.autoencoder_stage import autoencoder_stage
from zoo_vqgan.generator import Generator
from zoo_vqgan.prior_stage import prior_stage

NETWORKS = ("autoencoder", "discriminator", "prior")


def build(recipe: Recipe, parts: Parts) -> list[Stage]:
    """The two stages."""
    if not isinstance(parts.generator, Generator):
        raise UserError(f"vqgan trains codes and a prior over them, which the generator {recipe.generator.name} lacks.")
    _check_names(recipe)
    return [
        autoencoder_stage(for_stage(recipe, "autoencoder"), parts),
        prior_stage(for_stage(recipe, "prior"), parts.generator),
    ]


def _check_names(recipe: Recipe) -> None:
    for place in ("optimizers", "averages"):
        for name in getattr(recipe.train, place):
            if name not in NETWORKS:
                raise UserError(f"train.{place}.{name}: there is no such network; there is {', '.join(NETWORKS)}.")
