"""A toy plugin of two stages: a table of colours, then a chooser of rows of that table."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from zoo_core.interfaces import Generator
from zoo_core.parts import Parts
from zoo_core.program import Average, Batch, Clock, Phase, Stage, adam
from zoo_core.recipe import Recipe, for_stage


class TwoNetworks(Generator):
    """Draws one colour of the table, brightened by what the chooser has learnt."""

    def __init__(self, *, resolution: int, num_classes: int = 0) -> None:
        super().__init__()
        self.resolution = resolution
        self.table = nn.Linear(3, 3)
        self.chooser = nn.Linear(3, 3)

    def networks(self) -> dict[str, nn.Module]:
        return {"table": self.table, "chooser": self.chooser}

    @torch.no_grad()
    def sample(self, num: int, label: Tensor | None = None, rng=None) -> Tensor:
        _, rng = self.complete(num, label, rng)
        colour = self.chooser(self.table(rng.normal(3)))
        return colour[:, :, None, None].expand(-1, -1, self.resolution, self.resolution).tanh()


def build(recipe: Recipe, parts: Parts) -> list[Stage]:
    """The table is fitted to mean colours; the chooser, on top of the frozen table, to their negatives."""
    generator = parts.generator

    def stage(name: str, predict, sign: float) -> Stage:
        seen = for_stage(recipe, name)
        network = generator.networks()[name]

        def loss(batch: Batch, clock: Clock) -> dict[str, Tensor]:
            mean = batch.image.mean(dim=(2, 3))
            return {name: (predict(mean) - sign * mean).square().mean()}

        averages = seen.train.averages
        return Stage(
            networks={name: network},
            optimizers={name: adam(network, seen.train.optimizers[name])},
            phases=(Phase(name, (name,), loss),),
            averages=tuple(Average(of, network, spec) for of, spec in averages.items() if of == name),
            name=name,
        )

    def on_table(mean: Tensor) -> Tensor:
        with torch.no_grad():
            rows = generator.table(mean)
        return generator.chooser(rows)

    first = dataclasses.replace(stage("table", generator.table, 1.0), picture=lambda shown, real: real.clamp(-1, 1))
    return [first, stage("chooser", on_table, -1.0)]
