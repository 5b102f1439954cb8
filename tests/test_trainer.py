"""The trainer runs phases when they are due, moves what they train and nothing else, and stops as it is asked."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
import toys
from torch import nn

from zoo_core import checkpoint, losses, parts
from zoo_core.adversarial import Game, linear_decay
from zoo_core.errors import UserError
from zoo_core.gradients import Diverged
from zoo_core.journal import Journal
from zoo_core.program import Average, Clock, EpsilonHatAdam, Phase, adam
from zoo_core.recipe import Averaging, Data, Optimizer, Part
from zoo_core.rng import Rng
from zoo_core.trainer import Stopped


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps(folder: Path) -> list[dict]:
    return [line for line in lines(folder) if "event" not in line]


def watched(made, seen):
    """The stage with phases that note each call: (phase, step, image, rng's seeds)."""
    phases = []
    for phase in made.phases:

        def loss(batch, clock, phase=phase):
            seen.append((phase.name, clock.step, batch.image.clone(), batch.rng.seeds))
            return phase.loss(batch, clock)

        phases.append(dataclasses.replace(phase, loss=loss))
    return dataclasses.replace(made, phases=tuple(phases))


# -- phases


def test_phases_run_when_due(tmp_path):
    seen = []
    recipe = toys.recipe(images=4 * 33, loss={"r1": 1.0, "r1_every": 16, "generator_every": 5})
    toys.trainer(tmp_path, recipe, change=lambda made: watched(made, seen)).run()
    ran = {name: [step for phase, step, *_ in seen if phase == name] for name in ("discriminator", "r1", "generator")}
    assert ran == {"discriminator": list(range(33)), "r1": [0, 16, 32], "generator": list(range(0, 33, 5))}
    assert [name for name, step, *_ in seen if step == 0] == ["discriminator", "r1", "generator"]


def test_phase_starts_when_it_is_told_to(tmp_path):
    seen = []
    recipe = toys.recipe()
    toys.trainer(
        tmp_path, recipe, change=lambda made: watched(toys.with_phase(made, "generator", start=7, every=3), seen)
    ).run()
    assert [step for name, step, *_ in seen if name == "generator"] == [9, 12, 15, 18]


@pytest.mark.parametrize("name, other", [("discriminator", "generator"), ("generator", "discriminator")])
def test_phase_moves_only_what_it_trains(tmp_path, name, other):
    recipe = toys.recipe(images=4, averages={})
    only = lambda made: dataclasses.replace(made, phases=tuple(p for p in made.phases if p.name == name))  # noqa: E731
    trainer = toys.trainer(tmp_path, recipe, change=only)
    before = toys.state(trainer.stage)
    marks = [torch.randn_like(parameter) for parameter in trainer.stage.networks[other].parameters()]
    for parameter, mark in zip(trainer.stage.networks[other].parameters(), marks, strict=True):
        parameter.grad = mark.clone()
    trainer.run()
    after = toys.state(trainer.stage)
    for parameter, mark in zip(trainer.stage.networks[other].parameters(), marks, strict=True):
        assert torch.equal(parameter.grad, mark)
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith(other))
    assert all(not torch.equal(before[key], after[key]) for key in before if key.startswith(name))
    assert not any(key.startswith(f"optimizer/{other}") for key in after)


def test_two_networks_in_one_phase_take_their_gradients_at_one_point(tmp_path):
    """A generator's step must not see the discriminator that the same phase has just moved."""
    recipe = toys.recipe(images=4, averages={})
    made = toys.stage(recipe)
    by_name = {phase.name: phase for phase in made.phases}

    def both(batch, clock):
        return by_name["discriminator"].loss(batch, clock) | by_name["generator"].loss(batch, clock)

    networks = ("discriminator", "generator")
    together = dataclasses.replace(made, phases=(Phase("both", networks, both),))
    trainer = toys.trainer(tmp_path, recipe, made=together)
    start = copy.deepcopy(made.networks)
    trainer.run()

    for name in networks:
        fresh = toys.stage(recipe)
        for network in networks:
            fresh.networks[network].load_state_dict(start[network].state_dict())
        alone = dataclasses.replace(
            fresh, phases=(Phase("both", (name,), {p.name: p for p in fresh.phases}[name].loss),)
        )
        toys.trainer(tmp_path / name, recipe, made=alone).run()
        assert all(
            torch.allclose(mine, theirs, rtol=1e-6, atol=1e-8)
            for mine, theirs in zip(
                together.networks[name].parameters(), alone.networks[name].parameters(), strict=True
            )
        )


def test_lazy_r1_has_its_weight(tmp_path):
    """gamma / 2 * r1_every * mean squared norm of the gradient at the real images, without augmentation."""
    recipe = toys.recipe(images=4, loss={"r1": 3.0, "r1_every": 8, "augment": ("color",)})
    trainer = toys.trainer(tmp_path, recipe)
    discriminator = trainer.stage.networks["discriminator"]
    phase = {phase.name: phase for phase in trainer.stage.phases}["r1"]
    assert (phase.every, phase.start, phase.trains) == (8, 0, ("discriminator",))
    batch = trainer._load(phase, 0)
    clock = Clock(0, 4, 4)
    found = phase.loss(batch, clock)["discriminator"]
    total = 0.0
    for image in batch.image:
        image = image[None].clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(discriminator(image).sum(), image)
        total += gradient.square().sum().item()
    assert found.item() == pytest.approx(3.0 / 2 * 8 * total / 4, rel=1e-5)
    assert clock.terms["r1"].item() == pytest.approx(total / 4, rel=1e-5)


def test_consistency_terms_are_added_with_their_weights(tmp_path):
    weights = {"consistency_real": 10.0, "consistency_fake": 4.0}
    trainers = [toys.trainer(tmp_path, toys.recipe(loss=loss)) for loss in ({}, weights)]
    found = []
    for trainer in trainers:
        phase = trainer.stage.phases[0]
        clock = Clock(0, 4, 80)
        found.append((phase.loss(trainer._load(phase, 0), clock)["discriminator"].item(), clock.terms))
    (plain, without), (full, terms) = found
    assert "consistency_real" not in without
    real, fake = terms["consistency_real"].item(), terms["consistency_fake"].item()
    assert real > 0 and fake > 0
    assert full == pytest.approx(plain + 10 * real + 4 * fake, rel=1e-5)
    assert terms["discriminator"].item() == without["discriminator"].item()


def test_discriminator_sees_only_augmented_images_when_asked(tmp_path):
    """`augment` stands before every image, real or fake, of both networks' phases, and generators feel it."""
    recipe = toys.recipe(images=4, loss={"augment": ("cutout",)})
    trainer = toys.trainer(tmp_path, recipe)
    seen = []
    trainer.stage.networks["discriminator"].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    trainer.run()
    assert len(seen) == 3
    for image in seen:
        assert ((image == 0).all(dim=1).flatten(1).sum(1) >= 4).all()  # a quarter of the square stays inside at least


@pytest.mark.parametrize("bad", [{"r1": -1.0}, {"r1_every": 0}, {"generator_every": 0}, {"r2": 1.0}])
def test_wrong_terms_are_named(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        toys.stage(toys.recipe(loss=bad))


def test_discriminator_that_cannot_be_differentiated_twice_is_refused_with_r1():
    wanted = toys.recipe(loss={"r1": 1.0})
    discriminator = toys.ToyDiscriminator(resolution=8)
    discriminator.enter.second_order = False
    with pytest.raises(UserError, match="enter"):
        Game(
            wanted,
            parts.Parts(toys.ToyGenerator(resolution=8), discriminator, losses.Logistic, wanted.loss.options),
        )


# -- averages


def weight(value: float) -> nn.Module:
    network = nn.BatchNorm1d(1)
    with torch.no_grad():
        network.weight.fill_(value)
        network.running_mean.fill_(value)
    return network


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_average_follows_its_decay(buffers):
    network = weight(1.0)
    average = Average("n", network, Averaging(decay=0.75, buffers=buffers))
    expected = 1.0
    for step, value in enumerate((2.0, 5.0, -1.0)):
        network.load_state_dict(weight(value).state_dict())
        average.update(network, Clock(step, 4, 100))
        expected = 0.75 * expected + 0.25 * value
        assert average.network.weight.item() == pytest.approx(expected)
        assert average.network.running_mean.item() == pytest.approx(expected if buffers == "average" else value)
    assert not average.network.training and not average.network.weight.requires_grad


def test_average_halves_after_its_half_life():
    network = weight(0.0)
    average = Average("n", network, Averaging(half_life_images=40))
    network.load_state_dict(weight(1.0).state_dict())
    for step in range(10):  # 40 images
        average.update(network, Clock(step, 4, 1000))
    assert average.network.weight.item() == pytest.approx(0.5, rel=1e-5)


def test_half_life_counts_images_where_the_network_is_trained_seldom(tmp_path):
    """Real images are the unit of time, however few of the steps train the generator."""
    recipe = toys.recipe(loss={"generator_every": 5}, averages={"generator": Averaging(half_life_images=20)})
    trainer = toys.trainer(tmp_path, recipe)
    taken = []
    average = trainer.stage.averages[0]
    update = average.update

    def spied(network, clock, elapsed=1):
        before = average.network.leave.weight.clone()
        update(network, clock, elapsed)
        moved = (average.network.leave.weight - before) / (network.leave.weight - before)
        taken.append((clock.step, moved.median().item()))

    average.update = spied
    trainer.run()
    assert [step for step, _ in taken] == [0, 5, 10, 15]
    assert [share for _, share in taken[1:]] == pytest.approx([0.5] * 3, rel=1e-2)  # 20 images since the one before


def test_average_copies_until_it_starts(tmp_path):
    averages = {"generator": Averaging(decay=0.9, start_images=20)}
    trainer = toys.trainer(tmp_path, toys.recipe(images=20, averages=averages))
    trainer.run()
    average, network = trainer.stage.averages[0].network, trainer.stage.networks["generator"]
    assert torch.equal(average.leave.weight, network.leave.weight)
    longer = toys.trainer(tmp_path / "b", toys.recipe(images=24, averages=averages))
    longer.run()
    average, network = longer.stage.averages[0].network, longer.stage.networks["generator"]
    assert not torch.equal(average.leave.weight, network.leave.weight)


# -- micro-batches


def relative(first, second) -> float:
    return max(
        ((first[name] - second[name]).abs().max() / second[name].abs().max().clamp_min(1e-12)).item()
        for name in first
        if first[name].is_floating_point()
    )


@pytest.mark.parametrize("micro", [1, 2])
def test_micro_batches_equal_the_whole_batch(tmp_path, micro):
    """Adam with beta1 = 0 moves by sign where gradients are tiny, so a plainer optimizer shows the gradients."""
    loss = {"r1": 1.0, "r1_every": 2, "consistency_real": 1.0, "consistency_fake": 1.0, "augment": ("color",)}
    found = []
    for size in (0, micro):
        recipe = toys.recipe(images=40, micro_batch=size, loss=loss, labels=3)
        made = toys.stage(recipe)
        plain = {name: torch.optim.SGD(net.parameters(), 1e-2) for name, net in made.networks.items()}
        made = dataclasses.replace(made, optimizers=plain)
        toys.trainer(tmp_path / str(size), recipe, made=made).run()
        found.append(toys.state(made))
    assert relative(*found) < 1e-5
    numbers = [steps(tmp_path / str(size)) for size in (0, micro)]
    for whole, parted in zip(*numbers, strict=True):
        for name in ("discriminator", "generator", "consistency_real", "logits_fake", "gradient/generator.generator"):
            assert parted[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-6)


def test_running_statistics_move_by_the_mean_of_the_micro_batches(tmp_path):
    """Each micro-batch starts from the state before the phase; a counter ends where one micro-batch leaves it."""
    recipe = toys.recipe(images=4, micro_batch=2)
    trainer = toys.trainer(tmp_path, recipe, norm=True)
    generator = trainer.stage.networks["generator"]
    before = copy.deepcopy(generator)
    phase = Phase("generator", ("generator",), {p.name: p for p in trainer.stage.phases}["generator"].loss)
    expected = []
    for index in range(2):
        alone = copy.deepcopy(before)
        batch = trainer._load(phase, index)
        alone(alone.latent(batch.rng.fork("z")))
        expected.append(alone.norm)
    trainer.run_phase(phase)
    for name in ("running_mean", "running_var"):
        mean = sum(getattr(norm, name) for norm in expected) / 2
        assert torch.allclose(getattr(generator.norm, name), mean, rtol=1e-6)
    assert generator.norm.num_batches_tracked == 1


def test_constant_buffers_stay_to_the_bit(tmp_path):
    recipe = toys.recipe(images=60, batch=12, micro_batch=1, log_images=0)
    trainer = toys.trainer(tmp_path, recipe)
    values = torch.tensor([0.1, 1 / 3, -math.inf, 1e-30])
    trainer.stage.networks["generator"].register_buffer("mask", values.clone())
    trainer.stage.averages[0].network.register_buffer("mask", values.clone())
    trainer.run()
    assert torch.equal(trainer.stage.networks["generator"].mask, values)


@pytest.mark.parametrize("settings", [{"batch": 4, "micro_batch": 3}, {"batch": 4, "micro_batch": 8}])
def test_micro_batch_that_does_not_divide_is_refused(tmp_path, settings):
    with pytest.raises(UserError, match="train.micro_batch"):
        toys.trainer(tmp_path, toys.recipe(**settings))


# -- optimizers


def test_clip_norm_limits_each_network(tmp_path):
    def norms(clip: float) -> dict[str, float]:
        optimizers = {
            name: Optimizer(1e-2, (0.0, 0.9), clip_norm=clip if name == "generator" else 0.0)
            for name in ("generator", "discriminator")
        }
        trainer = toys.trainer(tmp_path / str(clip), toys.recipe(images=4, optimizers=optimizers))
        found = {}
        for name, optimizer in trainer.stage.optimizers.items():

            def note(optimizer, args, kwargs, name=name):
                gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
                found[name] = torch.nn.utils.get_total_norm(gradients).item()

            optimizer.register_step_pre_hook(note)
        trainer.run()
        logged = steps(tmp_path / str(clip))[0]
        return found | {"logged": logged["gradient/generator.generator"]}

    free, clipped = norms(0.0), norms(1e-3)
    assert clipped["generator"] == pytest.approx(1e-3, rel=1e-3)
    assert clipped["discriminator"] == pytest.approx(free["discriminator"], rel=1e-6)
    assert clipped["logged"] == pytest.approx(free["generator"], rel=1e-5)  # the norm before clipping


@pytest.mark.parametrize("fused", [False, True])
def test_epsilon_hat_adam_is_tensorflows(fused):
    torch.manual_seed(0)
    start, lr, (b1, b2), eps = torch.randn(5, dtype=torch.float64), 0.1, (0.5, 0.9), 1e-2
    ours = nn.Parameter(start.clone())
    optimizer = EpsilonHatAdam([ours], lr=lr, betas=(b1, b2), eps=eps, fused=fused)
    theta, m, v = start.clone(), torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    plain = nn.Parameter(start.clone())
    other = torch.optim.Adam([plain], lr=lr, betas=(b1, b2), eps=eps)
    for step in range(1, 8):
        gradient = torch.randn(5, dtype=torch.float64) * 1e-2
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        theta = theta - lr * math.sqrt(1 - b2**step) / (1 - b1**step) * m / (v.sqrt() + eps)
        for parameter, kind in ((ours, optimizer), (plain, other)):
            parameter.grad = gradient.clone()
            kind.step()
        assert torch.allclose(ours, theta, rtol=1e-10)
        assert optimizer.param_groups[0]["eps"] == eps
    assert not torch.allclose(plain, theta, rtol=1e-3)


def test_epsilon_hat_adam_goes_on_where_it_was(tmp_path):
    spec = Optimizer(0.1, (0.0, 0.9), eps=1e-2, epsilon_hat=True)
    recipe = toys.recipe(optimizers={"generator": spec, "discriminator": spec}, checkpoint_images=40)
    whole = toys.trainer(tmp_path / "whole", recipe)
    whole.run()
    found = checkpoint.open_checkpoint(tmp_path / "whole" / "checkpoints" / "step-10")
    rest = toys.trainer(tmp_path / "rest", recipe)
    rest.restore(found)
    rest.run()
    toys.assert_same(toys.state(whole.stage), toys.state(rest.stage))


def test_adam_corrects_lazy_penalties_and_moves_only_what_is_trainable():
    network = toys.ToyGenerator(resolution=8)
    network.enter.requires_grad_(False)
    optimizer = adam(network, Optimizer(0.002, (0.0, 0.99)), lr_scale=16 / 17, beta_power=16 / 17)
    (group,) = optimizer.param_groups
    assert group["lr"] == pytest.approx(0.002 * 16 / 17)
    assert group["betas"] == pytest.approx((0.0, 0.99 ** (16 / 17)))
    assert len(group["params"]) == 2


def test_learning_rate_falls_linearly_from_where_it_is_told(tmp_path):
    factor = linear_decay(40)
    assert [factor(Clock(step, 4, 80)) for step in (0, 10, 15, 19)] == pytest.approx([1, 1, 0.5, 0.1])
    assert linear_decay(0)(Clock(19, 4, 80)) == 1
    toys.trainer(tmp_path, toys.recipe(decay_from_images=40, lr=0.1)).run()
    rates = [line["lr/generator"] for line in steps(tmp_path)]
    assert rates[:11] == pytest.approx([0.1] * 11)
    assert rates[15] == pytest.approx(0.05) and rates[-1] == pytest.approx(0.01)


def test_bf16_trains_and_keeps_float32_weights(tmp_path):
    seen = []
    trainer = toys.trainer(tmp_path, toys.recipe(images=40, precision="bf16", loss={"r1": 1.0}))
    trainer.stage.networks["generator"].register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    trainer.run()
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in trainer.stage.networks["generator"].parameters()} == {torch.float32}
    assert len(steps(tmp_path)) == 10


# -- divergence


def poisoned(name: str, how: str, at: int, value: float):
    def change(made):
        phases = {phase.name: phase for phase in made.phases}

        def loss(batch, clock):
            found = phases[name].loss(batch, clock)
            (network,) = found
            if clock.step == at and how == "loss":
                found[network] = found[network] * value
            if clock.step == at and how == "term":
                clock.record("a_term", torch.tensor(value))
            if clock.step == at and how == "gradient":  # a finite loss with an infinite slope
                bias = made.networks[network].leave.bias
                found[network] = found[network] + ((bias - bias.detach()) * 0.0).abs().sqrt().sum()
            return found

        return toys.with_phase(made, name, loss=loss)

    return change


@pytest.mark.parametrize("name", ["discriminator", "generator"])
@pytest.mark.parametrize(
    "how, value, term",
    [
        ("loss", math.nan, "the term {name} "),
        ("loss", math.inf, "the term {name} "),
        ("term", math.nan, "the term a_term"),
        ("term", -math.inf, "the term a_term"),
        ("gradient", 0.0, r"the gradient of {name} \(leave.bias\)"),
    ],
)
def test_number_that_is_not_finite_stops_the_run_by_name(tmp_path, name, how, value, term):
    recipe = toys.recipe(checkpoint_images=8)
    trainer = toys.trainer(tmp_path, recipe, change=poisoned(name, how, 5, value))
    with pytest.raises(Diverged, match=f"in phase {name} of step 5, {term.format(name=name)}") as caught:
        trainer.run()
    assert "the checkpoint of step 4" in str(caught.value)
    event = lines(tmp_path)[-1]
    assert (event["event"], event["step"], event["phase"]) == ("diverged", 5, name)
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest.step == 4
    for file in ("networks", "averages", "optimizers"):
        assert all(value.isfinite().all() for value in newest.tensors(file).values())
    assert not list((tmp_path / "checkpoints").glob("step-5*"))


def test_weights_that_overflow_never_reach_a_checkpoint(tmp_path):
    """The loss and its gradient are finite, and the step is not."""
    optimizers = {"generator": Optimizer(1e39, (0.0, 0.9)), "discriminator": Optimizer(1e-2, (0.0, 0.9))}
    trainer = toys.trainer(tmp_path, toys.recipe(images=4, optimizers=optimizers))
    with pytest.raises(Diverged, match=r"after step 0, enter.weight of generator is not finite.*no checkpoint yet"):
        trainer.run()
    assert not list((tmp_path / "checkpoints").glob("*"))


# -- the journal


def test_metrics_have_a_line_for_each_log_and_the_last_step(tmp_path):
    toys.trainer(tmp_path, toys.recipe(images=28, log_images=12, loss={"r1": 1.0, "r1_every": 4})).run()
    assert [(line["step"], line["images"]) for line in steps(tmp_path)] == [(3, 12), (6, 24), (7, 28)]
    for line in steps(tmp_path):
        assert {"discriminator", "generator", "logits_real", "lr/generator", "seconds"} <= line.keys()
        assert all(isinstance(value, (int, float)) for value in line.values())
        assert not any("->" in name for name in line)


def test_phase_that_is_seldom_due_is_logged_all_the_same(tmp_path):
    """R1 runs in steps 0 and 4, lines are written after steps 3 and 7."""
    toys.trainer(tmp_path, toys.recipe(images=32, log_images=16, loss={"r1": 1.0, "r1_every": 4})).run()
    every = toys.trainer(tmp_path / "every", toys.recipe(images=32, log_images=4, loss={"r1": 1.0, "r1_every": 4}))
    every.run()
    ran = [line["r1"] for line in steps(tmp_path / "every") if "r1" in line]
    assert len(ran) == 2
    assert [line["r1"] for line in steps(tmp_path)] == ran


def test_journal_drops_what_is_not_whole_or_comes_after(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"event": "x"}\n[]\n\xff\xfe\n{"step": 2}\n{"step": 3}\n{"step": 2, "los')
    Journal(path, toys.accelerator()).rewind(2)
    assert path.read_text() == '{"step": 1}\n{"event": "x"}\n{"step": 2}\n'


def test_stages_keep_each_others_lines(tmp_path):
    path, runs_on = tmp_path / "metrics.jsonl", toys.accelerator()
    first, second = (Journal(path, runs_on, stage=name) for name in ("first", "second"))
    first.log(5, 20, {"loss": 1.0})
    second.rewind(-1)
    second.log(1, 4, {"loss": 2.0})
    first.rewind(4)
    assert [(line["stage"], line["step"]) for line in lines(tmp_path)] == [("second", 1)]


def test_journal_that_cannot_be_written_is_a_users_error(tmp_path):
    trainer = toys.trainer(tmp_path, toys.recipe(images=4))
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="metrics.jsonl"):
        trainer.run()


def test_progress_is_silent_where_nobody_watches(tmp_path, capfd):
    toys.trainer(tmp_path, toys.recipe()).run()
    assert capfd.readouterr() == ("", "")


def test_progress_shows_losses_and_speed_on_a_terminal(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", screen := Terminal())
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    toys.trainer(tmp_path, toys.recipe(images=400, log_images=0)).run()
    shown = screen.getvalue()
    assert "400/400" in shown and "/s" in shown and "generator" in shown and "logits" not in shown


# -- stopping


def test_observer_sees_the_first_state_each_multiple_and_the_last(tmp_path):
    seen = []
    toys.trainer(
        tmp_path, toys.recipe(images=28, sample_images=12), observe=lambda clock, stage: seen.append(clock.images)
    ).run()
    assert seen == [0, 12, 24, 28]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_after_the_step_and_saves(tmp_path, number):
    def interrupt(made):
        return toys.during(made, "generator", 6, lambda: os.kill(os.getpid(), number))

    before = signal.getsignal(number)
    trainer = toys.trainer(tmp_path, toys.recipe(), change=interrupt)
    with pytest.raises(Stopped):
        trainer.run()
    assert trainer.step == 7 and checkpoint.latest(tmp_path / "checkpoints").step == 7
    assert signal.getsignal(number) is before


def test_second_signal_ends_at_once_and_leaves_no_half_checkpoint(tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    trainer = toys.trainer(tmp_path, toys.recipe(), change=lambda made: toys.during(made, "discriminator", 3, twice))
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.glob("checkpoints/*"))


def test_stop_in_the_last_step_is_the_end(tmp_path):
    def interrupt(made):
        return toys.during(made, "generator", 19, lambda: os.kill(os.getpid(), signal.SIGTERM))

    trainer = toys.trainer(tmp_path, toys.recipe(), change=interrupt)
    trainer.run()
    assert trainer.step == 20


# -- draws


def test_images_and_draws_do_not_depend_on_how_the_batch_is_cut(tmp_path):
    found = []
    for size in (0, 1, 2):
        seen = []
        recipe = toys.recipe(images=24, micro_batch=size)
        toys.trainer(tmp_path / str(size), recipe, change=lambda made, seen=seen: watched(made, seen)).run()
        rows = {}
        for name, step, image, seeds in seen:
            for one, seed in zip(image, seeds, strict=True):
                rows.setdefault((name, step), []).append((seed, one))
        found.append(rows)
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for key, whole in found[0].items():
            assert [seed for seed, _ in other[key]] == [seed for seed, _ in whole]
            assert all(torch.equal(a, b) for (_, a), (_, b) in zip(other[key], whole, strict=True))
    every = [seed for rows in found[0].values() for seed, _ in rows]
    assert len(set(every)) == len(every)


def test_row_of_an_rng_does_not_depend_on_its_batch():
    whole = Rng.of("key", rows=range(6))
    parted = [Rng.of("key", rows=range(0, 2)), Rng.of("key", rows=range(2, 6))]
    for draw in (lambda rng: rng.normal(3), lambda rng: rng.fork("z").normal(2), lambda rng: rng.integers(0, 9)):
        assert torch.equal(draw(whole), torch.cat([draw(part) for part in parted]))


def test_another_discriminator_moves_no_draw(tmp_path, monkeypatch):
    """Neither z, nor the order of the images, nor the generator's initial weights."""
    monkeypatch.setattr(
        parts, "factory", lambda kind, name, home: toys.ToyGenerator if kind == "generator" else toys.ToyDiscriminator
    )
    recipe = toys.recipe(images=12)
    base = recipe.replace(loss=None, data=Data(8))
    found = []
    for channels in (8, 5):
        wanted = base.replace(discriminator=Part("toy", {"channels": channels}))
        built = parts.build(wanted)
        drawn, images = [], []
        trainer = toys.trainer(tmp_path / str(channels), recipe, made=toys.stage(recipe, channels=channels))
        generator = trainer.stage.networks["generator"]
        generator.register_forward_pre_hook(lambda module, args, drawn=drawn: drawn.append(args[0]))
        trainer.stage.networks["discriminator"].register_forward_pre_hook(
            lambda module, args, images=images: images.append(args[0])
        )
        trainer.run()
        found.append((built, drawn, images))
    (one, z, images), (two, other_z, other_images) = found
    assert [p.shape for p in one.discriminator.parameters()] != [p.shape for p in two.discriminator.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(one.generator.parameters(), two.generator.parameters(), strict=True))
    assert len(z) == 6 and all(torch.equal(a, b) for a, b in zip(z, other_z, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(images[1::3], other_images[1::3], strict=True))  # the real ones


def test_every_image_is_seen_once_in_an_epoch(tmp_path):
    seen = []
    recipe = toys.recipe(images=40)
    trainer = toys.trainer(tmp_path, recipe.replace(data=Data(8)), change=lambda made: watched(made, seen))
    trainer.run()
    batches = [image for name, _, image, _ in seen if name == "discriminator"]
    for epoch in (batches[:5], batches[5:]):
        pixels = torch.cat(epoch).flatten(1)
        assert len(torch.unique(pixels, dim=0)) == len(trainer.images) == 20
