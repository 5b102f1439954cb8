"""The stage of the second autoencoder: its losses, its pictures."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import vqgan_goldens as goldens
from torch.nn.functional import l1_loss
from vqgan_goldens import Golden
from vqgan_toys import CONDITIONS, batch, maps, stages, step, wanted

from zoo_core import parts
from zoo_core.errors import UserError
from zoo_core.given_maps import colour
from zoo_core.program import Batch, Clock
from zoo_core.rng import Rng
from zoo_core.sampling import to_uint8
from zoo_vqgan.convert import first_stage
from zoo_vqgan.stages import build


@pytest.mark.parity
def test_the_stage_of_label_maps_has_the_official_loss() -> None:
    golden = Golden("seg_small")
    made, found = stages(
        "labels",
        resolution=32,
        z_channels=32,
        blocks=2,
        attention_resolutions=[16],
        quantizer={"num_codes": 64, "embed_dim": 32},
        condition={"kind": "labels", "num_labels": 12, "num_codes": 32},
    )
    official = goldens.weights(goldens.keys("seg_small"))
    made.condition.load_state_dict(first_stage(official, made.condition.state_dict()))
    labels = golden.tensor("labels")[:, None]
    clock = Clock(0, len(labels), 8)
    shown = Batch(torch.zeros(len(labels), 3, 32, 32), None, Rng.of("golden", rows=range(len(labels))), labels)
    losses = found["condition"].phases[0].loss(shown, clock)
    losses["condition"].backward()
    module = "autoencoder of label maps"
    golden.check(module, "terms in its stage", "loss", losses["condition"])
    golden.check(module, "terms in its stage", "bce", clock.terms["cross_entropy"])
    golden.check(module, "terms in its stage", "qloss", clock.terms["quantizer"])
    first = made.condition.encoder.conv_in.weight.grad.norm()
    golden.check(module, "gradients in its stage", "gradnorm:encoder.conv_in.weight", first, goldens.GRADIENT)


def test_depth_is_learnt_by_mean_absolute_error() -> None:
    made, found = stages("depth", loss={"quantizer_weight": 0.5})
    given = batch("depth")
    network = made.condition
    stretched = network.prepare(given.maps)
    drawn, quantized = network(stretched)
    terms = step(found["condition"], given)
    torch.testing.assert_close(terms["absolute"], l1_loss(drawn, stretched).detach())
    torch.testing.assert_close(terms["total"], (l1_loss(drawn, stretched) + 0.5 * quantized.loss).detach())


@pytest.mark.parametrize("kind", ["labels", "depth"])
def test_steps_lower_the_loss(kind: str) -> None:
    _, found = stages(kind)
    totals = [float(step(found["condition"], batch(kind))["total"]) for _ in range(8)]
    assert totals[-1] < 0.9 * totals[0]


@pytest.mark.parametrize("kind", ["labels", "depth"])
def test_the_picture_shows_each_map_beside_its_reconstruction(kind: str) -> None:
    made, found = stages(kind)
    stage = found["condition"]
    shown = maps(kind, 3)
    image = stage.picture(made, shown)
    assert stage.pictured == "maps" and image.shape == (6, 3, 16, 16) and made.condition.training
    assert float(image.abs().max()) <= 1 + 1e-6
    given = made.condition.channels(made.condition.prepare(shown))
    if kind == "depth":
        assert torch.equal(image[::2], given.expand(-1, 3, -1, -1))
    else:
        assert torch.equal(to_uint8(image[::2]), colour(shown))


def test_a_label_has_the_colour_of_its_value_in_the_files() -> None:
    made, found = stages("labels", condition=CONDITIONS["labels"] | {"unlabelled": 255})
    shown = torch.tensor([0, 3, 255, 1]).repeat_interleave(64).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(found["condition"].picture(made, shown)[::2]), colour(shown))


def test_without_an_optimizer_of_its_own_it_learns_as_the_first_autoencoder() -> None:
    asked = wanted("labels")
    given = {name: spec for name, spec in asked.train.optimizers.items() if name != "condition"}
    given["autoencoder"] = dataclasses.replace(given["autoencoder"], lr=0.25, clip_norm=2.0)
    asked = asked.replace(train=dataclasses.replace(asked.train, optimizers=given))
    stage = build(asked, parts.build(asked))[1]
    assert stage.name == "condition" and stage.optimizers["condition"].param_groups[0]["lr"] == 0.25
    assert stage.phases[0].clip_norm == 2.0


def test_maps_that_do_not_fit_are_a_sentence() -> None:
    _, found = stages("labels", condition=CONDITIONS["labels"] | {"num_labels": 4})
    with pytest.raises(UserError, match="the value 4, but generator.condition.num_labels=4 stands for 0 to 3"):
        step(found["condition"], batch("labels"))
    _, found = stages("depth")
    with pytest.raises(UserError, match="give it one for each image"):
        step(found["condition"], batch())
