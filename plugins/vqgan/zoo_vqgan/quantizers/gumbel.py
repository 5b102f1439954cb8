"""Codes by Gumbel-softmax (Jang et al., arXiv 1611.01144): a learned classifier instead of distances.

Shapes: B batch, C channels, h w the latent map, n codes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo_core.rng import Rng
from zoo_vqgan.quantizers import Quantized, Quantizer
from zoo_vqgan.quantizers.remap import Remap

SMALLEST = 2.0**-25
"""Stands for a uniform draw of 0, half the step of the draws."""


class GumbelQuantizer(Quantizer):
    """z_q = sum_j y_j e_j, y the softmax of (logits + noise) / temperature, in the forward pass rounded to one code.

    `hard` rounds in training too, with the softmax's gradient; in evaluation y is always rounded. The loss is
    `kl_weight` times the mean over positions of the divergence of the softmax of the plain logits from uniform.
    `schedule` makes the temperature of a training step from the number of images before it; None leaves `temperature`.

    Evaluation takes the largest logit; the official model draws noise there too, so its reconstructions are random.
    With a remap only the used codes compete.
    """

    def __init__(
        self,
        *,
        num_codes: int,
        dim: int,
        inputs: int = 0,
        kl_weight: float = 5e-4,
        temperature: float = 1.0,
        schedule: Callable[[int], float] | None = None,
        hard: bool = True,
        remap: Remap | None = None,
    ) -> None:
        """`inputs`: channels of z, 0 for `dim`. The official GumbelVQ sets `kl_weight` to 1e-8."""
        super().__init__()
        self.num_codes, self.kl_weight, self.temperature, self.hard = num_codes, kl_weight, temperature, hard
        self.remap, self.schedule = remap, schedule
        self.proj = nn.Conv2d(inputs or dim, num_codes, 1)
        self.embed = nn.Embedding(num_codes, dim)

    @property
    def codebook(self) -> Tensor:
        """The vector of each class."""
        return self.embed.weight

    def begin_step(self, images: int) -> dict[str, float]:
        """Set the temperature by the schedule."""
        if self.schedule:
            self.temperature = self.schedule(images)
        return {"temperature": self.temperature}

    def forward(self, z: Tensor, rng: Rng | None = None) -> Quantized:
        """Quantize; noise is drawn from `rng` in training."""
        logits = self.logits(z)
        if not self.training:
            codes = logits.argmax(1)
            return Quantized(self.entry(codes), codes, self._divergence(logits))
        rng = rng or Rng.fresh(len(z), z.device)
        return self.choose(logits, gumbel_noise(rng.fork("gumbel"), *logits.shape[1:]))

    def logits(self, z: Tensor) -> Tensor:
        """The classifier's logits `[B, n, h, w]`, with a remap those of the used codes only."""
        logits = self.proj(z).float()
        return logits[:, self.remap.used] if self.remap else logits

    def choose(self, logits: Tensor, noise: Tensor) -> Quantized:
        """Quantize by logits and noise of the same shape."""
        soft = torch.softmax((logits + noise) / self.temperature, dim=1)
        codes = soft.argmax(1)
        if self.hard:
            rounded = torch.zeros_like(soft).scatter_(1, codes[:, None], 1.0)
            soft = rounded - soft.detach() + soft
        codebook = self.codebook[self.remap.used] if self.remap else self.codebook
        z_q = torch.einsum("bnhw,nc->bchw", soft, codebook)
        return Quantized(z_q, codes, self._divergence(logits))

    def _divergence(self, logits: Tensor) -> Tensor:
        q = torch.softmax(logits, dim=1)
        return self.kl_weight * (q * torch.log(q * self.num_codes + 1e-10)).sum(1).mean()


def gumbel_noise(rng: Rng, *shape: int) -> Tensor:
    """Standard Gumbel noise `[num, *shape]`."""
    return -torch.log(-torch.log(rng.uniform(*shape).clamp_(min=SMALLEST)))
