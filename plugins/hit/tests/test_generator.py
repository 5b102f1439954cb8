"""The generator: published sizes, what a recipe may change, the decoder by itself, initial values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from zoo_core.attention import NoAttention
from zoo_core.errors import UserError
from zoo_core.formulation import plain
from zoo_core.interfaces import Attention, Site
from zoo_core.rng import Rng
from zoo_hit.attention import CrossAttention, MultiAxisAttention
from zoo_hit.decoder import Decoder
from zoo_hit.generator import Generator
from zoo_hit.norm import BatchNorm
from zoo_hit.sizes import Size, stage_sizes

SMALL = {"channels": {8: 32, 16: 16}, "heads": {8: 4, 16: 2}, "latent_dim": 24}


def small(resolution: int = 32, **options: object) -> Generator:
    torch.manual_seed(0)
    return Generator(resolution=resolution, **SMALL | options)


@pytest.mark.parametrize(
    ("resolution", "latent_dim", "learned", "statistics", "variables"),
    [
        (128, 256, 32_866_627, 19_200, 304),
        (256, 512, 46_217_670, 18_944, 333),
        (1024, 512, 88_216_300, 19_456, 407),
    ],
)
def test_published_configurations_have_the_official_numbers_of_variables(
    resolution: int, latent_dim: int, learned: int, statistics: int, variables: int
) -> None:
    with torch.device("meta"):
        generator = Generator(resolution=resolution, latent_dim=latent_dim)
    assert sum(parameter.numel() for parameter in generator.parameters()) == learned
    assert sum(buffer.numel() for buffer in generator.buffers()) == statistics
    assert len(generator.state_dict()) == variables


@pytest.mark.parametrize(
    ("resolution", "dims", "heads", "blocks", "depths"),
    [
        (128, [512, 512, 256, 128, 128], [16, 8, 4, 4, 4], [4, 4, 8, 8, 0], [2, 2, 2, 2, 2]),
        (256, [512, 512, 256, 128, 64, 64], [16, 8, 4, 4, 4, 4], [4, 4, 8, 8, 0, 0], [2, 2, 2, 2, 1, 1]),
        (
            1024,
            [512, 512, 256, 128, 64, 64, 32, 32],
            [16, 8, 4, 4, 4, 4, 4, 4],
            [4, 4, 8, 8, 0, 0, 0, 0],
            [2, 2, 2, 2, 1, 1, 1, 1],
        ),
        (32, [512, 512, 256], [16, 8, 4], [4, 4, 0], [2, 2, 2]),
    ],
)
def test_stages_are_the_published_ones(
    resolution: int, dims: list[int], heads: list[int], blocks: list[int], depths: list[int]
) -> None:
    sides = [8 << stage for stage in range(len(dims))]
    expected = [Size(*each) for each in zip(sides, dims, heads, blocks, depths, strict=True)]
    assert stage_sizes(resolution, None, None, None, None) == expected


def test_tables_have_the_last_word_for_the_sides_that_they_name() -> None:
    sizes = stage_sizes(64, {8: 64, 16: 32, 256: 8}, {8: 2}, {16: 8, 64: 8}, {32: 0})
    assert [size.dim for size in sizes] == [64, 32, 256, 128]  # side 256 is named and beyond the image
    assert [size.heads for size in sizes] == [2, 8, 4, 4]
    assert [size.block for size in sizes] == [4, 8, 8, 8]
    assert [size.depth for size in sizes] == [2, 2, 0, 2]
    assert [size.dim for size in stage_sizes(128, {8: 64, 16: 32}, None, None, None)] == [64, 32, 16, 8, 8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 48}, "resolution 48 must be a power of two"),
        ({"resolution": 4}, "resolution 4 must be a power of two and at least 8"),
        ({"num_classes": 10}, "unconditional"),
        ({"latent_dim": 0}, "latent_dim must be above 0"),
        ({"channels": {12: 8}}, "channels gives side 12 the value 8"),
        ({"channels": {8: 0}}, "channels gives side 8 the value 0"),
        ({"heads": {8: 3}}, "3 heads do not divide 32 channels at 8 pixels"),
        ({"depths": {8: -1}}, "depths gives side 8 the value -1"),
        ({"channels": {8: 30}, "heads": {8: 2}}, "needs a multiple of 4"),
        ({"blocks": {8: 8}}, "blocks of 8 do not fit a map of 8 pixels"),
        ({"blocks": {16: 3}}, "blocks of 3 do not fit a map of 16 pixels"),
        ({"heads": {8: 1}}, "even number of heads"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Generator(**{"resolution": 32, **SMALL, **options})


@pytest.mark.parametrize("resolution", [8, 16, 32, 64])
def test_every_parameter_of_every_size_learns(resolution: int) -> None:
    generator = small(resolution)
    image = generator(torch.randn(2, 24))
    assert image.shape == (2, 3, resolution, resolution)
    image.square().mean().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if not name.endswith("key.bias"):  # it moves all scores of a query alike
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_both_formulations_draw_the_same(norm: str) -> None:
    z = torch.randn(2, 24)
    generator = small(norm=norm)
    fused = generator(z)
    with plain():
        torch.testing.assert_close(generator(z), fused, rtol=1e-4, atol=1e-6)


def test_an_image_does_not_depend_on_its_batch_when_sampling_only() -> None:
    generator = small()
    z = torch.randn(4, 24)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    generator.eval()
    torch.testing.assert_close(generator(z)[:1], generator(z[:1]), rtol=1e-4, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    generator.train()
    assert not torch.allclose(generator(z)[:2], generator(z[:2]), rtol=1e-3, atol=1e-5)  # batch statistics
    moved = [name for name, value in generator.state_dict().items() if not torch.equal(value, before[name])]
    assert moved and moved == [name for name in before if ".running_" in name]


def test_samples_are_in_range_and_follow_the_random_stream() -> None:
    generator = small().eval()
    images = generator.sample(3, rng=Rng.of("test", rows=range(3)))
    assert images.shape == (3, 3, 32, 32) and images.abs().max() <= 1
    assert torch.equal(images, generator.sample(3, rng=Rng.of("test", rows=range(3))))
    with pytest.raises(ValueError, match="unconditional"):
        generator.sample(1, label=torch.tensor([0]))
    with pytest.raises(UserError, match="takes no label"):
        generator(torch.randn(1, 24), torch.tensor([0]))


def test_another_attention_replaces_the_self_attention_only() -> None:
    sites: list[Site] = []

    def attention(site: Site) -> Attention:
        sites.append(site)
        return NoAttention(site)

    generator = small(64, attention=attention, depths={16: 1})
    assert sites == [Site(32, 4, 8, 0), Site(32, 4, 8, 1), Site(16, 2, 16, 2), Site(8, 4, 32, 3), Site(8, 4, 32, 4)]
    kinds = [type(module) for module in generator.modules() if isinstance(module, Attention)]
    assert kinds.count(NoAttention) == 5 and kinds.count(CrossAttention) == 4 and len(kinds) == 9
    assert generator(torch.randn(2, 24)).isfinite().all()


@pytest.mark.parametrize("multi_query", [True, False])
def test_heads_share_keys_and_values_when_asked(multi_query: bool) -> None:
    mixers = [module for module in small(multi_query=multi_query).modules() if isinstance(module, Attention)]
    assert {type(mixer) for mixer in mixers} == {CrossAttention, MultiAxisAttention}
    for mixer in mixers:
        heads = 1 if multi_query else mixer.heads
        assert len(mixer.key.weight) == len(mixer.value.weight) == heads * mixer.head_dim


# -- the decoder by itself


def test_the_decoder_draws_from_any_feature_map_and_context() -> None:
    sizes = [Size(8, 32, 4, block=4, depth=1), Size(16, 16, 2, block=0, depth=1), Size(32, 8, 2, block=0, depth=1)]
    decoder = Decoder(sizes, context_dim=20)
    features, context = torch.randn(2, 8, 8, 32, requires_grad=True), torch.randn(2, 7, 20, requires_grad=True)
    image = decoder(features, context)
    assert image.shape == (2, 3, 32, 32)
    image.square().sum().backward()
    assert features.grad.abs().max() > 0 and context.grad.abs().max() > 0

    features = torch.randn(2, 16, 16, 16)  # a larger map, its own pixels as context
    assert Decoder(sizes[1:], context_dim=16)(features, features.flatten(1, 2)).shape == (2, 3, 32, 32)


def test_the_generator_is_the_decoder_fed_with_stem_and_tokens() -> None:
    generator = small().eval()
    z = torch.randn(2, 24)
    seen: list[tuple[Tensor, ...]] = []
    generator.decoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments))
    image = generator(z)
    ((features, tokens),) = seen
    assert features.shape == (2, 8, 8, 32) and tokens.shape == (2, 16, 32)
    alone = Decoder(stage_sizes(32, SMALL["channels"], SMALL["heads"], None, None), context_dim=32).eval()
    prefix = "decoder."
    alone.load_state_dict(
        {name.removeprefix(prefix): value for name, value in generator.state_dict().items() if name.startswith(prefix)}
    )
    assert torch.equal(alone(features, tokens), image)


# -- initial values


def test_initial_weights_are_small_cut_and_drawn_independently() -> None:
    generator = small(channels={8: 64, 16: 64, 32: 64}, heads={8: 4, 16: 4})
    drawn = [p for name, p in generator.named_parameters() if name.endswith("position") or p.ndim == 2]
    # Stem, tokens, positions; attention blocks, MLPs of the last stage, doublings, colours.
    assert len(drawn) == 1 + 2 + 3 + (3 + 4) * 6 + 2 * 2 + 2 + 1
    for weights in drawn:
        assert weights.abs().max() <= 0.04
    deviation = float(torch.cat([weights.detach().flatten() for weights in drawn]).std())
    assert deviation == pytest.approx(0.02 * 0.8796, rel=0.01)  # that of a normal cut at two deviations
    for one in drawn:  # no two of one shape are equal, as they are in the official code on some versions
        assert sum(one.shape == other.shape and torch.equal(one, other) for other in drawn) == 1
    for module in generator.modules():
        if isinstance(module, nn.Linear | BatchNorm):
            assert not module.bias.any()
        if isinstance(module, BatchNorm):
            assert (module.weight == 1).all() and not module.running_mean.any() and (module.running_var == 1).all()
