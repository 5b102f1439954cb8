"""The second stage's network: the transformer over condition tokens and codes, trained to predict the codes.

The two autoencoders, which make the codes, stay outside: training needs the codes alone, and a network of one `forward`
is all that DDP, FSDP and DeepSpeed ask for.
Shapes: B images, M condition tokens, N codes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.errors import UserError
from zoo_core.rng import Rng
from zoo_vqgan.gpt import GPT
from zoo_vqgan.permuters import Permuter


class Prior(nn.Module):
    """Predicts each code from the condition and the codes before it.

    `kept`: in training each code that the transformer reads stays with this probability and is otherwise replaced by
    one drawn evenly from the vocabulary (official `pkeep`); those to be predicted stay clean.
    Raises UserError where the sequence does not fit into the transformer's block, or `kept` is not in (0, 1].
    """

    def __init__(self, gpt: GPT, permuter: Permuter, *, condition_length: int, kept: float = 1.0) -> None:
        super().__init__()
        if not 0 < kept <= 1:
            raise UserError(f"The share of codes that are kept must be above 0 and at most 1, not {kept}.")
        num_codes = len(permuter.table)
        needed = condition_length + num_codes - 1
        if condition_length < 1 or needed > gpt.block_size:
            raise UserError(
                f"{condition_length} condition tokens and {num_codes} codes need a condition, and a block of "
                f"{needed} tokens; the transformer's has {gpt.block_size}."
            )
        self.gpt = gpt
        self.permuter = permuter
        self.kept = kept

    def forward(
        self, codes: Tensor, condition: Tensor, rng: Rng | None = None, *, corrupted: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`codes [B, N]` or `[B, h, w]` in raster order, `condition [B, M]` -> mean cross entropy in nats per code,
        and logits `[B, N, vocabulary]` in the permuter's order.

        `rng`, one row an image, draws the corruption in training (None: fresh). `corrupted [B, N]`: what the
        transformer reads in place of the codes, in the permuter's order; nothing is drawn then.
        """
        target = self.permuter(codes.flatten(1))
        read = self.corrupt(target, rng) if corrupted is None else corrupted
        sequence = torch.cat((condition.flatten(1), read), dim=1)[:, :-1]
        logits = self.gpt(sequence, outputs=target.shape[1])
        return F.cross_entropy(logits.flatten(0, 1).float(), target.flatten()), logits

    def corrupt(self, codes: Tensor, rng: Rng | None = None) -> Tensor:
        """Replace codes at random; nothing outside training."""
        if not self.training or self.kept == 1:
            return codes
        rng = rng or Rng.fresh(len(codes))
        keep = rng.fork("kept").uniform(codes.shape[1]).to(codes.device) < self.kept
        drawn = rng.fork("replacement").integers(0, self.gpt.vocabulary, codes.shape[1]).to(codes.device)
        return torch.where(keep, codes, drawn)
