"""The second stage's network in training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from zoo_core.errors import UserError
from zoo_core.rng import Rng
from zoo_vqgan.gpt import GPT
from zoo_vqgan.permuters import Permuter
from zoo_vqgan.prior import Prior

CODES = torch.arange(32).view(2, 4, 4) % 17
CONDITION = torch.tensor([[3, 1], [4, 1]])


def small(order: str = "identity", kept: float = 1.0) -> Prior:
    torch.manual_seed(0)
    gpt = GPT(vocabulary=17, block_size=17, layers=2, heads=2, dim=16)
    torch.nn.init.normal_(gpt.pos_emb)
    return Prior(gpt, Permuter(order, 4, 4), condition_length=2, kept=kept)


def test_every_code_is_predicted_from_the_condition_and_the_codes_before() -> None:
    prior = small("spiral_out")
    loss, logits = prior(CODES, CONDITION)
    ordered = prior.permuter(CODES.flatten(1))
    for num in range(16):
        one = prior.gpt(torch.cat((CONDITION, ordered[:, :num]), 1))[:, -1]
        torch.testing.assert_close(logits[:, num], one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, F.cross_entropy(logits.transpose(1, 2), ordered))


def test_every_parameter_gets_a_gradient() -> None:
    """Or DDP would have to look for those without one."""
    prior = small(kept=0.5)
    loss, _ = prior(CODES, CONDITION)
    loss.backward()
    assert all(parameter.grad is not None for parameter in prior.parameters())


def test_corruption_replaces_the_asked_share_and_spares_the_targets() -> None:
    prior = small(kept=0.75)
    codes = torch.full((64, 16), 5)
    read = prior.corrupt(codes, Rng.of("corruption", rows=range(64)))
    assert float((read == 5).float().mean()) == pytest.approx(0.75 + 0.25 / 17, abs=0.04)
    assert set(read.flatten().tolist()) == set(range(17))

    loss, logits = prior(CODES, CONDITION, Rng.of("corruption", rows=range(2)))
    torch.testing.assert_close(loss, F.cross_entropy(logits.transpose(1, 2), CODES.flatten(1)))
    assert not torch.equal(logits, prior.eval()(CODES, CONDITION)[1])


def test_evaluation_corrupts_nothing() -> None:
    prior = small(kept=0.5).eval()
    assert torch.equal(prior.corrupt(CODES), CODES)


def test_an_images_corruption_does_not_depend_on_its_batch() -> None:
    prior, codes = small(kept=0.5), CODES.flatten(1)
    both = prior.corrupt(codes, Rng.of("corruption", rows=range(2)))
    assert torch.equal(both[1:], prior.corrupt(codes[1:], Rng.of("corruption", rows=range(1, 2))))
    assert not torch.equal(both, codes)


def test_given_corruption_is_what_is_read() -> None:
    prior = small(kept=0.5)
    clean, _ = prior(CODES, CONDITION, corrupted=CODES.flatten(1))
    assert torch.equal(clean, prior.eval()(CODES, CONDITION)[0])
    other, _ = prior(CODES, CONDITION, corrupted=torch.zeros(2, 16, dtype=torch.int64))
    assert not torch.equal(other, clean)


@pytest.mark.parametrize(("side", "condition_length"), [(4, 3), (5, 1), (4, 0)])
def test_a_sequence_longer_than_the_block_is_a_sentence(side: int, condition_length: int) -> None:
    gpt = GPT(vocabulary=17, block_size=17, layers=1, heads=2, dim=16)
    with pytest.raises(UserError, match="the transformer's has 17"):
        Prior(gpt, Permuter("identity", side, side), condition_length=condition_length)


@pytest.mark.parametrize("kept", [0.0, 1.5])
def test_the_share_of_kept_codes_is_a_share(kept: float) -> None:
    with pytest.raises(UserError, match="share of codes"):
        small(kept=kept)
