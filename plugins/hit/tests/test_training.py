"""The stage takes the official step: both networks from the same parameters, each with TensorFlow's Adam."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import toys
from torch import Tensor, nn
from torch.nn.functional import softplus

from zoo_core import parts, recipe, session
from zoo_core.augment import augment
from zoo_core.journal import Journal
from zoo_core.program import Average, Batch, Clock, EpsilonHatAdam
from zoo_core.trainer import Trainer

BATCH = 4
NARROW = {
    "generator": {"latent_dim": 8, "channels": {8: 16}, "heads": {8: 2}, "blocks": {8: 4}, "depths": {8: 1}},
    "discriminator": {"channels": {4: 8, 8: 6}},
    "data": {"resolution": toys.RESOLUTION},
    "train": {"images": 4 * BATCH, "batch": BATCH, "micro_batch": 0},
}


def official_gradients(
    networks: dict[str, nn.Module], batch: Batch, policy: tuple[str, ...]
) -> dict[str, list[Tensor]]:
    """The official step by hand: one pass of the fakes, R1 on its own, bCR in one pass of all."""
    generator, discriminator = networks["generator"], networks["discriminator"]
    real = batch.image
    fake = generator(generator.latent(batch.rng.fork("z")))
    fake_logits, real_logits = discriminator(fake), discriminator(real)
    generator_loss = softplus(-fake_logits).mean()

    real_leaf = real.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(discriminator(real_leaf).sum(), real_leaf, create_graph=True)
    r1 = 10 * slope.square().sum(dim=(1, 2, 3)).mean()
    changed = [
        augment(image.detach(), batch.rng.fork(f"consistency {name}"), policy)
        for name, image in (("real", real), ("fake", fake))
    ]
    changed_real, changed_fake = discriminator(torch.cat(changed)).chunk(2)
    consistency = 10 * ((real_logits - changed_real).square().mean() + (fake_logits - changed_fake).square().mean())
    discriminator_loss = softplus(-real_logits).mean() + softplus(fake_logits).mean() + r1 + consistency

    losses = {"generator": generator_loss, "discriminator": discriminator_loss}
    return {
        name: list(torch.autograd.grad(loss, list(networks[name].parameters()), retain_graph=True))
        for name, loss in losses.items()
    }


def error(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference relative to the largest entry of the same tensor, over a list of tensors."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-6)) for a, b in pairs)


def values(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def test_step_is_the_official_one(tmp_path: Path) -> None:
    wanted = recipe.load("hit", "ffhq256", list(NARROW.items()))
    (stage,) = session.build_stages(wanted, parts.build(wanted))
    (phase,) = stage.phases
    runs_on = toys.accelerator()
    trainer = Trainer(wanted, stage, toys.images(), runs_on, Journal(tmp_path / "m.jsonl", runs_on), tmp_path)
    order: list[str] = []
    taken: dict[str, list[Tensor]] = {}
    for name, optimizer in stage.optimizers.items():

        def step_noted(name: str = name, step: Callable[[], None] = optimizer.step) -> None:
            order.append(name)
            taken[name] = values([parameter.grad for parameter in stage.networks[name].parameters()])
            step()

        optimizer.step = step_noted
    second = {name: [torch.zeros_like(p) for p in network.parameters()] for name, network in stage.networks.items()}

    policy = ("brightness", "saturation", "contrast", "translation", "cutout")
    for step in range(1, 4):
        before = copy.deepcopy(dict(stage.networks))
        start = {name: values(list(network.parameters())) for name, network in before.items()}
        expected = official_gradients(before, trainer._load(phase, 0), policy)
        trainer._one_step()
        trainer.step += 1

        for name, gradients in taken.items():
            assert error(gradients, expected[name]) < 1e-4, name
            moved = []
            for value, gradient, moment in zip(start[name], gradients, second[name], strict=True):
                moment.mul_(0.99).add_(0.01 * gradient.square())
                rate = 5e-5 * math.sqrt(1 - 0.99**step)
                moved.append(value - rate * gradient / (moment.sqrt() + 1e-7))
            assert error(values(list(stage.networks[name].parameters())), moved) < 1e-6, name
        theirs = list(before["generator"].buffers())
        assert error(list(stage.networks["generator"].buffers()), theirs) < 1e-6  # batch norm saw the fakes once
    assert order == ["generator", "discriminator"] * 3


@pytest.mark.parametrize("name", ["imagenet128", "celebahq256", "ffhq256", "ffhq1024"])
def test_adam_and_average_are_the_official_ones(name: str) -> None:
    wanted = recipe.load("hit", name)
    with torch.device("meta"):
        (stage,) = session.build_stages(wanted, parts.build(wanted))
    for optimizer in stage.optimizers.values():
        assert type(optimizer) is EpsilonHatAdam and optimizer.param_groups[0]["eps"] == 1e-7
    assert wanted.train.micro_batch == 8

    # Nothing until ten steps are done, then a copy, then ema -= 0.001 (ema - w), running statistics included.
    network = nn.BatchNorm1d(3)
    average = Average("generator", network, stage.averages[0].spec)
    expected: dict[str, Tensor] = {}
    for done in range(1, 15):
        for tensor in (network.weight.data, network.running_mean):
            tensor.normal_()
        average.update(network, Clock(done - 1, wanted.train.batch, wanted.train.images))
        state = {key: network.state_dict()[key].clone() for key in ("weight", "running_mean")}
        if done == 10:
            expected = state
        elif done > 10:
            expected = {key: ema - 0.001 * (ema - state[key]) for key, ema in expected.items()}
        for key, value in expected.items():
            assert torch.allclose(average.network.state_dict()[key], value, rtol=1e-6), (done, key)
    assert expected
