"""VQGAN's generators of every condition, small, with their stages, and batches for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo_core import parts, recipe
from zoo_core.program import Batch, Clock, Stage
from zoo_core.recipe import Recipe
from zoo_core.rng import Rng
from zoo_vqgan.generator import Generator
from zoo_vqgan.stages import build

SIDE = 16
"""Pixels of a picture; a code's area has 2."""

SMALL = {
    "channels": 32,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention_resolutions": [],
    "z_channels": 32,
    "quantizer": {"num_codes": 24, "embed_dim": 8},
    "prior": {"layers": 1, "heads": 2, "dim": 16},
}
CONDITIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "coordinates": {"kind": "coordinates", "num_codes": 20},
    "labels": {"kind": "labels", "num_codes": 20, "num_labels": 5},
    "depth": {"kind": "depth", "num_codes": 20},
}


def wanted(
    kind: str = "none",
    *,
    resolution: int = SIDE,
    prior: dict[str, Any] | None = None,
    loss: dict[str, Any] | None = None,
    **options: Any,
) -> Recipe:
    """The recipe of a generator with this condition; `prior`, `loss` and the generator's `options` are added."""
    generator = SMALL | {"condition": CONDITIONS[kind]} | options
    generator["prior"] = SMALL["prior"] | (prior or {})
    mapped = kind in ("labels", "depth")
    trained = ["autoencoder", "discriminator", "prior", *(["condition"] if mapped else [])]
    return recipe.check(
        {
            "plugin": "vqgan",
            "generator": {"name": "vqgan", **generator},
            "discriminator": {"name": "patch", "channels": 8, "layers": 1},
            "loss": {"name": "hinge", "perceptual": "none", **(loss or {})},
            "data": {"resolution": resolution, "maps": kind if mapped else ""},
            "train": {
                "images": 4,
                "batch": 2,
                "optimizers": {name: {"lr": 1e-3} for name in trained},
            },
        }
    )


def generator(kind: str = "none", *, spread: bool = True, **changes: Any) -> Generator:
    """The generator alone, in evaluation mode; `spread`: with logits that are far from even."""
    made = parts.build(wanted(kind, **changes)).generator
    if spread:
        torch.manual_seed(1)
        for parameter in made.prior.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.5)
        for network in (made.autoencoder, made.condition):
            if network is not None:  # codes that lie among the encoder's vectors, so that many of them are used
                network.quantize.embedding.weight.data.normal_(std=0.3)
    return made.eval()


def stages(kind: str = "none", **changes: Any) -> tuple[Generator, dict[str, Stage]]:
    """The generator and its stages by name."""
    recipe_ = wanted(kind, **changes)
    built = parts.build(recipe_)
    return built.generator, {stage.name: stage for stage in build(recipe_, built)}


def maps(kind: str, num: int, height: int = SIDE, width: int = SIDE) -> Tensor | None:
    """Random maps of five labels, or of depth in metres."""
    draw = torch.Generator().manual_seed(3)
    if kind == "labels":
        return (
            torch.randint(5, (num, 1, height // 4, width // 4), generator=draw)
            .repeat_interleave(4, 2)
            .repeat_interleave(4, 3)
        )
    return torch.rand(num, 1, height, width, generator=draw) * 30 if kind == "depth" else None


def batch(kind: str = "none", num: int = 2) -> Batch:
    """Images of noise, with maps where the condition has any."""
    image = torch.rand(num, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4)) * 2 - 1
    return Batch(image, None, Rng.of("conditional", rows=range(num)), maps(kind, num))


def step(stage: Stage, given: Batch) -> dict[str, Tensor]:
    """Run every phase of one step; the terms that it recorded."""
    clock = Clock(step=0, batch=len(given), total_images=4)
    for phase in stage.phases:
        for name, loss in phase.loss(given, clock).items():
            stage.optimizers[name].zero_grad()
            loss.backward()
            stage.optimizers[name].step()
    return clock.terms
