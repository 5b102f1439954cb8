"""Multi-axis self-attention and cross-attention, with one head of keys for all heads of queries.

Shapes: B batch, H W grid, C channels, N heads of queries, K heads of keys (1 or N), D head dim, Q queries, L context
tokens, p side of a block; M attentions side by side, T queries and S keys of each.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from zoo_core.attention import check_heads
from zoo_core.errors import UserError
from zoo_core.formulation import is_plain
from zoo_core.interfaces import Attention, Site
from zoo_hit.layers import linear

# The grid [B, H/p, p, W/p, p, K, D] as [B, attentions (2 axes), tokens (2 axes), K, D], and back.
REGIONAL = (0, 1, 3, 2, 4, 5, 6), (0, 1, 3, 2, 4, 5, 6)  # an attention for each block, over its pixels
DILATED = (0, 2, 4, 1, 3, 5, 6), (0, 3, 1, 4, 2, 5, 6)  # one for each place in a block, over the blocks


class ProjectedAttention(Attention):
    """The four projections; `multi_query`: all heads of queries share one head of keys and one of values."""

    def __init__(self, site: Site, source_dim: int, multi_query: bool, second_order: bool) -> None:
        super().__init__()
        self.head_dim = check_heads(site)
        self.heads = site.heads
        self.second_order = second_order
        key_dim = self.head_dim if multi_query else site.dim
        self.query = linear(site.dim, site.dim)
        self.key = linear(source_dim, key_dim)
        self.value = linear(source_dim, key_dim)
        self.output = linear(site.dim, site.dim)

    def _heads(self, tokens: Tensor) -> Tensor:
        """`[.., K D]` -> `[.., K, D]`."""
        return tokens.unflatten(-1, (-1, self.head_dim))

    def _attend(self, q_MTND: Tensor, k_MSKD: Tensor, v_MSKD: Tensor) -> Tensor:
        """Softmax attention -> `[M, T, N, D]`."""
        if is_plain() or self.second_order:
            q_MNTD, k_MKSD, v_MKSD = (each.transpose(1, 2) for each in (q_MTND, k_MSKD, v_MSKD))
            weights = torch.softmax(q_MNTD @ k_MKSD.mT / math.sqrt(self.head_dim), dim=-1)
            return (weights @ v_MKSD).transpose(1, 2)
        queries = q_MTND
        if k_MSKD.shape[2] == 1:  # heads that share their keys are so many more queries: no key is repeated
            queries = q_MTND.flatten(1, 2).unsqueeze(2)  # [M, T N, 1, D]
        mixed = scaled_dot_product_attention(*(each.transpose(1, 2) for each in (queries, k_MSKD, v_MSKD)))
        return mixed.transpose(1, 2).reshape(q_MTND.shape)


class MultiAxisAttention(ProjectedAttention):
    """Half of the heads attend within blocks of `p x p` pixels, half over the pixels at the same place of all blocks.

    block: p; 0 is the paper's rule, 4 on maps up to 16 pixels and 8 above. At most half the side of the map, so that
    both halves of the heads mix. multi_query: one head of keys and of values for all heads, as the published models.
    second_order: use matrix products, which can be differentiated twice, instead of the fused kernel.
    Raises UserError when the heads cannot be halved or do not divide the channels, or blocks do not divide the map.
    """

    def __init__(self, site: Site, *, block: int = 0, multi_query: bool = True, second_order: bool = False) -> None:
        super().__init__(site, site.dim, multi_query, second_order)
        if site.heads % 2:
            raise UserError(
                f"multi-axis attention halves its heads, but has {site.heads} at {site.resolution} pixels; "
                "set an even number of heads."
            )
        self.block = min(block or (4 if site.resolution <= 16 else 8), max(1, site.resolution // 2))
        if self.block < 1 or site.resolution % self.block:
            raise UserError(
                f"blocks of {block} do not divide a map of {site.resolution} pixels; set block to a divisor, or to 0."
            )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`[B, H, W, C]` -> `[B, H, W, C]`; `context` is not used. Raises UserError for a map that no blocks tile."""
        if x.shape[1] % self.block or x.shape[2] % self.block:
            sides = " x ".join(map(str, x.shape[1:3]))
            raise UserError(
                f"multi-axis attention cannot mix a map of {sides}: its sides must be multiples of {self.block}."
            )
        projected = (self._heads(project(x)) for project in (self.query, self.key, self.value))
        grids = [each.unflatten(2, (-1, self.block)).unflatten(1, (-1, self.block)) for each in projected]
        halves = zip(*([each] * 2 if each.shape[5] == 1 else each.chunk(2, dim=5) for each in grids), strict=True)
        mixed = [self._mix(*half, *axis) for half, axis in zip(halves, (REGIONAL, DILATED), strict=True)]
        return self.output(torch.cat(mixed, dim=5).reshape(x.shape))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, there: tuple[int, ...], back: tuple[int, ...]) -> Tensor:
        """Attend along one axis of the grid `[B, H/p, p, W/p, p, K, D]`."""
        q, k, v = (each.permute(there) for each in (q, k, v))
        mixed = self._attend(*(each.flatten(3, 4).flatten(0, 2) for each in (q, k, v)))
        return mixed.view(q.shape).permute(back)

    def weights(self, x: Tensor, queries: Tensor, context: Tensor | None = None) -> Tensor:
        """`[B, N, Q, H, W]`: over the query's own block, or over its own place in every block."""
        rows, columns = queries.unbind(1)
        q_BQND = self._heads(self.query(x[:, rows, columns]))
        k_BHWND = self._heads(self.key(x)).expand(-1, -1, -1, self.heads, -1)
        scores = torch.einsum("bqnd,bhwnd->bnqhw", q_BQND, k_BHWND) / math.sqrt(self.head_dim)
        row, column = (torch.arange(side, device=x.device) for side in x.shape[1:3])
        p = self.block
        own_block = _meet(rows // p, row // p, columns // p, column // p)
        own_place = _meet(rows % p, row % p, columns % p, column % p)
        seen = torch.stack([own_block, own_place]).repeat_interleave(self.heads // 2, dim=0)  # [N, Q, H, W]
        return scores.masked_fill(~seen, -math.inf).flatten(3).softmax(-1).view_as(scores)


def _meet(rows: Tensor, row: Tensor, columns: Tensor, column: Tensor) -> Tensor:
    """Where `rows [Q]` equal `row [H]` and `columns [Q]` equal `column [W]`: `[Q, H, W]`."""
    return (rows[:, None] == row).unsqueeze(2) & (columns[:, None] == column).unsqueeze(1)


class CrossAttention(ProjectedAttention):
    """Every pixel attends to the context tokens: the paper's modulation by the latent.

    Options as MultiAxisAttention's. Raises UserError when the host passes no context.
    """

    def __init__(self, site: Site, *, multi_query: bool = True, second_order: bool = False) -> None:
        if site.context_dim is None:
            raise UserError(f"cross-attention at {site.resolution} pixels needs context tokens; its host passes none.")
        super().__init__(site, site.context_dim, multi_query, second_order)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`x [B, H, W, C]`, `context [B, L, context_dim]` -> `[B, H, W, C]`."""
        q = self._heads(self.query(x))
        k, v = (self._heads(project(context)) for project in (self.key, self.value))
        # Row by row, with the few keys once for each: nothing of the large map moves in memory.
        rows = x.shape[1]
        mixed = self._attend(q.flatten(0, 1), k.repeat_interleave(rows, 0), v.repeat_interleave(rows, 0))
        return self.output(mixed.reshape(x.shape))

    def weights(self, x: Tensor, queries: Tensor, context: Tensor | None = None) -> Tensor:
        """`[B, N, Q, L]`: over the context tokens."""
        q_BQND = self._heads(self.query(x[:, queries[:, 0], queries[:, 1]]))
        k_BLND = self._heads(self.key(context)).expand(-1, -1, self.heads, -1)
        return torch.softmax(torch.einsum("bqnd,blnd->bnql", q_BQND, k_BLND) / math.sqrt(self.head_dim), dim=-1)
