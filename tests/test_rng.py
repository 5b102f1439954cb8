"""Random streams, one for each image: independent of each other, of the batch, and of what is forked off."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zoo_core.rng import Rng

DRAWS: dict[str, Callable[[Rng], Tensor]] = {
    "normal": lambda rng: rng.normal(64),
    "uniform": lambda rng: rng.uniform(64),
    "integers": lambda rng: rng.integers(0, 1000, 64),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_every_bit_of_a_seed_counts(draw: Callable[[Rng], Tensor]) -> None:
    seeds = [5, 5 + 2**32, 5 + 2**62, 5]
    rows = draw(Rng(seeds))
    assert not any(torch.equal(rows[0], row) for row in rows[1:3])
    assert torch.equal(rows[0], rows[3])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_row_depends_on_no_other_and_not_on_the_batch(draw: Callable[[Rng], Tensor]) -> None:
    whole = Rng.of("key", rows=range(7))
    parts = [Rng.of("key", rows=rows) for rows in (range(1), range(1, 5), range(5, 7))]
    for _ in range(2):  # also once the streams have been drawn from
        assert torch.equal(draw(whole), torch.cat([draw(part) for part in parts]))
    assert len(torch.unique(draw(whole), dim=0)) == 7


def test_rows_are_unrelated() -> None:
    correlation = torch.corrcoef(Rng.of("key", rows=range(40)).normal(4000))
    assert (correlation - torch.eye(40)).abs().max() < 0.1  # six standard deviations of 1/sqrt(4000)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_fork_does_not_move_its_parent(draw: Callable[[Rng], Tensor]) -> None:
    alone, forked = Rng.of("key", rows=range(3)), Rng.of("key", rows=range(3))
    before = draw(forked.fork("z"))
    first, other = draw(forked), draw(forked.fork("label"))
    assert torch.equal(first, draw(alone))
    assert torch.equal(draw(forked), draw(alone))
    assert torch.equal(draw(forked.fork("z")), before)  # nor does the parent move its forks
    assert not torch.equal(before, other) and not torch.equal(before, first)


def test_draws_have_the_shape_type_and_distribution_that_they_promise() -> None:
    rng = Rng.of("key", rows=range(4))
    normal, uniform, integers = rng.normal(50, 50), rng.uniform(50, 50), rng.integers(-1, 3, 50, 50)
    assert normal.shape == uniform.shape == integers.shape == (4, 50, 50)
    assert rng.normal().shape == rng.uniform().shape == rng.integers(0, 2).shape == (4,)
    assert (normal.dtype, uniform.dtype, integers.dtype) == (torch.float32, torch.float32, torch.int64)
    assert abs(normal.mean()) < 0.05 and abs(normal.std() - 1) < 0.05
    assert 0 <= uniform.min() < 0.01 and 0.99 < uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.02
    assert torch.unique(integers).tolist() == [-1, 0, 1, 2]
    with pytest.raises(ValueError, match="no rows"):
        Rng([]).normal()


def test_fresh_streams_follow_the_global_seed() -> None:
    torch.manual_seed(1)
    one, two = Rng.fresh(2).normal(3), Rng.fresh(2).normal(3)
    torch.manual_seed(1)
    assert torch.equal(Rng.fresh(2).normal(3), one) and not torch.equal(one, two)
