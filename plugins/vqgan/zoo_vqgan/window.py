"""Images larger than those of the training: the transformer reads a window that slides over the grid of codes.

The rule is the official one (paper, section 3.3, figure 3; its sampling scripts). They read the whole window anew for
each code. Here the same numbers are had for less:
- codes that come after the one to be drawn are left out, for the causal mask hides them;
- one output is computed in the last block and the head;
- a window that stands where it stood before keeps its keys and values, and reads only the codes that are new to it.
  That is so from code to code in a row at its two ends, and from row to row, for each of the row's windows, near the
  upper and lower edge. Positions count from the window's corner, so a window that moved has nothing to keep.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_core.errors import UserError
from zoo_core.formulation import is_plain
from zoo_vqgan.filtering import Choose, Filter
from zoo_vqgan.gpt import GPT
from zoo_vqgan.kv_cache import KeyValueCache, cache_bytes
from zoo_vqgan.prior_sampling import Progress, evaluating


def local_index(index: int, length: int, side: int) -> int:
    """Where, on an axis of `length` codes, code number `index` lies in its window: in its middle, but at the edges."""
    if index <= side // 2:
        return index
    return max(side // 2, side - (length - index))


class Windows:
    """Logits of the codes of one batch of grids, asked for in raster order.

    `condition [B, H, W]`: tokens on the grid, of which each window reads its own; `[B, M]`: tokens that all windows
    read, which the official code does not have (class-conditional and unconditional priors).
    `side`: of the window, even; the official scripts know 16. `memory`: keys and values of so many bytes may be kept
    from row to row; one window's are kept in any case.
    Raises UserError for a grid smaller than the window, or a window that does not fit into the transformer's block.
    """

    def __init__(
        self, gpt: GPT, condition: Tensor, height: int, width: int, *, side: int = 16, memory: int = 2**31
    ) -> None:
        if side < 2 or side % 2:
            raise UserError(f"The side of a window must be even, not {side}.")
        if min(height, width) < side:
            raise UserError(f"A grid of {height}x{width} codes is smaller than the window of {side}x{side}.")
        if condition.ndim == 3 and condition.shape[1:] != (height, width):
            raise UserError(
                f"The condition has {condition.shape[1]}x{condition.shape[2]} tokens, the image {height}x{width} "
                "codes; they must lie on the same grid."
            )
        self.num_condition = side**2 if condition.ndim == 3 else condition.shape[1]
        """Condition tokens of a window."""
        self.whole = self.num_condition + side**2 - 1
        """Tokens of a whole window; the official scripts read so many for each code."""
        if self.whole > gpt.block_size:
            raise UserError(
                f"A window of {side}x{side} codes and its condition are {self.whole} tokens; the transformer's block "
                f"holds {gpt.block_size}."
            )
        self.gpt = gpt
        self.condition = condition
        self.height, self.width, self.side = height, width, side
        self.tokens_read = 0
        """Tokens that the transformer has read so far."""
        each = cache_bytes(layers=len(gpt.blocks), dim=gpt.dim, batch=len(condition), capacity=self.whole)
        self._num_kept = max(1, memory // each)
        self._caches: dict[int, KeyValueCache] = {}
        self._places: dict[int, tuple[int, int]] = {}

    def logits(self, codes: Tensor, row: int, column: int) -> Tensor:
        """Logits `[B, vocabulary]` of one code of `codes [B, H, W]`, of which all before it must be final."""
        local_row, local_column = local_index(row, self.height, self.side), local_index(column, self.width, self.side)
        top, left = row - local_row, column - local_column
        rows, columns = slice(top, top + self.side), slice(left, left + self.side)
        condition = self.condition[:, rows, columns] if self.condition.ndim == 3 else self.condition
        sequence = torch.cat((condition.flatten(1), codes[:, rows, columns].flatten(1)), dim=1)
        last = self.num_condition + local_row * self.side + local_column - 1
        if is_plain():  # as the official scripts do
            self.tokens_read += self.whole
            return self.gpt(sequence[:, :-1])[:, last]
        cache = self._cache(top, left)
        new = sequence[:, cache.length : last + 1]
        self.tokens_read += new.shape[1]
        return self.gpt(new, outputs=1, cache=cache)[:, -1]

    def _cache(self, top: int, left: int) -> KeyValueCache:
        """What the window at this place has read. All windows beyond the memory share one cache."""
        slot = min(left, self._num_kept - 1)
        cache = self._caches.setdefault(slot, KeyValueCache(self.whole))
        if self._places.get(slot) != (top, left):
            cache.clear()
        self._places[slot] = top, left
        return cache

    @torch.no_grad()
    def sample(self, choose: Choose, filtering: Filter, *, progress: Progress | None = None) -> Tensor:
        """Draw codes `[B, H, W]` in raster order."""
        codes = self.condition.new_zeros(len(self.condition), self.height, self.width)
        with evaluating(self.gpt):
            for cell in range(self.height * self.width):
                row, column = divmod(cell, self.width)
                codes[:, row, column] = filtering.draw(self.logits(codes, row, column), choose)
                if progress:
                    progress(cell + 1)
        return codes
