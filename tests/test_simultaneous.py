"""The simultaneous step: both networks' losses at the same parameters, from one pass of the fakes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import toys

from zoo_core import losses
from zoo_core.adversarial import Game
from zoo_core.errors import UserError
from zoo_core.parts import Parts
from zoo_core.program import Batch, Clock, Stage, adam
from zoo_core.recipe import Optimizer, Recipe
from zoo_core.rng import Rng

CONSISTENCY = {"consistency_real": 10.0, "consistency_fake": 4.0}


def game_of(wanted: Recipe) -> Game:
    torch.manual_seed(0)
    networks = toys.ToyGenerator(resolution=8, norm=True), toys.ToyDiscriminator(resolution=8)
    return Game(wanted, Parts(*networks, losses.Logistic, wanted.loss.options))


def stage_of(wanted: Recipe) -> Stage:
    game = game_of(wanted)
    optimizers = {name: adam(getattr(game, name), game.optimizer_spec(name)) for name in wanted.train.optimizers}
    return game.stage(optimizers, order=("simultaneous",))


def batch() -> Batch:
    rng = Rng.of("batch", rows=range(4))
    return Batch(rng.fork("image").normal(3, 8, 8), None, rng)


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"r1": 3.0, "r1_every": 1},
        {"r1": 3.0, "r1_every": 8, **CONSISTENCY},
        {"r1": 3.0, "r1_every": 1, "augment": ("color", "cutout")},
    ],
)
def test_losses_are_those_of_the_single_phases(terms: dict[str, Any]) -> None:
    game = game_of(toys.recipe(loss=terms))
    single = copy.deepcopy(game)
    clock, clocks = Clock(0, 4, 80), [Clock(0, 4, 80) for _ in range(3)]
    together = game.simultaneous_loss(batch(), clock)
    expected = single.generator_loss(batch(), clocks[0]) | single.discriminator_loss(batch(), clocks[1])
    if terms.get("r1"):
        expected["discriminator"] = expected["discriminator"] + single.r1_loss(batch(), clocks[2])["discriminator"]
    assert together.keys() == expected.keys()
    for name, loss in together.items():
        network = getattr(game, name)
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-6)
        ours = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        theirs = torch.autograd.grad(expected[name], list(getattr(single, name).parameters()))
        for one, other in zip(ours, theirs, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-6 * other.abs().max().item()), name
    terms_alone = clocks[0].terms | clocks[1].terms | clocks[2].terms
    assert {name: value.item() for name, value in clock.terms.items()} == pytest.approx(
        {name: value.item() for name, value in terms_alone.items()}, rel=1e-6
    )


def test_each_image_is_judged_once(tmp_path: Path) -> None:
    """The fakes serve both losses, and R1's pass on the reals serves the discriminator's."""
    wanted = toys.recipe(images=4, loss={"r1": 1.0, "r1_every": 1})
    made = stage_of(wanted)
    passes = {"generator": 0, "discriminator": 0}
    for name, network in made.networks.items():
        network.register_forward_hook(lambda *_, name=name: passes.__setitem__(name, passes[name] + 1))
    toys.trainer(tmp_path, wanted, made=made).run()
    assert passes == {"generator": 1, "discriminator": 2}


def test_lazy_r1_is_added_in_its_steps(tmp_path: Path) -> None:
    wanted = toys.recipe(images=32, log_images=1, loss={"r1": 1.0, "r1_every": 3})
    toys.trainer(tmp_path, wanted, made=stage_of(wanted)).run()
    assert [line["step"] - 1 for line in toys.numbers(tmp_path) if "r1" in line] == [0, 3, 6]


def test_bf16_trains(tmp_path: Path) -> None:
    wanted = toys.recipe(images=20, precision="bf16", loss={"r1": 1.0, "r1_every": 2, **CONSISTENCY})
    toys.trainer(tmp_path, wanted, made=stage_of(wanted)).run()
    assert len(toys.numbers(tmp_path)) == 5


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        (toys.recipe(loss={"generator_every": 5}), "loss.generator_every must be 1"),
        (
            toys.recipe(
                optimizers={"generator": Optimizer(1e-2), "discriminator": Optimizer(1e-2, clip_norm=1.0)},
            ),
            "same clip_norm",
        ),
    ],
)
def test_what_one_step_cannot_do_is_refused(wanted: Recipe, named: str) -> None:
    with pytest.raises(UserError, match=named):
        stage_of(wanted)
