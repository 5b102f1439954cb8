"""Orders of a grid of codes; the official tables are compared in `test_parity_stage2.py`."""

from __future__ import annotations

import pytest
import torch

from zoo_core.errors import UserError
from zoo_vqgan.permuters import ORDERS, Permuter

ANY_GRID = ("identity", "alternate", "random", "z_curve")


@pytest.mark.parametrize("order", ORDERS)
def test_the_inverse_leads_back(order: str) -> None:
    codes = torch.randint(1000, (3, 64))
    permuter = Permuter(order, 8, 8)
    assert permuter(codes).shape == codes.shape
    assert torch.equal(permuter(codes), codes) == (order == "identity")
    assert torch.equal(permuter.inverse(permuter(codes)), codes)


@pytest.mark.parametrize("order", ANY_GRID)
def test_grids_need_not_be_square(order: str) -> None:
    permuter = Permuter(order, 3, 6)
    assert sorted(permuter.table.tolist()) == list(range(18))
    assert torch.equal(permuter.table[permuter.back], torch.arange(18))


@pytest.mark.parametrize("order", sorted(ORDERS.keys() - set(ANY_GRID)))
def test_an_order_that_needs_a_square_says_so(order: str) -> None:
    with pytest.raises(UserError, match="square grid"):
        Permuter(order, 4, 8)


def test_subsampling_needs_a_power_of_two() -> None:
    with pytest.raises(UserError, match="power of two"):
        Permuter("subsample", 6, 6)


def test_an_unknown_order_is_a_sentence() -> None:
    with pytest.raises(UserError, match='did you mean "spiral_in"'):
        Permuter("spiral-in", 4, 4)


def test_the_tables_are_not_saved() -> None:
    assert not Permuter("random", 4, 4).state_dict()
