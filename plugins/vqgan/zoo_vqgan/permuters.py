"""Orders in which the transformer reads a grid of codes (paper, appendix on the ordering; rows won its comparison).

An order is a table: entry p is the raster index of the code that comes p-th.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from zoo_core.errors import UserError, did_you_mean


def _identity(height: int, width: int) -> np.ndarray:
    return np.arange(height * width)


def _alternate(height: int, width: int) -> np.ndarray:
    """Every other row from right to left, as an ox ploughs."""
    table = np.arange(height * width).reshape(height, width)
    table[1::2] = table[1::2, ::-1]
    return table.ravel()


def _random(height: int, width: int) -> np.ndarray:
    return np.random.RandomState(1).permutation(height * width)


def _z_curve(height: int, width: int) -> np.ndarray:
    """Morton order: the bits of the row above those of the column."""
    rows, columns = np.divmod(np.arange(height * width), width)
    return np.argsort(_interleaved(rows, columns, max(height, width).bit_length()))


def _subsample(height: int, width: int) -> np.ndarray:
    """Coarse to fine: Morton order of the coordinates whose bits are reversed."""
    bits = _square("subsample", height, width).bit_length() - 1
    if height != 1 << bits:
        raise UserError(f'The order "subsample" needs a power of two as side of the code grid, not {height}.')
    rows, columns = np.divmod(np.arange(height * width), width)
    return np.argsort(_interleaved(_reversed(rows, bits), _reversed(columns, bits), bits))


def _spiral_in(height: int, width: int) -> np.ndarray:
    """From the bottom right corner up, left, down, right, and inwards."""
    rest = np.arange(height * width).reshape(_square("spiral_in", height, width), width)
    parts = []
    while rest.size:
        parts.append(rest[::-1, -1])
        rest = np.rot90(rest[:, :-1], -1)  # the side that comes next is now the last column, read from its bottom
    return np.concatenate(parts)


def _spiral_out(height: int, width: int) -> np.ndarray:
    """From the middle outwards, clockwise: `spiral_in` backwards."""
    return _spiral_in(height, width)[::-1]


def _square(name: str, height: int, width: int) -> int:
    if height != width:
        raise UserError(f'The order "{name}" needs a square grid of codes, not {height}x{width}.')
    return height


def _interleaved(rows: np.ndarray, columns: np.ndarray, bits: int) -> np.ndarray:
    return sum(((columns >> bit & 1) << 2 * bit) + ((rows >> bit & 1) << 2 * bit + 1) for bit in range(bits))


def _reversed(values: np.ndarray, bits: int) -> np.ndarray:
    return sum((values >> bit & 1) << bits - 1 - bit for bit in range(bits))


ORDERS: dict[str, Callable[[int, int], np.ndarray]] = {
    "identity": _identity,
    "subsample": _subsample,
    "z_curve": _z_curve,
    "spiral_out": _spiral_out,
    "spiral_in": _spiral_in,
    "random": _random,
    "alternate": _alternate,
}
"""Tables of an order by its name, for a height and a width."""


class Permuter(nn.Module):
    """Puts the codes of a grid into an order and back. The tables follow from the name; they are no part of the state.

    Raises UserError for an unknown order, or a grid that the order does not fit.
    """

    def __init__(self, order: str, height: int, width: int) -> None:
        super().__init__()
        if order not in ORDERS:
            raise UserError(f'There is no order "{order}"{did_you_mean(order, ORDERS)}')
        self.order = order
        table = torch.from_numpy(np.ascontiguousarray(ORDERS[order](height, width)))
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("back", table.argsort(), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """Raster order -> this order, `[B, N]`."""
        return codes[:, self.table]

    def inverse(self, codes: Tensor) -> Tensor:
        """This order -> raster order, `[B, N]`."""
        return codes[:, self.back]
