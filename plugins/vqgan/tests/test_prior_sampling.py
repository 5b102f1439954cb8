"""Filters, draws, and sampling code by code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo_core import formulation
from zoo_core.errors import UserError
from zoo_core.rng import Rng
from zoo_vqgan.filtering import BLOCK, Filter, chooser, keep_top_k, keep_top_p
from zoo_vqgan.gpt import GPT
from zoo_vqgan.prior_sampling import sample_codes

LABELS = torch.tensor([[3], [1], [4], [1]])
PART = Filter(temperature=0.9, top_k=10, top_p=0.95)


@pytest.fixture(scope="module")
def gpt() -> GPT:
    torch.manual_seed(0)
    network = GPT(vocabulary=16, block_size=24, layers=2, heads=2, dim=16)
    for parameter in network.parameters():  # its own start gives nearly even logits
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return network


def draw(gpt: GPT, rows: range = range(4), filtering: Filter = PART, num: int = 24) -> Tensor:
    return sample_codes(gpt, LABELS[rows], num, chooser(Rng.of("codes", rows=rows)), filtering)


def test_top_k_keeps_ties() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]])
    assert keep_top_k(logits, 2).isfinite().tolist() == [[False, True, True, True, False]]
    assert torch.equal(keep_top_k(logits, 0), logits) and torch.equal(keep_top_k(logits, 9), logits)


def test_top_p_keeps_the_code_that_exceeds_it() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    assert keep_top_p(logits, 0.6).isfinite().tolist() == [[False, True, False, True]]
    assert keep_top_p(logits, 0.01).isfinite().tolist() == [[False, True, False, False]]
    assert torch.equal(keep_top_p(logits, 1.0), logits)


def test_top_p_counts_what_top_k_left() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert Filter(top_p=0.5).probabilities(logits).count_nonzero() == 2
    assert Filter(top_k=2, top_p=0.5).probabilities(logits).count_nonzero() == 1  # 0.4 is 0.57 of the two


def test_draws_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    drawn = chooser(Rng.of("draws", rows=range(4000)))(probabilities.expand(4000, -1))
    shares = drawn.bincount(minlength=6) / 4000
    assert torch.allclose(shares, probabilities, atol=0.03)
    assert not shares[probabilities == 0].any()


def test_each_row_draws_from_its_own_stream_one_number_after_the_other() -> None:
    probabilities = torch.full((3, 1000), 1e-3)
    choose, streams = chooser(Rng.of("draws", rows=range(3))), Rng.of("draws", rows=range(3))
    alone = chooser(Rng.of("draws", rows=range(1, 2)))
    for _ in range(BLOCK + 2):
        drawn = choose(probabilities)
        assert torch.equal(drawn, (streams.uniform(1)[:, 0].double() * 1000).long())
        assert drawn[1] == alone(probabilities[:1])


@pytest.mark.parametrize(("number", "index"), [(0.0, 1), (1 - 2**-24, 4)])
def test_the_least_and_the_greatest_number_draw_a_probable_index(number: float, index: int) -> None:
    class Fixed(Rng):
        def uniform(self, *shape: int) -> Tensor:
            return torch.full((1, *shape), number)

    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.2, 0.3, 0.0]])
    assert chooser(Fixed([0]))(probabilities).tolist() == [index]


@pytest.mark.parametrize("values", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_a_filter_out_of_range_is_a_sentence(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        Filter(**values)


@pytest.mark.parametrize("filtering", [PART, Filter(greedy=True)])
def test_the_cache_changes_no_code(gpt: GPT, filtering: Filter) -> None:
    cached = draw(gpt, filtering=filtering)
    with formulation.plain():
        assert torch.equal(cached, draw(gpt, filtering=filtering))
    assert cached.shape == (4, 24) and len(cached.unique()) > 4


def test_an_image_does_not_depend_on_its_batch(gpt: GPT) -> None:
    whole = draw(gpt)
    assert torch.equal(whole[1:3], draw(gpt, range(1, 3)))
    assert not torch.equal(whole[1], whole[3])  # the same label, another stream


def test_greedy_is_the_best_code_of_each_step(gpt: GPT) -> None:
    codes = draw(gpt, filtering=Filter(greedy=True))
    read = torch.cat((LABELS, codes[:, :-1]), 1)
    assert torch.equal(gpt.eval()(read).argmax(-1), codes)
    assert torch.equal(codes, draw(gpt, filtering=Filter(top_k=1)))


def test_progress_counts_codes_and_the_mode_is_restored(gpt: GPT) -> None:
    told: list[int] = []
    gpt.train()
    choose = chooser(Rng.of("codes", rows=range(4)))
    sample_codes(gpt, LABELS, 5, choose, PART, progress=told.append)
    assert told == [1, 2, 3, 4, 5] and gpt.training


def test_more_codes_than_the_block_is_a_sentence(gpt: GPT) -> None:
    with pytest.raises(UserError, match="do not fit into the transformer's block of 24"):
        draw(gpt, num=25)
