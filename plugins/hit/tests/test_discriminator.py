"""The discriminator has the published sizes, its filter, its initial values, and refuses what it cannot be."""

from __future__ import annotations

import math

import pytest
import torch

from zoo_core import formulation
from zoo_core.errors import UserError
from zoo_hit.discriminator import AveragePool, Blur, Discriminator, channel_table

SMALL = {4: 4, 8: 3, 16: 2}


@pytest.mark.parametrize(
    ("resolution", "multiplier", "parameters"),
    [(128, 1, 23_880_833), (256, 1, 23_998_017), (256, 2, 28_862_593), (1024, 1, 24_033_937), (1024, 2, 29_008_673)],
)
def test_parameters_are_as_many_as_in_the_official_models(resolution: int, multiplier: int, parameters: int) -> None:
    with torch.device("meta"):
        discriminator = Discriminator(resolution=resolution, channel_multiplier=multiplier)
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == parameters


def test_one_table_of_channels_serves_every_resolution() -> None:
    assert channel_table(256, 2, {}) == {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128}
    assert channel_table(64, 1, {4: 64, 8: 48, 16: 24}) == {4: 64, 8: 48, 16: 24, 32: 12, 64: 8}
    assert channel_table(8, 1, {8: 48, 16: 24}) == {4: 512, 8: 48}


def test_blur_takes_zero_for_what_is_outside() -> None:
    line = torch.tensor([7 / 8, 1, 1, 7 / 8])
    assert torch.allclose(Blur()(torch.ones(1, 2, 8, 8)), torch.outer(line, line).expand(1, 2, 4, 4))
    assert torch.equal(AveragePool()(torch.ones(1, 2, 8, 8)), torch.ones(1, 2, 4, 4))


@pytest.mark.parametrize("options", [{}, {"blur": False}, {"equalised": True, "minibatch_stddev": True}])
def test_it_is_differentiable_twice(options: dict[str, bool]) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(resolution=8, channels={4: 2, 8: 2}, **options).double()
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert discriminator(image).shape == (2, 1)
    assert torch.autograd.gradgradcheck(discriminator, image, fast_mode=True)


def test_fast_and_plain_formulation_agree() -> None:
    torch.manual_seed(0)
    discriminator, image = Discriminator(resolution=16, channels=SMALL), torch.randn(2, 3, 16, 16)
    with formulation.plain():
        plain = discriminator(image)
    assert torch.allclose(discriminator(image), plain, rtol=1e-5, atol=1e-6)


def test_weights_begin_as_in_keras() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(resolution=16, channels={4: 64, 8: 64, 16: 32})
    for name, parameter in discriminator.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
            continue
        rows, columns, area = *parameter.shape[:2], math.prod(parameter.shape[2:])
        bound = math.sqrt(6 / ((rows + columns) * area))
        assert 0.9 * bound < parameter.abs().max() <= bound, name
    equalised = Discriminator(resolution=16, channels={4: 64, 8: 64, 16: 32}, equalised=True)
    assert equalised.blocks[1].conv1.weight.std().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"resolution": 4}, "at least 8"),
        ({"resolution": 24}, "power of two"),
        ({"channel_multiplier": 0}, "channel_multiplier"),
        ({"channels": {12: 8}}, "side 12"),
        ({"channels": {8: 0}}, "width 0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        Discriminator(**{"resolution": 16, "channels": SMALL} | options)


def test_it_takes_no_label_and_says_so() -> None:
    assert Discriminator(resolution=8, channels=SMALL, num_classes=3).num_classes == 0
    with pytest.raises(UserError, match="takes no label"):
        Discriminator(resolution=8, channels=SMALL)(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64))
