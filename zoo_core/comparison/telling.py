"""Figures and verdicts in words and rounded numbers, for the page and for the terminal."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from zoo_core.comparison.results import Compared, Comparison, Contender
from zoo_core.comparison.statistics import Verdict, written

MAIN = ("fid", "fd", "pair_excess", "symmetry_error")
"""What a headline is about: one figure of the whole distribution, and distant parts that belong together."""
LONGEST_LIST = 4
BETTER = {True: "lower is better", False: "higher is better"}
NONE = "–"
BOUNDED = ("precision", "recall", "symmetry_error", "pair_agreement", "pair_excess", "count_agreement")
"""Rates and the like: three places say all of them, and a logarithmic axis nothing."""

LACKING = {"diverged": "diverged", "short": "short", "done": "without a number"}
"""What is said of a training that gave no number of a figure, by its state."""

_SIZE = re.compile(r":N=([1-9]\d{0,8})\b")
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Headline:
    """The answer of one figure."""

    title: str
    answer: str
    """Who wins, or that it is inconclusive."""
    details: str


# --- which figures, and what they are called ---


def kind(figure: str) -> str:
    """`fd@random-conv-v1:32px:N=2000:train` -> `fd`."""
    return figure.partition("@")[0]


def num_of(figure: str) -> int | None:
    """`fd@random-conv-v1:32px:N=2000:train` -> 2000; None where the name does not say."""
    found = _SIZE.search(figure)
    return int(found[1]) if found else None


def is_structure(figure: str) -> bool:
    """Whether a figure is read from the drawings' pixels."""
    return "@drawn:" in figure


def main_figures(comparison: Comparison) -> list[Compared]:
    """Those of the headline; the first where none is known."""
    found = [figure for figure in comparison.figures if kind(figure.name) in MAIN]
    return found or comparison.figures[:1]


def titles(figures: Sequence[Compared]) -> dict[str, str]:
    """Short names by full ones, no two alike: FD, or FD (random-conv-v1) where another FD is there."""
    labels = Counter(figure.label for figure in figures)
    longer = {
        figure.name: f"{figure.label} ({figure.name.partition('@')[2].partition(':')[0]})"
        if labels[figure.label] > 1
        else figure.label
        for figure in figures
    }
    repeated = Counter(longer.values())
    return {name: label if repeated[label] == 1 else name for name, label in longer.items()}


def direction(figure: Compared) -> str:
    """Which way is better."""
    return BETTER[figure.lower_is_better]


def lacking(figure: Compared, contender: Contender) -> str:
    """How many of a contender's trainings gave no number, and why: `1 of 3 diverged`; empty where all did."""
    silent = Counter(LACKING[run.state] for run in contender.runs if None in run.values.get(figure.name, [None]))
    return ", ".join(f"{number} of {len(contender.runs)} {why}" for why, number in silent.items())


# --- numbers ---


def decimals(figure: Compared) -> int:
    """Places after the point, the same in the whole column: three digits of the smallest mean, four of the largest.

    Rates have three at most.
    """
    sizes = [abs(row.mean) for row in figure.summaries.values() if row.mean]
    if not sizes:
        return 3
    least, most = (math.floor(math.log10(size)) for size in (min(sizes), max(sizes)))
    places = max(0, min(2 - least, 3 - most))
    return min(places, 3) if kind(figure.name) in BOUNDED else places


def number(value: float | None, places: int) -> str:
    """Rounded, with a true minus sign; a dash for None."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{round(value, places) + 0.0:,.{places}f}" if abs(value) < 1e9 else f"{value:.3g}"  # + 0.0: no "-0.0"
    return text.replace("-", "−")


def interval(low: float | None, high: float | None, places: int) -> str:
    """`[1.2, 3.4]`; empty where there is none."""
    return "" if low is None or high is None else f"[{number(low, places)}, {number(high, places)}]"


def amount(value: float | None) -> str:
    """Three digits with a prefix, `12.3 G`; a dash for 0 too, which stands for what was not measured."""
    return NONE if not value or not math.isfinite(value) else _scaled(value, 1000, _PREFIXES).rstrip()


def size(value: int) -> str:
    """Bytes, three digits; a dash for 0."""
    return NONE if not value else _scaled(value, 1024, _BINARY)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds <= 0:
        return NONE
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def probability(p: float | None) -> str:
    """Two digits or as many as it takes, never 0."""
    return NONE if p is None else "< 0.001" if p < 0.001 else written(p)


def _scaled(value: float, step: int, units: Sequence[str]) -> str:
    power = 0
    while abs(value) >= step * 0.9995 and power < len(units) - 1:
        value, power = value / step, power + 1
    return f"{value:.3g} {units[power]}"


# --- verdicts ---


def winner(verdict: Verdict) -> str:
    """The name of the one that is better; empty where it is inconclusive."""
    return {"win": verdict.first, "loss": verdict.second}.get(verdict.outcome, "")


def turned(verdict: Verdict) -> Verdict:
    """The same pair, seen from the other one."""
    difference, high, low = (None if x is None else -x for x in (verdict.difference, verdict.low, verdict.high))
    outcome = {"win": "loss", "loss": "win"}.get(verdict.outcome, verdict.outcome)
    sides = {"first": verdict.second, "second": verdict.first}
    return replace(verdict, **sides, difference=difference, low=low, high=high, outcome=outcome)


def headlines(comparison: Comparison) -> list[Headline]:
    """One for each main figure."""
    named = titles(comparison.figures)
    return [_headline(figure, named[figure.name]) for figure in main_figures(comparison)]


def _headline(figure: Compared, title: str) -> Headline:
    known = {name: row.mean for name, row in figure.summaries.items() if row.mean is not None}
    if not known:
        return Headline(title, "nothing could be measured", "No training gave a number.")
    if len(figure.summaries) == 1:
        return Headline(title, "one contender", f"{_mean(figure, next(iter(known)))}; nobody to compare it with.")
    answer, details = _answer(figure, known)
    silent = [name for name in figure.summaries if name not in known]
    if silent:
        details += f" No training of {listed(silent)} gave this figure."
    return Headline(title, answer, details)


def _answer(figure: Compared, known: dict[str, float]) -> tuple[str, str]:
    """Who wins among those that have the figure, and the rest of it."""
    beaten = {name: [other for other in known if _beats(figure, name, other)] for name in known}
    alone = [name for name, others in beaten.items() if others and len(others) == len(known) - 1]
    if alone:
        return f"{alone[0]} wins", _won(figure, alone[0], known)
    if not any(beaten.values()):
        return "inconclusive", _undecided(figure)
    losers = {other for others in beaten.values() for other in others}
    return "inconclusive at the top", _level(figure, [name for name in known if name not in losers])


def _won(figure: Compared, name: str, known: dict[str, float]) -> str:
    others = {other: mean for other, mean in known.items() if other != name}
    following = (min if figure.lower_is_better else max)(others, key=others.__getitem__)
    word = "lower" if figure.lower_is_better else "higher"
    verdict = _pair(figure, name, following)
    places = decimals(figure)
    low, high = sorted(abs(bound) for bound in (verdict.low, verdict.high))
    return (
        f"{number(known[name], places)} against {number(known[following], places)} of {following}, the next: {word} by "
        f"{number(abs(verdict.difference), places)} (95 % interval {number(low, places)} to {number(high, places)}, "
        f"p {_equals(verdict.adjusted)} after Holm’s correction)."
    )


def _undecided(figure: Compared) -> str:
    gaps = [verdict for verdict in figure.verdicts if verdict.difference is not None]
    if not gaps:
        return "No two contenders have numbers of the same training seed."
    widest = max(gaps, key=lambda verdict: abs(verdict.difference))
    if len(figure.verdicts) == 1:
        return f"The two cannot be told apart: {_gap(figure, widest)}; {widest.reason}."
    return f"No pair can be told apart. At the widest gap, {_gap(figure, widest)}; {widest.reason}."


def _gap(figure: Compared, verdict: Verdict) -> str:
    places = decimals(figure)
    bounds = interval(verdict.low, verdict.high, places)
    said = f"{verdict.first} minus {verdict.second} is {number(verdict.difference, places)}"
    return f"{said}, 95 % interval {bounds}" if bounds else said


def _level(figure: Compared, unbeaten: Sequence[str]) -> str:
    """Who shares the top where some pairs are decided, and how far apart they may be."""
    decided = sum(bool(winner(verdict)) for verdict in figure.verdicts)
    lose = "lose" if len(unbeaten) > 1 else "loses"
    told = f"{decided} of {len(figure.verdicts)} pairs are told apart; {listed(unbeaten)} {lose} to nobody"
    gaps = [
        verdict
        for verdict in figure.verdicts
        if {verdict.first, verdict.second} <= set(unbeaten) and verdict.difference is not None
    ]
    if not gaps:
        return f"{told}, and nobody beats all others."
    widest = max(gaps, key=lambda verdict: abs(verdict.difference))
    where = "Between these" if len(unbeaten) == 2 else "At the widest gap among these"
    return f"{told}. {where}, {_gap(figure, widest)}; {widest.reason}."


def _mean(figure: Compared, name: str) -> str:
    row, places = figure.summaries[name], decimals(figure)
    bounds = interval(row.low, row.high, places)
    return f"{name} has a mean of {number(row.mean, places)}" + (f", 95 % interval {bounds}" if bounds else "")


def listed(names: Sequence[str], most: int = LONGEST_LIST) -> str:
    """`a, b and c`; what is beyond `most` is counted."""
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{len(names) - most} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _pair(figure: Compared, one: str, other: str) -> Verdict:
    return next(verdict for verdict in figure.verdicts if {verdict.first, verdict.second} == {one, other})


def _beats(figure: Compared, one: str, other: str) -> bool:
    return any(
        {verdict.first, verdict.second} == {one, other} and winner(verdict) == one for verdict in figure.verdicts
    )


def _equals(p: float | None) -> str:
    said = probability(p)
    return said if said.startswith("<") else f"= {said}"
