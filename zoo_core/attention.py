"""Attention that belongs to no paper: full softmax attention, and none.

Shapes: B batch, H W grid, L tokens, C channels, N heads, D head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo_core.errors import UserError
from zoo_core.interfaces import Attention, Site


def check_heads(site: Site) -> int:
    """Return the head dimension. Raises UserError when the heads do not divide the channels."""
    if site.dim % site.heads:
        raise UserError(
            f"{site.heads} heads do not divide {site.dim} channels at resolution {site.resolution}; "
            "change the host's number of heads, or its channels there."
        )
    return site.dim // site.heads


def offered_heads(dim: int) -> int:
    """Heads that a host offers where its recipe names no number: about one per 32 channels, and an even number where
    that divides the channels, since some attentions halve their heads."""
    most = max(2, dim // 32)
    return max(count for count in range(1, most + 1) if dim % count == 0 and (count % 2 == 0 or dim % 2))


class FullAttention(Attention):
    """Multi-head softmax attention of every token to every token (Vaswani et al., arXiv 1706.03762, Eq. 1).

    With a context of the site's width, keys and values come from the context instead. Matrix products and softmax,
    so that it can be differentiated twice.
    """

    def __init__(self, site: Site, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = site.heads
        self.head_dim = check_heads(site)
        source_dim = site.context_dim or site.dim
        self.query = nn.Linear(site.dim, site.dim, bias=qkv_bias)
        self.key_value = nn.Linear(source_dim, 2 * site.dim, bias=qkv_bias)
        self.proj = nn.Linear(site.dim, site.dim)
        for layer in (self.query, self.key_value, self.proj):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        B, H, W, C = x.shape
        source = x.flatten(1, 2) if context is None else context
        q_BNLD = self._split(self.query(x.flatten(1, 2)))
        k_BNLD, v_BNLD = (self._split(half) for half in self.key_value(source).chunk(2, dim=-1))
        weights = torch.softmax((q_BNLD * self.head_dim**-0.5) @ k_BNLD.mT, dim=-1)
        return self.proj((weights @ v_BNLD).transpose(1, 2).reshape(B, H, W, C))

    def weights(self, x: Tensor, queries: Tensor, context: Tensor | None = None) -> Tensor:
        """`[B, N, Q, H, W]` over the map, or `[B, N, Q, L]` over the context."""
        source = x.flatten(1, 2) if context is None else context
        q_BNQD = self._split(self.query(x[:, queries[:, 0], queries[:, 1]]))
        k_BNLD = self._split(self.key_value(source).chunk(2, dim=-1)[0])
        weights = torch.softmax((q_BNQD * self.head_dim**-0.5) @ k_BNLD.mT, dim=-1)
        return weights.unflatten(-1, x.shape[1:3]) if context is None else weights

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)


class NoAttention(Attention):
    """No mixing at all: a linear map of each token by itself, the control of every comparison of attentions."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.proj = nn.Linear(site.dim, site.dim)
        nn.init.trunc_normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.proj(x)

    def weights(self, x: Tensor, queries: Tensor, context: Tensor | None = None) -> Tensor:
        """`[B, 1, Q, H, W]`: each token sees itself alone."""
        weights = x.new_zeros(len(x), 1, len(queries), *x.shape[1:3])
        weights[:, :, torch.arange(len(queries), device=x.device), queries[:, 0], queries[:, 1]] = 1
        return weights
