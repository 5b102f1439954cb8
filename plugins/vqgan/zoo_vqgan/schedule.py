"""A number that rises along a line and falls along a cosine: for learning rates and the temperature of codes."""

from __future__ import annotations

import math


def warm_up_cosine(step: int, *, warm_up: int, start: float, peak: float, end: float, total: int) -> float:
    """From `start` to `peak` in `warm_up` steps, then to `end`, which it reaches at step `total` and keeps.

    The official `LambdaWarmUpCosineScheduler`.
    """
    if step < warm_up:
        return start + (peak - start) * step / warm_up
    share = min(1.0, (step - warm_up) / (total - warm_up))
    return end + (peak - end) * (1 + math.cos(math.pi * share)) / 2
