"""How StyleSwin trains: logistic loss, lazy R1, bCR, TTUR, linear decay."""

from __future__ import annotations

from zoo_core.adversarial import Game, linear_decay
from zoo_core.parts import Parts
from zoo_core.program import Clock, Schedule, Stage, adam
from zoo_core.recipe import Recipe

PATH_LENGTH_INTERVAL = 1e7
"""The official code never runs its path-length penalty, but corrects the generator's Adam for this interval."""


def build(recipe: Recipe, parts: Parts) -> list[Stage]:
    """The one stage of the paper."""
    return [style_stage(recipe, parts, generator_interval=PATH_LENGTH_INTERVAL)]


def style_stage(recipe: Recipe, parts: Parts, *, generator_interval: float) -> Stage:
    """A style-based GAN's stage: each Adam corrected for a penalty that runs once in so many steps (0: none)."""
    game = Game(recipe, parts)
    corrections = {
        "discriminator": _correction(game.terms.r1_every if game.terms.r1 else 0),
        "generator": _correction(generator_interval),
    }
    optimizers, schedules = {}, {}
    for name, network in (("generator", game.generator), ("discriminator", game.discriminator)):
        scale = corrections[name]
        optimizers[name] = adam(network, game.optimizer_spec(name), lr_scale=scale, beta_power=scale)
        schedules[name] = _decay(recipe.train.decay_from_images, scale)
    return game.stage(optimizers, schedules=schedules)


def _correction(interval: float) -> float:
    """n steps of the main loss and one of the penalty count as n / (n + 1) (StyleGAN2, appendix B)."""
    return interval / (interval + 1) if interval else 1.0


def _decay(start_images: int, correction: float) -> Schedule:
    """Linear decay to 0. As in the official code, its first write drops the correction, so the rate jumps up there."""
    linear = linear_decay(start_images)

    def factor(clock: Clock) -> float:
        started = start_images and clock.images > start_images
        return linear(clock) / correction if started else 1.0

    return factor
