"""SAGAN's golden numbers: arrays that the official TensorFlow graph computed (128 px, 8 base channels, 10 classes).

No weights are stored: each variable follows from its name and shape, by the rule of `fill`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import parity
import torch
from torch import Tensor

ARRAY, U, GRADIENT = 1e-4, 1e-5, 1e-3


def fill(key: str, shape: Sequence[int]) -> np.ndarray:
    """The value of the variable of that TensorFlow name (without `:0`), in TensorFlow's layout."""
    x, leaf = parity.normal(key, shape), key.rsplit("/")[-1]
    if leaf == "sigma_ratio":
        return np.float32(0.5) + np.float32(0.1) * x
    if leaf in ("var", "moving_variance"):
        return 1 + np.float32(0.1) * np.abs(x)
    if leaf == "gamma":
        return 1 + np.float32(0.1) * x
    if leaf in ("mean", "moving_mean", "beta") or x.ndim <= 1:
        return np.float32(0.1) * x
    return x / np.sqrt(np.float32(np.prod(shape[:-1])))


def variables() -> dict[str, np.ndarray]:
    """Every variable of the golden networks by its TensorFlow name; skips the test without golden numbers."""
    return {key: fill(key, shape) for key, shape in json.loads(parity.golden("sagan/keys.json").read_text())}


class Golden:
    """One file of golden arrays, such as `g_training`, and comparison with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.arrays = np.load(parity.golden(f"sagan/{name}.npz"))
        self.strides = json.loads(str(self.arrays["meta_json"]))["strides"]

    def tensor(self, name: str) -> Tensor:
        value = torch.from_numpy(self.arrays[name])
        return value.long() if value.dtype == torch.int32 else value

    def images(self) -> Tensor:
        """The real images `[4, 3, 128, 128]`, by the rule; the small set does not store them."""
        low = parity.normal("input/images_low", (4, 8, 8, 3)).repeat(16, 1).repeat(16, 2)
        noise = parity.normal("input/images_noise", (4, 128, 128, 3))
        images = np.tanh(np.float32(0.7) * low + np.float32(0.3) * noise)
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def matches(
        self,
        module: str,
        quantity: str,
        name: str,
        ours: Tensor,
        tolerance: float = ARRAY,
        *,
        of_deviation: float = 0.0,
        why: str = "",
    ) -> None:
        """Our array, cut as the golden one of that name was, is within `tolerance` of its peak.

        And within `of_deviation` (0: `tolerance`) of its standard deviation, in which the goldens' page gives bounds.
        """
        theirs = self.tensor(name)
        ours = ours.detach()[tuple(slice(None, None, step) for step in self.strides.get(name, []))]
        self.note(module, quantity, parity.peak_error(ours, theirs), tolerance, why=why)
        if theirs.numel() > 1:
            error = float((ours - theirs).abs().max() / theirs.std())
            assert error <= (of_deviation or tolerance), f"{name}: largest error {error:.2e} of the standard deviation"

    def note(
        self, module: str, quantity: str, error: float, tolerance: float, *, count: int = 1, why: str = ""
    ) -> None:
        """`parity.note` for this file."""
        parity.note(f"sagan: {module}", self.name, quantity, error, tolerance, count=count, why=why)
