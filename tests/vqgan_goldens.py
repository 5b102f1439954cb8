"""VQGAN's golden numbers: arrays that the official classes computed on a CPU, in float32.

No weights are stored: each tensor follows from its official key and its shape, by the rule of `fill`.
"""

from __future__ import annotations

import json
import math
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


INPUTS: Mapping[str, tuple[str, str, tuple[int, ...]]] = {
    "discriminators/x": ("image", "disc/x", (2, 3, 64, 64)),
    "discriminators/y": ("image", "disc/y", (2, 3, 64, 64)),
    "gpt_small/base:emb": ("image", "gpt/emb", (2, 5, 64)),
    "loss_small/x": ("smooth", "loss/x", (2, 3, 48, 48)),
    "loss_small/f": ("smooth", "loss/f", (2, 8, 48, 48)),
    "loss_small/cond": ("smooth", "loss/cond", (2, 2, 48, 48)),
    "n2n_class/x": ("smooth", "cls/x", (2, 3, 64, 64)),
    "n2n_coord/x": ("smooth", "coord/x", (2, 3, 64, 64)),
    "n2n_depth/x": ("smooth", "dep/x", (1, 3, 64, 64)),
    "n2n_depth/depth": ("smooth", "dep/d", (1, 1, 64, 64)),
    "n2n_depth/depth_wide": ("smooth", "dep/dw", (1, 1, 96, 128)),
    "n2n_uncond/x": ("smooth", "unc/x", (2, 3, 64, 64)),
    "vq_small/x": ("smooth", "vq_small/x", (2, 3, 64, 64)),
    "vq_small/x_nonsquare": ("smooth", "vq_small/xn", (1, 3, 48, 80)),
}
"""FILE/ARRAY -> the rule of images that gives it, its name there, its shape; the small set does not store these."""

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


def drawn(name: str) -> Tensor:
    """The input of that name in `INPUTS`."""
    rule, seed, shape = INPUTS[name]
    return {"smooth": smooth, "image": image}[rule](f"vqgan/{seed}", shape)


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
        """A whole array, as input or to look at; by the rule where it is not stored."""
        parity.read(f"vqgan/{self.name}", name)
        if name in self.arrays:
            return torch.from_numpy(self.arrays[name])
        return drawn(f"{self.name}/{name}")

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
        self.note(module, quantity, error, tolerance, name, case=case, why=why)

    def equal(self, module: str, quantity: str, name: str, ours: Tensor, *, case: str = "") -> None:
        """Compare codes, counters and tables to the last integer, apart from their shape; the error is their share."""
        golden = self.arrays[name]
        assert ours.numel() == golden.size, name
        wrong = float((ours.detach().numpy().reshape(-1) != golden.reshape(-1)).mean())
        self.note(module, quantity, wrong, 0.0, name, case=case)

    def note(
        self, module: str, quantity: str, error: float, tolerance: float, *names: str, case: str = "", why: str = ""
    ) -> None:
        """`parity.note` for this file, of a figure that was made from these arrays."""
        self.checked.update(names)
        for name in names:
            parity.read(f"vqgan/{self.name}", name)
        parity.note(f"vqgan: {module}", case or self.name, quantity, error, tolerance, why=why)

    def all_checked(self, prefix: str = "", *, inputs: Iterable[str] = ()) -> None:
        """Assert that every array of that prefix was compared, apart from the inputs."""
        missed = set(self.names(prefix)) - self.checked - set(inputs)
        assert not missed, f"never compared: {', '.join(sorted(missed))}"
