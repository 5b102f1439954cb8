"""Halo tiles: neighbourhood attention as a few small dense attentions.

The map is cut into tiles of queries. The windows of one tile's queries together cover one rectangle of keys, the
halo, whose start is clamped into the map exactly as the windows are; so there is no padding and no special border.
Seen from its tile a halo looks the same everywhere but near the borders: an axis has at most a few *kinds* of tile,
and the bias with its mask is one small table per kind.

Shapes: h heads, N maps (images x residue classes), Y X map, D head dim, T queries of a tile, S keys of its halo.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

SDPA_BATCH = 32768
"""Tiles in one call of the fused kernel: CUDA grids end at 65535."""


@dataclass(frozen=True)
class Axis:
    """How one axis of a map is cut into tiles."""

    size: int
    """Length of the axis."""
    kernel: int
    """Keys of one window on this axis."""
    tile: int
    """Queries of a tile on this axis."""
    span: int
    """Keys of a tile's halo on this axis."""
    starts: tuple[int, ...]
    """First key of each tile's halo."""
    kinds: tuple[int, ...]
    """Kind of each tile."""
    patterns: tuple[tuple[tuple[int, ...], ...], ...]
    """`[kind][query][key]` = row of the bias (key minus query, plus kernel - 1), or -1 outside the query's window."""

    @property
    def padded(self) -> int:
        """Length of the axis when its last tile is full."""
        return self.tile * len(self.starts)

    def runs(self, tiles: slice = slice(None)) -> list[tuple[int, int, int]]:
        """`(kind, begin, end)` of neighbouring tiles of one kind, counted from the first of `tiles`."""
        runs, begin = [], 0
        for kind, members in groupby(self.kinds[tiles]):
            end = begin + len(list(members))
            runs.append((kind, begin, end))
            begin = end
        return runs


@lru_cache(maxsize=512)
def cut(size: int, kernel: int, tile: int) -> Axis:
    """Cut an axis into equal tiles of at most `tile` queries; the last may reach beyond the map.

    Where one halo would span the axis anyway, the axis is one tile.
    """
    count = -(-size // tile) if tile + kernel - 1 < size else 1
    tile = -(-size // count)
    count = -(-size // tile)
    radius, span = kernel // 2, min(size, tile + kernel - 1)
    starts, kinds, seen = [], [], {}
    for begin in range(0, count * tile, tile):
        start = min(max(begin - radius, 0), size - span)
        rows = []
        for query in range(begin, begin + tile):
            query = min(query, size - 1)  # a query beyond the map repeats the last one and is cropped later
            window = min(max(query - radius, 0), size - kernel)
            keys = range(start, start + span)
            rows.append(tuple(key - query + kernel - 1 if window <= key < window + kernel else -1 for key in keys))
        starts.append(start)
        kinds.append(seen.setdefault(tuple(rows), len(seen)))
    return Axis(size, kernel, tile, span, tuple(starts), tuple(kinds), tuple(seen))


def bias_table(bias: Tensor | None, rows: Axis, columns: Axis, like: Tensor) -> Tensor:
    """Bias and mask of every kind of tile: `[h, row kinds, column kinds, T, S]`, -inf outside the window.

    Products with one-hot matrices instead of indexing: the gradient of `bias [h, 2k-1, 2k-1]` is then a sum in a fixed
    order, and can be differentiated again. Without a bias the table is the mask alone, with one head.
    """
    outside = _outside(rows, columns, like.device)
    if bias is None:
        mask = torch.zeros(1, *outside.shape, dtype=like.dtype, device=like.device)
        return mask.masked_fill_(outside, float("-inf"))
    with no_autocast(like.device):  # a one-hot product is exact in the bias's own precision
        row_hot, column_hot = (_one_hot(axis, bias) for axis in (rows, columns))
        table = row_hot @ bias @ column_hot.t()  # [h, kinds Ty Sy, kinds Tx Sx]
    table = table.view(len(bias), *_shape(rows), *_shape(columns)).permute(0, 1, 4, 2, 5, 3, 6)
    return table.reshape(len(bias), *outside.shape).masked_fill(outside, float("-inf")).to(like.dtype)


def bias_gradient(grad: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """The adjoint of `bias_table` for a gradient that is zero outside the windows: `[h, 2k-1, 2k-1]`."""
    (ky, ty, sy), (kx, tx, sx) = _shape(rows), _shape(columns)
    grad = grad.view(-1, ky, kx, ty, tx, sy, sx).permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, ky * ty * sy, kx * tx * sx)
    return _one_hot(rows, grad).t() @ (grad @ _one_hot(columns, grad))


def _shape(axis: Axis) -> tuple[int, int, int]:
    return len(axis.patterns), axis.tile, axis.span


def _one_hot(axis: Axis, like: Tensor) -> Tensor:
    """`[kinds T S, 2k-1]`: the row of the bias where a query and a key on this axis meet; zeros outside the window."""
    index = torch.tensor(axis.patterns, device=like.device).view(-1, 1)
    return (index == torch.arange(2 * axis.kernel - 1, device=like.device)).to(like.dtype)


def _outside(rows: Axis, columns: Axis, device: torch.device) -> Tensor:
    """`[row kinds, column kinds, T, S]`: True where the key is outside the query's window."""
    row, column = (torch.tensor(axis.patterns, device=device) < 0 for axis in (rows, columns))
    outside = row[:, None, :, None, :, None] | column[None, :, None, :, None, :]
    return outside.view(len(row), len(column), rows.tile * columns.tile, rows.span * columns.span)


def no_autocast(device: torch.device) -> AbstractContextManager:
    """Compute in the tensors' own precision; the meta device knows no autocast and needs none."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


class Halo(torch.autograd.Function):
    """`x [h, N, Y, X, D]` -> its overlapping halos `[h, N, tiles y, tiles x, Sy Sx, D]`; gradients of any order."""

    @staticmethod
    def forward(ctx, x: Tensor, rows: Axis, columns: Axis) -> Tensor:
        """Copy each halo out of the map."""
        ctx.axes = rows, columns
        wide = torch.stack([x[:, :, :, start : start + columns.span] for start in columns.starts], dim=2)
        wide = torch.stack([wide[:, :, :, start : start + rows.span] for start in rows.starts], dim=2)
        return wide.flatten(4, 5)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The adjoint: add the halos up."""
        return HaloSum.apply(grad, *ctx.axes), None, None


class HaloSum(torch.autograd.Function):
    """The adjoint of `Halo`: overlapping halos are added back into a map, in a fixed order."""

    @staticmethod
    def forward(ctx, halos: Tensor, rows: Axis, columns: Axis) -> Tensor:
        """`[h, N, tiles y, tiles x, Sy Sx, D]` -> `[h, N, Y, X, D]`."""
        ctx.axes = rows, columns
        h, n, tiles_y, tiles_x, _, d = halos.shape
        halos = halos.view(h, n, tiles_y, tiles_x, rows.span, columns.span, d)
        wide = halos.new_zeros(h, n, tiles_x, rows.size, columns.span, d)
        for tile, start in enumerate(rows.starts):
            wide[:, :, :, start : start + rows.span] += halos[:, :, tile]
        x = halos.new_zeros(h, n, rows.size, columns.size, d)
        for tile, start in enumerate(columns.starts):
            x[:, :, :, start : start + columns.span] += wide[:, :, tile]
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The adjoint of the adjoint."""
        return Halo.apply(grad, *ctx.axes), None, None


def pad_queries(q: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Lengthen `q [h, N, Y, X, D]` with zeros until its last tiles are full."""
    beyond = (0, 0, 0, columns.padded - columns.size, 0, rows.padded - rows.size)
    return F.pad(q, beyond) if any(beyond) else q


def tiled_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, rows: Axis, columns: Axis, scale: float, fused: bool
) -> Tensor:
    """Exact neighbourhood attention of undilated maps `[h, N, Y, X, D]`, all tiles of one kind at a time.

    Plain differentiable operations, so gradients of any order; or, when `fused`, PyTorch's
    `scaled_dot_product_attention` with the bias as its mask (first order only).
    """
    h, n, d = q.shape[0], q.shape[1], q.shape[-1]
    tiles_y, tiles_x = len(rows.starts), len(columns.starts)
    table = bias_table(bias, rows, columns, q)
    q = pad_queries(q, rows, columns).view(h, n, tiles_y, rows.tile, tiles_x, columns.tile, d)
    q = q.transpose(3, 4).reshape(h, n, tiles_y, tiles_x, rows.tile * columns.tile, d)
    k, v = Halo.apply(k, rows, columns), Halo.apply(v, rows, columns)
    mix, bands = _fused if fused else _plain, []
    row_runs, column_runs = rows.runs(), columns.runs()
    heights, widths = ([end - begin for _, begin, end in runs] for runs in (row_runs, column_runs))
    for (kind_y, *_), *band in zip(row_runs, *(x.split(heights, dim=2) for x in (q, k, v)), strict=True):
        outs = []
        for (kind_x, *_), *block in zip(column_runs, *(x.split(widths, dim=3) for x in band), strict=True):
            shape = block[0].shape  # [h, N, rows of tiles, columns of tiles, T, D]
            block = [x.flatten(1, 3) for x in block]
            outs.append(mix(*block, table[:, kind_y, kind_x, None], scale).view(shape))
        bands.append(torch.cat(outs, dim=3))
    out = torch.cat(bands, dim=2).view(h, n, tiles_y, tiles_x, rows.tile, columns.tile, d)
    out = out.transpose(3, 4).reshape(h, n, rows.padded, columns.padded, d)
    return out[:, :, : rows.size, : columns.size]


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    scores = (q * scale) @ k.transpose(-1, -2)
    return (scores + mask).softmax(dim=-1).to(v.dtype) @ v


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    parts = zip(*(x.split(SDPA_BATCH, dim=1) for x in (q, k, v)), strict=True)
    outs = [F.scaled_dot_product_attention(*part, attn_mask=mask, scale=scale) for part in parts]
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
