"""The non-local block (Zhang et al., section 3, Eq. 1-2) and the gain and residual that its host puts around it.

Shapes: B batch, H W grid, C channels, Q = H W queries, K keys (Q / 4 when pooled), D key channels, E value channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo_core.attention import offered_heads
from zoo_core.errors import UserError
from zoo_core.interfaces import Attention, AttentionFactory, Site
from zoo_sagan.spectral import Layers


class NonLocalAttention(Attention):
    """Every pixel attends to the whole map: softmax(theta phi^T) g, then a linear layer; one head, no 1/sqrt(D) scale.

    The defaults are the official code's: phi and g are max-pooled 2x2, keys have C/8 channels and values C/2.
    The paper's text has no pooling and C/8 for the values: `pooled=False, value_ratio=8`.
    `site.heads` is not used. On an odd grid the last row and column of the pooling are of width one.

    Options: `pooled`; `key_ratio` and `value_ratio`, C over the channels of keys and values (never fewer than 1);
    `spectral_norm`, one of "official", "torch", "none"; `spectral_epsilon`; `init`, "xavier" or "orthogonal".
    Raises UserError for an option out of range, or a site that passes context tokens.
    """

    second_order = True

    def __init__(
        self,
        site: Site,
        *,
        pooled: bool = True,
        key_ratio: int = 8,
        value_ratio: int = 2,
        spectral_norm: str = "official",
        spectral_epsilon: float = 1e-12,
        init: str = "xavier",
    ) -> None:
        super().__init__()
        if site.context_dim is not None:
            raise UserError("non-local attention looks only at its own map; use an attention that takes context here")
        if key_ratio < 1 or value_ratio < 1:
            raise UserError(f"key_ratio and value_ratio must be at least 1, not {key_ratio} and {value_ratio}")
        layers = Layers(spectral_norm, init, spectral_epsilon)
        key_dim, value_dim = max(1, site.dim // key_ratio), max(1, site.dim // value_ratio)
        self.pooled = pooled
        self.theta = layers.linear(site.dim, key_dim, bias=False)
        self.phi = layers.linear(site.dim, key_dim, bias=False)
        self.g = layers.linear(site.dim, value_dim, bias=False)
        self.output = layers.linear(value_dim, site.dim, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`x [B, H, W, C]` -> `[B, H, W, C]`; without residual and gain, which are the host's."""
        x = x.contiguous()  # one copy here instead of one in each linear layer
        theta_BQD = self.theta(x).flatten(1, 2)
        phi_BKD = self._pool(self.phi(x)).flatten(1, 2)
        beta_BQK = torch.softmax(theta_BQD @ phi_BKD.transpose(1, 2), dim=-1)  # Eq. 1
        o_BQE = beta_BQK @ self._pool(self.g(x)).flatten(1, 2)  # Eq. 2
        return self.output(o_BQE).view_as(x)

    def weights(self, x: Tensor, queries: Tensor, context: Tensor | None = None) -> Tensor:
        """`[B, 1, Q, h, w]` over the pooled map: Eq. 1 for these queries."""
        with _unmoved(self.theta, self.phi):
            theta_BQD = self.theta(x)[:, queries[:, 0], queries[:, 1]]
            phi_BhwD = self._pool(self.phi(x))
        weights = torch.softmax(theta_BQD @ phi_BhwD.flatten(1, 2).transpose(1, 2), dim=-1)
        return weights.unflatten(-1, phi_BhwD.shape[1:3]).unsqueeze(1)

    def _pool(self, x: Tensor) -> Tensor:
        if self.pooled:
            x = F.max_pool2d(x.permute(0, 3, 1, 2), 2, ceil_mode=True).permute(0, 2, 3, 1)
        return x


@contextmanager
def _unmoved(*layers: nn.Module) -> Iterator[None]:
    """Inside, the layers compute as in any forward; afterwards their power iterations stand where they stood."""
    buffers = [buffer for layer in layers for buffer in layer.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


class AttentionBlock(nn.Module):
    """`x + gamma * attention(x)` on `[B, C, H, W]` (Eq. 3); gamma is one trained number that starts at 0."""

    def __init__(self, mixer: Attention) -> None:
        super().__init__()
        self.mixer = mixer
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.mixer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def attention_block(
    factory: AttentionFactory | None, dim: int, heads: int, resolution: int, layers: Layers
) -> AttentionBlock:
    """Build the block of one host layer; `factory` None means this paper's own, `heads` 0 about one per 32 channels."""
    heads = heads or offered_heads(dim)
    if heads < 0 or dim % heads:
        raise UserError(f"attention_heads={heads} does not divide the {dim} channels of the attention layer")
    site = Site(dim=dim, heads=heads, resolution=resolution)
    if factory is None:
        return AttentionBlock(
            NonLocalAttention(
                site, spectral_norm=layers.spectral_norm, spectral_epsilon=layers.epsilon, init=layers.init
            )
        )
    return AttentionBlock(factory(site))


def place_attention(sides: list[int], resolution: int, attention_resolution: int) -> int:
    """The index of the first block whose output side is `attention_resolution`; -1 for 0, which means no attention.

    A side as large as the image is taken as half of it: so the default of 32 serves images of 32 px, where
    attention stands at 16x16. Raises UserError when no block has that side.
    """
    if attention_resolution == 0:
        return -1
    side = resolution // 2 if attention_resolution >= resolution else attention_resolution
    if side not in sides:
        known = ", ".join(str(known) for known in sorted(set(sides)) if known < resolution)
        raise UserError(f"attention_resolution={attention_resolution} is no layer of this network; choose {known} or 0")
    return sides.index(side)
