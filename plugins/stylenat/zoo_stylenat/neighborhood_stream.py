"""The memory-sparing form of the tiles: chunk by chunk, the scores computed again in backward.

Only q, k, v and the small bias table are kept for backward. A chunk's scores are about `CHUNK_BYTES`, so that they
stay in cache, and its buffers are used again by the next chunk. Sums are taken in a fixed order: deterministic.

Shapes as in `neighborhood_tiles`; G planes of a chunk = heads x maps x tile columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo_stylenat.neighborhood_tiles import Axis, bias_gradient, bias_table, pad_queries

CHUNK_BYTES = 1 << 20
"""Size of one chunk's scores; measured best between 0.5 and 2 MiB, a share of a core's second-level cache."""


def stream_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, rows: Axis, columns: Axis, scale: float
) -> Tensor:
    """Exact neighbourhood attention of undilated maps `[h, N, Y, X, D]`; first-order gradients only.

    Computes in float32 at least, whatever the inputs' precision, and answers in theirs.
    """
    dtype = q.dtype
    if dtype in (torch.float16, torch.bfloat16):
        q, k, v = q.float(), k.float(), v.float()
    q = pad_queries(q, rows, columns)
    out = _Stream.apply(q.contiguous(), k.contiguous(), v.contiguous(), bias, rows, columns, scale)
    return out[:, :, : rows.size, : columns.size].to(dtype)


@dataclass(frozen=True)
class _Chunk:
    """A slice of heads, of maps and of tile columns."""

    heads: slice
    maps: slice
    tiles: slice

    def planes(self, x: Tensor, columns: Axis, buffer: _Buffer) -> Tensor:
        """Halo columns of `x [h, N, Y, X, D]` -> `[G, Y, Sx, D]`; a view when one tile spans the map."""
        x = x[self.heads, self.maps]
        if len(columns.starts) == 1:
            return x.flatten(0, 1)
        starts = columns.starts[self.tiles]
        heads, maps, size, _, d = x.shape
        planes = buffer.like(torch.Size((heads, maps, len(starts), size, columns.span, d)))
        for tile, start in enumerate(starts):
            planes[:, :, tile] = x[:, :, :, start : start + columns.span]
        return planes.flatten(0, 2)

    def add_planes(self, total: Tensor, planes: Tensor, columns: Axis) -> None:
        """The adjoint of `planes`: add `[G, Y, Sx, D]` into `total [h, N, Y, X, D]`."""
        if len(columns.starts) == 1:
            return  # `planes` is a view of `total` and holds the sum already
        total = total[self.heads, self.maps]
        planes = planes.view(*total.shape[:2], -1, *planes.shape[1:])
        for tile, start in enumerate(columns.starts[self.tiles]):
            total[:, :, :, start : start + columns.span] += planes[:, :, tile]

    def band(self, x: Tensor, tile_y: int, rows: Axis, columns: Axis) -> Tensor:
        """The queries of one row of tiles, a view `[heads, maps, tiles, Ty, Tx, D]` of padded `x [h, N, Y, X, D]`."""
        x = x[self.heads, self.maps, tile_y * rows.tile : (tile_y + 1) * rows.tile]
        x = x.view(*x.shape[:3], -1, columns.tile, x.shape[-1])[:, :, :, self.tiles]
        return x.transpose(2, 3)


def _chunks(h: int, n: int, rows: Axis, columns: Axis, d: int, item: int) -> Iterator[_Chunk]:
    """Cut the work into chunks of about CHUNK_BYTES: whole heads if they fit, else maps, else tile columns."""
    count = len(columns.starts)
    one = rows.tile * columns.tile * rows.span * columns.span * item
    if count > 1: one = max(one, rows.size * columns.span * d * item // 4)
    fit = max(1, CHUNK_BYTES // one)  # tiles in a chunk
    tiles = min(count, fit)
    if len(columns.starts) == 1:
        tiles = count
    maps = max(1, min(n, fit // count))
    heads = max(1, min(h, fit // (count * n)))
    for head in range(0, h, heads):
        for first in range(0, n, maps):
            for tile in range(0, count, tiles):
                yield _Chunk(
                    slice(head, min(h, head + heads)),
                    slice(first, min(n, first + maps)),
                    slice(tile, min(count, tile + tiles)),
                )


class _Stream(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, rows: Axis, columns: Axis, scale: float
    ) -> Tensor:
        table = bias_table(bias, rows, columns, q)
        ctx.save_for_backward(q, k, v, table)
        ctx.axes, ctx.scale, ctx.bias_dtype = (rows, columns), scale, bias.dtype if bias is not None else None
        out = torch.empty_like(q)
        scores = _Buffer(q)
        buf=[_Buffer(q) for _ in range(4)]
        with torch.autocast(q.device.type, enabled=False):
            for chunk in _chunks(q.shape[0], q.shape[1], rows, columns, q.shape[-1], q.element_size()):
                k_planes, v_planes = chunk.planes(k, columns, buf[0]), chunk.planes(v, columns, buf[1])
                for tile_y, start in enumerate(rows.starts):
                    query = chunk.band(q, tile_y, rows, columns)
                    key = k_planes[:, start : start + rows.span].flatten(1, 2)  # [G, S, D]
                    value = v_planes[:, start : start + rows.span].flatten(1, 2)
                    weights = _weights(query, key, table, chunk, tile_y, rows, columns, scale, scores)
                    target = chunk.band(out, tile_y, rows, columns)
                    target.copy_(torch.bmm(weights, value).view(target.shape))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table = ctx.saved_tensors
        (rows, columns), scale = ctx.axes, ctx.scale
        grad = grad.contiguous()
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        grad_table = torch.zeros_like(table) if ctx.needs_input_grad[3] else None
        scores, slopes = _Buffer(q), _Buffer(q)
        buf=[_Buffer(q) for _ in range(4)]
        with torch.autocast(q.device.type, enabled=False):
            for chunk in _chunks(q.shape[0], q.shape[1], rows, columns, q.shape[-1], q.element_size()):
                k_planes, v_planes = chunk.planes(k, columns, buf[0]), chunk.planes(v, columns, buf[1])
                if len(columns.starts) == 1:
                    grad_k_planes, grad_v_planes = chunk.planes(grad_k, columns, buf[2]), chunk.planes(grad_v, columns, buf[3])
                else:
                    grad_k_planes, grad_v_planes = buf[2].like(k_planes.shape).zero_(), buf[3].like(k_planes.shape).zero_()
                for tile_y, start in enumerate(rows.starts):
                    query = chunk.band(q, tile_y, rows, columns)
                    halo = slice(start, start + rows.span)
                    key, value = k_planes[:, halo].flatten(1, 2), v_planes[:, halo].flatten(1, 2)
                    weights = _weights(query, key, table, chunk, tile_y, rows, columns, scale, scores)
                    g = chunk.band(grad, tile_y, rows, columns).reshape(len(weights), -1, q.shape[-1])
                    grad_v_planes[:, halo].flatten(1, 2).baddbmm_(weights.transpose(1, 2), g)
                    slope = torch.bmm(g, value.transpose(1, 2), out=slopes.like(weights.shape))
                    torch._softmax_backward_data(slope, weights, -1, slope.dtype, grad_input=slope)
                    if grad_table is not None:
                        _add_table(grad_table, slope, chunk, tile_y, rows, columns)
                    target = chunk.band(grad_q, tile_y, rows, columns)
                    target.copy_(torch.bmm(slope, key).view(target.shape)).mul_(scale)
                    query = query.reshape(g.shape)
                    grad_k_planes[:, halo].flatten(1, 2).baddbmm_(slope.transpose(1, 2), query, alpha=scale)
                chunk.add_planes(grad_k, grad_k_planes, columns)
                chunk.add_planes(grad_v, grad_v_planes, columns)
        grad_bias = None if grad_table is None else bias_gradient(grad_table, rows, columns).to(ctx.bias_dtype)
        return grad_q, grad_k, grad_v, grad_bias, None, None, None


class _Buffer:
    """Memory for the scores of one chunk, used again by the next: fresh pages cost more than the arithmetic."""

    def __init__(self, like: Tensor):
        self.memory = like.new_empty(0)

    def like(self, shape: torch.Size) -> Tensor:
        if self.memory.numel() < shape.numel():
            self.memory = self.memory.new_empty(shape.numel())
        return self.memory[: shape.numel()].view(shape)


def _weights(query, key, table, chunk, tile_y, rows, columns, scale, scores):
    """Softmax weights `[G, T, S]` of one row of tiles, in the buffer."""
    heads, maps, tiles = query.shape[:3]
    query = query.reshape(heads * maps * tiles, rows.tile * columns.tile, -1)
    out = scores.like(torch.Size((query.shape[0], query.shape[1], key.shape[1])))
    torch.baddbmm(out, query, key.transpose(1, 2), beta=0, alpha=scale, out=out)
    split = out.view(heads, maps, tiles, *out.shape[1:])
    table = table[chunk.heads] if len(table) > 1 else table
    for kind, begin, end in columns.runs(chunk.tiles.start, chunk.tiles.stop):
        split[:, :, begin:end] += table[:, rows.kinds[tile_y], kind][:, None, None]
    return torch.softmax(out, dim=-1, out=out)


def _add_table(grad_table, slope, chunk, tile_y, rows, columns):
    """Add the scores' gradient, summed over maps and tiles of one kind, to the table's."""
    tiles = chunk.tiles.stop - chunk.tiles.start
    heads, maps = chunk.heads.stop - chunk.heads.start, chunk.maps.stop - chunk.maps.start
    split = slope.view(heads, maps, tiles, *slope.shape[1:])
    for kind, begin, end in columns.runs(chunk.tiles.start, chunk.tiles.stop):
        grad_table[chunk.heads, rows.kinds[tile_y], kind] += split[:, :, begin:end].sum(dim=(1, 2))
