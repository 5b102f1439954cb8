"""The composed loss: one backward pass for the whole, with the value and the gradient of the official formulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from zoo_core.formulation import plain
from zoo_vqgan.stage1_loss import (
    AutoEncoderLoss,
    Hinge,
    Vanilla,
    Weights,
    adaptive_weight,
    autoencoder_loss,
    discriminator_loss,
)


class Scene:
    """Two convolutions for an autoencoder, one for a discriminator, one for a perceptual distance."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.body = nn.Conv2d(3, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 3, 3, padding=1)
        self.judge = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3))
        self.features = nn.Conv2d(3, 5, 3).requires_grad_(False)
        self.image = torch.randn(2, 3, 8, 8)
        self.calls = {"judge": 0, "distance": 0}
        for name, module in (("judge", self.judge), ("distance", self.features)):
            module.register_full_backward_hook(lambda *_, name=name: self.calls.update({name: self.calls[name] + 1}))

    def distance(self, image: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.features(target)
        return (self.features(image) - target).square().mean((1, 2, 3))

    def loss(self, factor: float = 1.0, **options: object) -> AutoEncoderLoss:
        hidden = torch.tanh(self.body(self.image))
        self.parameters = [*self.body.parameters(), *self.last.parameters()]
        given = {"judge": self.judge, "loss": Hinge(), "distance": self.distance, "weights": Weights(0.7, 2.0, 0.8)}
        return autoencoder_loss(
            self.image,
            self.last(hidden),
            hidden.square().mean(),
            last_weight=self.last.weight,
            factor=factor,
            **{**given, **options},
        )

    def gradients(self, **options: object) -> tuple[AutoEncoderLoss, list[Tensor]]:
        loss = self.loss(**options)
        return loss, list(torch.autograd.grad(loss.total, self.parameters))


@pytest.mark.parametrize("options", [{}, {"factor": 0.0}, {"factor": 0.3}, {"distance": None}, {"loss": Vanilla()}])
def test_one_backward_pass_has_the_value_and_gradient_of_the_official_formulation(options: dict[str, object]) -> None:
    ours, gradients = Scene().gradients(**options)
    with plain():
        theirs, expected = Scene().gradients(**options)
    assert torch.allclose(ours.total, theirs.total, rtol=1e-6)
    assert theirs.terms.keys() - ours.terms.keys() == ({"adaptive_weight"} if options.get("factor") == 0 else set())
    for name, value in ours.terms.items():
        assert torch.allclose(theirs.terms[name], value, rtol=1e-5), name
    for found, wanted in zip(gradients, expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-6 * float(wanted.abs().max()), rtol=1e-5)


def test_the_networks_behind_the_reconstruction_run_backward_once() -> None:
    scene, official = Scene(), Scene()
    scene.gradients()
    with plain():
        official.gradients()
    assert scene.calls == {"judge": 1, "distance": 1}
    assert official.calls == {"judge": 2, "distance": 2}


def test_the_gradient_scales_with_the_loss() -> None:
    """The trainer divides by the number of micro-batches."""
    scene = Scene()
    _, whole = scene.gradients()
    half = torch.autograd.grad(Scene.loss(scene).total * 0.5, scene.parameters)
    assert all(torch.allclose(2 * a, b, atol=1e-6) for a, b in zip(half, whole, strict=True))


def test_before_its_start_the_adversary_costs_no_backward_but_its_statistics_move() -> None:
    scene = Scene()
    before = scene.judge[1].running_mean.clone()
    loss, _ = scene.gradients(factor=0.0)
    assert scene.calls["judge"] == 0 and not torch.equal(scene.judge[1].running_mean, before)
    assert "adaptive_weight" not in loss.terms


def test_the_networks_behind_the_reconstruction_get_no_gradient() -> None:
    scene = Scene()
    scene.loss().total.backward()
    assert all(parameter.grad is None for parameter in scene.judge.parameters())


@torch.no_grad()
def test_without_a_graph_the_adaptive_weight_is_nought() -> None:
    loss = Scene().loss()
    expected = loss.terms["nll"] + 2.0 * loss.terms["quantizer"]
    assert torch.allclose(loss.total, expected) and "adaptive_weight" not in loss.terms


def test_the_terms_add_up() -> None:
    terms = Scene().loss(factor=0.5).terms
    assert torch.allclose(terms["nll"], terms["absolute"] + 0.7 * terms["perceptual"])
    adversarial = terms["adaptive_weight"] * 0.5 * terms["adversarial"]
    assert torch.allclose(terms["total"], terms["nll"] + adversarial + 2.0 * terms["quantizer"])
    assert "perceptual" not in Scene().loss(distance=None).terms


@pytest.mark.parametrize(
    "weights, expected",
    [
        (Weights(adversarial=0.5), 0.5 * 5 / (2 + 1e-4)),
        (Weights(delta=1e-6, limit=0.0), 5 / (2 + 1e-6)),
        (Weights(limit=2.0, adversarial=0.5), 1.0),
    ],
)
def test_the_adaptive_weight_is_a_ratio_of_norms(weights: Weights, expected: float) -> None:
    found = adaptive_weight(torch.tensor([3.0, 4.0]), torch.tensor([2.0, 0.0]), weights)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_the_paper_s_weight_has_no_limit() -> None:
    slopes = torch.tensor([1e3]), torch.tensor([0.0])
    assert float(adaptive_weight(*slopes, Weights())) == 1e4
    assert float(adaptive_weight(*slopes, Weights(delta=1e-6, limit=0.0))) == pytest.approx(1e9)


@pytest.mark.parametrize(
    "loss, fall", [(Hinge(), lambda r: max(0, 1 - r)), (Vanilla(), lambda r: math.log1p(math.exp(-r)))]
)
def test_the_discriminator_s_losses_are_halved(loss: Hinge | Vanilla, fall: Callable[[float], float]) -> None:
    real, fake = torch.tensor([0.25, -2.0]), torch.tensor([-0.5, 3.0])
    expected = 0.5 * (sum(map(fall, real.tolist())) / 2 + sum(map(fall, (-fake).tolist())) / 2)
    assert float(discriminator_loss(real, fake, loss=loss, factor=0.5)) == pytest.approx(0.5 * expected, rel=1e-6)
    assert float(loss.generator(fake)) == -1.25
