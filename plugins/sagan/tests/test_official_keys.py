"""The official recipe has the TensorFlow graph's variables, names and shapes, as they were recorded."""

from __future__ import annotations

from itertools import pairwise

from zoo_core import parts, recipe
from zoo_sagan.convert import official_values

Shapes = dict[str, tuple[int, ...]]


def convolution(name: str, side: int, inside: int, out: int) -> Shapes:
    return {f"{name}/w": (side, side, inside, out), f"{name}/u": (1, out), f"{name}/biases": (out,)}


def attention(scope: str, width: int) -> Shapes:
    eighth, half = width // 8, width // 2
    layers = {"theta": (width, eighth), "phi": (width, eighth), "g": (width, half), "attn": (half, width)}
    found: Shapes = {f"{scope}/sigma_ratio": ()}
    for name, (inside, out) in layers.items():
        found |= {f"{scope}/sn_conv_{name}/w": (1, 1, inside, out), f"{scope}/sn_conv_{name}/u": (1, out)}
    return found


def generator_variables() -> Shapes:
    found: Shapes = {"g_snh0/Matrix": (128, 16384), "g_snh0/u": (1, 16384), "g_snh0/bias": (16384,)}
    for block, (inside, out) in enumerate(pairwise((1024, 1024, 512, 256, 128, 64)), 1):
        for norm, width in (("cbn_0", inside), ("cbn_1", out)):
            scope = f"g_block{block}/{norm}"
            found |= {f"{scope}/gamma": (1000, width), f"{scope}/beta": (1000, width)}
            found |= {f"{scope}/mean": (1, 1, 1, width), f"{scope}/var": (1, 1, 1, width)}
        found |= convolution(f"g_block{block}/snconv1", 3, inside, out)
        found |= convolution(f"g_block{block}/snconv2", 3, out, out)
        found |= convolution(f"g_block{block}/snconv3", 1, inside, out)
    last = {f"g_bn/{name}": (64,) for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    return found | attention("g_non_local", 256) | last | convolution("g_snconv_last", 3, 64, 3)


def discriminator_variables() -> Shapes:
    found: Shapes = {}
    for block, (inside, out) in enumerate(pairwise((3, 64, 128, 256, 512, 1024, 1024)), 1):
        scope = "d_optimized_block1" if block == 1 else f"d_block{block}"
        found |= convolution(f"{scope}/sn_conv1", 3, inside, out)
        found |= convolution(f"{scope}/sn_conv2", 3, out, out)
        if block < 6:
            found |= convolution(f"{scope}/sn_conv3", 1, inside, out)
    found |= {"d_sn_linear/Matrix": (1024, 1), "d_sn_linear/u": (1, 1), "d_sn_linear/bias": (1,)}
    found |= {"d_embedding/embedding_map": (1000, 1024), "d_embedding/u": (1, 1000)}
    return found | attention("d_non_local", 128)


def test_the_official_recipe_has_the_official_variables() -> None:
    built = parts.outline(recipe.load("sagan", "imagenet128"))
    for network, wanted in ((built.generator, generator_variables()), (built.discriminator, discriminator_variables())):
        shapes = {name.removeprefix("model/"): tuple(value.shape) for name, value in official_values(network).items()}
        assert shapes == wanted
