"""What repeated trainings say: means with their intervals, and verdicts over pairs of contenders.

A contender's values of one figure are `[S, G]`: S training seeds, and G sets of samples drawn from each trained
network. Retraining moves a figure more than resampling does, so a training is the unit: its G values are averaged
first, and the S averages are what intervals and tests see. A training without a number, which diverged or whose samples
do not show the figure, is a row of nan: never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from scipy import special, stats

CONFIDENCE = 0.95
LEVEL = round(1 - CONFIDENCE, 9)
"""Corrected p below which a pair is decided."""
ROUNDING = 1e-9
"""Share of a difference below which another one is the same."""

Outcome = Literal["win", "loss", "inconclusive"]


@dataclass(frozen=True)
class Summary:
    """One contender's figure."""

    mean: float | None
    """None where no training gave a number."""
    low: float | None
    high: float | None
    """Of the mean's 95 % interval (Student's t over trainings); None with fewer than two."""
    between: float | None
    """Standard deviation between trainings."""
    within: float | None
    """Standard deviation between the samplings of one training, pooled; None with one sampling."""
    trainings: int
    """That gave a number."""


def summarise(values: np.ndarray) -> Summary:
    """Mean and interval of `values [S, G]`."""
    kept = trained(values)
    means = kept.mean(1)
    mean = float(means.mean()) if len(means) else float("nan")
    half = _half_width(means)
    within = float(np.sqrt(kept.var(1, ddof=1).mean())) if len(kept) and kept.shape[1] > 1 else float("nan")
    known = map(_known, (mean, mean - half, mean + half, _deviation(means), within))
    return Summary(*known, trainings=len(kept))


@dataclass(frozen=True)
class Verdict:
    """One pair of contenders in one figure."""

    first: str
    second: str
    difference: float | None
    """Mean over the shared seeds of first minus second; None where there are none."""
    low: float | None
    high: float | None
    """Of the difference's 95 % interval, not corrected for the number of pairs; None with fewer than two seeds."""
    p: float | None
    """Two-sided paired t-test; None with fewer than two seeds, or with two that differ by just the same."""
    adjusted: float | None
    """p by Holm's step-down over all pairs of the figure."""
    outcome: Outcome
    """Of `first`: "win" where it is better."""
    reason: str
    """Why it is inconclusive; empty otherwise."""


def verdicts(values: Mapping[str, np.ndarray], *, lower_is_better: bool = True) -> list[Verdict]:
    """Every pair of contenders, in the order of the mapping; all rows are of the same seeds in the same order.

    A pair is decided when its p, corrected by Holm, is below 0.05 and its gap is above the standard deviation between
    trainings of the two: a difference smaller than what a lucky seed makes is not called a win, however small p is.
    Who has no number of a training, as one that diverged, cannot win.
    """
    found = [_pair(first, second, values[first], values[second]) for first, second in combinations(values, 2)]
    adjusted = holm([verdict.p for verdict in found])
    return [
        _decide(replace(verdict, adjusted=p), values, lower_is_better)
        for verdict, p in zip(found, adjusted, strict=True)
    ]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (1979); None, a test that could not be made, stays and counts as one of them."""
    order = np.argsort([1.0 if p is None else p for p in p_values], kind="stable")
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        p = p_values[index]
        if p is not None:
            largest = max(largest, min(1.0, (len(p_values) - rank) * p))
            adjusted[index] = largest
    return adjusted


def agreement(first: Sequence[float | None], second: Sequence[float | None]) -> float | None:
    """Kendall's tau-b between two figures' values over the same contenders: 1 where they rank them alike.

    None where fewer than two contenders have both, or one figure is the same for all.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return _known(stats.kendalltau(*zip(*pairs, strict=True)).statistic) if len(pairs) > 1 else None


def written(p: float) -> str:
    """A p in two digits, in more where two would put it on the other side of `LEVEL`."""
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return next(text for text in texts if (float(text) < LEVEL) == (p < LEVEL))


def trained(values: np.ndarray) -> np.ndarray:
    """The rows of trainings that gave a number."""
    return values[np.isfinite(values).all(1)]


def _pair(first: str, second: str, a: np.ndarray, b: np.ndarray) -> Verdict:
    assert a.shape == b.shape, f"{first} and {second} were not measured alike"
    gaps = (a - b).mean(1)
    gaps = gaps[np.isfinite(gaps)]
    gap = float(gaps.mean()) if len(gaps) else float("nan")
    half = _half_width(gaps)
    known = map(_known, (gap, gap - half, gap + half, _p_value(gaps)))
    return Verdict(first, second, *known, adjusted=None, outcome="inconclusive", reason="")


def _decide(verdict: Verdict, values: Mapping[str, np.ndarray], lower_is_better: bool) -> Verdict:
    both = [values[verdict.first], values[verdict.second]]
    spread = float(np.sqrt(np.mean([_deviation(trained(each).mean(1)) ** 2 for each in both])))
    better = verdict.difference is not None and (verdict.difference < 0) == lower_is_better
    winner = both[0 if better else 1]
    if verdict.low is None:
        reason = "fewer than two pairs of trainings gave a number"
    elif verdict.adjusted is None:
        reason = "two trainings differ by just the same, which rates do by chance"
    elif verdict.adjusted >= LEVEL:
        reason = f"p = {written(verdict.adjusted)} after Holm's correction"
    elif not abs(verdict.difference) > spread:
        reason = f"the gap is below the spread between trainings ({spread:.3g})"
    elif len(trained(winner)) < len(winner):
        reason = "the one that would win has no number of a training"
    else:
        return replace(verdict, outcome="win" if better else "loss")
    return replace(verdict, reason=reason)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _p_value(gaps: np.ndarray) -> float:
    if len(gaps) < 2:
        return float("nan")
    if np.ptp(gaps) <= ROUNDING * abs(gaps).max():
        if not gaps.any():
            return 1.0
        # Rates count images, so two seeds' differences coincide easily: p = 0 would name winners among equals.
        return 0.0 if len(gaps) > 2 else float("nan")
    t = abs(gaps.mean()) / _deviation(gaps) * len(gaps) ** 0.5
    return float(2 * special.stdtr(len(gaps) - 1, -t))


def _half_width(values: np.ndarray) -> float:
    if len(values) < 2:
        return float("nan")
    quantile = special.stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)
    return float(quantile) * _deviation(values) / len(values) ** 0.5


def _deviation(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")
