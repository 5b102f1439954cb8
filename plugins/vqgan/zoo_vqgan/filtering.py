"""From logits to the probabilities that a code is drawn with, and the draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo_core.errors import UserError
from zoo_core.rng import Rng

Choose = Callable[[Tensor], Tensor]
"""Probabilities `[B, vocabulary]` -> one index for each row, `[B]` int64."""


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits below the k-th largest become minus infinity; equal ones stay with it. 0 keeps all."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    smallest = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the most probable indices until their sum exceeds p, the one that exceeds it included. 1 keeps all."""
    if p >= 1:
        return logits
    ordered, indices = logits.sort(descending=True, dim=-1)
    beyond = ordered.softmax(-1).cumsum(-1) > p
    beyond = torch.cat((torch.zeros_like(beyond[..., :1]), beyond[..., :-1]), dim=-1)
    return logits.masked_fill(beyond.scatter(-1, indices, beyond), float("-inf"))


@dataclass(frozen=True)
class Filter:
    """How logits become probabilities: temperature, then top-k, then top-p of what is left; or the best one only.

    Raises UserError for values out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    """Codes to choose from; 0 is all."""
    top_p: float = 1.0
    """Probability mass to choose from; 1 is all."""
    greedy: bool = False
    """Always the most probable code; the rest then says nothing."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(f"temperature must be above 0, not {self.temperature}; top_k=1 always takes the best code.")
        if self.top_k < 0:
            raise UserError(f"top_k must be a number of codes, or 0 for all of them, not {self.top_k}.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, not {self.top_p}.")

    def probabilities(self, logits: Tensor) -> Tensor:
        """`[B, vocabulary]` -> the same shape, rows that sum to 1."""
        return keep_top_p(keep_top_k(logits.float() / self.temperature, self.top_k), self.top_p).softmax(-1)

    def draw(self, logits: Tensor, choose: Choose) -> Tensor:
        """One index for each row of `logits [B, vocabulary]`, `[B]` int64."""
        return logits.argmax(-1) if self.greedy else choose(self.probabilities(logits))


BLOCK = 256
"""Random numbers drawn at once for each image: one by one they cost more than the choice."""


def chooser(rng: Rng) -> Choose:
    """Draws that take one uniform number from each row's own stream and invert the cumulative distribution.

    So an image's codes do not depend on its batch (but for rounding). `torch.multinomial`, which the official scripts
    use, draws for the whole batch from one stream; its numbers are not reproduced. `rng` is taken whole: what is drawn
    from it beside this may be any later number.
    """
    points = _uniforms(rng)

    def choose(probabilities: Tensor) -> Tensor:
        ends = probabilities.double().cumsum(-1)  # in float32 the sum over thousands of codes loses the rare ones
        point = next(points).to(ends) * ends[:, -1:]
        # The first end above the point: an index of probability 0 is never taken.
        return torch.searchsorted(ends, point, right=True)[:, 0]

    return choose


def _uniforms(rng: Rng) -> Iterator[Tensor]:
    """`[num, 1]` without end, the numbers that `rng.uniform(1)` would draw."""
    while True:
        yield from rng.uniform(BLOCK).split(1, dim=1)
