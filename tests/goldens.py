"""Golden numbers of the style-based papers: recordings of the official models, whose weights follow a rule.

The folder that ZOO_GOLDENS names has a page that explains them, `README-style.md`. Names are the official ones.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo_core.interfaces import LatentGenerator
from zoo_core.losses import r1_penalty
from zoo_core.resample import haar, haar_filters
from zoo_styleswin import convert
from zoo_styleswin.discriminator import Discriminator

FOLDER = os.environ.get("ZOO_GOLDENS", "")
needed = pytest.mark.skipif(not FOLDER, reason="ZOO_GOLDENS does not name the folder of golden numbers")

OUTPUT = 2e-5  # of the peak: images, activations, logits; float64 is 9e-6 from the worst golden image, 8e-6 from ours
GRADIENT = 1e-3  # relative: gradients and R1

Convert = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Our tensors -> the same under their official names."""


class Case:
    """One golden case, such as `styleswin/g_s32`: constructor arguments, tensors, and the rule's weights."""

    def __init__(self, name: str) -> None:
        folder = Path(FOLDER) / name
        self.meta = json.loads((folder / "meta.json").read_text())
        self.data = dict(np.load(folder / "data.npz"))
        keys = folder / "keys.json"
        self.keys = json.loads(keys.read_text()) if keys.exists() else []

    def weights(self, net: str) -> dict[str, Tensor]:
        """The official state dict of "g" or "d", constants included as empty tensors (they must be dropped)."""
        keys = self.keys[net] if isinstance(self.keys, dict) else self.keys
        shapes = [(key, tuple(shape)) for key, shape, _ in keys]
        filled = fill_style().fill(shapes, net)
        return {key: torch.from_numpy(filled[key]) if key in filled else torch.empty(shape) for key, shape in shapes}

    def array(self, name: str) -> Tensor:
        return torch.from_numpy(self.data[name])

    def shape(self, name: str) -> list[int]:
        """The shape of the whole array, of which a part may be stored."""
        return list(self.data.get(name + "#shape", self.data[name].shape))

    def activations(self) -> list[str]:
        """Official names of the modules whose outputs are stored."""
        found = [key.removeprefix("act/") for key in self.data if key.startswith("act/") and "#" not in key]
        assert found
        return found

    def difference(self, name: str, actual: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Ours minus the golden, and the golden, flat; the shape must agree too."""
        golden = self.data[name].reshape(-1)
        assert list(actual.shape) == self.shape(name), name
        ours = actual.detach().numpy().reshape(-1)[:: int(self.data.get(name + "#step", 1))]
        return ours - golden, golden

    def check(self, name: str, actual: Tensor, tolerance: float = OUTPUT) -> None:
        """The largest difference is within `tolerance` of the golden's peak."""
        difference, golden = self.difference(name, actual)
        error = np.abs(difference).max() / np.abs(golden).max()
        print(f"{name}: {error:.1e}")
        assert error < tolerance, f"{name}: {error:.1e} of the peak"

    def check_gradient(self, name: str, actual: Tensor) -> None:
        """As a whole within 5e-3, and most of it far closer.

        Not every entry: a leaky ReLU that stands at zero to the last bit may turn with the order of a sum
        (styleswin/d_s64_eq has one in its first sample; float64 turns it too), and moves all gradients through it.
        """
        difference, golden = self.difference(name, actual)
        whole = np.linalg.norm(difference) / np.linalg.norm(golden)
        middle = np.median(np.abs(difference)) / np.abs(golden).max()
        print(f"{name}: {whole:.1e} as a whole, {middle:.1e} in the middle")
        assert whole < 5e-3 and middle < OUTPUT, name

    def check_numbers(self, name: str, actual: Sequence[float], tolerance: float = GRADIENT) -> None:
        """A list of figures, each relative to itself; where the golden is 0, so is ours."""
        golden = self.data[name]
        error = np.abs(np.array(actual) - golden) / np.maximum(np.abs(golden), 1e-12)
        print(f"{name}: {error.max():.1e}")
        assert error.max() < tolerance, f"{name}: {error.max():.1e}"


@cache
def fill_style() -> ModuleType:
    """The module that derives weights from names and shapes; it travels with the goldens."""
    spec = importlib.util.spec_from_file_location("fill_style", Path(FOLDER) / "fill_style.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """The normal numbers of that name."""
    return torch.from_numpy(fill_style().normal(name, shape))


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
    case.check("out/image", image)
    case.check("out/latent", generator.style(z))
    for key in case.activations():
        value = taken[key]
        if value.ndim == 4 and len(case.shape(f"act/{key}")) == 3:
            value = value.flatten(1, 2)  # a map of tokens, which the official code keeps in a row
        if key.endswith(("norm1", "norm2")):
            value = value.transpose(1, 2)
        case.check(f"act/{key}", value)

    image.sum().backward()
    case.check("grad/z", z.grad, GRADIENT)
    gradients = to_official({key: parameter.grad for key, parameter in generator.named_parameters()})
    case.check_numbers(
        "grad/param_l2", [float(gradients[key].double().norm()) for key in case.meta["grad_param_names"]]
    )


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
    image = case.array("in/image")
    taken["dwt"] = haar(image, haar_filters())
    for mode in ("eval", "train"):
        discriminator.train(mode == "train")
        before = {key: value.clone() for key, value in discriminator.state_dict().items()}
        case.check(f"out/logits_{mode}", discriminator(image))
        if mode == "eval":
            for key in case.activations():
                case.check(f"act/{key}", taken[key])
        else:
            official = convert.to_official(discriminator.state_dict(), table)
            for key in case.meta.get("sn_after_one_train_forward", []):
                case.check(f"sn_after/{key}", official[key])
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

    penalty = r1_penalty(judge, case.array("in/image"))
    case.check_numbers(f"r1/penalty_{mode}", [float(penalty.detach())])
    parameters = dict(discriminator.named_parameters())
    found = torch.autograd.grad(penalty, list(parameters.values()), allow_unused=True)
    gradients = {key: grad for key, grad in zip(parameters, found, strict=True) if grad is not None}
    gradients = convert.to_official(gradients, convert.discriminator_table(before))
    norms = [float(gradients[key].double().norm()) if key in gradients else 0.0 for key in case.meta["param_names"]]
    case.check_numbers(f"r1/param_grad_l2_{mode}", norms)

    discriminator.load_state_dict(before)
    (slope,) = torch.autograd.grad(discriminator(seen[0]).sum(), seen[0])
    case.check_gradient(f"r1/image_grad_{mode}", slope)
