"""What the verdicts promise, on simulated trainings: no win where there is none, and one where there is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from zoo_core.comparison.statistics import agreement, holm, summarise, verdicts


def simulate(seed: int, means: dict[str, float], noise: float, trainings: int = 3, samplings: int = 3):
    """Trainings spread by `noise` (a share), a part of it shared by contenders of one seed; samplings by a third."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(trainings, 1)) * noise / 2
    return {
        name: mean
        * (
            1
            + shared
            + rng.normal(size=(trainings, 1)) * noise * math.sqrt(3) / 2
            + rng.normal(size=(trainings, samplings)) * noise / 3
        )
        for name, mean in means.items()
    }


@pytest.mark.parametrize("trainings", [3, 5])
@pytest.mark.parametrize("names", ["ab", "abcde"])
def test_identical_contenders_are_inconclusive_in_95_of_100_comparisons(trainings: int, names: str) -> None:
    """Over 1,000, so that the count says something of the rate; a comparison of five has ten chances to be wrong."""
    wrong = 0
    for seed in range(1000):
        values = simulate(seed, dict.fromkeys(names, 10.0), 0.05, trainings)
        wrong += any(verdict.outcome != "inconclusive" for verdict in verdicts(values))
    assert wrong <= 50


@pytest.mark.parametrize("trainings", [3, 5])
def test_a_gap_of_a_tenth_with_one_percent_noise_is_a_win(trainings: int) -> None:
    found = [verdicts(simulate(seed, {"good": 9.0, "bad": 10.0}, 0.01, trainings))[0].outcome for seed in range(100)]
    assert found.count("win") >= 95
    assert "loss" not in found


def test_the_winner_is_the_smaller_or_the_larger_as_the_figure_wants() -> None:
    values = simulate(0, {"low": 1.0, "high": 2.0}, 0.01, 5)
    assert verdicts(values)[0].outcome == "win"
    assert verdicts(values, lower_is_better=False)[0].outcome == "loss"


def test_pairing_removes_what_a_seed_does_to_both() -> None:
    seeds = np.array([[1.0], [2.0], [3.0], [4.0]])
    (verdict,) = verdicts({"a": seeds, "b": seeds + 0.1 + np.array([[0.001], [0.0], [-0.001], [0.0]])})
    assert verdict.p < 0.001
    assert verdict.outcome == "inconclusive"  # certain, and still far below what a seed does
    assert "spread" in verdict.reason


def test_a_diverged_training_counts_and_cannot_win() -> None:
    values = simulate(1, {"good": 5.0, "bad": 10.0}, 0.01, 5)
    assert verdicts(values)[0].outcome == "win"
    values["good"][2] = np.nan
    assert summarise(values["good"]).trainings == 4
    (verdict,) = verdicts(values)
    assert verdict.outcome == "inconclusive"
    assert "has no number of a training" in verdict.reason
    values = simulate(1, {"good": 5.0, "bad": 10.0}, 0.01, 5)
    values["bad"][0] = np.nan
    assert verdicts(values)[0].outcome == "win"


def test_one_training_says_nothing() -> None:
    values = simulate(0, {"a": 1.0, "b": 9.0}, 0.01, 1)
    (verdict,) = verdicts(values)
    assert verdict.outcome == "inconclusive"
    assert summarise(values["a"]).low is None


def test_the_interval_covers_the_truth_in_95_of_100() -> None:
    covered = 0
    for seed in range(1000):
        found = summarise(simulate(seed, {"a": 10.0}, 0.05, 4)["a"])
        covered += found.low <= 10.0 <= found.high
    assert 925 <= covered <= 975


def test_samplings_do_not_count_as_trainings() -> None:
    """A thousand samplings of two trainings leave two degrees of freedom less one."""
    values = np.array([[1.0], [2.0]]).repeat(1000, 1)
    assert summarise(values).high - summarise(values).mean == pytest.approx(
        12.706 * math.sqrt(0.5) / math.sqrt(2), 1e-3
    )


def test_holm_is_the_step_down() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.02, None, 0.5])[0] == pytest.approx(0.06)
    assert holm([0.02, None])[1] is None


def test_agreement_is_of_ranks() -> None:
    assert agreement([1, 2, 3, 4], [10, 100, 1000, 10_000]) == pytest.approx(1)
    assert agreement([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert agreement([1, None], [1, 2]) is None
    assert agreement([1, 1], [1, 2]) is None
    assert agreement([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))  # tau-b: a tie is no disagreement


# --- held against scipy ---


@pytest.mark.parametrize("trainings", [2, 3, 5, 12])
def test_intervals_and_p_are_those_of_scipy(trainings: int) -> None:
    values = simulate(trainings, {"a": 10.0, "b": 10.3}, 0.05, trainings)
    a, b = (rows.mean(1) for rows in values.values())
    test = stats.ttest_rel(a, b)
    wanted = [(a - b).mean(), *test.confidence_interval(0.95), test.pvalue]
    (verdict,) = verdicts(values)
    assert [verdict.difference, verdict.low, verdict.high, verdict.p] == pytest.approx(wanted)
    found = summarise(values["a"])
    assert [found.low, found.high] == pytest.approx(list(stats.ttest_1samp(a, 0).confidence_interval(0.95)))
    assert found.between == pytest.approx(a.std(ddof=1))
    assert found.within == pytest.approx(math.sqrt(values["a"].var(axis=1, ddof=1).mean()))


def test_trainings_are_paired_by_place_where_either_diverged() -> None:
    values = simulate(3, {"a": 10.0, "b": 10.1, "c": 11.0}, 0.05, 6)
    whole = {name: rows.mean(1) for name, rows in values.items()}
    values["a"][1], values["b"][4, 0] = np.nan, np.nan
    kept = [0, 2, 3, 5]
    first = verdicts(values)[0]
    assert first.p == pytest.approx(stats.ttest_rel(whole["a"][kept], whole["b"][kept]).pvalue)
    assert first.difference == pytest.approx((whole["a"] - whole["b"])[kept].mean())
    assert [len(rows) - summarise(rows).trainings for rows in values.values()] == [1, 1, 0]


def test_a_verdict_says_no_more_than_its_interval_and_the_spread() -> None:
    decided = 0
    for seed in range(300):
        values = simulate(seed, {"a": 10.0, "b": 10.5, "c": 11.0}, 0.05)
        for verdict in verdicts(values):
            gap = verdict.difference
            deviations = [summarise(values[name]).between for name in (verdict.first, verdict.second)]
            if verdict.outcome != "inconclusive":
                decided += 1
                assert verdict.low * verdict.high > 0 and verdict.p <= verdict.adjusted < 0.05
                assert abs(gap) > math.hypot(*deviations) / math.sqrt(2) and not verdict.reason
                assert (gap < 0) == (verdict.outcome == "win")
            else:
                assert verdict.reason
    assert decided > 20


# --- values without noise, and without values ---


def test_rates_that_coincide_name_no_winner_among_equals() -> None:
    """Rates are of whole numbers of images, so that two seeds often differ by just the same."""
    rng = np.random.default_rng(0)
    found = [
        verdicts({name: rng.binomial(200, 0.002, size=(2, 3)) / 200 for name in "ab"})[0].outcome for _ in range(1000)
    ]
    assert 1000 - found.count("inconclusive") <= 50


@pytest.mark.parametrize(
    ("trainings", "gap", "outcome", "reason"),
    [
        (1, 1.0, "inconclusive", "fewer than two pairs of trainings"),
        (2, 1.0, "inconclusive", "by just the same"),
        (3, 1.0, "win", ""),
        (3, 0.0, "inconclusive", "p = 1 after"),
    ],
)
def test_differences_without_any_noise(trainings: int, gap: float, outcome: str, reason: str) -> None:
    row = np.full((trainings, 2), 0.1)
    (verdict,) = verdicts({"a": row, "b": row + gap})
    assert verdict.outcome == outcome and reason in verdict.reason and bool(reason) == bool(verdict.reason)


def test_whoever_diverged_always_has_neither_a_mean_nor_a_verdict() -> None:
    values = simulate(0, {"a": 1.0, "b": 9.0, "c": 20.0}, 0.01) | {"a": np.full((3, 3), np.nan)}
    found = summarise(values["a"])
    assert (found.mean, found.low, found.between, found.within) == (None,) * 4
    assert found.trainings == 0
    against_b, against_c, between = verdicts(values)
    for verdict in (against_b, against_c):
        assert verdict.outcome == "inconclusive" and verdict.difference is None and "fewer than two" in verdict.reason
    assert between.adjusted == pytest.approx(3 * between.p), "tests that could not be made count in Holm's family"
