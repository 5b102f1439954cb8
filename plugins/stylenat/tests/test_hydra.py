"""Hydra attention: the head partition, what it computes, its names, its choices by site, its refusals."""

from __future__ import annotations

import pytest
import torch

from zoo_core.errors import UserError
from zoo_core.interfaces import Site
from zoo_stylenat.attention import FullBiasAttention, HydraAttention, hydra, partition
from zoo_stylenat.neighborhood import neighborhood_attention


@pytest.mark.parametrize(
    ("heads", "groups"),
    [
        (16, (16,)),
        (4, (2, 2)),
        (16, (5, 5, 6)),
        (8, (1, 1, 2, 2, 2)),
        (8, (1, 1, 1, 1, 2, 2)),
    ],
)
def test_the_last_groups_take_the_heads_left_over(heads: int, groups: tuple[int, ...]) -> None:
    assert partition(heads, len(groups)) == groups


@pytest.mark.parametrize(
    ("resolution", "dilations"), [(8, (1,)), (16, (1, 2)), (32, (1, 4)), (64, (1, 8)), (1024, (1, 128))]
)
def test_default_dilations_are_the_papers(resolution: int, dilations: tuple[int, ...]) -> None:
    module = hydra(Site(dim=64, heads=4, resolution=resolution))
    assert isinstance(module, HydraAttention)
    assert module.dilations == dilations and set(module.kernels) == {7}


def test_a_map_smaller_than_the_kernel_gets_full_attention() -> None:
    module = hydra(Site(dim=64, heads=4, resolution=4), dilations={4: (1, 2)})
    assert isinstance(module, FullBiasAttention)
    assert module.rpb.shape == (4, 7, 7)


def test_parameters_are_named_as_in_the_official_checkpoints() -> None:
    site = Site(dim=64, heads=8, resolution=32)
    module = hydra(site, dilations={"32": [1, 2, 4]})  # as JSON or a careless YAML file would give it
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert shapes == {
        "qkv.weight": (192, 64),
        "qkv.bias": (192,),
        "proj.weight": (64, 64),
        "proj.bias": (64,),
        "rpb.0": (2, 13, 13),
        "rpb.1": (3, 13, 13),
        "rpb.2": (3, 13, 13),
    }
    assert "qkv.bias" not in hydra(site, qkv_bias=False).state_dict()
    assert set(hydra(Site(dim=64, heads=8, resolution=4)).state_dict()) == {
        "qkv.weight", "qkv.bias", "proj.weight", "proj.bias", "rpb",
    }  # fmt: skip


def lively(module: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough for every part to matter."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5
    return module


@pytest.mark.parametrize("kernel", [3, (3, 5, 3)])
def test_each_group_is_a_call_of_its_own_on_its_slice_of_heads(kernel: int | tuple[int, ...]) -> None:
    site = Site(dim=20, heads=5, resolution=16)
    module = lively(hydra(site, kernel=kernel, dilations={16: (1, 2, 4)}))
    x = torch.randn(2, 16, 16, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    q, k, v = (part.view(2, 16, 16, 5, 4) for part in module.qkv(x).chunk(3, dim=-1))
    kernels = (kernel,) * 3 if isinstance(kernel, int) else kernel
    outs = []
    slices = (slice(0, 1), slice(1, 3), slice(3, 5))
    for j, (heads, size, dilation) in enumerate(zip(slices, kernels, (1, 2, 4), strict=True)):
        part = (x[:, :, :, heads] for x in (q, k, v))
        outs.append(
            neighborhood_attention(*part, module.rpb[j], kernel=size, dilation=dilation, scale=0.5, backend="plain")
        )
    want = module.proj(torch.cat(outs, dim=3).reshape(2, 16, 16, 20))
    torch.testing.assert_close(module(x), want, rtol=1e-10, atol=1e-10)


def test_full_attention_adds_its_bias_by_key_minus_query() -> None:
    module = lively(hydra(Site(dim=12, heads=3, resolution=4)))
    x = torch.randn(2, 4, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    q, k, v = (part.view(2, 16, 3, 4).transpose(1, 2) for part in module.qkv(x).chunk(3, dim=-1))
    bias = torch.empty(3, 16, 16, dtype=torch.float64)
    for query in range(16):
        for key in range(16):
            bias[:, query, key] = module.rpb[:, key // 4 - query // 4 + 3, key % 4 - query % 4 + 3].detach()
    mixed = (0.5 * q @ k.mT + bias).softmax(-1) @ v
    torch.testing.assert_close(module(x), module.proj(mixed.transpose(1, 2).reshape(2, 4, 4, 12)))


@pytest.mark.parametrize("resolution", [4, 16])
def test_every_parameter_learns(resolution: int) -> None:
    module = lively(hydra(Site(dim=16, heads=4, resolution=resolution)))
    x = torch.randn(2, resolution, resolution, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    module(x).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("resolution", [4, 16])
def test_second_order_is_declared_and_can_be_asked_for(resolution: int) -> None:
    site = Site(dim=16, heads=4, resolution=resolution)
    assert hydra(site).second_order is False
    module = hydra(site, second_order=True)
    assert module.second_order is True
    lively(module)
    x = torch.randn(1, resolution, resolution, 16, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    grad.square().sum().backward()  # R1's shape of use
    weight_grad = module.qkv.weight.grad
    assert weight_grad is not None and weight_grad.abs().max() > 0


def test_a_site_of_one_head_takes_the_undilated_kernel() -> None:
    module = hydra(Site(dim=32, heads=1, resolution=32))
    assert module.dilations == (1,)


@pytest.mark.parametrize(
    ("site", "options", "message"),
    [
        (Site(32, 4, 16, layer=5), {"dilations": {16: (1, 4)}}, r"layer 5 at 16 px.*at most 2"),
        (Site(32, 2, 16), {"dilations": {16: (1, 1, 2)}}, "3 groups for 2 heads"),
        (Site(32, 4, 16), {"kernel": (3, 5), "dilations": {16: (1, 2, 3)}}, "2 kernels and 3 dilations"),
        (Site(32, 4, 16), {"kernel": 6}, "odd"),
        (Site(32, 4, 16), {"dilations": {16: (0, 1)}}, "dilation 0"),
        (Site(32, 4, 16), {"dilations": {16: ()}}, "0 dilations"),
        (Site(32, 4, 16), {"kernel": ()}, "empty"),
        (Site(30, 4, 16), {}, "do not divide"),
    ],
    ids=str,
)
def test_mistakes_are_refused_with_the_place_and_the_remedy(site: Site, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        hydra(site, **options)


def test_full_attention_refuses_a_map_of_another_size() -> None:
    module = hydra(Site(dim=16, heads=4, resolution=4))
    with pytest.raises(UserError, match="built for 4 px"):
        module(torch.zeros(1, 5, 4, 16))


@pytest.mark.parametrize(
    ("resolution", "kernel", "dilations"), [(4, 7, (1,)), (16, 3, (1, 2, 4)), (16, (5, 3), (1, 5)), (15, 7, (2,))]
)
def test_weights_times_values_through_the_projection_are_the_output(resolution, kernel, dilations) -> None:
    module = lively(
        hydra(Site(dim=20, heads=5, resolution=resolution), kernel=kernel, dilations={resolution: dilations})
    )
    x = torch.randn(2, resolution, resolution, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    side = torch.arange(resolution)
    weights = module.weights(x, torch.cartesian_prod(side, side))  # [B, N, Q, H, W]
    values = module.qkv(x).unflatten(-1, (3, 5, 4))[..., 2, :, :]  # [B, H, W, N, D]
    mixed = torch.einsum("bnqyx,byxnd->bqnd", weights, values).reshape(x.shape)
    torch.testing.assert_close(module.proj(mixed), module(x), rtol=1e-8, atol=1e-8)


def test_each_group_of_heads_looks_at_its_own_neighbourhood() -> None:
    module = hydra(Site(dim=8, heads=2, resolution=16), kernel=3, dilations={16: (1, 4)})
    near, far = module.weights(torch.randn(1, 16, 16, 8), torch.tensor([[0, 6]]))[0, :, 0] > 0
    assert near.nonzero().tolist() == [[row, column] for row in (0, 1, 2) for column in (5, 6, 7)]
    assert far.nonzero().tolist() == [[row, column] for row in (0, 4, 8) for column in (2, 6, 10)]
