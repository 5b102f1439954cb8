"""The transformer of the second stage: a causal, pre-norm decoder over the codes' vocabulary (paper, section 3.2).

A descendant of minGPT: learned positions, erf GELU, a head without bias that is not tied to the embedding.
Shapes: B batch, T tokens, C channels, N heads, D channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.errors import UserError
from zoo_core.formulation import is_plain
from zoo_vqgan.kv_cache import KeyValueCache


class CausalAttention(nn.Module):
    """Self-attention of the last tokens over all of them; key, query, value and projection have biases."""

    def __init__(self, dim: int, heads: int, *, attention_dropout: float, residual_dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"{dim} channels of the transformer do not divide into {heads} heads.")
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.key = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(residual_dropout)

    def forward(
        self, x: Tensor, outputs: int, allowed: Tensor | None, cache: KeyValueCache | None = None, layer: int = 0
    ) -> Tensor:
        """`x [B, T, C]` -> `[B, outputs, C]`, of the last `outputs` tokens.

        `allowed [outputs, all tokens]` bool says which keys a query sees. None: the causal rule where queries and keys
        are the same tokens, everything for a single query.
        """
        q, k, v = self._split(self.query(x[:, -outputs:])), self._split(self.key(x)), self._split(self.value(x))
        if cache is not None:
            k, v = cache.append(layer, k, v)
        dropout = self.attention_dropout if self.training else 0.0
        mixed = (_plain_attention if is_plain() else _fused_attention)(q, k, v, allowed, dropout)  # [B, N, outputs, D]
        return self.dropout(self.proj(mixed.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, N, T, D]


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, dropout: float) -> Tensor:
    causal = allowed is None and q.shape[2] > 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout, is_causal=causal)


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, dropout: float) -> Tensor:
    if allowed is None:
        allowed = visible(q.shape[2], k.shape[2], q.device)
    scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).masked_fill(~allowed, float("-inf"))
    return F.dropout(scores.softmax(-1), dropout) @ v


def visible(queries: int, keys: int, device: torch.device) -> Tensor:
    """Which of `keys` tokens each of the last `queries` of them sees, itself and those before: `[queries, keys]`."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self, dim: int, heads: int, *, attention_dropout: float, residual_dropout: float) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(dim)
        self.ln2 = nn.LayerNorm(dim)
        self.attn = CausalAttention(dim, heads, attention_dropout=attention_dropout, residual_dropout=residual_dropout)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(residual_dropout)
        )

    def forward(
        self, x: Tensor, outputs: int, allowed: Tensor | None, cache: KeyValueCache | None, layer: int
    ) -> Tensor:
        """`x [B, T, C]` -> the last `outputs` tokens, `[B, outputs, C]`; see `CausalAttention`."""
        x = x[:, -outputs:] + self.attn(self.ln1(x), outputs, allowed, cache, layer)
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    """Logits of the next token. The parameters have the official names; the masks are no part of the state.

    `block_size`: the most tokens of one sequence.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        block_size: int,
        layers: int,
        heads: int,
        dim: int,
        embedding_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.block_size = block_size
        self.dim = dim
        self.pos_emb = nn.Parameter(torch.zeros(1, block_size, dim))
        self.tok_emb = nn.Embedding(vocabulary, dim)
        self.drop = nn.Dropout(embedding_dropout)
        self.blocks = nn.ModuleList(
            Block(dim, heads, attention_dropout=attention_dropout, residual_dropout=residual_dropout)
            for _ in range(layers)
        )
        self.ln_f = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        self.apply(_initialise)

    def forward(self, tokens: Tensor, *, outputs: int = 0, cache: KeyValueCache | None = None) -> Tensor:
        """`tokens [B, T]` int64 -> logits `[B, outputs, vocabulary]` of the tokens that follow.

        `outputs`: of the last so many tokens only, 0 for all; the last block, the norm and the head then compute
        nothing else. `cache`: the keys and values of the tokens before these, which these join; equal to the pass over
        all tokens, within rounding.
        Raises UserError where the sequence is longer than the block.
        """
        x = self.tok_emb(tokens)
        past = cache.length if cache else 0
        num, total = x.shape[1], past + x.shape[1]
        if total > self.block_size:
            raise UserError(
                f"The transformer's block holds {self.block_size} tokens, the sequence has {total}; "
                "take a smaller grid of codes, or sample it through windows."
            )
        x = self.drop(x + self.pos_emb[:, past:total])

        outputs = outputs or num
        last = len(self.blocks) - 1
        inner, outer = _mask(num, total, x.device), _mask(outputs, total, x.device)
        for layer, block in enumerate(self.blocks):
            x = block(x, *((outputs, outer) if layer == last else (num, inner)), cache, layer)
        if cache is not None:
            cache.advance(num)
        return self.head(self.ln_f(x))


def _mask(queries: int, keys: int, device: torch.device) -> Tensor | None:
    """None where `CausalAttention` needs none: fused kernels are faster without."""
    return None if queries in (1, keys) else visible(queries, keys, device)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def parameter_groups(network: nn.Module, weight_decay: float = 0.01) -> list[dict[str, Any]]:
    """Two groups for AdamW: the weights of linear layers, which decay, and everything else; sorted by name."""
    decaying = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    parameters = dict(network.named_parameters())

    def group(names: Iterable[str], decay: float) -> dict[str, Any]:
        return {"params": [parameters[name] for name in sorted(names)], "weight_decay": decay}

    return [group(decaying, weight_decay), group(parameters.keys() - decaying, 0.0)]
