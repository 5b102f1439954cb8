"""Golden numbers of the style-based papers: recordings of the official models, whose weights follow a rule.

The folder of all goldens has a page that explains them, `README-style.md`. Names are the official ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

import numpy as np
import parity
import torch
from torch import Tensor

OUTPUT = 2e-5  # of the peak: images, activations, logits; float64 is 9e-6 from the worst golden image, 8e-6 from ours
GRADIENT = 1e-3  # relative: gradients and R1


class Case:
    """One golden case, such as `styleswin/g_s32`: constructor arguments, tensors, and the rule's weights."""

    def __init__(self, name: str) -> None:
        folder = parity.golden(name)
        self.paper, self.name = name.split("/")
        self.meta = json.loads((folder / "meta.json").read_text())
        self.data = dict(np.load(folder / "data.npz"))
        keys = folder / "keys.json"
        self.keys = json.loads(keys.read_text()) if keys.exists() else []

    def weights(self, net: str) -> dict[str, Tensor]:
        """The official state dict of "g" or "d", constants included as empty tensors (they must be dropped)."""
        keys = self.keys[net] if isinstance(self.keys, dict) else self.keys
        filled = fill(keys)
        return {key: torch.from_numpy(filled[key]) if key in filled else torch.empty(shape) for key, shape, _ in keys}

    def array(self, name: str) -> Tensor:
        return torch.from_numpy(self.data[name])

    def image(self) -> Tensor:
        """The discriminator's input, by the rule; the small set does not store it."""
        size = self.meta["size"]
        return drawn(f"image:{self.meta['case']}", (self.meta["batch"], 3, size, size))

    def shape(self, name: str) -> list[int]:
        """The shape of the whole array, of which a part may be stored."""
        return list(self.data.get(name + "#shape", self.data[name].shape))

    def activations(self) -> list[str]:
        """Official names of the modules whose outputs are stored."""
        found = [key.removeprefix("act/") for key in self.data if key.startswith("act/") and "#" not in key]
        assert found
        return found

    def stored(self, name: str, actual: Tensor) -> np.ndarray:
        """The part of our whole array that the golden `name` holds, in its shape."""
        assert list(actual.shape) == self.shape(name), name
        ours, golden = actual.detach().numpy(), self.data[name]
        return ours.reshape(-1)[:: int(self.data.get(name + "#step", 1))].reshape(golden.shape)

    def check(
        self, module: str, quantity: str, name: str, actual: Tensor, tolerance: float = OUTPUT, *, why: str = ""
    ) -> None:
        """The largest difference from the golden `name` is within `tolerance` of its peak; so are mean and deviation
        of the whole array where the golden has them."""
        golden = self.data[name]
        error = parity.peak_error(self.stored(name, actual), golden)
        if name + "#meanstd" in self.data:
            whole = actual.detach().double()
            ours = np.array([float(whole.mean()), float(whole.std(correction=0))])
            error = max(error, float(np.abs(ours - self.data[name + "#meanstd"]).max() / np.abs(golden).max()))
        self.note(module, quantity, error, tolerance, why=why)

    def check_numbers(
        self,
        module: str,
        quantity: str,
        name: str,
        actual: Sequence[float],
        tolerance: float = GRADIENT,
        *,
        why: str = "",
    ) -> None:
        """A list of figures, each relative to itself; where the golden is 0, so is ours."""
        golden = self.data[name]
        error = np.abs(np.array(actual) - golden) / np.maximum(np.abs(golden), 1e-12)
        self.note(module, quantity, float(error.max()), tolerance, count=golden.size, why=why)

    def note(
        self, module: str, quantity: str, error: float, tolerance: float, *, count: int = 1, why: str = ""
    ) -> None:
        """`parity.note` for this case."""
        parity.note(f"{self.paper}: {module}", self.name, quantity, error, tolerance, count=count, why=why)


def fill(keys: Iterable[tuple[str, Sequence[int], str]]) -> dict[str, np.ndarray]:
    """The learned tensors and spectral norms' vectors of a state dict given as (key, shape, kind)."""
    keys = list(keys)
    filled = {key: _learned(key, shape, kind) for key, shape, kind in keys if kind.startswith("param_")}
    for key, _, kind in keys:
        if kind == "buffer_sn" and key.endswith("weight_u"):
            prefix = key.removesuffix("weight_u")
            filled[key], filled[prefix + "weight_v"] = _singular_vectors(key, filled[prefix + "weight_orig"])
    return filled


def _learned(key: str, shape: Sequence[int], kind: str) -> np.ndarray:
    x = parity.normal(key, shape)
    if kind == "param_mapping":
        return x / np.float32(0.01)
    if kind == "param_unit":
        return x
    if kind == "param_fan":
        return x / np.float32(math.sqrt(math.prod(shape[1:])))
    assert kind == "param_vec", kind
    return np.float32(key.endswith(".upsample.norm.weight")) + np.float32(0.1) * x


def _singular_vectors(key: str, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """u and v after five power iterations in float64, from the numbers that u's key draws."""
    matrix = weight.reshape(len(weight), -1).astype(np.float64)
    u = _unit(parity.normal(key, (len(weight),)).astype(np.float64))
    for _ in range(5):
        v = _unit(matrix.T @ u)
        u = _unit(matrix @ v)
    return u.astype(np.float32), v.astype(np.float32)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """The normal numbers of that name."""
    return torch.from_numpy(parity.normal(name, shape))
