"""Official checkpoints come in under our names, whole; what does not belong stays visible."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from zoo_core import parts, recipe
from zoo_core.errors import UserError
from zoo_core.recipe import Recipe
from zoo_hit import convert

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
QUERY = "generator/blocks/0/layer_with_weights-1/attention_layer/query_dense/kernel"
OUR_QUERY = "decoder.stages.0.blocks.0.attention.query.weight"


def tiny(**options: object) -> Recipe:
    """A recipe of narrow networks."""
    changes = {
        "generator": {"latent_dim": 24, "channels": {8: 32, 16: 16, 32: 8}, "heads": {8: 4, 16: 4}, **options},
        "discriminator.channels": {4: 16, 8: 16, 16: 8, 32: 8},
    }
    return recipe.load("hit", "tiny", list(changes.items()))


def filled(wanted: Recipe, seed: int = 0) -> parts.Parts:
    """The recipe's networks; running statistics, zeros and ones moved too, so that a mix-up shows."""
    built = parts.build(wanted)
    torch.manual_seed(seed)
    for network in (built.generator, built.discriminator):
        network.load_state_dict({name: torch.randn_like(value) for name, value in network.state_dict().items()})
    return built


def checkpoint(built: parts.Parts) -> dict[str, Tensor]:
    return {
        **convert.to_official(built.generator.state_dict(), built.generator, "generator"),
        **convert.to_official(built.discriminator.state_dict(), built.discriminator, "discriminator"),
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("options", [{}, {"norm": "layer", "multi_query": False}])
def test_a_training_checkpoint_comes_in_whole(options: dict[str, object]) -> None:
    wanted = tiny(**options)
    built, averaged = filled(wanted), filled(wanted, seed=1)
    content = checkpoint(built)
    content |= convert.to_official(averaged.generator.state_dict(), averaged.generator, "ema_generator")
    content = {f"{name}{SUFFIX}": tensor for name, tensor in content.items()}
    content |= {
        f"save_counter{SUFFIX}": torch.tensor(3),
        f"global_step{SUFFIX}": torch.tensor(200),
        f"generator_optim/iter{SUFFIX}": torch.tensor(200),
        f"discriminator_optim/learning_rate{SUFFIX}": torch.tensor(1e-4),
        f"generator/dense_layer/layer_with_weights-0/bias/.OPTIMIZER_SLOT/generator_optim/m{SUFFIX}": torch.zeros(1),
        "_CHECKPOINTABLE_OBJECT_GRAPH": torch.zeros(1),
    }
    found = convert.official(content, wanted)
    assert same(found.networks["generator"], built.generator.state_dict())
    assert same(found.networks["discriminator"], built.discriminator.state_dict())
    assert same(found.averages["generator"], averaged.generator.state_dict())


def test_a_file_may_hold_one_network_only_and_names_without_suffix() -> None:
    averaged = filled(tiny()).generator
    content = convert.to_official(averaged.state_dict(), averaged, "ema_generator")
    found = convert.official(content, tiny())
    assert not found.networks and same(found.averages["generator"], averaged.state_dict())
    assert found.names["generator"]["stem.bias"] == "ema_generator/dense_layer/layer_with_weights-0/bias"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "imagenet128",
            {
                "generator/dense_layer/layer_with_weights-0/kernel": (256, 32768),
                "generator/embedding_layer/layer_with_weights-0/kernel": (256, 8192),
                "generator/embedding_layer/layer_with_weights-1/embedding_weight": (1, 1, 16, 512),
                "generator/embedding_layer/layer_with_weights-2/moving_variance": (512,),
                "generator/position_embeddings/4/embedding_weight": (1, 128, 128, 128),
                "generator/blocks/3/layer_with_weights-0/attention_layer/key_dense/kernel": (512, 1, 32),
                "generator/blocks/3/layer_with_weights-2/attention_layer/output_dense/kernel": (4, 32, 128),
                "generator/blocks/3/layer_with_weights-2/mlp_block/mlp_block/layer_with_weights-0/kernel": (128, 512),
                "generator/blocks/4/layer_with_weights-2/norm_layer/gamma": (128,),
                "generator/blocks/4/layer_with_weights-2/mlp_block/layer_with_weights-1/kernel": (512, 128),
                "generator/umsamplings/3/dense_layer/kernel": (32, 128),
                "generator/to_rgb_layers/4/output_layer/layer_with_weights-1/kernel": (128, 3),
                "discriminator/conv_blocks/layer_with_weights-0/kernel": (3, 3, 3, 128),
                "discriminator/conv_blocks/layer_with_weights-5/skip_layers/layer_with_weights-0/kernel": (
                    (1, 1, 512, 512)
                ),
                "discriminator/final_layers/layer_with_weights-1/kernel": (8192, 512),
            },
        ),
        (
            "ffhq1024",
            {
                "generator/blocks/7/layer_with_weights-0/attention_layer/query_dense/kernel": (32, 4, 8),
                "generator/to_rgb_layers/7/output_layer/layer_with_weights-0/beta": (32,),
                "generator/umsamplings/6/dense_layer/kernel": (8, 32),
            },
        ),
    ],
)
def test_published_configurations_have_the_official_names_and_shapes(
    name: str, expected: dict[str, tuple[int, ...]]
) -> None:
    content = checkpoint(parts.outline(recipe.load("hit", name)))
    assert {key: tuple(content[key].shape) for key in expected} == expected


def test_layouts_mean_the_same_there_and_here() -> None:
    built = filled(tiny())
    content = checkpoint(built)
    z, x = torch.randn(2, 24), torch.randn(2, 8, 8, 32)
    kernel, bias = (content[f"generator/dense_layer/layer_with_weights-0/{part}"] for part in ("kernel", "bias"))
    torch.testing.assert_close(built.generator.stem(z), z @ kernel + bias, rtol=1e-4, atol=1e-4)

    attention = built.generator.get_submodule(OUR_QUERY.removesuffix(".query.weight"))
    query = torch.einsum("bhwc,cnd->bhwnd", x, content[QUERY]) + content[QUERY.replace("kernel", "bias")]
    torch.testing.assert_close(attention.query(x), query.flatten(3), rtol=1e-4, atol=1e-4)
    output, bias = (content[QUERY.replace("query_dense/kernel", f"output_dense/{part}")] for part in ("kernel", "bias"))
    expected = torch.einsum("bhwnd,ndc->bhwc", query, output) + bias
    torch.testing.assert_close(attention.output(query.flatten(3)), expected, rtol=1e-4, atol=1e-2)

    last = torch.randn(2, 16, 4, 4)  # theirs is flattened by row, column, channel
    expected = last.permute(0, 2, 3, 1).flatten(1) @ content["discriminator/final_layers/layer_with_weights-1/kernel"]
    ours = linear(last.flatten(1), built.discriminator.hidden.weight)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-3)


def test_tensors_without_a_place_keep_their_name() -> None:
    content = checkpoint(filled(tiny()))
    extra = ("generator/blocks/7/layer_with_weights-0/norm/gamma", "somebody/elses", "discriminator/more")
    found = convert.official(content | {name: torch.zeros(2) for name in extra}, tiny()).networks
    assert {*extra[:2]} == {name for name in found["generator"] if "/" in name}
    assert {extra[2]} == {name for name in found["discriminator"] if "/" in name}


def test_a_tensor_by_our_name_does_not_pass_for_the_official_one() -> None:
    content = checkpoint(filled(tiny()))
    found = convert.official(content | {OUR_QUERY: torch.zeros(32, 32)}, tiny()).networks["generator"]
    assert torch.equal(found[OUR_QUERY], content[QUERY].flatten(1).t())
    assert [name for name in found if "not an official name" in name] == [f"{OUR_QUERY} (not an official name)"]


def test_a_tensor_under_two_names_is_refused() -> None:
    content = checkpoint(filled(tiny()))
    with pytest.raises(UserError, match="query_dense/kernel twice"):
        convert.official(content | {f"{QUERY}{SUFFIX}": content[QUERY] + 1}, tiny())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (QUERY, (32, 4, 4)),
        (QUERY, (32,)),
        (QUERY, (32, 2, 16)),  # other heads, as many channels
        ("generator/dense_layer/layer_with_weights-0/kernel", (12, 2048)),
        ("discriminator/final_layers/layer_with_weights-1/kernel", (255, 16)),
        ("discriminator/conv_blocks/layer_with_weights-0/kernel", (3, 3)),
    ],
)
def test_a_misshapen_tensor_stays_misshapen(name: str, shape: tuple[int, ...]) -> None:
    content = checkpoint(filled(tiny()))
    root, ours = name.split("/")[0], our_name(name)
    found = convert.official(content | {name: torch.zeros(shape)}, tiny()).networks[root]
    assert found[ours].shape == shape


@pytest.mark.parametrize("name", [QUERY, "generator/dense_layer/layer_with_weights-0/kernel"])
def test_a_tensor_in_our_layout_does_not_pass_for_an_official_one(name: str) -> None:
    built = filled(tiny())
    ours = built.generator.state_dict()[our_name(name)]
    found = convert.official(checkpoint(built) | {name: ours}, tiny()).networks["generator"]
    assert name in found and our_name(name) not in found


def our_name(name: str) -> str:
    """Of one official tensor, found by its value."""
    built = filled(tiny())
    content = {key: torch.full_like(value, key == name) for key, value in checkpoint(built).items()}
    found = convert.official(content, tiny()).networks[name.split("/")[0]]
    return next(ours for ours, value in found.items() if value.any())


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"save_counter": torch.tensor(1)},
        {"input.input": torch.zeros(1, 512, 4, 4), "style.1.weight": torch.zeros(512, 512)},
        {"generator/g_bn/gamma": torch.zeros(3)},
    ],
)
def test_what_is_not_hit_is_refused(content: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match="holds no tensor of HiT"):
        convert.official(content, tiny())


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(UserError, match="not tensors by name only"):
        convert.official({"generator": {"dense_layer": torch.zeros(3)}}, tiny())


def test_another_papers_attention_has_no_counterpart() -> None:
    wanted = tiny(attention={"name": "core/full"})
    generator = parts.build(wanted).generator
    with pytest.raises(UserError, match=r"attention\.query\.weight has no counterpart"):
        convert.to_official(generator.state_dict(), generator, "generator")
    content = checkpoint(filled(tiny()))
    assert QUERY in convert.official(content, wanted).networks["generator"]
