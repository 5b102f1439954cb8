"""One independent stream of random numbers for each image of a batch.

A draw for image i depends on that image's seed and on how many draws it made before, never on the other rows.
So images are the same for every batch size, number of micro-batches, number of processes and device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def seed_of(*key: object) -> int:
    """Hash a key of numbers and names into a 63-bit seed; different keys give unrelated seeds."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Rng:
    """Random draws, one row per image: `rng.normal(512)` is `[num, 512]`.

    Numbers are drawn on the CPU and moved, so that every device sees the same ones. Each row has a Philox of its own,
    keyed by the whole seed, for torch's generators on the CPU look at 32 bits of it. numpy promises that a key gives
    the same raw words for ever, and so that two seeds stay unrelated; it may change, from one release to another, the
    way in which `Generator` makes numbers of these words, so images are the same again under the numpy that the run's
    manifest names.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.seeds = tuple(seeds)
        self.device = torch.device(device)
        self._generators: list[np.random.Generator] | None = None

    @classmethod
    def of(cls, *key: object, rows: range, device: torch.device | str = "cpu") -> Rng:
        """Streams for the numbered images `rows`, each a function of `key` and its own number."""
        return cls([seed_of(*key, row) for row in rows], device)

    @classmethod
    def fresh(cls, num: int, device: torch.device | str = "cpu") -> Rng:
        """Streams that follow torch's global seed, for interactive use."""
        start = int(torch.randint(2**62, ()))
        return cls.of(start, rows=range(num), device=device)

    def __len__(self) -> int:
        return len(self.seeds)

    def fork(self, name: str) -> Rng:
        """Return streams of their own, whose use moves no draw of this one."""
        return Rng([seed_of(seed, name) for seed in self.seeds], self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 `[num, *shape]`."""
        return self._draw(lambda generator: generator.standard_normal(shape, dtype=np.float32))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform float32 in [0, 1), `[num, *shape]`."""
        return self._draw(lambda generator: generator.random(shape, dtype=np.float32))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Uniform int64 in [low, high), `[num, *shape]`."""
        return self._draw(lambda generator: generator.integers(low, high, shape, dtype=np.int64))

    def _draw(self, one: Callable[[np.random.Generator], np.ndarray]) -> Tensor:
        if self._generators is None:
            self._generators = [np.random.Generator(np.random.Philox(key=seed)) for seed in self.seeds]
        if not self._generators:
            raise ValueError("an Rng of no rows cannot draw")
        return torch.from_numpy(np.stack([one(generator) for generator in self._generators])).to(self.device)
