"""What the non-local attention promises, without golden arrays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo_core.interfaces import Site
from zoo_sagan.attention import AttentionBlock, NonLocalAttention


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_non_local_attention_is_the_formula():
    """Each output pixel, one by one: softmax over keys of theta . phi, weighting g; then the output layer."""
    site = Site(dim=8, heads=1, resolution=4)
    x = torch.randn(2, 4, 4, 8)
    for pooled in (True, False):
        mixer = NonLocalAttention(site, pooled=pooled, spectral_norm="none")
        keys, values = mixer.phi(x), mixer.g(x)
        if pooled:
            keys, values = (t.view(2, 2, 2, 2, 2, -1).amax((2, 4)) for t in (keys, values))
        expected = torch.zeros_like(x)
        for image in range(2):
            for row in range(4):
                for column in range(4):
                    scores = (mixer.theta(x)[image, row, column] * keys[image]).sum(-1)
                    weights = scores.flatten().softmax(0).view_as(scores)
                    expected[image, row, column] = mixer.output((weights[..., None] * values[image]).sum((0, 1)))
        torch.testing.assert_close(mixer(x), expected)


@pytest.mark.parametrize(("dim", "height", "width"), [(8, 5, 7), (4, 1, 1), (1, 3, 2), (12, 2, 6)])
def test_non_local_attention_takes_any_grid_and_width(dim, height, width):
    mixer = NonLocalAttention(Site(dim=dim, heads=1, resolution=height))
    x = torch.randn(2, height, width, dim)
    assert mixer(x).shape == x.shape
    weights = mixer.weights(x, all_places(height, width))
    assert weights.shape == (2, 1, height * width, -(-height // 2), -(-width // 2))
    torch.testing.assert_close(weights.sum((-1, -2)), torch.ones(2, 1, height * width))


def all_places(height: int, width: int) -> Tensor:
    return torch.cartesian_prod(torch.arange(height), torch.arange(width))


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("norm", ["official", "torch", "none"])
def test_weights_reproduce_the_output_and_move_no_u(pooled, norm):
    mixer = NonLocalAttention(Site(dim=8, heads=1, resolution=5), pooled=pooled, spectral_norm=norm)
    x = torch.randn(2, 5, 6, 8)
    for training in (True, False):
        mixer.train(training)
        before = copy.deepcopy(mixer.state_dict())
        weights = mixer.weights(x, all_places(5, 6))  # of the forward that comes next
        assert all(torch.equal(before[name], value) for name, value in mixer.state_dict().items())
        heard = {}
        hooks = [
            mixer.g.register_forward_hook(lambda layer, inputs, values, heard=heard: heard.update(values=values)),
            mixer.output.register_forward_pre_hook(lambda layer, inputs, heard=heard: heard.update(mixed=inputs[0])),
        ]
        mixer(x)
        for hook in hooks:
            hook.remove()
        values = heard["values"]
        if pooled:
            values = F.max_pool2d(values.permute(0, 3, 1, 2), 2, ceil_mode=True).permute(0, 2, 3, 1)
        mixed = torch.einsum("bnqyx,byxe->bqe", weights, values)
        torch.testing.assert_close(mixed, heard["mixed"], rtol=0, atol=1e-5)  # what the output layer takes


def test_non_local_attention_can_be_differentiated_twice():
    mixer = NonLocalAttention(Site(dim=4, heads=1, resolution=4), spectral_norm="none").double()
    x = torch.randn(1, 4, 4, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(mixer, x)


def test_attention_adds_nothing_at_the_start():
    block = AttentionBlock(NonLocalAttention(Site(dim=8, heads=1, resolution=4)))
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(block(x), x)
    nn.init.ones_(block.gamma)
    assert not torch.equal(block(x), x)
