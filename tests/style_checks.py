"""Whole networks of the style-based papers against their golden case, part by part."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import torch
from goldens import GRADIENT, OUTPUT, Case
from torch import Tensor, nn

from zoo_core.interfaces import LatentGenerator
from zoo_core.losses import r1_penalty
from zoo_core.resample import haar, haar_filters
from zoo_styleswin import convert
from zoo_styleswin.discriminator import Discriminator

Convert = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Our tensors -> the same under their official names."""

PARTS = {
    r"style": "mapping network",
    r"to_rgbs\.\d+": "RGB branch",
    r".*\.norm[12]": "adaptive instance norm",
    r"layers\.\d+\.blocks\.\d+\.(qkv|proj|attn\.[01])": "double window attention",
    r"layers\.0\.blocks\.\d+\.attn.*": "attention at 4 x 4",
    r"layers\.\d+\.blocks\.\d+\.attn.*": "Hydra attention",
    r".*\.mlp": "MLP",
    r"layers\.\d+\.blocks\.\d+": "transformer block",
    r"layers\.\d+": "level with up-sampling and positions",
    r"dwt": "wavelet transform",
    r"from_rgbs\.\d+": "discriminator: wavelet images",
    r"convs\..*": "discriminator: convolutions",
    r"final_conv": "discriminator: minibatch standard deviation and last convolution",
    r"final_linear": "discriminator",
}
"""Official modules, and what the table calls them; the first pattern that fits."""

TURNED = (
    "A leaky ReLU stands at zero to the last bit in the first image, and its sign may turn with the order of a sum "
    "(float64 turns it too), which moves all gradients that pass through it."
)


def part(name: str) -> str:
    """What the table calls the official module of that name."""
    return next(words for pattern, words in PARTS.items() if re.fullmatch(pattern, name))


def record(network: nn.Module, names: Mapping[str, str], taken: dict[str, Tensor]) -> None:
    """Keep the outputs of our modules under the official names."""
    for theirs, ours in names.items():
        network.get_submodule(ours).register_forward_hook(
            lambda module, arguments, output, key=theirs: taken.__setitem__(key, output)
        )


def block_names(num_levels: int, in_attention: Mapping[str, str]) -> dict[str, str]:
    """Official -> our module names of a style-based generator. `in_attention` names parts of the attention, both
    relative to their block: `{"qkv": "attention.qkv"}`."""
    parts = {"norm1": "norm1", "norm2": "norm2", "mlp": "mlp", **in_attention}
    names = {"style": "mapping"}
    for level in range(num_levels):
        names |= {f"layers.{level}": f"levels.{level}", f"to_rgbs.{level}": f"to_rgb.{level}"}
        for block in range(2):
            theirs, ours = f"layers.{level}.blocks.{block}", f"levels.{level}.blocks.{block}"
            names |= {theirs: ours, **{f"{theirs}.{part}": f"{ours}.{own}" for part, own in parts.items()}}
    return names


def check_generator(
    case: Case,
    generator: LatentGenerator,
    in_attention: Mapping[str, str],
    to_official: Convert,
    *,
    taken: dict[str, Tensor] | None = None,
) -> None:
    """Image, w, activations and gradients.

    `in_attention` is as in `block_names`. `taken` is filled by hooks of the caller's, if names do not suffice.
    """
    taken = {} if taken is None else taken
    record(generator, block_names(len(generator.levels), in_attention), taken)
    z = case.array("in/z").requires_grad_(True)
    image = generator(z)
    case.check("generator", "image", "out/image", image)
    case.check("mapping network", "w", "out/latent", generator.style(z))
    for key in case.activations():
        value = taken[key]
        if value.ndim == 4 and len(case.shape(f"act/{key}")) == 3:
            value = value.flatten(1, 2)  # a map of tokens, which the official code keeps in a row
        if key.endswith(("norm1", "norm2")):
            value = value.transpose(1, 2)
        case.check(part(key), "activations", f"act/{key}", value)

    image.sum().backward()
    case.check("generator", "gradient of z", "grad/z", z.grad, GRADIENT)
    gradients = to_official({key: parameter.grad for key, parameter in generator.named_parameters()})
    norms = [float(gradients[key].double().norm()) for key in case.meta["grad_param_names"]]
    case.check_numbers("generator", "norms of parameter gradients", "grad/param_l2", norms)


def check_discriminator(case: Case) -> None:
    """Logits, activations, R1 and its gradients of the style-based discriminator, frozen and with a power iteration."""
    ctor = case.meta["ctor"]
    discriminator = Discriminator(
        resolution=ctor["size"], channel_multiplier=ctor["channel_multiplier"], spectral_norm=ctor["sn"]
    )
    weights = case.weights("d")
    table = convert.discriminator_table(weights)
    discriminator.load_state_dict(convert.from_official(weights, table))
    taken = _discriminator_activations(discriminator)
    image = case.image()
    taken["dwt"] = haar(image, haar_filters())
    for mode in ("eval", "train"):
        discriminator.train(mode == "train")
        before = {key: value.clone() for key, value in discriminator.state_dict().items()}
        case.check("discriminator", "logits", f"out/logits_{mode}", discriminator(image))
        if mode == "eval":
            for key in case.activations():
                case.check(part(key), "activations", f"act/{key}", taken[key])
        else:
            official = convert.to_official(discriminator.state_dict(), table)
            for key in case.meta.get("sn_after_one_train_forward", []):
                case.check("spectral norm", "u after one training pass", f"sn_after/{key}", official[key])
        _check_r1(case, discriminator, before, mode)


def _discriminator_activations(discriminator: Discriminator) -> dict[str, Tensor]:
    """Fill the returned table with activations by official name when the discriminator runs."""
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
    return taken


def _check_r1(case: Case, discriminator: Discriminator, before: Mapping[str, Tensor], mode: str) -> None:
    """Penalty, image gradient and second-order parameter gradients, from the state before the pass."""
    discriminator.load_state_dict(before)
    discriminator.zero_grad()
    seen = []

    def judge(image: Tensor) -> Tensor:
        seen.append(image)
        return discriminator(image)

    penalty = r1_penalty(judge, case.image())
    case.check_numbers("R1", "penalty", f"r1/penalty_{mode}", [float(penalty.detach())])
    parameters = dict(discriminator.named_parameters())
    found = torch.autograd.grad(penalty, list(parameters.values()), allow_unused=True)
    gradients = {key: grad for key, grad in zip(parameters, found, strict=True) if grad is not None}
    gradients = convert.to_official(gradients, convert.discriminator_table(before))
    norms = [float(gradients[key].double().norm()) if key in gradients else 0.0 for key in case.meta["param_names"]]
    case.check_numbers("R1", "norms of second-order gradients", f"r1/param_grad_l2_{mode}", norms)

    discriminator.load_state_dict(before)
    (slope,) = torch.autograd.grad(discriminator(seen[0]).sum(), seen[0])
    _check_slope(case, f"r1/image_grad_{mode}", slope)


def _check_slope(case: Case, name: str, slope: Tensor) -> None:
    """The gradient of an image: as a whole, by its norm, and most of it far closer; one bound for every entry would
    hang on single signs, see TURNED."""
    golden = case.data[name]
    difference = case.stored(name, slope) - golden
    whole = float(np.linalg.norm(difference) / np.linalg.norm(golden))
    tolerance, why = (5 * GRADIENT, TURNED) if case.name == "d_s64_eq" else (GRADIENT, "")
    case.note("R1", "gradient of the images, as a whole", whole, tolerance, why=why)
    middle = float(np.median(np.abs(difference)) / np.abs(golden).max())
    case.note("R1", "gradient of the images, median error", middle, OUTPUT)
