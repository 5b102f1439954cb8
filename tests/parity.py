"""Golden numbers, recordings of the official models, and the table of how far ours are from them.

The repository keeps a small set; ZOO_GOLDENS names the folder of all. `tools/parity.py` runs the tests that compare and
writes docs/parity.md from the rows noted here.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

SMALL_SET = Path(__file__).parent / "golden_numbers"
FOLDER = Path(os.environ.get("ZOO_GOLDENS") or SMALL_SET)


def golden(name: str) -> Path:
    """The file or folder of that name, such as `hit/g_tiny32.npz`; skips the test where the set at hand lacks it."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not in the small set of golden numbers; ZOO_GOLDENS may name the folder of all")
    return path


def normal(name: str, shape: Sequence[int]) -> np.ndarray:
    """The float32 normal numbers of that name, from which the goldens' rules make weights and inputs."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return generator.standard_normal(tuple(shape) or (1,)).astype(np.float32).reshape(tuple(shape))


def peak_error(ours: Tensor | np.ndarray, theirs: Tensor | np.ndarray) -> float:
    """The largest difference, relative to the largest magnitude of `theirs`; infinite where shapes differ."""
    ours, theirs = (np.asarray(value.detach() if isinstance(value, Tensor) else value) for value in (ours, theirs))
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return float("inf")
    return float(np.abs(ours.astype(np.float64) - theirs).max() / max(float(np.abs(theirs).max()), 1e-30))


def note(
    module: str, configuration: str, quantity: str, error: float, tolerance: float, *, count: int = 1, why: str = ""
) -> None:
    """Add to the table's row of this module, configuration and quantity; fail if the error is above the tolerance.

    `module`: the paper and the part, "hit: generator"; `configuration`: the golden case; `quantity`: what was compared.
    Of all that is noted for a row the table shows the largest error, and the sum of `count`, the arrays (or figures)
    compared. `why`: the reason for a tolerance above those of all, which becomes a footnote.
    """
    _write(module, configuration, quantity, error, tolerance, count, why)
    assert error <= tolerance, f"{module}, {configuration}, {quantity}: {error:.1e}, allowed {tolerance:.0e}"


def read(file: str, array: str) -> None:
    """Say that a test reads this array of a golden file such as `hit/misc`: arrays that none reads are found so."""
    _write(file, array)


def _write(*line: object) -> None:
    if rows := os.environ.get("ZOO_PARITY_ROWS"):
        with open(rows, "a") as file:  # one short write a line: several workers append to it
            file.write(json.dumps(line) + "\n")
