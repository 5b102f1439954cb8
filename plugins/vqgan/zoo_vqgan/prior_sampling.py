"""Drawing the codes of images as large as those of the training, one code after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zoo_core.errors import UserError
from zoo_core.formulation import is_plain
from zoo_vqgan.filtering import Choose, Filter
from zoo_vqgan.gpt import GPT
from zoo_vqgan.kv_cache import KeyValueCache

Progress = Callable[[int], None]
"""Told how many codes of each image are there."""


@torch.no_grad()
def sample_codes(
    gpt: GPT,
    condition: Tensor,
    num_codes: int,
    choose: Choose,
    filtering: Filter,
    *,
    progress: Progress | None = None,
) -> Tensor:
    """Draw `[B, num_codes]`, in the order of the training: `Permuter.inverse` leads back to the grid.

    `condition [B, M]`. The plain formulation reads the whole sequence anew for each code.
    Raises UserError where the sequence does not fit into the transformer's block.
    """
    sequence = condition
    needed = condition.shape[1] + num_codes - 1  # nothing is read after the last code
    if needed > gpt.block_size:
        raise UserError(
            f"{condition.shape[1]} condition tokens and {num_codes} codes do not fit into the transformer's block of "
            f"{gpt.block_size}; draw a smaller grid, or sample through windows."
        )
    cache = None if is_plain() else KeyValueCache(needed)
    with evaluating(gpt):
        for done in range(1, num_codes + 1):
            logits = gpt(sequence) if cache is None else gpt(sequence[:, cache.length :], outputs=1, cache=cache)
            sequence = torch.cat((sequence, filtering.draw(logits[:, -1], choose)[:, None]), dim=1)
            if progress:
                progress(done)
    return sequence[:, condition.shape[1] :]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, and the mode of before afterwards."""
    before = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(before)
