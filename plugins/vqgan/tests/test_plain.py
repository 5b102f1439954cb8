"""The plain formulation: the same numbers as the fast one, by what the official code does."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from zoo_core import parts, recipe, session
from zoo_core.flops import count
from zoo_core.formulation import plain
from zoo_core.program import Batch, Clock
from zoo_core.rng import Rng
from zoo_vqgan.blocks import Up


@pytest.mark.parametrize("side", [3, 8])  # below and above the size from which one kernel does both
def test_doubling_is_nearest_neighbour_and_a_convolution(side: int) -> None:
    torch.manual_seed(0)
    up, x = Up(8).double(), torch.randn(2, 8, side, side + 1, dtype=torch.float64, requires_grad=True)
    found = []
    for formulation in (nullcontext, plain):
        with formulation():
            out = up(x)
            slopes = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
            found.append((out, *torch.autograd.grad((out * slopes).sum(), [x, *up.parameters()])))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_doubling_a_large_map_takes_four_ninths_of_the_work() -> None:
    up, x = Up(8), torch.randn(1, 8, 16, 16)
    with plain():
        textbook = count(lambda: up(x))
    assert count(lambda: up(x)) * 9 == textbook * 4


def losses(second_pass: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The losses of one step, without the optimizers' steps, and the gradients."""
    changes = [("loss.second_pass", second_pass), ("loss.adversarial_start_images", 0)]
    wanted = recipe.load("vqgan", "tiny", changes)
    stage = session.build_stages(wanted, parts.build(wanted))[0]
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = Batch(image, None, Rng.of("plain", rows=range(2), device="cpu"))
    values, gradients = {}, {}
    for phase in stage.phases:
        torch.manual_seed(0)
        (name,) = phase.trains
        (values[phase.name],) = phase.loss(batch, Clock(0, 2, 100)).values()
        parameters = dict(stage.networks[name].named_parameters())
        parameters = {key: value for key, value in parameters.items() if value.requires_grad}
        found = torch.autograd.grad(values[phase.name], list(parameters.values()), allow_unused=True)
        gradients |= {f"{name}.{key}": value for key, value in zip(parameters, found, strict=True) if value is not None}
    return values, gradients


@pytest.mark.parametrize("second_pass", [True, False])
def test_a_step_of_the_autoencoder_is_the_same_either_way(second_pass: bool) -> None:
    values, gradients = losses(second_pass)
    with plain():
        expected, slopes = losses(second_pass)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == slopes.keys()
    peak = max(float(value.abs().max()) for value in slopes.values())
    for name, value in slopes.items():
        torch.testing.assert_close(
            gradients[name], value, rtol=1e-3, atol=1e-4 * peak, msg=lambda text, n=name: n + text
        )
