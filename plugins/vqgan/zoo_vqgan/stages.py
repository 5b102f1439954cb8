"""How VQGAN trains: the autoencoder against a discriminator, an autoencoder of maps where the prior is shown any, then
the prior over the frozen codes of both."""

from __future__ import annotations

from zoo_core.errors import UserError
from zoo_core.parts import Parts
from zoo_core.program import Stage
from zoo_core.recipe import Recipe, for_stage
from zoo_vqgan.autoencoder_stage import autoencoder_stage
from zoo_vqgan.condition_stage import condition_stage
from zoo_vqgan.generator import Generator
from zoo_vqgan.prior_stage import prior_stage


def build(recipe: Recipe, parts: Parts) -> list[Stage]:
    """The two or three stages."""
    if not isinstance(parts.generator, Generator):
        raise UserError(f"vqgan trains codes and a prior over them, which the generator {recipe.generator.name} lacks.")
    _check_names(recipe, ("discriminator", *parts.generator.networks()))
    stages = [autoencoder_stage(for_stage(recipe, "autoencoder"), parts)]
    if parts.generator.condition is not None:
        stages.append(condition_stage(for_stage(recipe, "condition"), parts))
    return [*stages, prior_stage(for_stage(recipe, "prior"), parts.generator)]


def _check_names(recipe: Recipe, networks: tuple[str, ...]) -> None:
    for place in ("optimizers", "averages"):
        for name in getattr(recipe.train, place):
            if name not in networks:
                raise UserError(f"train.{place}.{name}: there is no such network; there is {', '.join(networks)}.")
