"""The plain and the fast formulation of every operator, and of whole networks, are the same function."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo_core import parts, recipe, resample
from zoo_core.formulation import is_plain, plain
from zoo_core.interfaces import Site
from zoo_core.rng import Rng

STYLE = {"channels": {4: 16, 8: 16, 16: 16, 32: 16}}
PLUGINS = {"sagan": {"channels": 8}, "styleswin": STYLE, "stylenat": STYLE, "hit": {}}
"""What makes the networks of the tiny recipe thinner still."""


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()


class Recorder(TorchDispatchMode):
    """Names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def assert_same_function(operator: Callable[..., Tensor], inputs: Iterable[Tensor]) -> None:
    """Output and gradients agree, and are computed otherwise."""
    inputs, found = list(inputs), []
    for formulation in (nullcontext, plain):
        with formulation(), Recorder() as recorder:
            out = operator()
            slopes = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
            gradients = torch.autograd.grad((out * slopes).sum(), inputs)
        found.append((recorder.names, (out, *gradients)))
    (fast_names, fast), (plain_names, textbook) = found
    assert fast_names != plain_names
    for ours, theirs in zip(fast, textbook, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_plain_ends_with_its_block_also_on_an_error_and_nests() -> None:
    assert not is_plain()
    with pytest.raises(ValueError, match="stop"), plain():
        with plain():
            pass
        assert is_plain()
        raise ValueError("stop")
    assert not is_plain()


@pytest.mark.parametrize(
    ("up", "down", "padding"),
    [(1, 1, (2, 2)), (1, 2, (1, 1)), (2, 1, (2, 1)), (1, 1, (-1, 2)), (2, 3, (3, 0))],
    ids=str,
)
def test_upfirdn2d(up: int, down: int, padding: tuple[int, int]) -> None:
    image, kernel = drawn(2, 3, 8, 9), torch.arange(12, dtype=torch.float64).view(3, 4)
    assert_same_function(lambda: resample.upfirdn2d(image, kernel, up, down, padding), [image])


def test_haar_and_its_inverse() -> None:
    filters, image, bands = resample.haar_filters().double(), drawn(2, 3, 8, 6), drawn(2, 12, 4, 3)
    assert_same_function(lambda: resample.haar(image, filters), [image])
    assert_same_function(lambda: resample.inverse_haar(bands, filters), [bands])


def assert_same_module(module: nn.Module, *inputs: Tensor) -> None:
    torch.manual_seed(0)
    module = module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    assert_same_function(lambda: module(*inputs), [*inputs, *module.parameters()])


def test_adaptive_instance_norm() -> None:
    blocks = pytest.importorskip("zoo_styleswin.blocks")
    assert_same_module(blocks.AdaIN(6, 5), drawn(2, 4, 3, 6), drawn(2, 5))


@pytest.mark.parametrize(("side", "window"), [(8, 8), (8, 4), (12, 4), (18, 9)], ids=str)
def test_window_attention_with_and_without_a_shift(side: int, window: int) -> None:
    attention = pytest.importorskip("zoo_styleswin.attention")
    module = attention.WindowAttention(Site(8, 4, side), window=window, full_resolution=0)
    assert_same_module(module, drawn(2, side, side, 8))
    x = drawn(2, side, side, 8)
    with torch.no_grad():
        fast = module(x)
        with plain():
            torch.testing.assert_close(fast, module(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"kernel": 3, "dilations": {12: (1, 2, 4)}}, {"second_order": True}], ids=str)
@pytest.mark.parametrize("side", [4, 12, 16])
def test_neighbourhood_attention(side: int, options: dict) -> None:
    attention = pytest.importorskip("zoo_stylenat.attention")
    assert_same_module(attention.hydra(Site(12, 3, side), **options), drawn(2, side, side, 12))


def network(plugin: str, kind: str) -> nn.Module:
    """One of the tiny recipe's networks in double precision."""
    pytest.importorskip(f"zoo_{plugin}")
    changes = [("data.num_classes", 3)] if plugin == "sagan" else []
    changes += [(part, PLUGINS[plugin]) for part in ("generator", "discriminator")]
    built = getattr(parts.build(recipe.load(plugin, "tiny", changes)), kind).double()
    torch.manual_seed(1)
    for name, parameter in built.named_parameters():
        if parameter.ndim == 0 or "alpha" in name or "bias" in name or "rpb" in name:
            nn.init.normal_(parameter, std=0.3)  # what starts at zero would hide what stands behind it
    return built


def compare(built: nn.Module, run: Callable[[nn.Module], Tensor]) -> None:
    """`run(network)` is a tensor; it and its gradient agree."""
    found = []
    for formulation in (nullcontext, plain):
        twin = copy.deepcopy(built)  # a pass may move running state
        with formulation():
            out = run(twin)
            weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
            gradients = torch.autograd.grad((out * weights).sum(), list(twin.parameters()), allow_unused=True)
        found.append((out, *(torch.zeros(()) if gradient is None else gradient for gradient in gradients)))
    assert sum(bool(gradient.any()) for gradient in found[0]) > len(found[0]) / 2
    peak = max(float(value.detach().abs().max()) for value in found[1])
    for ours, theirs in zip(*found, strict=True):
        # Not to double precision: the Haar filters were rounded to single, and so are orthonormal to 1e-7.
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7 * peak)


def labels(built: nn.Module) -> Tensor | None:
    return torch.arange(2) % built.num_classes if built.num_classes else None


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_generator_and_its_gradients(plugin: str) -> None:
    built = network(plugin, "generator")
    z = Rng.of("formulation", rows=range(2), device="cpu").normal(built.latent_dim).double()
    compare(built, lambda twin: twin(z, labels(twin)))


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_discriminator_its_gradients_and_r1(plugin: str) -> None:
    built = network(plugin, "discriminator")
    image = drawn(2, 3, 32, 32).detach()

    def penalty(twin: nn.Module) -> Tensor:
        real = image.clone().requires_grad_()
        (slope,) = torch.autograd.grad(twin(real, labels(twin)).sum(), real, create_graph=True)
        return slope.square().sum()

    compare(built, lambda twin: twin(image, labels(twin)))
    compare(built, penalty)
