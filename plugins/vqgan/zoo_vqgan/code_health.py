"""How the codes of an autoencoder fare while it trains: counted, logged, pictured and, where asked, restarted."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zoo_core import agreement
from zoo_core.program import Clock
from zoo_core.rng import Rng
from zoo_vqgan.options import QuantizerOptions
from zoo_vqgan.quantizers import Quantized, Quantizer
from zoo_vqgan.quantizers.usage import Tally, count, restart_dead
from zoo_vqgan.quantizers.usage_sheet import usage_sheet


class CodeHealth:
    """One quantizer's. A stage has `tally` among its networks, quantizes here in its loss, and ends its steps here.

    All that it counts is of the whole batch: micro-batches and processes are added up.
    """

    def __init__(self, quantizer: Quantizer, options: QuantizerOptions, seed: int) -> None:
        self.quantizer, self.options, self.seed = quantizer, options, seed
        self.tally = Tally(quantizer.vocabulary, options.usage_images)
        self._counts: Tensor | None = None
        """Of this step."""
        self._latents: list[Tensor] = []
        """What this step's micro-batches gave the quantizer, if codes restart after it."""

    def quantize(self, z: Tensor, rng: Rng, clock: Clock) -> Quantized:
        """Quantize a micro-batch's `z [B, C, h, w]` and note what came of it."""
        for name, value in self.quantizer.begin_step(clock.images).items():
            clock.record(name, z.new_tensor(value))
        quantized = self.quantizer(z, rng)
        counts = count(quantized.codes, self.quantizer.vocabulary)
        self._counts = counts if self._counts is None else self._counts + counts
        if self._due(clock):
            self._latents.append(z.detach())
        return quantized

    def conclude(self, clock: Clock) -> dict[str, float]:
        """End a step; answers with numbers for the log, those of the use over the last `usage/images` images."""
        self.tally.add(agreement.total(self._counts), clock.batch)
        self._counts = None
        usage = self.tally.usage
        numbers = {
            "codes_in_use": usage.share,
            "perplexity": usage.perplexity,
            "dead_codes": float(usage.dead.sum()),
            "usage/images": float(self.tally.num_images),
        }
        if self._due(clock):
            z = agreement.gather(torch.cat(self._latents))
            self._latents.clear()
            rng = Rng.of(self.seed, "restart", clock.step, rows=range(len(z)), device=z.device)
            numbers["usage/restarted"] = float(restart_dead(self.quantizer, usage.dead.to(z.device), z, rng))
        return numbers

    def sheet(self) -> np.ndarray:
        """A picture of the use: `[h, w, 3]` uint8."""
        return usage_sheet(self.tally.usage, self.tally.num_images)

    def _due(self, clock: Clock) -> bool:
        """Whether dead codes restart after this step; not before the tally speaks of as many images as it should."""
        every, seen = self.options.restart_images, clock.images + clock.batch
        return every > 0 and seen >= self.options.usage_images and seen // every > clock.images // every
