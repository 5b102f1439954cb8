"""Keys and values of the tokens that a transformer has seen, in buffers that are allocated once."""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of up to `capacity` tokens in each layer.

    `length` tokens are held in every layer. A forward pass appends to one layer after the other and then calls
    `advance`. The buffers take the shape, type and device of the first keys that come.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._layers: list[tuple[Tensor, Tensor]] = []

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write `[B, heads, T, D]` behind what is held; return all of the layer's, `[B, heads, length + T, D]`."""
        batch, heads, num, dim = key.shape
        end = self.length + num
        assert end <= self.capacity, (end, self.capacity)
        if layer == len(self._layers):
            shape = (batch, heads, self.capacity, dim)
            self._layers.append((key.new_empty(shape), value.new_empty(shape)))
        keys, values = self._layers[layer]
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, num: int) -> None:
        """Count `num` tokens as held, after every layer has got them."""
        self.length += num

    def clear(self) -> None:
        """Forget all tokens; the buffers stay."""
        self.length = 0


def cache_bytes(*, layers: int, dim: int, batch: int, capacity: int, dtype: torch.dtype = torch.float32) -> int:
    """Memory in bytes of the keys and values of `capacity` tokens."""
    return 2 * layers * dim * batch * capacity * dtype.itemsize
