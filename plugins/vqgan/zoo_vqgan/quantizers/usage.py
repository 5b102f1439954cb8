"""How much of a vocabulary is in use, and new vectors for what is not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo_core.rng import Rng
from zoo_vqgan.quantizers import Quantizer

PARTS = 8
"""Into which a tally divides its stretch; the oldest is forgotten as one."""


def count(codes: Tensor, vocabulary: int) -> Tensor:
    """How often each code occurs: `[vocabulary]` int64."""
    return torch.bincount(codes.flatten(), minlength=vocabulary)


@dataclass(frozen=True)
class Usage:
    """How often each code occurred, `counts [n]`."""

    counts: Tensor

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


class Tally(nn.Module):
    """How often each of `vocabulary` codes occurred over the last images.

    These are `stretch`, or up to an eighth more, or a batch. It has buffers and no parameters: kept among a stage's
    networks it is saved with them, so that a resumed run counts on. It stays on the CPU, where its numbers are read.
    """

    counts: Tensor
    images: Tensor

    def __init__(self, vocabulary: int, stretch: int) -> None:
        super().__init__()
        self.stretch = stretch
        self.register_buffer("counts", torch.zeros(PARTS + 1, vocabulary, dtype=torch.int64))  # newest first
        self.register_buffer("images", torch.zeros(PARTS + 1, dtype=torch.int64))

    def add(self, counts: Tensor, images: int) -> None:
        """Note `counts [n]` of so many images."""
        if int(self.images[0]) * PARTS >= self.stretch:
            for buffer in (self.counts, self.images):
                buffer.copy_(buffer.roll(1, 0))
                buffer[0] = 0
        self.counts[0] += counts.to(self.counts)
        self.images[0] += images
        needed = self.images.cumsum(0) - self.images < self.stretch  # those newer than a part are not enough yet
        self.counts *= needed[:, None]
        self.images *= needed

    @property
    def num_images(self) -> int:
        """How many images it speaks of."""
        return int(self.images.sum())

    @property
    def usage(self) -> Usage:
        """Over these images."""
        return Usage(self.counts.sum(0))


def restart_dead(quantizer: Quantizer, dead: Tensor, z: Tensor, rng: Rng) -> int:
    """Replace the codes where `dead [n]` is true by vectors of `z [B, C, h, w]`, drawn from all of the batch.

    `z` is what the quantizer was given, `rng` has one row per image; in several processes both are of the whole batch.
    Returns how many were replaced.
    """
    num = int(dead.sum())
    if num:
        tokens = z.detach().permute(0, 2, 3, 1).flatten(1, 2)  # [B, h w, C]
        B, L, _ = tokens.shape
        place = rng.fork("restart").integers(0, L, -(-num // B))  # [B, num / B], rounded up
        rows = torch.stack([image[at] for image, at in zip(tokens, place, strict=True)], 1)  # images alternate
        quantizer.restart(dead, rows.flatten(0, 1)[:num].float().contiguous())
    return num
