"""Double attention: half of the heads attend in windows, the other half in shifted windows (section 3.2).

Shapes: B batch, H W grid, C channels, N heads, D head dim, M windows, T tokens of a window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from zoo_core.errors import UserError
from zoo_core.formulation import is_plain
from zoo_core.interfaces import Attention, Site
from zoo_styleswin.blocks import plain_linear


class WindowAttention(Attention):
    """Softmax attention within square windows, with a learned bias for each relative position.

    `window`: side of a window in tokens. `full_resolution`: maps up to this side are one window, without a shift.
    Raises UserError when the heads cannot be halved or the map is not a whole number of windows.
    """

    mask: Tensor | None
    index: Tensor

    def __init__(self, site: Site, *, window: int = 8, full_resolution: int = 8) -> None:
        super().__init__()
        if site.heads % 2 or site.dim % site.heads:
            raise UserError(
                f"window attention splits its heads in two halves, but has {site.heads} heads for {site.dim} channels "
                f"at {site.resolution} pixels; set an even min_heads that divides the channels."
            )
        self.heads = site.heads
        self.window = site.resolution if site.resolution <= max(full_resolution, window) else window
        if site.resolution % self.window:
            raise UserError(f"a map of {site.resolution} is not a whole number of windows of {self.window}.")
        self.shift = self.window // 2 if self.window < site.resolution else 0
        self.qkv = plain_linear(site.dim, 3 * site.dim)
        self.proj = plain_linear(site.dim, site.dim)
        # One table for each half of the heads: [(2 window - 1)^2, N / 2].
        self.bias = nn.ParameterList(
            nn.init.trunc_normal_(torch.empty((2 * self.window - 1) ** 2, site.heads // 2), std=0.02) for _ in range(2)
        )
        self.register_buffer("index", relative_index(self.window), persistent=False)
        # Windows differ only in whether they are the last of their row and column: [2, 2, 1, T, T] covers any map.
        mask = shift_mask(2 * self.window, self.window, self.shift).unflatten(0, (2, 2)) if self.shift else None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`[B, H, W, C]` -> `[B, H, W, C]`; `context` is not used. Raises UserError for a map that no windows tile."""
        batch, height, width, channels = x.shape
        if height % self.window or width % self.window or (self.shift and height != width):
            need = f"multiples of {self.window}" + (", and equal" if self.shift else "")
            raise UserError(f"window attention cannot mix a map of {height} x {width}: its sides must be {need}.")
        # Features are [q | k | v], each [half A | half B], each half its heads one after another.
        qkv = self.qkv(x).view(batch, height, width, 3, self.heads, channels // self.heads)
        if is_plain():
            return self.proj(self._plain(qkv).flatten(3))
        tokens = self.window**2
        bias = torch.cat([*self.bias], 1).index_select(0, self.index)  # one gather: [T * T, N]
        bias = bias.t().reshape(1, self.heads, tokens, tokens)
        if not self.shift:
            return self.proj(self._attend(qkv, bias).flatten(3))
        half = self.heads // 2
        plain = self._attend(qkv[..., :half, :], bias[:, :half])
        shifted = torch.roll(qkv[..., half:, :], (-self.shift, -self.shift), (1, 2))
        shifted = self._attend(shifted, bias[:, half:], masked=True)
        shifted = torch.roll(shifted, (self.shift, self.shift), (1, 2))
        return self.proj(torch.cat([plain, shifted], 3).flatten(3))

    def weights(self, x: Tensor, queries: Tensor, context: Tensor | None = None) -> Tensor:
        """`[B, N, Q, H, W]`, zero outside a query's window; `context` is not used."""
        batch, side, _, channels = x.shape
        qkv = self.qkv(x).view(batch, side, side, 3, self.heads, channels // self.heads)
        halves = qkv[..., :2, :, :].chunk(2, dim=4)
        return torch.cat([self._weights(qk, queries, half) for half, qk in enumerate(halves)], 1)

    def _weights(self, qk: Tensor, queries: Tensor, half: int) -> Tensor:
        """One half of the heads, `qk [B, H, W, 2, N / 2, D]` -> `[B, N / 2, Q, H, W]`."""
        batch, side, _, _, heads, dim = qk.shape
        shift = self.shift * half
        rolled = (queries - shift) % side  # where the query stands on the rolled map
        within = rolled % self.window
        keys = (rolled - within)[..., None] + torch.arange(self.window, device=qk.device)  # [Q, row or column, window]
        rows, columns = ((keys + shift) % side).unbind(1)
        rows, columns = rows[:, :, None], columns[:, None, :]
        token = within[:, 0] * self.window + within[:, 1]
        bias = self.bias[half][self.index.view(self.window**2, -1)[token]]  # [Q, T, N / 2]
        if shift:
            last = (rolled // self.window == side // self.window - 1).long()
            bias = bias + self.mask[last[:, 0], last[:, 1], 0, token][..., None]
        q, k = qk[:, queries[:, 0], queries[:, 1], 0], qk[:, rows, columns, 1]  # [B, Q, N / 2, D], [B, Q, rows, ...]
        logits = torch.einsum("bqnd,bqtnd->bnqt", q * dim**-0.5, k.flatten(2, 3)) + bias.permute(2, 0, 1)
        within_window = logits.softmax(-1).unflatten(-1, (self.window, self.window))
        weights = within_window.new_zeros(batch, heads, len(queries), side, side)
        number = torch.arange(len(queries), device=qk.device)[:, None, None]
        weights[:, :, number, rows, columns] = within_window
        return weights

    def _masked(self, bias: Tensor, count: int) -> Tensor:
        """Bias plus mask for `count x count` windows: `[1, N, T, T]` -> `[M, N, T, T]`."""
        kinds = bias + self.mask  # [2, 2, N, T, T]: (inner, last) row and column of windows
        rows = torch.cat([kinds[:1].expand(count - 1, -1, -1, -1, -1), kinds[1:]])
        every = torch.cat([rows[:, :1].expand(-1, count - 1, -1, -1, -1), rows[:, 1:]], 1)
        return every.flatten(0, 1)

    def _attend(self, qkv: Tensor, bias: Tensor, masked: bool = False) -> Tensor:
        """`qkv [B, H, W, 3, N, D]`, `bias [1, N, T, T]` -> `[B, H, W, N, D]`."""
        height, width, dim = qkv.shape[1], qkv.shape[2], qkv.shape[-1]
        count = height // self.window
        q, k, v = self._windows(qkv)
        if self.window > 8 and not torch.is_grad_enabled():
            out = scaled_dot_product_attention(q, k, v, self._masked(bias, count) if masked else bias)
        else:
            # Torch's fused attention is slower on the CPU for small windows, and for any where the bias has a gradient.
            logits = torch.matmul(q * dim**-0.5, k.transpose(-2, -1))
            logits.add_(bias)
            if masked:  # behind autograd's back: a constant's gradient is nothing, and only the last windows have one
                grid = logits.detach().unflatten(1, (count, count))
                grid[:, -1, :-1].add_(self.mask[1, 0])
                grid[:, :-1, -1].add_(self.mask[0, 1])
                grid[:, -1, -1].add_(self.mask[1, 1])
            out = torch.matmul(logits.softmax(-1), v)
        return self._map(out, height, width)

    def _windows(self, qkv: Tensor) -> Tensor:
        """`[B, H, W, 3, N, D]` -> q, k, v by window, `[3, B, M, N, T, D]`."""
        batch, height, width, _, heads, dim = qkv.shape
        side = self.window
        windows = qkv.view(batch, height // side, side, width // side, side, 3, heads, dim)
        windows = windows.permute(5, 0, 1, 3, 6, 2, 4, 7)  # [3, B, rows, columns, N, side, side, D]
        return windows.reshape(3, batch, -1, heads, side * side, dim)

    def _map(self, out: Tensor, height: int, width: int) -> Tensor:
        """The inverse: `[B, M, N, T, D]` -> `[B, H, W, N, D]`."""
        batch, _, heads, _, dim = out.shape
        side = self.window
        out = out.view(batch, height // side, width // side, heads, side, side, dim)
        return out.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, heads, dim)

    def _plain(self, qkv: Tensor) -> Tensor:
        """The textbook form, each half of the heads by itself: `[B, H, W, 3, N, D]` -> `[B, H, W, N, D]`."""
        height, width, tokens = qkv.shape[1], qkv.shape[2], self.window**2
        halves = []
        for part, table, shift in zip(qkv.chunk(2, 4), self.bias, (0, self.shift), strict=True):
            q, k, v = self._windows(torch.roll(part, (-shift, -shift), (1, 2)) if shift else part)
            bias = table[self.index].view(tokens, tokens, -1).permute(2, 0, 1)
            logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
            if shift:
                logits = logits + self._masked(torch.zeros_like(bias[None, :1]), height // self.window)
            out = self._map(logits.softmax(-1) @ v, height, width)
            halves.append(torch.roll(out, (shift, shift), (1, 2)) if shift else out)
        return torch.cat(halves, 3)


def relative_index(window: int) -> Tensor:
    """Row of the bias table for each query and key of a window, by the query's position minus the key's: `[T * T]`."""
    side = torch.arange(window)
    offset = side[:, None] - side + window - 1  # [query, key] on one axis
    rows, columns = offset[:, None, :, None], offset[None, :, None, :]  # [row of q, column of q, row of k, column of k]
    return (rows * (2 * window - 1) + columns).flatten()


def shift_mask(resolution: int, window: int, shift: int) -> Tensor:
    """-100 between tokens of a shifted window that were not neighbours before the map was rolled: `[M, 1, T, T]`."""
    position = torch.arange(resolution)
    part = (position >= resolution - window).long() + (position >= resolution - shift).long()
    label = part[:, None] * 3 + part
    count = resolution // window
    label = label.view(count, window, count, window).transpose(1, 2).reshape(count * count, 1, window * window)
    return (label[..., :, None] != label[..., None, :]).float() * -100.0
