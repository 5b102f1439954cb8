"""The published sizes, built without memory: parameters and tensors as counted in the official models.

The figures are of the official classes (Lightning containers, constants included).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import parity
import pytest

from zoo_core import parts, recipe
from zoo_core.parts import Parts
from zoo_vqgan.generator import Generator

pytestmark = pytest.mark.parity

LPIPS_TENSORS = 33
"""Of VGG16, the linear layers and the scaling, which the container of a first stage holds too."""


@dataclass(frozen=True)
class Published:
    """What is known of a model; 0 where nothing is."""

    parameters: dict[str, int] = field(default_factory=dict)
    """By network."""
    first_stage_tensors: int = 0
    """In the first stage's container: autoencoder, discriminator and LPIPS."""
    tensors: int = 0
    """In the prior's container: autoencoders and transformer, its masks included."""


FACES = {"autoencoder": 72_141_699, "prior": 304_932_864}
LARGE = {"autoencoder": 76_073_859, "prior": 1_410_640_896}

PUBLISHED = {
    "cin": Published(LARGE, tensors=1164),
    "drin": Published(FACES, tensors=1099),
    "faceshq": Published(FACES, tensors=756),
    "faceshq-f16": Published({"autoencoder": 72_141_699, "discriminator": 2_765_633}),
    "imagenet-f16-1024": Published({"autoencoder": 72_141_699, "discriminator": 2_765_633}, first_stage_tensors=398),
    "imagenet-f16-16384": Published({"autoencoder": 76_073_859, "discriminator": 663_361}),
    "sflckr": Published(FACES),
}
UNKNOWN = {"openimages-f8-gumbel": "no count of its parameters or tensors is recorded"}


def test_every_published_recipe_has_its_figures() -> None:
    assert {*recipe.names("vqgan")} - {"tiny"} == PUBLISHED.keys() | UNKNOWN.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_has_the_official_size(name: str) -> None:
    published, own = PUBLISHED[name], parts.outline(recipe.load("vqgan", name))
    networks = {**own.generator.networks(), "discriminator": own.discriminator}
    for network, wanted in published.parameters.items():
        found = sum(parameter.numel() for parameter in networks[network].parameters())
        note(name, f"parameters of the {network}", found, wanted)
    if published.first_stage_tensors:
        found = num_tensors(own, "autoencoder") + len(own.discriminator.state_dict()) + LPIPS_TENSORS
        note(name, "tensors of the first stage's file", found, published.first_stage_tensors)
    if published.tensors:
        stages = sum(num_tensors(own, network) for network in own.generator.networks())
        note(name, "tensors of the file", stages + num_masks(own.generator), published.tensors)


def num_tensors(own: Parts, network: str) -> int:
    return len(own.generator.networks()[network].state_dict())


def num_masks(generator: Generator) -> int:
    """Constants that the official state holds and ours does not: one mask in each block."""
    return len(generator.prior.gpt.blocks)


def note(name: str, quantity: str, found: int, wanted: int) -> None:
    """A count is right or wrong; the table has the relative difference."""
    parity.note("vqgan: published sizes", name, quantity, abs(found - wanted) / wanted, 0.0)
