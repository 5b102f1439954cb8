"""A smaller vocabulary: only the codes that a first stage uses, renumbered for the second stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zoo_core.errors import UserError
from zoo_core.rng import Rng


class Remap(nn.Module):
    """Numbers `used[i]` of the whole vocabulary <-> i.

    `unknown` says what a code that is not in `used` becomes: "random", a uniform one of the used; "extra", one more
    code, which goes back as `used[0]`; or a fixed one, given as a number. Raises UserError for used codes that repeat
    or lie outside of `num_codes`, and for another `unknown`.
    """

    used: Tensor

    def __init__(
        self, used: Sequence[int] | np.ndarray | Tensor, num_codes: int, unknown: str | int = "random"
    ) -> None:
        super().__init__()
        used = np.asarray(used)  # not a tensor, which has no numbers where a network is only outlined
        if used.ndim != 1 or not used.size or used.dtype.kind not in "iu" or len(np.unique(used)) != len(used):
            raise UserError("the used codes of a remap must be a row of different whole numbers.")
        if not 0 <= int(used.min()) <= int(used.max()) < num_codes:
            raise UserError(f"the used codes of a remap must be from 0 to {num_codes - 1}.")
        fixed = isinstance(unknown, int) and 0 <= unknown < len(used)
        if not fixed and unknown not in ("random", "extra"):
            raise UserError(f'unknown codes become "random", "extra" or a number below {len(used)}, not {unknown!r}.')
        self.num_codes, self.unknown = num_codes, unknown
        self.register_buffer("used", torch.as_tensor(used.astype(np.int64)))

    @classmethod
    def load(cls, path: str | Path, num_codes: int, unknown: str | int = "random") -> Remap:
        """Read the used codes from a `.npy` file. Raises UserError when that cannot be read."""
        try:
            used = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"the used codes of a remap cannot be read from {path}: {error}.") from error
        if not isinstance(used, np.ndarray) or used.dtype.kind not in "iu":
            raise UserError(f"{path} must hold one row of whole numbers, as numpy.save writes it.")
        return cls(used, num_codes, unknown)

    @property
    def vocabulary(self) -> int:
        """How many codes there are after renumbering."""
        return len(self.used) + (self.unknown == "extra")

    def to_used(self, codes: Tensor, rng: Rng | None = None) -> Tensor:
        """Codes `[B, h, w]` of the whole vocabulary -> renumbered; `rng` has one row per image."""
        place = torch.full((self.num_codes,), -1, device=codes.device)
        place[self.used] = torch.arange(len(self.used), device=codes.device)
        found = place[codes]
        if self.unknown == "random":
            rng = rng or Rng.fresh(len(codes), codes.device)
            instead = rng.fork("unknown codes").integers(0, len(self.used), *codes.shape[1:])
        else:
            instead = len(self.used) if self.unknown == "extra" else self.unknown
        return torch.where(found < 0, instead, found)

    def to_all(self, codes: Tensor) -> Tensor:
        """Renumbered codes -> those of the whole vocabulary."""
        return self.used[torch.where(codes < len(self.used), codes, 0)]
