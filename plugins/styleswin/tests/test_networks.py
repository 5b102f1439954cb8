"""What the StyleSwin networks promise, without golden numbers: sizes, attention, sampling, R1, errors, names."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor

from zoo_core.errors import UserError
from zoo_core.interfaces import Attention, Site
from zoo_core.losses import r1_penalty
from zoo_core.rng import Rng
from zoo_styleswin import convert
from zoo_styleswin.attention import WindowAttention
from zoo_styleswin.channels import num_heads
from zoo_styleswin.discriminator import Discriminator
from zoo_styleswin.generator import Generator

SMALL = {"max_channels": 16, "style_dim": 8, "mapping_layers": 2, "mlp_ratio": 2}


def generator(resolution: int = 32, **options) -> Generator:
    torch.manual_seed(0)
    return Generator(resolution=resolution, **{**SMALL, **options})


def shaken(network: Generator) -> Generator:
    """Weights large enough that every path matters (an untrained generator draws almost nothing)."""
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.2)
    return network


def num_parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("resolution", "multiplier", "count"), [(256, 2, 48_929_512), (1024, 1, 40_862_990), (1024, 2, 49_462_342)]
)
def test_generator_has_the_published_size(resolution: int, multiplier: float, count: int) -> None:
    with torch.device("meta"):
        network = Generator(resolution=resolution, channel_multiplier=multiplier)
    assert num_parameters(network) == count


@pytest.mark.parametrize(
    ("resolution", "spectral", "count"),
    [(256, True, 26_211_585), (1024, True, 27_736_641), (256, False, 26_211_073), (1024, False, 27_736_129)],
)
def test_discriminator_has_the_published_size(resolution: int, spectral: bool, count: int) -> None:
    with torch.device("meta"):
        network = Discriminator(resolution=resolution, spectral_norm=spectral)
    assert num_parameters(network) == count


def attention_by_definition(module: WindowAttention, x: Tensor) -> Tensor:
    """Double attention with one query at a time, by positions on the unrolled map."""
    (_, side, _, dim), window = x.shape, module.window
    head_dim = dim // module.heads
    qkv = module.qkv(x)[0].unflatten(-1, (3, module.heads, head_dim))  # [H, W, 3, N, D]
    out = torch.zeros(side, side, module.heads, head_dim, dtype=x.dtype)
    places = [(row, column) for row in range(side) for column in range(side)]
    for head in range(module.heads):
        half, shift = head // (module.heads // 2), module.shift * (head // (module.heads // 2))
        table = module.bias[half][:, head % (module.heads // 2)].view(2 * window - 1, 2 * window - 1)
        for query in places:
            rolled = [(place - shift) % side for place in query]
            logits, values = [], []
            for key in places:
                rolled_key = [(place - shift) % side for place in key]
                if any(a // window != b // window for a, b in zip(rolled, rolled_key, strict=True)):
                    continue
                down, right = (a - b + window - 1 for a, b in zip(rolled, rolled_key, strict=True))
                # A key that came to this window round the edge of the map is no neighbour.
                torn = any((a < shift) != (b < shift) for a, b in zip(query, key, strict=True))
                product = qkv[query][0, head] @ qkv[key][1, head] * head_dim**-0.5
                logits.append(product + table[down, right] - 100 * torn)
                values.append(qkv[key][2, head])
            out[query][head] = torch.stack(logits).softmax(0) @ torch.stack(values)
    return module.proj(out.flatten(2))[None]


@pytest.mark.parametrize(("resolution", "window", "shift"), [(4, 8, 0), (8, 4, 2), (6, 2, 1)])
def test_attention_equals_its_definition(resolution: int, window: int, shift: int) -> None:
    torch.manual_seed(0)
    module = WindowAttention(Site(8, 4, resolution), window=window, full_resolution=4 if window > 4 else 0).double()
    assert module.shift == shift
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
        x = torch.randn(1, resolution, resolution, 8, dtype=torch.float64)
        torch.testing.assert_close(module(x), attention_by_definition(module, x))


def test_large_windows_give_the_same_with_and_without_gradients() -> None:
    torch.manual_seed(0)
    module = WindowAttention(Site(8, 2, 32), window=16)
    x = torch.randn(2, 32, 32, 8)
    with torch.no_grad():
        fused = module(x)
    torch.testing.assert_close(fused, module(x), atol=1e-6, rtol=1e-5)


def test_window_attention_can_be_differentiated_twice() -> None:
    module = WindowAttention(Site(4, 2, 4), window=2, full_resolution=2).double()
    x = torch.randn(1, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    assert module.second_order
    assert torch.autograd.gradgradcheck(module, x)


def test_generator_draws_at_its_resolution_and_every_parameter_takes_part() -> None:
    network = shaken(generator(16, channels={16: 8}))
    image = network(torch.randn(3, network.latent_dim))
    assert image.shape == (3, 3, 16, 16)
    image.square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0] == []


def test_another_attention_takes_the_place_of_the_windows() -> None:
    sites: list[Site] = []

    class Nothing(Attention):
        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            return torch.zeros_like(x)

    def factory(site: Site) -> Attention:
        sites.append(site)
        return Nothing()

    network = generator(16, attention=factory, min_heads=3, max_channels=96, channels={16: 24}, blocks_per_level=1)
    assert sites == [Site(96, 3, 4, 0), Site(96, 3, 8, 1), Site(24, 3, 16, 2)]
    assert not any("qkv" in name for name, _ in network.named_parameters())
    assert network(torch.randn(1, 8)).shape == (1, 3, 16, 16)


def test_samples_are_images_that_do_not_depend_on_the_batch() -> None:
    network = shaken(generator()).eval()
    whole = network.sample(4, rng=Rng.of(7, rows=range(4)))
    assert whole.shape == (4, 3, 32, 32)
    assert whole.min() >= -1
    assert whole.max() <= 1
    assert whole.std() > 0.01
    alone = network.sample(1, rng=Rng.of(7, rows=range(2, 3)))
    torch.testing.assert_close(alone[0], whole[2], atol=1e-4, rtol=0)


def test_truncation_goes_from_the_mean_image_to_the_free_one() -> None:
    network = shaken(generator()).eval()
    draw = partial(network.sample, 3, rng=Rng.of(7, rows=range(3)))

    def spread(truncation: float) -> float:
        return float(network.sample(3, rng=Rng.of(7, rows=range(3)), truncation=truncation).std(0).mean())

    assert spread(0) < 1e-6 < spread(0.5) < spread(1)
    assert torch.equal(draw(truncation=1.0), network.sample(3, rng=Rng.of(7, rows=range(3))))
    with pytest.raises(UserError, match="truncation is 1.5"):
        draw(truncation=1.5)


def test_the_mean_style_follows_the_weights() -> None:
    network, other = generator(8), generator(8)
    shaken(other)
    before = network.mean_style(64)
    assert network.mean_style(64) is before  # remembered
    network.load_state_dict(other.state_dict())
    assert torch.equal(network.mean_style(64), other.mean_style(64))
    assert not torch.equal(network.mean_style(64), before)


def test_the_state_holds_nothing_but_what_is_learned() -> None:
    network = generator()
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}
    critic = Discriminator(resolution=16, max_channels=8)
    extra = set(critic.state_dict()) - {name for name, _ in critic.named_parameters()}
    assert {name.rsplit(".", 2)[1] + name[-2:] for name in extra} == {"norm.u", "norm.v"}


@pytest.mark.parametrize("spectral", [True, False])
def test_r1_gradients_equal_finite_differences(spectral: bool) -> None:
    torch.manual_seed(0)
    critic = Discriminator(resolution=16, max_channels=8, spectral_norm=spectral).double()
    critic.train()
    critic(torch.randn(4, 3, 16, 16, dtype=torch.float64))  # settle u and v
    critic.eval()
    image = torch.randn(4, 3, 16, 16, dtype=torch.float64, requires_grad=True)

    def penalty() -> Tensor:  # losses.r1_penalty computes in float32, too coarse for finite differences
        (slope,) = torch.autograd.grad(critic(image).sum(), image, create_graph=True)
        return slope.square().sum((1, 2, 3)).mean()

    assert r1_penalty(copy.deepcopy(critic).float(), image.float()).item() == pytest.approx(penalty().item(), rel=1e-3)
    parameters = [parameter for name, parameter in critic.named_parameters() if name.endswith("weight")]
    gradients = torch.autograd.grad(penalty(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            values = []
            for step in (1e-6, -1e-6):
                parameter.add_(direction, alpha=step)
                with torch.enable_grad():
                    values.append(penalty().item())
                parameter.sub_(direction, alpha=step)
        slope = (values[0] - values[1]) / 2e-6
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("batch", [1, 3, 6, 8])
def test_discriminator_judges_any_batch(batch: int) -> None:
    critic = Discriminator(resolution=16, max_channels=8)
    assert critic(torch.randn(batch, 3, 16, 16)).shape == (batch, 1)


def test_spectral_norm_moves_in_training_only_and_bounds_the_layers() -> None:
    torch.manual_seed(0)
    critic = Discriminator(resolution=16, max_channels=8)
    image = torch.randn(2, 3, 16, 16)
    before = critic.last.conv.norm.u.clone()
    critic.eval()(image)
    assert torch.equal(critic.last.conv.norm.u, before)
    critic.train()
    for _ in range(200):
        critic(image)
    for layer in (critic.last.conv, critic.scales[0].halve.conv, critic.hidden.linear):
        weight = layer.norm.eval()(layer.weight).flatten(1)
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("resolution", [16, 64, 256])
def test_official_names_round_trip(resolution: int) -> None:
    with torch.device("meta"):
        networks = [
            (Generator(resolution=resolution), convert.GENERATOR),
            (Discriminator(resolution=resolution), convert.DISCRIMINATOR),
            (Discriminator(resolution=resolution, spectral_norm=False), convert.DISCRIMINATOR_EQUALISED),
        ]
    for network, table in networks:
        state = network.state_dict()
        official = convert.to_official(state, table)
        assert len(official) == len(state)
        assert set(convert.from_official(official, table)) == set(state)
        if isinstance(network, Discriminator):
            assert convert.discriminator_table(official) == convert.discriminator_table(state) == table


def test_official_constants_are_dropped_and_strangers_named() -> None:
    official = {
        "layers.2.blocks.0.attn_mask2": torch.zeros(1),
        "to_rgbs.0.upsample.kernel": torch.zeros(4, 4),
        "style.3.bias": torch.zeros(8),
    }
    assert list(convert.from_official(official, convert.GENERATOR)) == ["mapping.layers.2.bias"]
    assert list(convert.from_official({"layers.0.mystery": torch.zeros(1)}, convert.GENERATOR)) == ["layers.0.mystery"]
    own = {"constant": torch.zeros(1)}
    assert list(convert.from_official(own, convert.GENERATOR, own)) == ["constant (not an official name)"]
    with pytest.raises(UserError, match="input.input.* under two names"):
        convert.from_official({"input.input": torch.zeros(1), "constant": torch.zeros(1)}, convert.GENERATOR)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (partial(generator, num_classes=10), "unconditional"),
        (partial(generator, 48), "power of two"),
        (partial(generator, max_channels=12, min_heads=3), "even min_heads"),
        (partial(generator, channels={48: 8}), "side 48"),
        (partial(generator, channels={32: 6}), "multiple of 4"),
        (partial(Discriminator, resolution=8), "at least 16"),
        (partial(generator, attention=partial(WindowAttention, window=6)), "whole number of windows"),
    ],
)
def test_sizes_that_do_not_fit_are_named(build, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build()


@pytest.mark.parametrize(
    ("dim", "least", "heads"), [(512, 4, 16), (64, 4, 4), (224, 2, 4), (96, 2, 2), (130, 2, 2), (64, 3, 3)]
)
def test_heads_are_an_even_number_that_divides_the_channels(dim: int, least: int, heads: int) -> None:
    """Unless the least number that a recipe asks for is none."""
    assert num_heads(dim, least) == heads
