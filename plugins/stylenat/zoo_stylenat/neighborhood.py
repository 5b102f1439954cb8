"""Exact 2-D neighbourhood attention with a positional bias and dilation, on plain PyTorch.

Each query attends to the `kernel x kernel` keys nearest to it. At the borders the window is shifted inwards, so that it
keeps its size; with dilation, a query sees only its own residue class, which behaves like an undilated map (Hassani
and Shi, arXiv 2209.15001). These are NATTEN's semantics; NATTEN itself has dropped the bias and its CPU kernels.

Dilation is folded away first: the d x d residue classes of a map become d x d smaller maps, and no backend but `plain`
and `natten` knows of it. Shapes: B batch, H W map, h heads, D head dim, N = B x residue classes, Y X a class's map.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_core.errors import UserError, did_you_mean
from zoo_stylenat import neighborhood_flops
from zoo_stylenat.neighborhood_stream import stream_attention
from zoo_stylenat.neighborhood_tiles import cut, tiled_attention

BACKENDS = ("auto", "fused", "natten", "plain", "stream", "tiles")


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    *,
    kernel: int,
    dilation: int = 1,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Softmax attention of every position to its `kernel x kernel` neighbours: `[B, H, W, h, D]` in and out.

    `bias [h, 2 kernel - 1, 2 kernel - 1]` is added to the scaled scores, by the key's position minus the query's, in
    steps of `dilation`. `scale` multiplies the scores (None: `D ** -0.5`). `kernel` is odd, or the whole side of a
    square map, which is full attention. Any map with `kernel * dilation <= min(H, W)` will do.

    Backends, all exact:

    - `stream`: halo tiles, chunk by chunk, recomputed in backward. First-order gradients, little memory, deterministic.
    - `tiles`: halo tiles as plain matrix products and softmax. Gradients of any order.
    - `fused`: the same tiles through `scaled_dot_product_attention`. First order. Unmeasured on CUDA, where it is meant
      to serve; slower than `stream` on a CPU.
    - `natten`: NATTEN's kernels, on CUDA and without a bias only. Unmeasured here.
    - `plain`: gathers every query's neighbours. Any order, much memory; for tests and measurements.
    - `auto`: on CUDA `natten` if it can serve, else `fused`; elsewhere `stream`, the fastest measured on a CPU, with
      gradients and without. It cannot see whether gradients will be differentiated again: ask for `tiles` then.

    Raises UserError when the shapes, the kernel, the dilation or the backend do not fit.
    """
    _check(q, k, v, bias, kernel, dilation, backend)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if backend == "auto":
        backend = _choose(q, bias, kernel)
    if backend == "natten":
        return _natten(q, k, v, bias, kernel, dilation, scale)
    if backend == "plain":
        return _plain(q, k, v, bias, kernel, dilation, scale)
    height, width = q.shape[1:3]
    columns = []
    for classes_x in _classes(width, dilation):
        part = []
        for classes_y in _classes(height, dilation):
            maps = (_fold(x, dilation, classes_y, classes_x) for x in (q, k, v))
            out = _attend(*maps, bias, kernel, scale, backend)
            part.append(_unfold(out, q.shape[0], height, width, dilation, classes_y, classes_x))
        columns.append(torch.cat(part, dim=2) if len(part) > 1 else part[0])
    out = torch.cat(columns, dim=4) if len(columns) > 1 else columns[0]
    return out.flatten(1, 2).flatten(2, 3)[:, :height, :width]


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel: int, scale: float, backend: str) -> Tensor:
    """Undilated maps `[h, N, Y, X, D]`, with the tiles that measured best on a CPU at kernel 7."""
    height, width = q.shape[2:4]
    if backend == "stream":
        # Few rows keep the halo small, whole rows need no copy of it; the wider the map, the narrower the tile.
        tile = (2, width if width <= 24 else 16 if width <= 32 else 8)
        return stream_attention(q, k, v, bias, cut(height, kernel, tile[0]), cut(width, kernel, tile[1]), scale)
    tile = (4, width) if width <= 16 else (8, 8)
    rows, columns = cut(height, kernel, tile[0]), cut(width, kernel, tile[1])
    return tiled_attention(q, k, v, bias, rows, columns, scale, fused=backend == "fused")


def _check(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel: int, dilation: int, backend: str) -> None:
    if backend not in BACKENDS:
        raise UserError(f'no neighbourhood attention backend "{backend}"{did_you_mean(backend, BACKENDS)}')
    if q.ndim != 5 or k.shape != q.shape or v.shape != q.shape:
        shapes = ", ".join(str(list(x.shape)) for x in (q, k, v))
        raise UserError(f"q, k and v must have one shape [batch, height, width, heads, head dim], not {shapes}.")
    height, width, heads = q.shape[1:4]
    if kernel < 2 or (kernel % 2 == 0 and not kernel == height == width):
        raise UserError(f"the kernel must be odd and greater than 1, not {kernel}.")
    if dilation < 1 or kernel * dilation > min(height, width):
        raise UserError(
            f"kernel {kernel} with dilation {dilation} does not fit a map of {height} x {width}: "
            "kernel times dilation may be at most the smaller side, and dilation at least 1."
        )
    if bias is not None and bias.shape != (heads, 2 * kernel - 1, 2 * kernel - 1):
        side = 2 * kernel - 1
        raise UserError(f"the bias must have shape [{heads}, {side}, {side}], not {list(bias.shape)}.")


# Dilation: residue classes as maps of their own.


def _classes(size: int, dilation: int) -> list[tuple[int, int, int]]:
    """Residue classes of one length together: `(first, last + 1, length)`. Two groups if `dilation` does not divide."""
    length, longer = divmod(size, dilation)
    groups = [(0, longer, length + 1), (longer, dilation, length)]
    return [group for group in groups if group[1] > group[0]]


def _fold(x: Tensor, dilation: int, classes_y: tuple[int, int, int], classes_x: tuple[int, int, int]) -> Tensor:
    """The classes of one group as maps: `[B, H, W, h, D]` -> `[h, B classes, Y, X, D]`."""
    _, height, width, heads, d = x.shape
    beyond = -width % dilation, -height % dilation
    if any(beyond):
        x = F.pad(x, (0, 0, 0, 0, 0, beyond[0], 0, beyond[1]))  # never read: a class of the group ends before
    x = x.unflatten(2, (-1, dilation)).unflatten(1, (-1, dilation))  # [B, Y, class, X, class, h, D]
    x = x[:, : classes_y[2], classes_y[0] : classes_y[1], : classes_x[2], classes_x[0] : classes_x[1]]
    return x.permute(5, 0, 2, 4, 1, 3, 6).reshape(heads, -1, classes_y[2], classes_x[2], d)


def _unfold(
    x: Tensor,
    batch: int,
    height: int,
    width: int,
    dilation: int,
    classes_y: tuple[int, int, int],
    classes_x: tuple[int, int, int],
) -> Tensor:
    """The inverse: `[h, B classes, Y, X, D]` -> `[B, Y, classes, X, classes, h, D]`, as long as the longest class."""
    counts = classes_y[1] - classes_y[0], classes_x[1] - classes_x[0]
    x = x.unflatten(1, (batch, *counts)).permute(1, 4, 2, 5, 3, 0, 6)
    beyond = -(-height // dilation) - classes_y[2], -(-width // dilation) - classes_x[2]
    return F.pad(x, (0, 0, 0, 0, 0, 0, 0, beyond[1], 0, 0, 0, beyond[0])) if any(beyond) else x


# The two backends that do not tile.


def _plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel: int, dilation: int, scale: float) -> Tensor:
    (rows, row_bias), (columns, column_bias) = (_neighbours(size, kernel, dilation, q.device) for size in q.shape[1:3])
    near = rows[:, None, :, None], columns[None, :, None, :]  # [H, W, kernel, kernel]
    keys, values = (x[:, near[0], near[1]].flatten(3, 4) for x in (k, v))  # [B, H, W, kernel^2, h, D]
    scores = torch.einsum("byxhd,byxshd->byxhs", q * scale, keys)
    if bias is not None:
        offsets = bias[:, row_bias[:, None, :, None], column_bias[None, :, None, :]]
        scores = scores + offsets.flatten(3).permute(1, 2, 0, 3).to(scores.dtype)
    return torch.einsum("byxhs,byxshd->byxhd", scores.softmax(dim=-1).to(values.dtype), values)


def neighborhood_weights(
    q: Tensor, k: Tensor, bias: Tensor | None, queries: Tensor, *, kernel: int, dilation: int = 1
) -> Tensor:
    """What `neighborhood_attention` weighs its values with, for some queries; zero outside their neighbourhoods.

    `q, k [B, H, W, h, D]`, `queries [Q, 2]` row and column -> `[B, h, Q, H, W]`.
    """
    (rows, row_bias), (columns, column_bias) = (_neighbours(size, kernel, dilation, q.device) for size in q.shape[1:3])
    rows, row_bias = (part[queries[:, 0], :, None] for part in (rows, row_bias))  # [Q, kernel, 1]
    columns, column_bias = (part[queries[:, 1], None, :] for part in (columns, column_bias))  # [Q, 1, kernel]
    query = q[:, queries[:, 0], queries[:, 1]] * q.shape[-1] ** -0.5  # [B, Q, h, D]
    scores = torch.einsum("bqhd,bqyxhd->bhqyx", query, k[:, rows, columns])
    if bias is not None:
        scores = scores + bias[:, row_bias, column_bias]
    near = scores.flatten(3).softmax(-1).view_as(scores)
    weights = near.new_zeros(*near.shape[:3], *q.shape[1:3])
    number = torch.arange(len(queries), device=q.device)[:, None, None]
    weights[:, :, number, rows, columns] = near
    return weights


def _neighbours(size: int, kernel: int, dilation: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`[size, kernel]` on one axis: each query's neighbours, and the rows of the bias that they meet."""
    query = torch.arange(size, device=device)
    rank, member = query // dilation, query % dilation
    count = (size - member + dilation - 1) // dilation
    first = torch.minimum((rank - kernel // 2).clamp(min=0), count - kernel)
    ranks = first[:, None] + torch.arange(kernel, device=device)
    return member[:, None] + dilation * ranks, ranks - rank[:, None] + kernel - 1


def _natten(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel: int, dilation: int, scale: float) -> Tensor:
    if bias is not None or not q.is_cuda or kernel % 2 == 0:
        raise UserError('the backend "natten" serves CUDA tensors with an odd kernel and no bias; use "auto".')
    if not _natten_built():
        raise UserError('the backend "natten" needs the package natten with its CUDA kernels; use "auto".')
    import natten

    return natten.na2d(q, k, v, kernel_size=kernel, dilation=dilation, scale=scale)


@lru_cache(maxsize=1)
def _natten_built() -> bool:
    """Whether NATTEN is installed with its own CUDA kernels; its pure-Python form is slower than our tiles."""
    try:
        import natten
    except Exception:  # not only ImportError: a build for another torch fails at load with whatever it likes
        return False
    built = bool(getattr(natten, "HAS_LIBNATTEN", False))
    if built:
        neighborhood_flops.register()
    return built


def _choose(q: Tensor, bias: Tensor | None, kernel: int) -> str:
    if not q.is_cuda:
        return "stream"
    fits = bias is None and kernel % 2 == 1 and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    return "natten" if fits and _natten_built() else "fused"
