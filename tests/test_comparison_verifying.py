"""What `zoo compare --verify` makes of a report's arithmetic."""

from __future__ import annotations

import dataclasses

import comparisons
import pytest

from zoo_core.comparison import verifying
from zoo_core.comparison.results import Comparison


def shifted(found: Comparison, share: float) -> Comparison:
    """The report with the first mean of its first figure off by a share."""
    first = found.figures[0]
    name, row = next(iter(first.summaries.items()))
    summaries = {**first.summaries, name: dataclasses.replace(row, mean=row.mean * (1 + share))}
    return dataclasses.replace(found, figures=[dataclasses.replace(first, summaries=summaries), *found.figures[1:]])


def faults(found: Comparison) -> list[str]:
    return list(verifying._arithmetic(found))


def test_last_digits_may_differ_and_no_more() -> None:
    found = comparisons.comparison()
    assert faults(found) == faults(shifted(found, 1e-12)) == []
    (fault,) = faults(shifted(found, 1e-6))
    assert "the summaries of fd@" in fault


@pytest.mark.parametrize(("part", "value"), [("difference", 0.0), ("p", None), ("outcome", "win")])
def test_verdicts_are_drawn_again(part: str, value: str | None) -> None:
    found = comparisons.comparison()
    first = found.figures[0]
    one = next(row for row in first.verdicts if getattr(row, part) != value)
    verdicts = [dataclasses.replace(row, **{part: value}) if row is one else row for row in first.verdicts]
    forged = dataclasses.replace(found, figures=[dataclasses.replace(first, verdicts=verdicts), *found.figures[1:]])
    assert any("the verdicts of fd@" in fault for fault in faults(forged))


def test_rank_agreement_is_computed_again() -> None:
    found = comparisons.comparison()
    forged = dataclasses.replace(found, agreement=[[1.0 for _ in row] for row in found.agreement])
    assert faults(forged) == ["the rank agreement of the figures does not follow from their means"]
