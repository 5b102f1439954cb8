"""Golden numbers of HiT: recordings of the official TensorFlow models, whose weights follow a rule.

Names are the official checkpoint keys without their suffix; shapes and layouts are TensorFlow's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import torch
from parity import golden, normal
from torch import Tensor

Keys = list[tuple[str, tuple[int, ...]]]


def keys(case: str) -> Keys:
    """Names and shapes of a case's variables, in the official order. Skips the test where they are not at hand."""
    listed = json.loads(golden("hit/keys.json").read_text())[case]
    return [(key, tuple(shape)) for key, shape in listed]


def arrays(case: str) -> dict[str, np.ndarray]:
    """What a case recorded. Skips the test where it is not at hand."""
    with np.load(golden(f"hit/{case}.npz")) as stored:
        return dict(stored)


def fill(key: str, shape: tuple[int, ...], equalised: bool = False) -> np.ndarray:
    """The rule: a variable's value, from its name and shape. `equalised`: a network that scales its own kernels."""
    x = normal(key, shape)
    if x.ndim >= 2:
        return x if equalised else x / np.float32(np.sqrt(np.prod(shape[:-1])))
    if key.endswith("moving_variance"):
        return 1 + np.float32(0.1) * np.abs(x)
    return np.float32(key.endswith("gamma")) + np.float32(0.1) * x


def variables(listed: Iterable[tuple[str, tuple[int, ...]]], equalised: bool = False) -> dict[str, Tensor]:
    """The rule's value of every variable."""
    return {key: torch.from_numpy(fill(key, shape, equalised)) for key, shape in listed}


def stored_part(recorded: dict[str, np.ndarray], name: str, whole: Tensor) -> Tensor:
    """The part of our tensor that the case stores under that name: some are subsampled."""
    steps = recorded.get(f"{name}_strides", ())
    return whole.detach()[tuple(slice(None, None, int(step)) for step in steps)]
