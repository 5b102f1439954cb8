"""The patch discriminator: sizes, initialisation, normalisation, and how close it is to the official one."""

from __future__ import annotations

import pytest
import torch
import vqgan_goldens as goldens
from torch import nn
from vqgan_goldens import GRADIENT, Golden

from zoo_core.errors import UserError
from zoo_vqgan.discriminator import ActNorm, PatchDiscriminator
from zoo_vqgan.stage1_loss import Hinge, Vanilla

CASES = {
    "n3": {},
    "n2": {"layers": 2},
    "n4_ndf16": {"layers": 4, "channels": 16},
    "actnorm": {"norm": "activation"},
    "in1": {"channels": 32},
}


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_official_one(case: str) -> None:
    golden, keys = Golden("discriminators"), goldens.keys("discriminators")[case]
    network = PatchDiscriminator(resolution=64, **CASES[case])
    if case == "in1":  # no image here has one channel
        network.main[0] = nn.Conv2d(1, 32, 4, stride=2, padding=1)
    state = network.state_dict()
    assert [[key, list(value.shape)] for key, value in state.items()] == keys
    network.load_state_dict(state | goldens.weights(keys))
    x, y = (golden.tensor(name)[:, : network.main[0].in_channels] for name in "xy")
    module = f"discriminator with {'ActNorm' if case == 'actnorm' else 'batch norm'}"
    case_of = {"case": f"discriminators, {case}"}

    real, fake = network.train()(x), network(y)
    hinge = Hinge().discriminator(real, fake)
    hinge.backward()
    golden.check(module, "logits", f"{case}:train_logits1", real, **case_of)
    golden.check(module, "logits", f"{case}:train_logits2", fake, **case_of)
    golden.check(module, "losses", f"{case}:hinge", hinge, **case_of)
    golden.check(module, "losses", f"{case}:vanilla", Vanilla().discriminator(real, fake), **case_of)
    parameters, state = dict(network.named_parameters()), network.state_dict()
    for name in golden.names(f"{case}:gradnorm:"):
        norm = parameters[name.removeprefix(f"{case}:gradnorm:")].grad.norm()
        golden.check(module, "gradients", name, norm, GRADIENT, **case_of)
    for name in golden.names(f"{case}:buf:") + golden.names(f"{case}:param:"):
        value = state[name.split(":")[2]]
        if value.is_floating_point():
            golden.check(module, "running statistics", name, value, **case_of)
        else:
            golden.equal(module, "counters", name, value, **case_of)
    golden.check(module, "logits", f"{case}:eval_logits", network.eval()(x), **case_of)
    golden.all_checked(f"{case}:")


@pytest.mark.parametrize("layers, parameters, buffers, side", [(3, 2_765_633, 1795, 30), (2, 663_361, None, 62)])
def test_the_published_ones_have_the_official_size(
    layers: int, parameters: int, buffers: int | None, side: int
) -> None:
    with torch.device("meta"):
        network = PatchDiscriminator(resolution=256, layers=layers)
        assert network(torch.randn(1, 3, 256, 256)).shape == (1, 1, side, side)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert buffers is None or sum(buffer.numel() for buffer in network.buffers()) == buffers


def test_it_begins_as_the_official_one() -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator(resolution=64)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
            assert (module.bias is None) == (module.in_channels not in (3, 512))
        if isinstance(module, nn.BatchNorm2d):
            assert float(module.weight.detach().mean()) == pytest.approx(1, abs=0.01)
            assert 0.01 < float(module.weight.detach().std()) < 0.03 and not module.bias.any()


def test_the_first_training_pass_normalises_and_no_other_pass_does() -> None:
    norm, x = ActNorm(3), 5 + 2 * torch.randn(4, 3, 8, 8)
    assert torch.equal(norm.eval()(x), x)
    y = norm.train()(x)
    deviation, mean = torch.std_mean(y, dim=(0, 2, 3))
    assert torch.allclose(mean, torch.zeros(3), atol=1e-5) and torch.allclose(deviation, torch.ones(3), atol=1e-4)
    assert torch.equal(norm(x), y) and not torch.allclose(norm(2 * x).mean(), torch.zeros(()), atol=0.1)


def test_of_several_micro_batches_the_first_normalises() -> None:
    """The trainer sets all buffers back between them."""
    norm, first = ActNorm(3), torch.randn(4, 3, 8, 8)
    before = norm.initialized.clone()
    norm.train()(first)
    learnt = [value.detach().clone() for value in norm.parameters()]
    norm.initialized.copy_(before)
    norm(5 + 2 * first)
    assert all(torch.equal(value, old) for value, old in zip(norm.parameters(), learnt, strict=True))
    assert norm.initialized


def test_loaded_statistics_are_not_normalised_anew() -> None:
    norm, x = ActNorm(3), torch.randn(4, 3, 8, 8)
    norm.train()(x)
    state = {name: value.clone() for name, value in norm.state_dict().items()}
    for begun in (ActNorm(3), norm):
        begun.load_state_dict(state)
        begun.train()(3 + x)
        assert all(torch.equal(value, state[name]) for name, value in begun.state_dict().items())
    norm.load_state_dict(ActNorm(3).state_dict())
    norm(3 + x)
    assert not torch.allclose(norm.loc, state["loc"], atol=1)


def test_images_that_leave_no_patch_end_in_a_sentence() -> None:
    with pytest.raises(UserError, match="at least 24 pixels, not 16"):
        PatchDiscriminator(resolution=16)
    least = PatchDiscriminator(resolution=24)
    assert least(torch.randn(2, 3, 24, 24)).shape == (2, 1, 1, 1)
    with pytest.raises(UserError, match="at least one"):
        PatchDiscriminator(resolution=64, layers=0)
