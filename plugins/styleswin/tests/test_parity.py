"""The networks give the official code's numbers, with weights that both derive from names and shapes."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo_core import augment
from zoo_core.layers import pixel_norm, scaled_leaky_relu, sinusoid_table
from zoo_core.losses import r1_penalty
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
from zoo_styleswin.discriminator import Discriminator
from zoo_styleswin.generator import Generator

GOLDENS = os.environ.get("ZOO_GOLDENS", "")
pytestmark = pytest.mark.skipif(not GOLDENS, reason="ZOO_GOLDENS does not name the folder of golden numbers")

OUTPUT = 1e-5  # of the peak: images, activations, logits
GRADIENT = 1e-3  # relative: gradients and R1


class Case:
    """One golden case: its constructor arguments, tensors and procedural weights."""

    def __init__(self, name: str) -> None:
        folder = Path(GOLDENS) / "styleswin" / name
        self.meta = json.loads((folder / "meta.json").read_text())
        self.data = dict(np.load(folder / "data.npz"))
        keys = folder / "keys.json"
        self.keys = json.loads(keys.read_text()) if keys.exists() else []

    def weights(self, net: str) -> dict[str, Tensor]:
        """The official state dict, constants included as empty tensors (they must be dropped)."""
        shapes = [(key, tuple(shape)) for key, shape, _ in self.keys]
        filled = fill_style().fill(shapes, net)
        return {key: torch.from_numpy(filled[key]) if key in filled else torch.empty(shape) for key, shape in shapes}

    def array(self, name: str) -> Tensor:
        return torch.from_numpy(self.data[name])

    def error(self, name: str, actual: Tensor) -> float:
        """Largest difference as a share of the golden's peak; the shape must agree too."""
        golden = self.data[name]
        actual = actual.detach().numpy()
        assert list(actual.shape) == list(self.data.get(name + "#shape", golden.shape)), name
        actual = actual.reshape(-1)[:: int(self.data.get(name + "#step", 1))]
        return float(np.abs(actual - golden.reshape(-1)).max() / np.abs(golden).max())

    def check_gradient(self, name: str, actual: Tensor) -> None:
        """As a whole within 5e-3, and most of it far closer.

        Not every entry: a leaky ReLU that stands at zero to the last bit may turn with the order of a sum (d_s64_eq
        has one in its first sample; float64 turns it too), and moves all gradients that pass through it.
        """
        golden = self.data[name].reshape(-1)
        difference = actual.detach().numpy().reshape(-1)[:: int(self.data.get(name + "#step", 1))] - golden
        assert np.linalg.norm(difference) < 5e-3 * np.linalg.norm(golden), name
        assert np.median(np.abs(difference)) < OUTPUT * np.abs(golden).max(), name

    def check(self, name: str, actual: Tensor, tolerance: float = OUTPUT) -> None:
        assert self.error(name, actual) < tolerance, name


def fill_style():
    """The module that derives weights from names and shapes; it travels with the goldens."""
    spec = importlib.util.spec_from_file_location("fill_style", Path(GOLDENS) / "fill_style.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def build_discriminator(case: Case) -> Discriminator:
    ctor = case.meta["ctor"]
    discriminator = Discriminator(
        resolution=ctor["size"], channel_multiplier=ctor["channel_multiplier"], spectral_norm=ctor["sn"]
    )
    weights = case.weights("d")
    discriminator.load_state_dict(convert.from_official(weights, convert.discriminator_table(weights)))
    return discriminator


def record(network: nn.Module, names: Mapping[str, str], taken: dict[str, Tensor]) -> None:
    """Keep the outputs of our modules under the official names."""
    for theirs, ours in names.items():
        network.get_submodule(ours).register_forward_hook(
            lambda module, arguments, output, key=theirs: taken.__setitem__(key, output)
        )


def as_windows(tokens: Tensor, side: int) -> Tensor:
    """`[B, H, W, C]` -> `[B * windows, side ** 2, C]`."""
    batch, height, width, channels = tokens.shape
    tokens = tokens.view(batch, height // side, side, width // side, side, channels)
    return tokens.transpose(2, 3).reshape(-1, side * side, channels)


def generator_activations(generator: Generator) -> dict[str, Tensor]:
    """Fill the returned table with activations by official name when the generator runs."""
    names = {"style": "mapping"}
    for level in range(len(generator.levels)):
        names |= {f"layers.{level}": f"levels.{level}", f"to_rgbs.{level}": f"to_rgb.{level}"}
        block, ours = f"layers.{level}.blocks.0", f"levels.{level}.blocks.0"
        names |= {block: ours, f"{block}.norm1": f"{ours}.norm1", f"{block}.norm2": f"{ours}.norm2"}
        names |= {f"{block}.qkv": f"{ours}.attention.qkv", f"{block}.proj": f"{ours}.attention.proj"}
        names[f"{block}.mlp"] = f"{ours}.mlp"
    taken: dict[str, Tensor] = {}
    record(generator, names, taken)

    def split(module: nn.Module, arguments: tuple[Tensor], block: str, attention: WindowAttention) -> None:
        plain, shifted = arguments[0].chunk(2, dim=-1)
        taken[f"{block}.attn.0"] = as_windows(plain, attention.window)
        rolled = torch.roll(shifted, (-attention.shift, -attention.shift), (1, 2))
        taken[f"{block}.attn.1"] = as_windows(rolled, attention.window)

    for level in range(len(generator.levels)):
        attention = generator.levels[level].blocks[0].attention
        attention.proj.register_forward_pre_hook(partial(split, block=f"layers.{level}.blocks.0", attention=attention))
    return taken


@pytest.mark.parametrize("name", ["g_s32", "g_s32_win16", "g_s64_thin"])
def test_generator_gives_the_official_image_activations_and_gradients(name: str) -> None:
    case = Case(name)
    generator = build_generator(case)
    taken = generator_activations(generator)
    z = case.array("in/z").requires_grad_(True)
    image = generator(z)
    case.check("out/image", image)
    case.check("out/latent", generator.style(z))

    golden = [key.removeprefix("act/") for key in case.data if key.startswith("act/") and "#" not in key]
    assert golden
    for key in golden:
        value = taken[key]
        if key.endswith(("norm1", "norm2")):
            value = value.flatten(1, 2).transpose(1, 2)
        elif value.ndim == 4 and not key.startswith("to_rgbs"):
            value = value.flatten(1, 2)
        case.check(f"act/{key}", value)

    image.sum().backward()
    case.check("grad/z", z.grad, GRADIENT)
    gradients = {key: parameter.grad for key, parameter in generator.named_parameters()}
    official = convert.to_official(gradients, convert.GENERATOR)
    norms = np.array([float(official[key].double().norm()) for key in case.meta["grad_param_names"]])
    np.testing.assert_allclose(norms, case.data["grad/param_l2"], rtol=GRADIENT)


def test_truncation_pulls_w_towards_its_mean() -> None:
    case = Case("g_trunc")
    generator = build_generator(case)
    with torch.no_grad():
        w = generator.style(case.array("in/z"))
        case.check("out/latent", w)
        case.check("out/image", generator.draw(w))
        latents = torch.from_numpy(fill_style().normal("z:mean_latent", (256, 64)))
        mean = generator.style(latents).mean(0, keepdim=True)
        case.check("in/mean_latent", mean)
        truncated = generator.truncate(w, case.meta["psi"], mean)
        case.check("out/latent_trunc", truncated)
        case.check("out/image_trunc", generator.draw(truncated))


@pytest.mark.parametrize("name", ["d_s32_sn", "d_s64_eq"])
def test_discriminator_gives_the_official_logits_activations_and_r1(name: str) -> None:
    case = Case(name)
    discriminator = build_discriminator(case).eval()
    scales = len(discriminator.scales)
    names = {"from_rgbs.0": "from_wavelet.0"}
    names |= {f"convs.{scale}.conv1": f"scales.{scale}.same" for scale in range(scales)}
    names |= {f"convs.{scale}": f"scales.{scale}" for scale in range(scales)}
    names |= {"final_conv": "last", "final_linear": "logit"}
    taken: dict[str, Tensor] = {}
    record(discriminator, names, taken)
    # The official from_rgbs.j answers with its sum with the features before it, which here is the next scale's input.
    for scale in range(1, scales):
        discriminator.scales[scale].same.register_forward_pre_hook(
            lambda module, arguments, key=f"from_rgbs.{scale}": taken.__setitem__(key, arguments[0])
        )
    discriminator.last.register_forward_pre_hook(
        lambda module, arguments: taken.__setitem__(f"from_rgbs.{scales}", arguments[0][:, :-1])
    )
    image = case.array("in/image")
    taken["dwt"] = haar(image, haar_filters())

    for mode in ("eval", "train"):
        discriminator.train(mode == "train")
        snapshot = {key: value.clone() for key, value in discriminator.state_dict().items()}
        case.check(f"out/logits_{mode}", discriminator(image))
        if mode == "eval":
            golden = [key.removeprefix("act/") for key in case.data if key.startswith("act/") and "#" not in key]
            assert golden
            for key in golden:
                case.check(f"act/{key}", taken[key])
        else:
            official = convert.to_official(discriminator.state_dict(), convert.discriminator_table(snapshot))
            for key in case.meta.get("sn_after_one_train_forward", []):
                case.check(f"sn_after/{key}", official[key])
        check_r1(case, discriminator, snapshot, mode)


def check_r1(case: Case, discriminator: Discriminator, snapshot: dict[str, Tensor], mode: str) -> None:
    """Penalty, image gradient and second-order parameter gradients, from the state before the pass."""
    discriminator.load_state_dict(snapshot)
    discriminator.zero_grad()
    seen = []

    def judge(image: Tensor) -> Tensor:
        seen.append(image)
        return discriminator(image)

    penalty = r1_penalty(judge, case.array("in/image"))
    assert float(penalty.detach()) == pytest.approx(float(case.data[f"r1/penalty_{mode}"]), rel=GRADIENT)
    parameters = dict(discriminator.named_parameters())
    found = torch.autograd.grad(penalty, list(parameters.values()), allow_unused=True)
    gradients = {key: grad for key, grad in zip(parameters, found, strict=True) if grad is not None}
    official = convert.to_official(gradients, convert.discriminator_table(snapshot))
    norms = [float(official[key].double().norm()) if key in official else 0.0 for key in case.meta["param_names"]]
    np.testing.assert_allclose(norms, case.data[f"r1/param_grad_l2_{mode}"], rtol=GRADIENT, atol=1e-12)

    discriminator.load_state_dict(snapshot)
    (slope,) = torch.autograd.grad(discriminator(seen[0]).sum(), seen[0])
    case.check_gradient(f"r1/image_grad_{mode}", slope)


def test_resampling_gives_the_official_numbers() -> None:
    case = Case("ops")
    for number, options in enumerate(case.meta["upfirdn_cases"]):
        result = upfirdn2d(
            case.array("in/x"), case.array("in/k"), options["up"], options["down"], tuple(options["pad"])
        )
        case.check(f"upfirdn/{number}", result)
    even = case.array("in/xe")
    case.check("haar", haar(even, haar_filters()))
    case.check("up", upsample_fir(even, fir_kernel(gain=4)))
    case.check("down", downsample_fir(even, fir_kernel()))
    case.check("ihaar_of_12", inverse_haar(drawn("op:x12", (2, 12, 4, 6)), haar_filters()))


def test_activation_norm_and_positions_give_the_official_numbers() -> None:
    case = Case("ops")
    case.check("lrelu", scaled_leaky_relu(case.array("in/x"), drawn("op:b", (3,))))
    case.check("pixelnorm", pixel_norm(drawn("op:z", (4, 16))))
    for channels, height, width in ((32, 6, 6), (16, 8, 4), (512, 64, 64)):
        columns = sinusoid_table(width, channels // 2)[None].expand(height, -1, -1)
        rows = sinusoid_table(height, channels // 2)[:, None].expand(-1, width, -1)
        table = torch.cat([columns, rows], -1).permute(2, 0, 1)[None]
        case.check(f"spe/{channels}_{height}x{width}", table)


def test_augmentation_gives_the_official_numbers() -> None:
    case = Case("ops")
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
    case.check("diffaug_seed1234", image)


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """The normal numbers of that name."""
    return torch.from_numpy(fill_style().normal(name, shape))
