"""The nearest vector, and the losses that draw vectors and encoder together (Esser et al., Eq. 2 and 4).

Shapes: B batch, C channels, h w the latent map, N = B h w rows, n codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss

from zoo_core.formulation import is_plain
from zoo_core.rng import Rng
from zoo_vqgan.quantizers import Quantized, Quantizer, to_rows
from zoo_vqgan.quantizers.remap import Remap

CHUNK_ELEMENTS = 2**22
"""Distances that are held at a time: 16 MiB of float32."""


@torch.no_grad()
def nearest_codes(rows: Tensor, codebook: Tensor) -> Tensor:
    """The index `[N]` of the vector of `codebook [n, C]` nearest to each of `rows [N, C]`; of equals the first.

    Squared distances as the official code has them, |z|^2 + |e|^2 - 2 z e in float32, so that near ties fall alike.
    """
    with torch.autocast(rows.device.type, enabled=False):
        rows, codebook = rows.float(), codebook.float()
        row_norms, code_norms = rows.square().sum(1, keepdim=True), codebook.square().sum(1)
        if is_plain():
            return (row_norms + code_norms - 2 * rows @ codebook.T).argmin(1)
        num = max(1, CHUNK_ELEMENTS // len(codebook))
        return torch.cat([
            (norms + code_norms).addmm_(chunk, codebook.T, alpha=-2).argmin(1)
            for chunk, norms in zip(rows.split(num), row_norms.split(num), strict=True)
        ])  # fmt: skip


def straight_through(z: Tensor, z_q: Tensor) -> Tensor:
    """`z_q` forward, the identity to `z` backward (up to one rounding, as in the official code)."""
    return z + (z_q - z).detach()


class NearestQuantizer(Quantizer):
    """Nearest neighbour in a learned table (Eq. 2).

    `legacy` places beta as every published model had it: on the term that moves the table,
    |sg(z_q) - z|^2 + beta |z_q - sg(z)|^2. False is the paper's Eq. 4, beta on the term that moves the encoder.
    """

    def __init__(
        self, *, num_codes: int, dim: int, beta: float = 0.25, legacy: bool = True, remap: Remap | None = None
    ) -> None:
        super().__init__()
        self.num_codes, self.beta, self.legacy, self.remap = num_codes, beta, legacy, remap
        self.embedding = nn.Embedding(num_codes, dim)
        nn.init.uniform_(self.embedding.weight, -1 / num_codes, 1 / num_codes)

    @property
    def codebook(self) -> Tensor:
        """The learned table."""
        return self.embedding.weight

    def forward(self, z: Tensor, rng: Rng | None = None) -> Quantized:
        """Quantize; `rng` is used only for the unknown codes of a random remap."""
        z = z.float()
        codes, z_q = look_up(z, self.codebook)
        to_encoder, to_table = mse_loss(z, z_q.detach()), mse_loss(z_q, z.detach())
        loss = to_encoder + self.beta * to_table if self.legacy else self.beta * to_encoder + to_table
        if self.remap:
            codes = self.remap.to_used(codes, rng)
        return Quantized(straight_through(z, z_q), codes, loss)

    @torch.no_grad()
    def restart(self, dead: Tensor, rows: Tensor) -> None:
        """Replace dead codes.

        Adam's moments of these rows stay: their gradient was 0 ever since they were last used, so by now the moments
        are next to what a reset would leave; and the count of steps, which a reset would need, is the whole table's.
        """
        self.codebook[dead] = rows.to(self.codebook)


def look_up(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """`z [B, C, h, w]` -> the nearest codes `[B, h, w]` and their vectors `[B, C, h, w]`."""
    B, _, h, w = z.shape
    codes = nearest_codes(to_rows(z), codebook).view(B, h, w)
    return codes, embedding(codes, codebook).permute(0, 3, 1, 2)
