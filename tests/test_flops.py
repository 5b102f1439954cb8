"""Counted operations against closed forms written from the definitions: projections, scores, mixing.

B batch, H W map, L = H W tokens, C channels, N heads, D = C / N head dim, T tokens of a window, k kernel, p block.
A product of [m, k] and [k, n] is 2 m k n. A backward pass of a product is two more; fused attention computes the
scores once more in its backward pass, so its products there are five for two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import conv2d, conv_transpose2d, linear, scaled_dot_product_attention
from torch.utils.flop_counter import flop_registry, register_flop_formula

from zoo_core.attention import FullAttention, NoAttention
from zoo_core.flops import count
from zoo_core.formulation import plain
from zoo_core.interfaces import Site
from zoo_core.resample import fir_kernel, upfirdn2d

B, H, C, N = 2, 16, 32, 4
L, D = H * H, C // N
FORMULATIONS = {"fast": nullcontext, "plain": plain}


def tokens(side: int = H, channels: int = C) -> Tensor:
    return torch.randn(B, side, side, channels, requires_grad=True)


def forward(module: nn.Module, *inputs: Tensor) -> int:
    return count(lambda: module(*inputs))


def training(module: nn.Module, *inputs: Tensor) -> int:
    return count(lambda: module(*inputs).sum().backward())


def projections(*widths: tuple[int, int], length: int = L) -> int:
    """Linear layers of `(inputs, outputs)` on every token."""
    return sum(2 * B * length * inputs * outputs for inputs, outputs in widths)


def attending(queries: int, keys: float, channels: int, values: int = 0) -> int:
    """Scores of `channels` over all heads, and mixing of as many `values`."""
    return round(2 * B * queries * keys * (channels + (values or channels)))


# Attention, kind by kind.


def test_full() -> None:
    linear_layers, mixing = projections((C, 4 * C)), attending(L, L, C)
    module = FullAttention(Site(C, N, H))
    assert forward(module, tokens()) == linear_layers + mixing
    assert training(module, tokens()) == 3 * (linear_layers + mixing)


def test_full_over_a_context() -> None:
    module, context = FullAttention(Site(C, N, H, context_dim=24)), torch.randn(B, 10, 24, requires_grad=True)
    linear_layers = projections((C, 2 * C)) + projections((24, 2 * C), length=10)
    assert forward(module, tokens(), context) == linear_layers + attending(L, 10, C)


def test_none_is_one_linear_layer() -> None:
    assert forward(NoAttention(Site(C, N, H)), tokens()) == projections((C, C))
    assert training(NoAttention(Site(C, N, H)), tokens()) == 3 * projections((C, C))


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("side", [8, 16])
def test_windows_see_the_tokens_of_a_window(side: int, formulation: str) -> None:
    attention = pytest.importorskip("zoo_styleswin.attention")
    T, tokens_ = 64, side * side
    whole = projections((C, 4 * C), length=tokens_) + attending(tokens_, T, C)
    module = attention.WindowAttention(Site(C, N, side))
    with FORMULATIONS[formulation]():
        assert forward(module, tokens(side)) == whole
        assert training(module, tokens(side)) == 3 * whole


KERNEL, DILATIONS = 7, (1, 2)


def hydra() -> nn.Module:
    attention = pytest.importorskip("zoo_stylenat.attention")
    return attention.HydraAttention(Site(C, N, H), kernels=(KERNEL,), dilations=DILATIONS)


def test_neighbourhoods_see_the_keys_of_a_kernel() -> None:
    """By the definition; the positional bias is looked up, which takes no products."""
    module = hydra()
    whole = projections((C, 4 * C)) + attending(L, KERNEL**2, C)
    with plain():
        assert forward(module, tokens()) == whole
        assert training(module, tokens()) == 3 * whole


def test_tiled_neighbourhoods_see_whole_halos_and_make_their_bias_by_products() -> None:
    module = hydra()
    tiles = pytest.importorskip("zoo_stylenat.neighborhood_tiles")
    mixing, tables, backward_tables = 0, 0, 0
    for dilation in DILATIONS:
        side, heads = H // dilation, N // len(DILATIONS)
        rows, columns = tiles.cut(side, KERNEL, 2), tiles.cut(side, KERNEL, side)  # two rows of a map up to 24 wide
        mixing += attending(L, rows.span * columns.span, heads * D)
        # A table of each kind of tile: one-hot rows x bias x one-hot columns, of 2 k - 1 offsets.
        offsets = 2 * KERNEL - 1
        tall, wide = (len(axis.patterns) * axis.tile * axis.span for axis in (rows, columns))
        tables += heads * 2 * (tall * offsets**2 + tall * offsets * wide)
        backward_tables += heads * 2 * (tall * wide * offsets + offsets * tall * offsets)
    linear_layers = projections((C, 4 * C))
    assert forward(module, tokens()) == linear_layers + mixing + tables
    # Backward: the scores once more and four gradients for the two products; the table once more and its gradient.
    assert training(module, tokens()) == 3 * linear_layers + 3.5 * mixing + 2 * tables + backward_tables
    # What tiling costs: at 16 px every query of the undilated half meets 8 x 16 keys for 49, of the dilated 8 x 8.
    assert mixing / attending(L, KERNEL**2, C) == pytest.approx((8 * 16 + 8 * 8) / 2 / 49)


def test_natten_is_counted_at_its_definition() -> None:
    formulas = pytest.importorskip("zoo_stylenat.neighborhood_flops")
    neighborhood = pytest.importorskip("zoo_stylenat.neighborhood")
    q, k, v = (torch.randn(B, H, H, N, D) for _ in range(3))
    shapes = [tuple(x.shape) for x in (q, k, v)]
    made = formulas.forward_flops(*shapes, [KERNEL, KERNEL], [1, 1], [1, 1], out_shape=shapes[0])
    assert made == count(lambda: neighborhood.neighborhood_attention(q, k, v, kernel=KERNEL, backend="plain"))
    lse = shapes[0][:-1]
    assert formulas.backward_flops(*shapes, shapes[0], shapes[0], lse, [KERNEL, KERNEL], [1, 1]) == 2.5 * made


@pytest.mark.parametrize("multi_query", [True, False])
def test_multi_axis_sees_its_block_and_its_place_in_all_blocks(multi_query: bool) -> None:
    attention = pytest.importorskip("zoo_hit.attention")
    p = 4
    keys = D if multi_query else C
    linear_layers = projections((C, C), (C, keys), (C, keys), (C, C))
    mixing = attending(L, p**2, C / 2) + attending(L, (H / p) ** 2, C / 2)
    module = attention.MultiAxisAttention(Site(C, N, H), block=p, multi_query=multi_query)
    assert forward(module, tokens()) == linear_layers + mixing
    assert training(module, tokens()) == 3 * linear_layers + 3.5 * mixing  # fused
    with plain():
        assert forward(module, tokens()) == linear_layers + mixing
        assert training(module, tokens()) == 3 * (linear_layers + mixing)


def test_cross_attention_sees_the_context() -> None:
    attention = pytest.importorskip("zoo_hit.attention")
    length, width = 16, 24
    module = attention.CrossAttention(Site(C, N, H, context_dim=width))
    linear_layers = projections((C, C), (C, C)) + projections((width, 2 * D), length=length)
    context = torch.randn(B, length, width, requires_grad=True)
    assert forward(module, tokens(), context) == linear_layers + attending(L, length, C)


@pytest.mark.parametrize("pooled", [True, False])
def test_non_local_has_narrow_keys_and_pools_them(pooled: bool) -> None:
    attention = pytest.importorskip("zoo_sagan.attention")
    keys = L // 4 if pooled else L
    whole = projections((C, C // 8), (C, C // 8), (C, C // 2), (C // 2, C)) + attending(L, keys, C // 8, C // 2)
    module = attention.NonLocalAttention(Site(C, 1, H), pooled=pooled, spectral_norm="none")
    assert forward(module, tokens()) == whole
    assert training(module, tokens()) == 3 * whole


def test_power_iterations_are_counted_and_are_few() -> None:
    """v = W^T u, u = W v and sigma = u W v in each layer: some matrix-vector products, whatever the map."""
    attention = pytest.importorskip("zoo_sagan.attention")
    made = [
        forward(attention.NonLocalAttention(Site(C, 1, H), spectral_norm=norm), tokens())
        for norm in ("none", "official")
    ]
    weights = 2 * C * (C // 8) + 2 * C * (C // 2)
    assert 2 * 2 * weights <= made[1] - made[0] <= 4 * 2 * weights + 6 * C


def test_spatial_has_one_head() -> None:
    blocks = pytest.importorskip("zoo_vqgan.blocks")
    linear_layers, mixing = projections((C, 4 * C)), attending(L, L, C)
    module = blocks.SpatialAttention(Site(C, 1, H))
    assert forward(module, tokens()) == linear_layers + mixing
    assert training(module, tokens()) == 3 * linear_layers + 3.5 * mixing
    with plain():
        assert training(module, tokens()) == 3 * (linear_layers + mixing)


def test_a_causal_block_counts_all_keys() -> None:
    """Also those that the mask hides: the fused kernel skips about half of them, its formula does not know."""
    gpt = pytest.importorskip("zoo_vqgan.gpt")
    length = 20
    block = gpt.Block(C, N, attention_dropout=0.0, residual_dropout=0.0)
    linear_layers = projections((C, 4 * C), (C, 4 * C), (4 * C, C), length=length)
    mixing = attending(length, length, C)
    x = torch.randn(B, length, C, requires_grad=True)
    assert forward(block, x, length, None, None, 0) == linear_layers + mixing
    assert training(block, x, length, None, None, 0) == 3 * linear_layers + 3.5 * mixing
    with plain():
        assert training(block, x, length, None, None, 0) == 3 * (linear_layers + mixing)


# Operators.


@pytest.mark.parametrize(("kernel", "backward"), [(SDPBackend.MATH, 2), (SDPBackend.FLASH_ATTENTION, 2.5)])
def test_fused_attention_on_this_device(kernel: SDPBackend, backward: float) -> None:
    q, k, v = (torch.randn(B, N, length, D, requires_grad=True) for length in (6, 9, 9))
    whole = N * attending(6, 9, D)
    with sdpa_kernel(kernel):
        assert count(lambda: scaled_dot_product_attention(q, k, v)) == whole
        assert count(lambda: scaled_dot_product_attention(q, k, v).sum().backward()) == (1 + backward) * whole


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_with_groups_forwards_and_backwards(transposed: bool, groups: int) -> None:
    image, weight = torch.randn(B, 4, 8, 8, requires_grad=True), torch.randn(4, 8 // groups, 3, 3, requires_grad=True)
    if transposed:
        operator, places = lambda: conv_transpose2d(image, weight, stride=2, groups=groups), 8 * 8
    else:
        weight = torch.randn(8, 4 // groups, 3, 3, requires_grad=True)
        operator, places = lambda: conv2d(image, weight, stride=2, groups=groups), 3 * 3
    whole = 2 * B * places * weight.numel()
    assert count(operator) == whole
    assert count(lambda: operator().sum().backward()) == 3 * whole


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_upfirdn2d_counts_the_taps_of_each_output(formulation: str) -> None:
    image = torch.randn(2, 3, 16, 16)
    with FORMULATIONS[formulation]():
        blur = count(lambda: upfirdn2d(image, fir_kernel(), padding=(2, 2)))
        half = count(lambda: upfirdn2d(image, fir_kernel(), down=2, padding=(1, 1)))
    assert blur == 2 * 2 * 3 * 17**2 * 16
    outputs = 8 if formulation == "fast" else 15  # the definition computes what it then drops
    assert half == 2 * 2 * 3 * outputs**2 * 16


def test_a_second_derivative_is_counted() -> None:
    x, weight = torch.randn(1, 2, 8, 8, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    whole = 2 * 3 * 2 * 9 * 6 * 6

    def penalty() -> None:
        (slope,) = torch.autograd.grad(conv2d(x, weight).square().sum(), x, create_graph=True)
        slope.square().sum().backward(inputs=[weight])

    assert count(penalty) == 5 * whole  # forward, slope, its two gradients, and the forward's


MATRIX, VECTOR = torch.randn(5, 7), torch.randn(7)
OPERATORS: dict[str, tuple[Callable[[], object], int]] = {
    "a row through a linear layer": (lambda: linear(VECTOR[None], MATRIX, torch.zeros(5)), 2 * 35),
    "a vector through a linear layer": (lambda: linear(VECTOR, MATRIX, torch.zeros(5)), 2 * 35),
    "mv": (lambda: torch.mv(MATRIX, VECTOR), 2 * 35),
    "addmv_": (lambda: torch.zeros(5).addmv_(MATRIX, VECTOR), 2 * 35),
    "dot": (lambda: torch.dot(VECTOR, VECTOR), 2 * 7),
    "addmm_": (lambda: torch.zeros(5, 5).addmm_(MATRIX, MATRIX.T), 2 * 35 * 5),
    "baddbmm_": (lambda: torch.zeros(3, 5, 5).baddbmm_(*_batch()), 3 * 2 * 35 * 5),
    "addbmm": (lambda: torch.addbmm(torch.zeros(5, 5), *_batch()), 3 * 2 * 35 * 5),
    "einsum": (lambda: torch.einsum("bij,bkj->bik", _batch()[0], _batch()[0]), 3 * 2 * 35 * 5),
    "an outer product is element-wise": (lambda: torch.outer(VECTOR, VECTOR), 0),
}


def _batch() -> tuple[Tensor, Tensor]:
    return MATRIX.expand(3, 5, 7), MATRIX.T.expand(3, 7, 5)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
def test_every_kind_of_product(operator: str, mode: Callable) -> None:
    act, wanted = OPERATORS[operator]
    with mode():
        assert count(act) == wanted


def test_an_operator_of_ones_own_is_counted_by_the_formula_in_torchs_registry() -> None:
    @torch.library.custom_op("zoo_tests::cube", mutates_args=())
    def cube(x: Tensor) -> Tensor:
        return x @ x @ x

    x = torch.randn(4, 4)
    assert count(lambda: cube(x)) == 0  # what it does inside is not seen
    try:
        register_flop_formula(torch.ops.zoo_tests.cube)(lambda shape, **rest: 2 * 2 * math.prod(shape) * shape[0])
        assert count(lambda: cube(x)) == 2 * 2 * 4**3
    finally:
        flop_registry.pop(torch.ops.zoo_tests.cube, None)
