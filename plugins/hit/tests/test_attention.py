"""Multi-axis attention and cross-attention: both formulations agree, and they look where they say."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from zoo_core.errors import UserError
from zoo_core.formulation import plain
from zoo_core.interfaces import Attention, Site
from zoo_hit.attention import CrossAttention, MultiAxisAttention

KINDS = [
    pytest.param(partial(kind, multi_query=shared), id=f"{kind.__name__}-{'multi-query' if shared else 'multi-head'}")
    for kind in (MultiAxisAttention, CrossAttention)
    for shared in (True, False)
]


def build(kind, resolution: int = 8, **options: object) -> tuple[Attention, Tensor, Tensor]:
    """The module with larger weights than it starts with, a map and context tokens, in float64."""
    torch.manual_seed(0)
    module = kind(Site(12, 6, resolution, 0, 20), **options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, resolution, resolution, 12, dtype=torch.float64, requires_grad=True)
    return module, x, torch.randn(2, 5, 20, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("kind", KINDS)
def test_both_formulations_give_the_same_output_and_gradients(kind) -> None:
    module, x, context = build(kind)
    slope = torch.randn_like(x)

    def run() -> list[Tensor]:
        output = module(x, context)
        gradients = torch.autograd.grad(output, [x, context, *module.parameters()], slope, allow_unused=True)
        return [output, *(each for each in gradients if each is not None)]

    fused = run()
    with plain():
        written_out = run()
    for one, other in zip(fused, written_out, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_values_give_the_output(kind) -> None:
    module, x, context = build(kind)
    everywhere = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    weights = module.weights(x, everywhere, context)
    keys = (8, 8) if isinstance(module, MultiAxisAttention) else (5,)
    assert weights.shape == (2, 6, 64, *keys) and (weights >= 0).all()
    source = x if isinstance(module, MultiAxisAttention) else context
    values = module.value(source).flatten(1, -2).unflatten(2, (-1, 2)).expand(-1, -1, 6, -1)  # [B, keys, N, D]
    torch.testing.assert_close(weights.flatten(3).sum(3), torch.ones(2, 6, 64, dtype=torch.float64))
    mixed = torch.einsum("bnqk,bknd->bqnd", weights.flatten(3), values)
    torch.testing.assert_close(module.output(mixed.flatten(2)).view_as(x), module(x, context))


def test_weights_of_few_points_are_those_of_all_points() -> None:
    module, x, _ = build(MultiAxisAttention)
    everywhere = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    points = torch.tensor([[7, 2], [0, 5]])
    torch.testing.assert_close(module.weights(x, points), module.weights(x, everywhere)[:, :, [58, 5]])


def test_half_of_the_heads_see_the_block_and_half_the_same_place_of_all_blocks() -> None:
    module, x, _ = build(MultiAxisAttention, block=2)
    (weights,) = module.weights(x[:1], torch.tensor([[5, 2]]))
    seen = (weights[:, 0] > 0).nonzero().tolist()
    block = [[head, row, column] for head in range(3) for row in (4, 5) for column in (2, 3)]
    places = [[head, row, column] for head in range(3, 6) for row in (1, 3, 5, 7) for column in (0, 2, 4, 6)]
    assert seen == block + places


@pytest.mark.parametrize(("resolution", "block"), [(1, 1), (2, 1), (4, 2), (8, 4), (16, 4), (32, 8), (64, 8), (128, 8)])
def test_blocks_follow_the_papers_rule_and_never_fill_more_than_half_a_side(resolution: int, block: int) -> None:
    assert MultiAxisAttention(Site(8, 2, resolution)).block == block


@pytest.mark.parametrize("resolution", [1, 2, 4, 16])
def test_multi_axis_attention_fits_maps_of_any_side(resolution: int) -> None:
    module, x, _ = build(MultiAxisAttention, resolution, block=8)
    assert module(x).shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
def test_with_second_order_it_can_be_differentiated_twice_and_says_so(kind) -> None:
    assert build(kind)[0].second_order is False
    module, x, context = build(kind, 4, second_order=True)
    assert module.second_order is True
    torch.testing.assert_close(module(x, context), build(kind, 4)[0](x, context))
    function = module if isinstance(module, CrossAttention) else lambda x, context: module(x)
    inputs = [each[:1].detach().requires_grad_() for each in (x, context)]
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize(
    ("site", "options", "message"),
    [
        (Site(12, 3, 8), {}, "even number of heads"),
        (Site(12, 8, 8), {}, "8 heads do not divide 12 channels"),
        (Site(12, 6, 16), {"block": 3}, "blocks of 3 do not divide a map of 16 pixels"),
        (Site(12, 6, 16), {"block": -4}, "blocks of -4 do not divide"),
    ],
)
def test_sites_and_blocks_that_do_not_fit_are_refused(site: Site, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MultiAxisAttention(site, **options)


def test_cross_attention_without_context_is_refused() -> None:
    with pytest.raises(UserError, match="its host passes none"):
        CrossAttention(Site(12, 6, 8))
