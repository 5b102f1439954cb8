"""Nearest neighbour in a table of moving averages (van den Oord et al., arXiv 1711.00937, appendix A.1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from zoo_core import agreement
from zoo_core.rng import Rng
from zoo_vqgan.quantizers import Quantized, Quantizer, to_rows
from zoo_vqgan.quantizers.nearest import look_up, straight_through
from zoo_vqgan.quantizers.remap import Remap
from zoo_vqgan.quantizers.usage import count


class MovingAverageQuantizer(Quantizer):
    """Each code is the moving average of the rows that fell to it; nothing in the table takes a gradient.

    Every pass in training mode moves the table, after the look-up. The official class cannot be built (it reads
    undefined names); this is its evident repair. Its table is of parameters that no optimizer moves, ours of buffers:
    so a trainer treats it as running statistics.

    Several processes move it by the rows of all, as one process with the whole batch would; the official ones each by
    its own. Several micro-batches make several small moves from the same table, of which the trainer takes the mean:
    the same direction, with cluster sizes of one micro-batch.
    """

    embedding: Tensor
    cluster_size: Tensor
    embed_avg: Tensor

    def __init__(
        self,
        *,
        num_codes: int,
        dim: int,
        beta: float = 0.25,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        remap: Remap | None = None,
    ) -> None:
        super().__init__()
        self.num_codes, self.beta, self.decay, self.epsilon, self.remap = num_codes, beta, decay, epsilon, remap
        self._held = False
        self.register_buffer("embedding", torch.randn(num_codes, dim))
        self.register_buffer("cluster_size", torch.zeros(num_codes))
        self.register_buffer("embed_avg", self.embedding.clone())

    @property
    def codebook(self) -> Tensor:
        """The table as it stands."""
        return self.embedding

    def forward(self, z: Tensor, rng: Rng | None = None) -> Quantized:
        """Quantize with the table as it stands, then, in training, move it."""
        z = z.float()
        codes, z_q = look_up(z, self.embedding)
        if self.training and not self._held:
            self._move(to_rows(z.detach()), codes.flatten())
        quantized = straight_through(z, z_q)
        if self.remap:
            codes = self.remap.to_used(codes, rng)
        return Quantized(quantized, codes, self.beta * mse_loss(z, z_q))

    @contextmanager
    def held(self) -> Iterator[None]:
        """No pass within moves the table."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    @torch.no_grad()
    def restart(self, dead: Tensor, rows: Tensor) -> None:
        """Replace dead codes, as if one row had always fallen to each."""
        rows = rows.to(self.embedding)
        self.embedding[dead], self.embed_avg[dead], self.cluster_size[dead] = rows, rows, 1.0

    @torch.no_grad()
    def _move(self, rows: Tensor, codes: Tensor) -> None:
        sums = torch.zeros_like(self.embed_avg).index_add_(0, codes, rows)
        counts = count(codes, self.num_codes).to(sums)
        counts, sums = agreement.total(torch.cat([counts[:, None], sums], 1)).split([1, sums.shape[1]], 1)
        counts = counts.squeeze(1)
        self.cluster_size.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.embed_avg.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + self.epsilon) / (total + self.num_codes * self.epsilon) * total
        self.embedding.copy_(self.embed_avg / smoothed[:, None])
