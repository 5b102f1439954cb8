"""The networks give the official code's numbers, with weights that both derive from names and shapes."""

from __future__ import annotations

from functools import partial

import pytest
import style_checks
import torch
from goldens import Case, drawn
from torch import Tensor, nn

from zoo_core import augment
from zoo_core.layers import pixel_norm, scaled_leaky_relu, sinusoid_table
from zoo_core.resample import (
    downsample_fir,
    fir_kernel,
    haar,
    haar_filters,
    inverse_haar,
    upfirdn2d,
    upsample_fir,
)
from zoo_styleswin import convert
from zoo_styleswin.attention import WindowAttention
from zoo_styleswin.generator import Generator

pytestmark = pytest.mark.parity


def build_generator(case: Case) -> Generator:
    ctor = case.meta["ctor"]
    generator = Generator(
        resolution=ctor["size"],
        style_dim=ctor["style_dim"],
        mapping_layers=ctor["n_mlp"],
        mapping_lr=ctor["lr_mlp"],
        channel_multiplier=ctor["channel_multiplier"],
        mlp_ratio=ctor["mlp_ratio"],
        attention=partial(WindowAttention, full_resolution=ctor["enable_full_resolution"]),
    )
    generator.load_state_dict(convert.from_official(case.weights("g"), convert.GENERATOR))
    return generator


def as_windows(tokens: Tensor, side: int) -> Tensor:
    """`[B, H, W, C]` -> `[B * windows, side ** 2, C]`."""
    batch, height, width, channels = tokens.shape
    tokens = tokens.view(batch, height // side, side, width // side, side, channels)
    return tokens.transpose(2, 3).reshape(-1, side * side, channels)


def keep_windows(generator: Generator, taken: dict[str, Tensor]) -> None:
    """Fill `taken` with the two halves' outputs by window, as the official code has them, when the generator runs."""

    def split(module: nn.Module, arguments: tuple[Tensor], block: str, attention: WindowAttention) -> None:
        plain, shifted = arguments[0].chunk(2, dim=-1)
        taken[f"{block}.attn.0"] = as_windows(plain, attention.window)
        rolled = torch.roll(shifted, (-attention.shift, -attention.shift), (1, 2))
        taken[f"{block}.attn.1"] = as_windows(rolled, attention.window)

    for level in range(len(generator.levels)):
        attention = generator.levels[level].blocks[0].attention
        attention.proj.register_forward_pre_hook(partial(split, block=f"layers.{level}.blocks.0", attention=attention))


@pytest.mark.parametrize("name", ["g_s32", "g_s32_win16", "g_s64_thin"])
def test_generator_gives_the_official_image_activations_and_gradients(name: str) -> None:
    case = Case(f"styleswin/{name}")
    generator = build_generator(case)
    taken: dict[str, Tensor] = {}
    keep_windows(generator, taken)
    in_attention = {"qkv": "attention.qkv", "proj": "attention.proj"}
    to_official = partial(convert.to_official, table=convert.GENERATOR)
    style_checks.check_generator(case, generator, in_attention, to_official, taken=taken)


def test_truncation_pulls_w_towards_its_mean() -> None:
    case = Case("styleswin/g_trunc")
    generator = build_generator(case)
    with torch.no_grad():
        w = generator.style(case.array("in/z"))
        case.check("truncation", "w", "out/latent", w)
        case.check("generator", "image", "out/image", generator.draw(w))
        latents = drawn("z:mean_latent", (256, 64))
        mean = generator.style(latents).mean(0, keepdim=True)
        case.check("truncation", "mean w", "in/mean_latent", mean)
        truncated = generator.truncate(w, case.meta["psi"], mean)
        case.check("truncation", "truncated w", "out/latent_trunc", truncated)
        case.check("truncation", "image", "out/image_trunc", generator.draw(truncated))


@pytest.mark.parametrize("name", ["d_s32_sn", "d_s64_eq"])
def test_discriminator_gives_the_official_logits_activations_and_r1(name: str) -> None:
    style_checks.check_discriminator(Case(f"styleswin/{name}"))


def test_resampling_gives_the_official_numbers() -> None:
    case = Case("styleswin/ops")
    for number, options in enumerate(case.meta["upfirdn_cases"]):
        result = upfirdn2d(
            case.array("in/x"), case.array("in/k"), options["up"], options["down"], tuple(options["pad"])
        )
        case.check("FIR resampling", "zero-insert, filter, drop", f"upfirdn/{number}", result)
    even = case.array("in/xe")
    case.check("wavelet transform", "forward", "haar", haar(even, haar_filters()))
    case.check("FIR resampling", "up", "up", upsample_fir(even, fir_kernel(gain=4)))
    case.check("FIR resampling", "down", "down", downsample_fir(even, fir_kernel()))
    case.check(
        "wavelet transform", "inverse", "ihaar_of_12", inverse_haar(drawn("op:x12", (2, 12, 4, 6)), haar_filters())
    )


def test_activation_norm_and_positions_give_the_official_numbers() -> None:
    case = Case("styleswin/ops")
    case.check("scaled leaky ReLU", "output", "lrelu", scaled_leaky_relu(case.array("in/x"), drawn("op:b", (3,))))
    case.check("pixel norm", "output", "pixelnorm", pixel_norm(drawn("op:z", (4, 16))))
    for channels, height, width in ((32, 6, 6), (16, 8, 4), (512, 64, 64)):
        columns = sinusoid_table(width, channels // 2)[None].expand(height, -1, -1)
        rows = sinusoid_table(height, channels // 2)[:, None].expand(-1, width, -1)
        table = torch.cat([columns, rows], -1).permute(2, 0, 1)[None]
        case.check("sinusoid positions", "table", f"spe/{channels}_{height}x{width}", table)


def test_augmentation_gives_the_official_numbers() -> None:
    case = Case("styleswin/ops")
    image = drawn("op:img", (4, 3, 16, 16))
    # The official draws, in its order, from one generator: flip, rows then columns of the translation, brightness,
    # saturation, contrast, rows then columns of the cutout.
    torch.manual_seed(1234)
    image = augment.flip(image, torch.rand(4) < 0.5)
    image = augment.translation(image, torch.stack([torch.randint(-2, 3, (4,)), torch.randint(-2, 3, (4,))], 1))
    image = augment.brightness(image, torch.rand(4) - 0.5)
    image = augment.saturation(image, torch.rand(4) * 2)
    image = augment.contrast(image, torch.rand(4) + 0.5)
    image = augment.cutout(image, torch.stack([torch.randint(0, 17, (4,)), torch.randint(0, 17, (4,))], 1), 8)
    case.check("augmentation (DiffAugment with flips)", "image", "diffaug_seed1234", image)
