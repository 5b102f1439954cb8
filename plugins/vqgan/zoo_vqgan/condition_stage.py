"""How the second autoencoder trains, of label or depth maps: to reconstruct them, with one Adam.

Its settings are `train.optimizers.condition`, or, where a recipe does not give these, those of the first autoencoder.

Labels train as officially. Depth does NOT: the paper's model of depth maps is a whole VQGAN, with LPIPS and a
discriminator; here it learns by mean absolute error and the quantizer's loss alone, so its maps come out smoother. The
published weights can be imported all the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_core.adversarial import split_loss
from zoo_core.data import ImageSet
from zoo_core.parts import Parts
from zoo_core.program import Batch, Clock, Phase, Stage, adam
from zoo_core.recipe import Recipe
from zoo_vqgan.autoencoder_stage import Terms
from zoo_vqgan.code_health import CodeHealth
from zoo_vqgan.generator import Generator
from zoo_vqgan.map_autoencoder import MapAutoEncoder
from zoo_vqgan.prior_sampling import evaluating
from zoo_vqgan.training import averages, optimizer

LOOKED_AT = 256
"""Maps that are judged before any stage trains."""


def condition_stage(recipe: Recipe, parts: Parts) -> Stage:
    """The stage between the autoencoder's and the prior's; `recipe` is as this stage sees it."""
    network: MapAutoEncoder = parts.generator.condition
    networks = {"condition": network}
    health = CodeHealth(network.quantize, parts.generator.quantizer, recipe.train.seed)
    spec = optimizer(recipe, "condition", like="autoencoder")
    weight = split_loss(parts, Terms)[0].quantizer_weight

    def loss(batch: Batch, clock: Clock) -> dict[str, Tensor]:
        size = tuple(batch.image.shape[2:])
        given = network.channels(parts.generator.conditioner.value(len(batch), size, None, batch.maps))
        quantized = health.quantize(network.latent(given), batch.rng.fork("quantizer"), clock)
        drawn = network.decode(quantized.z_q)
        found = network.loss(drawn, given, quantized.loss, weight)
        for name, value in found.terms.items():
            clock.record(name, value)
        return {"condition": found.total}

    def begin(images: ImageSet) -> None:
        """Some maps, judged before the first stage takes its time."""
        network.prepare(images.take_maps(images.order(0, 0)[:LOOKED_AT]))

    return Stage(
        networks=networks | {"code_usage": health.tally},
        optimizers={"condition": adam(network, spec)},
        phases=(Phase("condition", ("condition",), loss, clip_norm=spec.clip_norm),),
        averages=averages(recipe, networks),
        name="condition",
        picture=side_by_side,
        pictured="maps",
        sheets={"usage": health.sheet},
        conclude=health.conclude,
        begin=begin,
    )


@torch.no_grad()
def side_by_side(shown: Generator, maps: Tensor) -> Tensor:
    """Each map beside its reconstruction: `[N, 1, H, W]` -> `[2 N, 3, H, W]` in [-1, 1]."""
    network: MapAutoEncoder = shown.condition
    given = network.channels(network.prepare(maps))
    with evaluating(network):
        drawn, _ = network(given)
    return torch.stack([network.colours(given), network.colours(drawn)], 1).flatten(0, 1)
