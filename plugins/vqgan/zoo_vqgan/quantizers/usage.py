"""How much of a vocabulary is in use, and new vectors for what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo_core.rng import Rng
from zoo_vqgan.quantizers import Quantizer


def count(codes: Tensor, vocabulary: int) -> Tensor:
    """How often each code occurs: `[vocabulary]` int64."""
    return torch.bincount(codes.flatten(), minlength=vocabulary)


@dataclass(frozen=True)
class Usage:
    """How often each code occurred, `counts [n]`; add two for both."""

    counts: Tensor

    @classmethod
    def of(cls, codes: Tensor, vocabulary: int) -> Usage:
        """Count codes of any shape."""
        return cls(count(codes, vocabulary))

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.counts + other.counts)

    @property
    def dead(self) -> Tensor:
        """Which codes never occurred: `[n]` bool."""
        return self.counts == 0

    @property
    def share(self) -> float:
        """The part of the vocabulary that occurred."""
        return 1 - float(self.dead.double().mean())

    @property
    def perplexity(self) -> float:
        """exp of the entropy: the size of a vocabulary used evenly that would be as rich; 1 to n."""
        p = self.counts.double() / self.counts.sum()
        return float(torch.exp(-(p * torch.log(p + 1e-10)).sum()))


def restart_dead(
    quantizer: Quantizer,
    dead: Tensor,
    z: Tensor,
    rng: Rng,
    *,
    agree: Callable[[Tensor], Tensor] | None = None,
) -> int:
    """Replace the codes where `dead [n]` is true by vectors of `z [B, C, h, w]`, drawn from all of the batch.

    `z` is what the quantizer was given; `rng` has one row per image. With several processes `dead` must be the same in
    each, and `agree` answers with one process's vectors in all of them. Returns how many were replaced.
    """
    num = int(dead.sum())
    if num:
        tokens = z.detach().permute(0, 2, 3, 1).flatten(1, 2)  # [B, h w, C]
        B, L, _ = tokens.shape
        place = rng.fork("restart").integers(0, L, -(-num // B))  # [B, num / B], rounded up
        rows = torch.stack([image[at] for image, at in zip(tokens, place, strict=True)], 1)  # images alternate
        rows = rows.flatten(0, 1)[:num].float().contiguous()
        quantizer.restart(dead, agree(rows) if agree else rows)
    return num
