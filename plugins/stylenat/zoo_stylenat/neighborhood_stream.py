"""The memory-sparing form of the tiles: chunk by chunk, the scores computed again in backward.

Only q, k, v and the bias are kept for backward. A chunk's scores stay in cache, and its buffers serve the next chunk
too. Every sum is taken in a fixed order, so the result is deterministic.

Shapes as in `neighborhood_tiles`; G planes of a chunk = heads x maps x tile columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo_stylenat.neighborhood_tiles import Axis, bias_gradient, bias_table, no_autocast, pad_queries

CHUNK_BYTES = 1 << 20
"""Size of one chunk's scores, a share of a core's second-level cache."""
PLANE_BYTES = 1 << 22
"""Bound on a chunk's copy of the keys' (and the values') halo columns."""


def stream_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, rows: Axis, columns: Axis, scale: float
) -> Tensor:
    """Exact neighbourhood attention of undilated maps `[h, N, Y, X, D]`; first-order gradients only.

    Half-precision inputs are computed in float32 and answered in their own precision.
    """
    dtype = q.dtype
    if dtype in (torch.float16, torch.bfloat16):
        q, k, v = q.float(), k.float(), v.float()
    q = pad_queries(q, rows, columns)
    out = _Stream.apply(q.contiguous(), k.contiguous(), v.contiguous(), bias, rows, columns, scale)
    return out[:, :, : rows.size, : columns.size].to(dtype)


class _Stream(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, rows: Axis, columns: Axis, scale: float
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, bias)
        ctx.setting = rows, columns, scale
        table, out, buffers = bias_table(bias, rows, columns, q), torch.empty_like(q), _Buffers(q)
        with no_autocast(q.device):
            for chunk in _chunks(q, rows, columns):
                k_planes, v_planes = chunk.planes(k, buffers, 0), chunk.planes(v, buffers, 1)
                for tile_y in range(len(rows.starts)):
                    key, value = chunk.halo(k_planes, tile_y), chunk.halo(v_planes, tile_y)
                    weights = chunk.weights(chunk.band(q, tile_y), key, table, tile_y, scale, buffers)
                    chunk.set_band(out, tile_y, torch.bmm(weights, value))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias = ctx.saved_tensors
        rows, columns, scale = ctx.setting
        grad, table, buffers = grad.contiguous(), bias_table(bias, rows, columns, q), _Buffers(q)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        grad_table = torch.zeros_like(table) if ctx.needs_input_grad[3] else None
        with no_autocast(q.device):
            for chunk in _chunks(q, rows, columns):
                k_planes, v_planes = chunk.planes(k, buffers, 0), chunk.planes(v, buffers, 1)
                grad_k_planes, grad_v_planes = chunk.blank(grad_k, buffers, 2), chunk.blank(grad_v, buffers, 3)
                for tile_y in range(len(rows.starts)):
                    query, g = chunk.band(q, tile_y), chunk.band(grad, tile_y)
                    key, value = chunk.halo(k_planes, tile_y), chunk.halo(v_planes, tile_y)
                    weights = chunk.weights(query, key, table, tile_y, scale, buffers)
                    chunk.halo(grad_v_planes, tile_y).baddbmm_(weights.transpose(1, 2), g)
                    slope = torch.bmm(g, value.transpose(1, 2), out=buffers.take(5, *weights.shape))
                    torch._softmax_backward_data(slope, weights, -1, slope.dtype, grad_input=slope)
                    if grad_table is not None:
                        chunk.add_table(grad_table, slope, tile_y)
                    chunk.halo(grad_k_planes, tile_y).baddbmm_(slope.transpose(1, 2), query, alpha=scale)
                    chunk.set_band(grad_q, tile_y, torch.bmm(slope, key).mul_(scale))
                chunk.add_planes(grad_k, grad_k_planes)
                chunk.add_planes(grad_v, grad_v_planes)
        grad_bias = None if grad_table is None else bias_gradient(grad_table, rows, columns).to(bias.dtype)
        return grad_q, grad_k, grad_v, grad_bias, None, None, None


class _Buffers:
    """Memory used again by every chunk: fresh pages cost more than the arithmetic."""

    def __init__(self, like: Tensor):
        self.like = like
        self.memory: dict[int, Tensor] = {}

    def take(self, number: int, *shape: int) -> Tensor:
        """An uninitialised tensor of this shape in buffer `number`."""
        size = math.prod(shape)
        if number not in self.memory or self.memory[number].numel() < size:
            self.memory[number] = self.like.new_empty(size)
        return self.memory[number][:size].view(shape)


def _chunks(q: Tensor, rows: Axis, columns: Axis) -> Iterator[_Chunk]:
    """Cut the work into cache-sized chunks: whole heads if they fit, else maps, else tile columns."""
    h, n, _, _, d = q.shape
    count, item = len(columns.starts), q.element_size()
    fit = CHUNK_BYTES // (rows.tile * columns.tile * rows.span * columns.span * item)
    if count > 1:
        fit = min(fit, PLANE_BYTES // (rows.size * columns.span * d * item))
    fit = max(1, fit)  # tiles of one row that a chunk may hold
    heads, maps, tiles = (max(1, min(most, fit // each)) for most, each in ((h, n * count), (n, count), (count, 1)))
    for head in range(0, h, heads):
        for first in range(0, n, maps):
            for tile in range(0, count, tiles):
                ends = min(h, head + heads), min(n, first + maps), min(count, tile + tiles)
                yield _Chunk(rows, columns, slice(head, ends[0]), slice(first, ends[1]), slice(tile, ends[2]))


@dataclass(frozen=True)
class _Chunk:
    """A slice of heads, of maps and of tile columns, over all tile rows."""

    rows: Axis
    columns: Axis
    heads: slice
    maps: slice
    tiles: slice

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of heads, maps and tile columns; their product is G."""
        return tuple(part.stop - part.start for part in (self.heads, self.maps, self.tiles))

    def planes(self, x: Tensor, buffers: _Buffers, number: int) -> Tensor:
        """Halo columns of `x [h, N, Y, X, D]` -> `[G, Y, Sx, D]`; a view of `x` when one tile spans the map."""
        x = x[self.heads, self.maps]
        if len(self.columns.starts) == 1:
            return x.flatten(0, 1)
        planes = buffers.take(number, *self.shape, self.rows.size, self.columns.span, x.shape[-1])
        for tile, start in enumerate(self.columns.starts[self.tiles]):
            planes[:, :, tile] = x[:, :, :, start : start + self.columns.span]
        return planes.flatten(0, 2)

    def blank(self, total: Tensor, buffers: _Buffers, number: int) -> Tensor:
        """Planes to sum gradients in: part of `total` itself when one tile spans the map, else zeros."""
        if len(self.columns.starts) == 1:
            return total[self.heads, self.maps].flatten(0, 1)
        return buffers.take(number, math.prod(self.shape), self.rows.size, self.columns.span, total.shape[-1]).zero_()

    def add_planes(self, total: Tensor, planes: Tensor) -> None:
        """The adjoint of `planes`: add `[G, Y, Sx, D]` into `total [h, N, Y, X, D]`."""
        if len(self.columns.starts) == 1:
            return  # the planes are part of the total
        total = total[self.heads, self.maps]
        planes = planes.view(*self.shape, *planes.shape[1:])
        for tile, start in enumerate(self.columns.starts[self.tiles]):
            total[:, :, :, start : start + self.columns.span] += planes[:, :, tile]

    def halo(self, planes: Tensor, tile_y: int) -> Tensor:
        """The keys of one row of tiles: a view `[G, S, D]` of planes `[G, Y, Sx, D]`."""
        start = self.rows.starts[tile_y]
        return planes[:, start : start + self.rows.span].flatten(1, 2)

    def _band(self, x: Tensor, tile_y: int) -> Tensor:
        x = x[self.heads, self.maps, tile_y * self.rows.tile : (tile_y + 1) * self.rows.tile]
        x = x.view(*x.shape[:3], -1, self.columns.tile, x.shape[-1])  # [heads, maps, Ty, tile columns, Tx, D]
        return x[:, :, :, self.tiles].transpose(2, 3)

    def band(self, x: Tensor, tile_y: int) -> Tensor:
        """The queries of one row of tiles, `[G, T, D]`, from padded `x [h, N, Y, X, D]`."""
        return self._band(x, tile_y).reshape(math.prod(self.shape), self.rows.tile * self.columns.tile, x.shape[-1])

    def set_band(self, x: Tensor, tile_y: int, value: Tensor) -> None:
        """Write one row of tiles `[G, T, D]` into padded `x`."""
        target = self._band(x, tile_y)
        target.copy_(value.view(target.shape))

    def weights(
        self, query: Tensor, key: Tensor, table: Tensor, tile_y: int, scale: float, buffers: _Buffers
    ) -> Tensor:
        """Softmax weights `[G, T, S]` of one row of tiles, in buffer 4."""
        scores = buffers.take(4, *query.shape[:2], key.shape[1])
        torch.baddbmm(scores, query, key.transpose(1, 2), beta=0, alpha=scale, out=scores)
        split = scores.view(*self.shape, *scores.shape[1:])
        table = table[self.heads] if len(table) > 1 else table  # the mask alone has one head
        for kind, begin, end in self.columns.runs(self.tiles):
            split[:, :, begin:end] += table[:, self.rows.kinds[tile_y], kind, None, None]
        return torch.softmax(scores, dim=-1, out=scores)

    def add_table(self, total: Tensor, slope: Tensor, tile_y: int) -> None:
        """Add the scores' gradient, summed over maps and tiles of one kind, to the bias table's."""
        split = slope.view(*self.shape, *slope.shape[1:])
        for kind, begin, end in self.columns.runs(self.tiles):
            total[self.heads, self.rows.kinds[tile_y], kind] += split[:, :, begin:end].sum(dim=(1, 2))
