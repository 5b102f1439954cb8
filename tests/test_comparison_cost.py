"""What a contender costs: all that a training does, as often as it does it, and sampling alike for all."""

from __future__ import annotations

from typing import Any

import pytest

from zoo_core import bench, parts
from zoo_core import recipe as recipes
from zoo_core.comparison import budget, cost
from zoo_core.comparison.cost import Bill
from zoo_core.comparison.matching import parameters
from zoo_core.recipe import Recipe
from zoo_core.session import build_stages

SMALL = {
    "hit": {
        "generator.channels": {8: 16, 16: 16, 32: 16},
        "discriminator.channels": {4: 8, 8: 8, 16: 8, 32: 8},
        "discriminator.minibatch_stddev": False,
    },
    "styleswin": {"generator.channels": {4: 16, 8: 16, 16: 16, 32: 16}, "discriminator.channels": {4: 8, 32: 8}},
    "vqgan": {
        "discriminator.channels": 8,
        "generator.prior": {"layers": 1, "heads": 2, "dim": 32},
        "train.stages.prior.batch": 2,
    },
}


def small(plugin: str, **options: Any) -> Recipe:
    pytest.importorskip(f"zoo_{plugin}")
    loss = [(f"loss.{name}", value) for name, value in options.items()]
    return recipes.load(plugin, changes=[("train.batch", 2), *SMALL[plugin].items(), *loss])


def bill(recipe: Recipe) -> tuple[Bill, list[str]]:
    stages = [stage.name for stage in build_stages(recipe, parts.outline(recipe))]
    return Bill(recipe, build_stages, stages), stages


def price(recipe: Recipe) -> float:
    """Training FLOPs of an image in the first stage."""
    made, stages = bill(recipe)
    return made.prices("flops")[stages[0]]


@pytest.mark.parametrize("plugin", ["styleswin", "hit"])
def test_a_penalty_of_every_four_steps_counts_a_fourth_in_its_own_phase_or_in_a_joint_step(plugin: str) -> None:
    without, always = price(small(plugin, r1=0)), price(small(plugin, r1=1, r1_every=1))
    assert without < always
    assert price(small(plugin, r1=1, r1_every=4)) == pytest.approx(without + (always - without) / 4)


def test_consistency_counts_the_judgements_that_it_adds() -> None:
    without, fakes, both = (
        price(small("hit", r1=0, consistency_fake=fake, consistency_real=real))
        for fake, real in ((0, 0), (1, 0), (1, 1))
    )
    assert both - fakes == pytest.approx(fakes - without) and fakes > without


def test_a_loss_that_begins_later_counts_for_the_rest_of_its_stage() -> None:
    early, never = (price(small("vqgan", adversarial_start_images=start)) for start in (0, 10**6))
    assert never < early
    at_two_fifths = price(small("vqgan", adversarial_start_images=16_000))  # of 40,000
    assert at_two_fifths == pytest.approx(0.4 * never + 0.6 * early)


def test_every_stage_has_a_price_and_the_whole_is_their_mean_over_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_seconds", lambda task, device: 1.0)
    recipe = small("vqgan")
    made, stages = bill(recipe)
    prices = made.prices("flops")
    assert set(prices) == {"autoencoder", "prior"} and min(prices.values()) > 0
    shares = budget.shares(recipe, stages)
    found = made.cost(shares, prices, memory=False)
    assert found.training_flops == pytest.approx(sum(shares[name] * prices[name] for name in prices))
    assert shares == pytest.approx({"autoencoder": 40 / 104, "prior": 64 / 104})


def test_sampling_is_measured_with_as_many_images_whatever_the_training_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []

    def seconds(task: bench.Task, device: object) -> float:
        batches.append(task.batch)
        return 2.0

    monkeypatch.setattr(cost, "_seconds", seconds)
    for batch in (2, 4):
        recipe = recipes.load("hit", changes=[*SMALL["hit"].items(), ("train.batch", batch), ("train.micro_batch", 2)])
        made, _ = bill(recipe)
        found = made.cost({"main": 1.0}, {"main": 1.0}, memory=False)
        assert found.images_per_second == cost.SAMPLED / 2
        assert found.generator_parameters == parameters(recipe)
    assert batches == [cost.SAMPLED] * 2
