"""How SAGAN trains: hinge loss, two learning rates, the generator first in each step."""

from __future__ import annotations

from zoo_core.adversarial import Game
from zoo_core.parts import Parts
from zoo_core.program import Stage, adam
from zoo_core.recipe import Recipe


def build(recipe: Recipe, parts: Parts) -> list[Stage]:
    """The one stage of the paper."""
    game = Game(recipe, parts)
    optimizers = {
        "generator": adam(game.generator, game.optimizer_spec("generator")),
        "discriminator": adam(game.discriminator, game.optimizer_spec("discriminator")),
    }
    return [game.stage(optimizers, order=("generator", "discriminator", "r1"))]
