"""Maps of vectors -> maps of codes: what every quantizer answers.

Shapes: B batch, C channels, h w the latent map, N = B h w rows, n codes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from zoo_core.errors import UserError
from zoo_core.rng import Rng
from zoo_vqgan.quantizers.remap import Remap


@dataclass(frozen=True)
class Quantized:
    """A latent map in codes."""

    z_q: Tensor
    """`[B, C, h, w]`: what the decoder gets; gradients pass to the encoder."""
    codes: Tensor
    """`[B, h, w]` int64, below the quantizer's `vocabulary`. The official code answers rows of `B h w`, with a remap
    even `[B h w, 1]`, unless its `sane_index_shape` is set; here it always is."""
    loss: Tensor
    """The quantizer's own loss, a scalar."""


class Quantizer(nn.Module, ABC):
    """Replaces each vector of a map by one of `num_codes` vectors."""

    num_codes: int
    remap: Remap | None

    @property
    @abstractmethod
    def codebook(self) -> Tensor:
        """The vectors `[n, C]`."""

    @abstractmethod
    def forward(self, z: Tensor, rng: Rng | None = None) -> Quantized:
        """Quantize `z [B, C, h, w]`; `rng`, one row per image, is for what is drawn, None for fresh draws."""

    @property
    def vocabulary(self) -> int:
        """How many different codes it answers with: `num_codes`, or fewer with a remap."""
        return self.remap.vocabulary if self.remap else self.num_codes

    def entry(self, codes: Tensor) -> Tensor:
        """The vectors of `codes [B, h, w]`: `[B, C, h, w]`. Raises UserError for a code out of the vocabulary."""
        if codes.ndim != 3 or codes.is_floating_point():
            raise UserError(f"codes must be whole numbers [B, h, w], not {codes.dtype} {list(codes.shape)}.")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.vocabulary:
            found = f"{int(codes.min())} to {int(codes.max())}"
            raise UserError(f"codes must be from 0 to {self.vocabulary - 1}; these go from {found}.")
        if self.remap:
            codes = self.remap.to_all(codes)
        return self.codebook[codes].permute(0, 3, 1, 2).contiguous()

    def begin_step(self, images: int) -> dict[str, float]:
        """Be as a training step after so many images wants it; answers with what it has set, for the log."""
        return {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """No pass within moves the table, in training mode neither."""
        yield

    def restart(self, dead: Tensor, rows: Tensor) -> None:
        """Put `rows [k, C]` in the place of the k codes where `dead [n]` is true."""
        raise UserError(f"{type(self).__name__} cannot restart dead codes: no vector of it stands near the encoder's.")


def to_rows(z: Tensor) -> Tensor:
    """`[B, C, h, w]` -> `[N, C]`, in the order of the raster, image after image."""
    return z.permute(0, 2, 3, 1).flatten(0, 2)
