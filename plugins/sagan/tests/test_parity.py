"""The networks against arrays that the official TensorFlow graph computed (128 px, 8 base channels, 10 classes).

Errors of forward arrays are in units of the array's standard deviation.
"""

from __future__ import annotations

import copy
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo_core.losses import Hinge, Logistic
from zoo_sagan.convert import load_official, official_name, official_values
from zoo_sagan.discriminator import Discriminator
from zoo_sagan.generator import Generator
from zoo_sagan.spectral import Layer, u_moves_in_eval

GOLDENS = os.environ.get("ZOO_GOLDENS", "")
FOLDER = Path(GOLDENS) / "sagan"
pytestmark = pytest.mark.skipif(not GOLDENS, reason="ZOO_GOLDENS does not name a folder of golden arrays")

ARRAY, U, GRADIENT = 1e-4, 1e-5, 1e-3


class Golden:
    """One file of golden arrays, and comparison with it."""

    def __init__(self, name: str) -> None:
        self.arrays = np.load(FOLDER / f"{name}.npz")
        self.strides = json.loads(str(self.arrays["meta_json"]))["strides"]

    def tensor(self, name: str) -> torch.Tensor:
        value = torch.from_numpy(self.arrays[name])
        return value.long() if value.dtype == torch.int32 else value

    def images(self) -> torch.Tensor:
        return self.tensor("images").permute(0, 3, 1, 2)

    def matches(self, name: str, ours: torch.Tensor, tolerance: float = ARRAY) -> None:
        """Assert that `ours`, cut as the golden array was, is within `tolerance` standard deviations."""
        theirs = self.tensor(name)
        ours = ours.detach()[tuple(slice(None, None, step) for step in self.strides.get(name, []))]
        assert ours.shape == theirs.shape, name
        scale = theirs.std() if theirs.numel() > 1 else theirs.abs()
        error = float((ours - theirs).abs().max() / scale)
        print(f"{name}: {error:.1e}")
        assert error <= tolerance, f"{name}: largest error {error:.2e} of the standard deviation"

    def matches_state(self, prefix: str, network: torch.nn.Module, count: int, tolerance: float = U) -> None:
        """Assert that the `count` arrays `prefix/NAME` equal the network's variable NAME, or the u of layer NAME."""
        state = official_values(network)
        matched = 0
        for name in [name for name in self.arrays.files if name.startswith(prefix + "/")]:
            variable = "model/" + name.removeprefix(prefix + "/")
            ours = state.get(variable, state.get(variable + "/u"))
            if ours is not None:
                error = float((ours - self.tensor(name)).abs().max())
                print(f"{name}: {error:.1e}")
                assert error <= tolerance, f"{name}: largest error {error:.2e}"
                matched += 1
        assert matched == count


def draw(key: str, shape: list[int]) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    return generator.standard_normal(tuple(shape) or (1,)).astype(np.float32).reshape(shape)


def fill(key: str, shape: list[int]) -> np.ndarray:
    """The weight rule of the goldens: nothing is stored, each variable follows from its name."""
    x, leaf = draw(key, shape), key.rsplit("/")[-1]
    if leaf == "sigma_ratio":
        return np.float32(0.5) + np.float32(0.1) * x
    if leaf in ("var", "moving_variance"):
        return 1 + np.float32(0.1) * np.abs(x)
    if leaf == "gamma":
        return 1 + np.float32(0.1) * x
    if leaf in ("mean", "moving_mean", "beta") or x.ndim <= 1:
        return np.float32(0.1) * x
    return x / np.sqrt(np.float32(np.prod(shape[:-1])))


@pytest.fixture(scope="module")
def variables() -> dict[str, np.ndarray]:
    return {key: fill(key, shape) for key, shape in json.loads((FOLDER / "keys.json").read_text())}


@pytest.fixture
def generator(variables) -> Generator:
    network = Generator(resolution=128, num_classes=10, channels=8)
    load_official(network, variables)
    return network


@pytest.fixture
def discriminator(variables) -> Discriminator:
    network = Discriminator(resolution=128, num_classes=10, channels=8)
    load_official(network, variables)
    return network


def watch(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Record every module's output, and the attention mixer's input, as the forward runs."""
    seen: dict[str, torch.Tensor] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output.detach()}))
    network.attention.mixer.register_forward_pre_hook(lambda module, inputs: seen.update(tokens=inputs[0].detach()))
    return seen


def matches_sigmas(golden: Golden, network: torch.nn.Module, seen: dict[str, torch.Tensor]) -> None:
    """Assert that each layer divided its weight by the golden sigma, read off the weight that it used."""
    names = [name for name in golden.arrays.files if name.startswith("sigma/")]
    for ours in [name for name, module in network.named_modules() if isinstance(module, Layer)]:
        theirs = official_name(f"{ours}.weight", network)[0]
        if f"sigma/{theirs.rsplit('/', 1)[0]}" in names:
            weight = network.get_submodule(ours).weight.detach()
            sigma = weight.square().sum() / (weight * seen[f"{ours}.spectral"]).sum()
            golden.matches(names.pop(names.index(f"sigma/{theirs.rsplit('/', 1)[0]}")), sigma)
    assert not names


def nhwc(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_generator_matches_the_official_graph(generator, mode):
    golden = Golden(f"g_{mode}")
    generator.train(mode == "training")
    u_moves_in_eval(generator)
    fresh = copy.deepcopy(generator)
    golden.matches_state("u_before", generator, 11, tolerance=0)
    z, label = golden.tensor("z"), golden.tensor("labels")
    seen = watch(generator)
    with torch.no_grad():
        image = generator(z, label)
    golden.matches("act0", seen["dense"].view(4, 4, 4, -1))
    for number in range(1, 6):
        golden.matches(f"act{number}", nhwc(seen[f"blocks.{number - 1}"]))
    golden.matches("theta", seen["attention.mixer.theta"])
    golden.matches("phi_pre_pool", seen["attention.mixer.phi"])
    # Batch statistics of 4 images amplify rounding: two runs of the official graph itself differ by 5e-5 here.
    tolerance = 3 * ARRAY if mode == "training" else ARRAY
    golden.matches("attn", fresh.attention.mixer.weights(seen["tokens"]), tolerance)
    golden.matches("attn_out", seen["attention.mixer"])
    golden.matches("act3_attn", nhwc(seen["attention"]))
    golden.matches("pre_tanh", nhwc(seen["to_rgb"]))
    golden.matches("image", nhwc(image))
    matches_sigmas(golden, generator, seen)
    golden.matches_state("u_after", generator, 11)
    if mode == "training":
        golden.matches_state("moving_after", generator, 6)
    with torch.no_grad():
        golden.matches("image_second_call", nhwc(generator(z, label)))


def test_discriminator_matches_the_official_graph(discriminator):
    golden = Golden("d_forward")
    fresh = copy.deepcopy(discriminator)
    golden.matches_state("u_before", discriminator, 9, tolerance=0)
    seen = watch(discriminator)
    with torch.no_grad():
        logits = discriminator(golden.images(), golden.tensor("labels"))
    for number in range(6):
        golden.matches(f"h{number}", nhwc(seen[f"blocks.{number}"]))
    golden.matches("h6", torch.relu(seen["blocks.5"]).sum(dim=(2, 3)))
    golden.matches("attn", fresh.attention.mixer.weights(seen["tokens"]))
    golden.matches("h1_attn", nhwc(seen["attention"]))
    golden.matches("logits", logits)
    matches_sigmas(golden, discriminator, seen)
    golden.matches_state("u_after", discriminator, 9)
    with torch.no_grad():
        golden.matches("logits_second_call", discriminator(golden.images(), golden.tensor("labels")))


def judge(discriminator: Discriminator, golden: Golden, fake: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of reals and fakes as the discriminator's step takes them: both from the same u, then u moves once."""
    with discriminator.on_fakes():
        fake_logits = discriminator(fake, golden.tensor("fake_labels"))
    return discriminator(golden.images(), golden.tensor("labels")), fake_logits


def test_reals_before_fakes_is_the_other_order_that_the_official_graph_allows(generator, discriminator):
    golden, inputs = Golden("d_convention_b"), Golden("train_step")
    with torch.no_grad():
        fake = generator(inputs.tensor("z"), inputs.tensor("fake_labels"))
        golden.matches("logits_real", discriminator(inputs.images(), inputs.tensor("labels")))
        with discriminator.on_fakes():
            golden.matches("logits_fake", discriminator(fake, inputs.tensor("fake_labels")))


def matches_gradients(golden: Golden, network: torch.nn.Module, letter: str) -> list[str]:
    """Assert norms and samples of all gradients; return the TF names whose gradient is not zero in truth."""
    gradients = official_values(network, {name: value.grad for name, value in network.named_parameters()})
    names, norms = golden.arrays[f"{letter}_grad_names"], golden.arrays[f"{letter}_grad_norm"]
    names = [str(name) for name in names]
    prefix = "" if names[0].startswith("model/") else "model/"
    assert sorted(gradients) == sorted(prefix + name for name in names)
    real = []
    for name, norm in zip(names, norms, strict=True):
        if norm < 1e-5 * norms.max():
            continue
        real.append(name)
        gradient = gradients[prefix + name]
        error = abs(float(gradient.double().norm()) / norm - 1)
        print(f"|gradient of {name}|: {error:.1e}")
        assert error <= GRADIENT, f"norm of the gradient of {name}: {error:.2e}"
        key = "grad/" + name.removeprefix("model/")
        if key in golden.arrays.files:
            sample = gradient.flatten()[:: golden.strides[key][0]][:64]
            error = float((sample - golden.tensor(key).flatten()).norm() / golden.tensor(key).norm())
            print(f"{key}: {error:.1e}")
            assert error <= GRADIENT, f"{key}: {error:.2e}"
    return real


def test_losses_and_gradients_match_the_official_graph(generator, discriminator):
    golden = Golden("train_step")
    z, label = golden.tensor("z"), golden.tensor("fake_labels")
    fake = generator(z, label)
    with discriminator.on_fakes():
        generator_loss = Hinge().generator(discriminator(fake, label))
    generator_loss.backward(inputs=list(generator.parameters()))
    real_logits, fake_logits = judge(discriminator, golden, fake.detach())
    Hinge().discriminator(real_logits, fake_logits).backward()
    golden.matches("logits_real", real_logits)
    golden.matches("logits_fake", fake_logits)
    parts = [torch.relu(1 - real_logits).mean(), torch.relu(1 + fake_logits).mean()]
    hinge = torch.stack([*parts, Hinge().discriminator(real_logits, fake_logits), generator_loss])
    golden.matches("hinge", hinge)
    torch.testing.assert_close(
        Logistic().discriminator(real_logits, fake_logits), golden.tensor("kl_variant")[:2].sum(), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(generator_loss, golden.tensor("kl_variant")[2], rtol=1e-5, atol=0)
    assert len(matches_gradients(golden, generator, "g")) == 52
    assert len(matches_gradients(golden, discriminator, "d")) == 42


def first_adam_step(network: torch.nn.Module, rate: float) -> dict[str, torch.Tensor]:
    """TF's Adam at its first step, beta1 0, beta2 0.999: epsilon joins the uncorrected root. Returns the moves."""
    moves = {}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            root = (0.001 * parameter.grad.square()).sqrt()
            moves[name] = -rate * 0.001**0.5 * parameter.grad / (root + 1e-8)
            parameter += moves[name]
    network.zero_grad()
    return official_values(network, moves)


def matches_moves(golden: Golden, moves: dict[str, torch.Tensor], letter: str) -> None:
    norms = golden.arrays[f"{letter}_grad_norm"]
    for name, norm, length in zip(
        golden.arrays[f"{letter}_grad_names"], norms, golden.arrays[f"{letter}_delta_l2"], strict=True
    ):
        if norm >= 1e-5 * norms.max():
            error = abs(float(moves["model/" + str(name).removeprefix("model/")].double().norm()) / length - 1)
            print(f"|step of {name}|: {error:.1e}")
            assert error <= 0.05, f"length of the step of {name}: {error:.2e}"


def test_a_generator_step_then_a_discriminator_step_matches_the_official_graph(generator, discriminator):
    golden = Golden("train_step")
    z, label = golden.tensor("z"), golden.tensor("fake_labels")

    with discriminator.on_fakes():
        loss = Hinge().generator(discriminator(generator(z, label), label))
    loss.backward()
    golden.matches("step_g_loss", loss)
    matches_moves(golden, first_adam_step(generator, 1e-4), "g")
    discriminator.zero_grad()

    with torch.no_grad():
        fake = generator(z, label)
    loss = Hinge().discriminator(*judge(discriminator, golden, fake))
    loss.backward()
    golden.matches("step_d_loss", loss, tolerance=1e-3)
    matches_moves(golden, first_adam_step(discriminator, 4e-4), "d")

    gammas = torch.stack([discriminator.attention.gamma, generator.attention.gamma]).detach()
    torch.testing.assert_close(gammas, golden.tensor("post/sigma_ratio"), rtol=0, atol=1e-6)
    # Signs of steps whose true gradient is 0 are random, hence the looser bounds from here on.
    golden.matches_state("post", generator, 2, tolerance=1e-3)
    golden.matches_state("post", discriminator, 2, tolerance=1e-3)
    golden.matches_state("post/moving", generator, 2, tolerance=1e-2)
    with torch.no_grad():
        real_logits = discriminator(golden.images(), golden.tensor("labels"))
        golden.matches("post/logits_real", real_logits, tolerance=0.05)
        golden.matches("post/image_train_mode", nhwc(generator(z, label)), tolerance=0.05)
