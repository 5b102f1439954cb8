"""VQGAN's golden numbers: arrays that the official classes computed on a CPU, in float32.

No weights are stored: each tensor follows from its official key and its shape, by the rule of `fill`.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import parity
import torch
from torch import Tensor
from torch.nn.functional import interpolate

OUTPUT = 1e-4  # of the peak: activations, logits, images
GRADIENT = 1e-3  # of the peak: gradients, and what a few optimizer steps made of them

Keys = Iterable[Sequence[Any]]
"""Pairs of an official key and a shape, in the order of the official state dict."""

UNFILLED = (".mask", "scaling_layer.shift", "scaling_layer.scale", ".num_batches_tracked", ".initialized", "used")
"""Ends of the keys of constants and integers, which keep what their constructor gave them."""


PARTS = ("__shape", "__stride", "__stats")
"""Ends of the arrays that describe one stored in part."""


def fill(key: str, shape: Sequence[int]) -> Tensor:
    """The value of the floating-point tensor of that official key."""
    x = parity.normal(key, shape)
    if x.ndim >= 2:
        return torch.from_numpy(x / np.float32(math.sqrt(math.prod(shape[1:]))))
    base = 1 if key.endswith(("weight", "running_var")) else 0
    return torch.from_numpy(np.asarray(base + np.float32(0.1) * x, dtype=np.float32))


def weights(keys: Keys, prefix: str = "") -> dict[str, Tensor]:
    """The filled tensors of the keys that start with `prefix`, under what follows it; constants are left out.

    The rule looks at the whole key.
    """
    return {
        key.removeprefix(prefix): fill(key, shape)
        for key, shape in keys
        if key.startswith(prefix) and not key.endswith(UNFILLED)
    }


def first_stage(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an official VQModel under the names of our `AutoEncoder`; those of `loss.` are left out."""
    ours = {}
    for key, value in official.items():
        if key.startswith("loss."):
            continue
        if re.search(r"\.attn[._]\d+\.(q|k|v|proj_out)\.", key):
            key = re.sub(r"(\.attn[._]\d+)", r"\1.mixer", key)
            value = value.flatten(1) if value.ndim == 4 else value  # a 1x1 convolution is a linear layer
        ours[re.sub("(down|up)sample", "resample", key)] = value
    return ours


def keys(name: str) -> Any:
    """`NAME.keys.json`: the case's keys, or for a file of several modules a mapping from their names to such lists."""
    return json.loads(parity.golden(f"vqgan/{name}.keys.json").read_text())


def smooth(name: str, shape: Sequence[int]) -> Tensor:
    """A smooth image batch `[B, C, H, W]` in (-1, 1): 8x8 noise, enlarged."""
    low = torch.from_numpy(parity.normal(name, (*shape[:2], 8, 8)))
    return torch.tanh(interpolate(low, size=tuple(shape[2:]), mode="bicubic", align_corners=False))


def image(name: str, shape: Sequence[int]) -> Tensor:
    """Noise in (-1, 1) of any shape."""
    return torch.from_numpy(np.tanh(_generator(name).standard_normal(tuple(shape))).astype(np.float32))


def ints(name: str, shape: Sequence[int], high: int) -> Tensor:
    """Uniform int64 in [0, high)."""
    return torch.from_numpy(_generator(name).integers(0, high, size=tuple(shape), dtype=np.int64))


def _generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


class Golden:
    """One file of golden arrays, and comparison with it; skips the test where it is missing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.arrays: Mapping[str, np.ndarray] = np.load(parity.golden(f"vqgan/{name}.npz"))
        self.checked: set[str] = set()

    def tensor(self, name: str) -> Tensor:
        """A whole array, as input or to look at."""
        return torch.from_numpy(self.arrays[name])

    def names(self, prefix: str = "") -> list[str]:
        """The arrays whose name starts with `prefix`; one stored in part is named once."""
        stored = [key for key in self.arrays if key.startswith(prefix) and not key.endswith(PARTS)]
        return [key.removesuffix("__sub") for key in stored]

    def cut(self, name: str, ours: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Our array and the golden one; of an array stored in part, that part. The shapes are of the whole arrays."""
        ours = ours.detach().numpy()
        if name in self.arrays:
            return ours, self.arrays[name]
        assert list(ours.shape) == self.arrays[f"{name}__shape"].tolist(), name
        return ours.reshape(-1)[:: int(self.arrays[f"{name}__stride"])], self.arrays[f"{name}__sub"]

    def check(
        self,
        module: str,
        quantity: str,
        name: str,
        ours: Tensor,
        tolerance: float = OUTPUT,
        *,
        absolute: bool = False,
        case: str = "",
        why: str = "",
    ) -> None:
        """Compare and add to the table's row `vqgan: MODULE`, `QUANTITY`; the error is relative to the peak.

        Of an array stored in part, its mean, standard deviation, least and greatest value are compared too.
        """
        ours_cut, golden = self.cut(name, ours)
        scale = max(float(np.abs(golden).max()), 1e-30)
        error = parity.peak_error(ours_cut, golden)
        if name not in self.arrays:
            whole = ours.detach().double()
            stats = [float(whole.mean()), float(whole.std(correction=0)), float(whole.min()), float(whole.max())]
            error = max(error, float(np.abs(np.array(stats) - self.arrays[f"{name}__stats"]).max()) / scale)
        if absolute:
            error *= scale
        self.checked.add(name)
        parity.note(f"vqgan: {module}", case or self.name, quantity, error, tolerance, why=why)

    def equal(self, module: str, quantity: str, name: str, ours: Tensor, *, case: str = "") -> None:
        """Compare codes, counters and tables to the last integer, apart from their shape; the error is their share."""
        golden = self.arrays[name]
        assert ours.numel() == golden.size, name
        wrong = float((ours.detach().numpy().reshape(-1) != golden.reshape(-1)).mean())
        self.checked.add(name)
        parity.note(f"vqgan: {module}", case or self.name, quantity, wrong, 0.0)

    def all_checked(self, prefix: str = "", *, inputs: Iterable[str] = ()) -> None:
        """Assert that every array of that prefix was compared, apart from the inputs."""
        missed = set(self.names(prefix)) - self.checked - set(inputs)
        assert not missed, f"never compared: {', '.join(sorted(missed))}"
