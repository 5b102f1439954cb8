"""The discriminator and the pieces of a training step against recordings of the official code."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hit_goldens import arrays, keys, stored_part, variables
from parity import note, peak_error
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from zoo_core import parts, recipe
from zoo_core.augment import brightness, contrast, cutout, saturation, translation
from zoo_core.layers import minibatch_stddev
from zoo_core.losses import Hinge, Logistic, consistency, r1_penalty
from zoo_core.program import adam
from zoo_core.recipe import Optimizer
from zoo_hit import convert
from zoo_hit.discriminator import Blur, Discriminator

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
"""For everything: of the peak, or relative where a single figure is compared."""

CASES = {
    "d16_avgpool_m1": {"blur": False},
    "d16_blur_m1": {},
    "d32_blur_equal_mbstd": {"equalised": True, "minibatch_stddev": True},
}


def nchw(array: np.ndarray) -> Tensor:
    """`[B, H, W, C]` -> `[B, C, H, W]`."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def nhwc(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 2, 3, 1)


def relative(ours: Tensor | float, theirs: np.ndarray) -> float:
    return peak_error(np.atleast_1d(np.float32(ours)), theirs.reshape(-1))


# -- the discriminator


def with_golden_weights(case: str) -> Discriminator:
    options = CASES[case]
    changes = {"data.resolution": int(case[1:3]), "discriminator": options}
    wanted = recipe.load("hit", "imagenet128", list(changes.items()))
    discriminator = parts.build(wanted).discriminator
    official = variables(keys(case), equalised=options.get("equalised", False))
    discriminator.load_state_dict(convert.official(official, wanted).networks["discriminator"])
    return discriminator


def outputs(discriminator: Discriminator) -> dict[str, Tensor]:
    """The returned table fills with layer outputs, by the golden's names, when the discriminator runs."""
    taken: dict[str, Tensor] = {}

    def take(module: nn.Module, name: str, change: Callable[[Tensor], Tensor] = lambda output: output) -> None:
        module.register_forward_hook(lambda module, given, output: taken.__setitem__(name, change(output).detach()))

    def activated(output: Tensor) -> Tensor:
        return leaky_relu(output, 0.2)

    def flattened(output: Tensor) -> Tensor:
        return activated(nhwc(output)).flatten(1)  # in the official order

    take(discriminator.from_rgb, "conv_blocks_0", nhwc)
    take(discriminator.from_rgb, "conv_blocks_1", lambda output: activated(nhwc(output)))
    for index, block in enumerate(discriminator.blocks):
        take(block, f"conv_blocks_{index + 2}", nhwc)
    if discriminator.minibatch_stddev:
        discriminator.last.register_forward_pre_hook(
            lambda module, given: taken.__setitem__(f"conv_blocks_{len(discriminator.blocks) + 2}", nhwc(given[0]))
        )
    take(discriminator.last, "final_0", nhwc)
    take(discriminator.last, "final_1", lambda output: activated(nhwc(output)))
    take(discriminator.last, "final_2", flattened)
    take(discriminator.hidden, "final_3")
    take(discriminator.hidden, "final_4", activated)
    take(discriminator.logit, "final_5")
    return taken


@pytest.mark.parametrize("case", CASES)
def test_discriminator_gives_the_official_numbers(case: str) -> None:
    """Forward, loss, R1, and the gradients of both, all from one pass."""
    module, recorded, discriminator = "hit: discriminator", arrays(case), with_golden_weights(case)
    taken = outputs(discriminator)
    judged: list[Tensor] = []

    def judge(image: Tensor) -> Tensor:
        judged.append(discriminator(image))
        return judged[0]

    penalty = 10 * r1_penalty(judge, nchw(recorded["x"]))
    (logits,) = judged
    loss = Logistic().discriminator(logits, 0.5 * logits - 0.1)
    names = [name.removesuffix("_stats") for name in recorded if name.endswith("_stats")]
    assert sorted(names) == sorted(taken)
    errors = [peak_error(stored_part(recorded, name, taken[name]), recorded[name]) for name in names]
    note(module, case, "layer outputs", max(errors), TOLERANCE, count=len(errors))
    note(module, case, "logits", peak_error(logits, recorded["logits"]), TOLERANCE)
    note(module, case, "R1 penalty", relative(penalty.detach(), recorded["r1_penalty_cost10"]), TOLERANCE)
    note(module, case, "loss", relative(loss.detach(), recorded["d_loss_ns_fake=0.5*real-0.1"]), TOLERANCE)

    (loss + penalty).backward()
    gradients = {name: parameter.grad for name, parameter in discriminator.named_parameters()}
    gradients = convert.to_official(gradients, discriminator, "discriminator")
    norms = dict(zip(recorded["grad_keys"], recorded["grad_norms"], strict=True))
    assert norms.keys() == gradients.keys()
    errors = [relative(gradients[key].double().norm(), norm) for key, norm in norms.items()]
    note(module, case, "gradients' norms, R1 included", max(errors), TOLERANCE, count=len(errors))
    whole = [name.removeprefix("grad:") for name in recorded if name.startswith("grad:")]
    errors = [peak_error(gradients[key], recorded[f"grad:{key}"]) for key in whole]
    note(module, case, "gradients of biases, R1 included", max(errors), TOLERANCE, count=len(errors))


def test_blur_is_the_official_one() -> None:
    misc = arrays("misc")
    error = peak_error(nhwc(Blur()(nchw(misc["blur_in"]))), misc["blurpool_f4"])
    note("hit: discriminator", "misc", "blur", error, TOLERANCE)


@pytest.mark.parametrize(("name", "batch"), [("mbstd_g4_f1", 8), ("mbstd_g4_b2", 2)])
def test_minibatch_deviation_is_the_official_one(name: str, batch: int) -> None:
    misc = arrays("misc")
    error = peak_error(nhwc(minibatch_stddev(nchw(misc["mbstd_in"][:batch]))), misc[name])
    note("hit: discriminator", "misc", "minibatch standard deviation", error, TOLERANCE)


# -- the step


@pytest.mark.parametrize(("name", "loss"), [("non-saturating", Logistic()), ("hinge", Hinge())])
def test_losses_are_the_official_ones(name: str, loss: Logistic | Hinge) -> None:
    misc = arrays("misc")
    real, fake = (torch.from_numpy(misc[f"{which}_logits"]) for which in ("real", "fake"))
    found = {"d_loss": loss.discriminator(real, fake), "g_loss": loss.generator(fake)}
    for side, value in found.items():
        note("hit: training", "misc", f"{name} loss", relative(value, misc[f"{side}_{name}"]), TOLERANCE)


def test_distance_of_consistency_is_the_official_one() -> None:
    misc = arrays("misc")
    found = consistency(*(torch.from_numpy(misc[f"{which}_logits"]) for which in ("real", "fake")))
    note("hit: training", "misc", "bCR distance", relative(found, misc["l2_loss"]), TOLERANCE)


Draws = list[Tensor]
STEPS: dict[str, tuple[int, Callable[[Tensor, Draws], Tensor]]] = {
    "rand_brightness": (1, lambda image, draws: brightness(image, draws[0] - 0.5)),
    "rand_saturation": (1, lambda image, draws: saturation(image, draws[0] * 2)),
    "rand_contrast": (1, lambda image, draws: contrast(image, draws[0] + 0.5)),
    "rand_translation": (2, lambda image, draws: translation(image, torch.stack(draws, 1).long())),
    "rand_cutout": (2, lambda image, draws: cutout(image, torch.stack(draws, 1).long(), image.shape[2] // 2)),
}
"""How many draws each has, and ours of them; the official uniform draws are in [0, 1)."""


@pytest.mark.parametrize("name", [*STEPS, "full"])
def test_augmentation_of_given_draws_is_the_official_one(name: str) -> None:
    misc = arrays("misc")
    image, used = nchw(misc["aug_in"]), 0
    for num, step in STEPS.values() if name == "full" else [STEPS[name]]:
        image = step(image, [torch.from_numpy(misc[f"aug_{name}_draw{used + i}"]).view(-1) for i in range(num)])
        used += num
    assert f"aug_{name}_draw{used}" not in misc
    error = peak_error(nhwc(image), misc[f"aug_{name}"])
    note("hit: training", "misc", "augmentation of given draws", error, TOLERANCE)


def test_adam_is_the_official_one() -> None:
    misc = arrays("misc")
    layer = nn.Linear(5, 1, bias=False)
    layer.weight.data = torch.from_numpy(misc["adam_v0"])[None].clone()
    optimizer = adam(layer, Optimizer(1e-4, (0.0, 0.99), eps=1e-7, epsilon_hat=True))
    moved = []
    for step in range(4):
        layer.weight.grad = torch.from_numpy(misc[f"adam_g{step}"])[None]
        optimizer.step()
        moved.append(layer.weight.detach()[0].clone())
    # Steps are 1e-4 of the weights or less: compare what each weight has moved.
    start = misc["adam_v0"]
    errors = [peak_error(now - torch.from_numpy(start), misc[f"adam_v{i + 1}"] - start) for i, now in enumerate(moved)]
    note("hit: training", "misc", "way of Adam, four steps", max(errors), TOLERANCE, count=len(errors))
