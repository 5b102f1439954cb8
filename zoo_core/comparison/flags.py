"""What a reader must know before trusting a row."""

from __future__ import annotations

from collections.abc import Sequence

from zoo_core.comparison.assemble import figure_names, label
from zoo_core.comparison.results import Budget, Compared, Contender
from zoo_core.comparison.statistics import CONFIDENCE
from zoo_core.comparison.telling import is_structure, listed
from zoo_core.extractors import INCEPTION
from zoo_core.random_conv import RANDOM_CONV

ENOUGH = 3
"""Training seeds that the protocol asks for at least."""
ENOUGH_TO_WIN = 5
"""Training seeds from which the protocol calls a win more than a hint."""
OFF_TIME = 0.1
"""Part of a budget of time that trainings may be off without a word."""
OFF_COUNT = 0.01
"""Part of a budget of images or FLOPs that may be left over, as only whole batches count."""
MOST = 20
"""Names in a row."""
LEARNT_FROM = {INCEPTION: "ImageNet"}
"""By extractor: what it was trained on. random-conv was not trained."""


def flags_for(
    contenders: Sequence[Contender],
    figures: Sequence[Compared],
    remarks: Sequence[str],
    seeds: int,
    budget: Budget | None = None,
) -> list[str]:
    """What a reader must know before trusting a row; `seeds` are the trainings of each, the fewest where that
    differs; `budget` is None where runs followed none together."""
    found = [*remarks, *_few_seeds(seeds), *_many_figures(figures)]
    for contender in contenders:
        for run in contender.runs:
            if run.state != "done":
                found.append(f"{contender.name}, seed {run.seed}, {run.state}: {run.note}.")
        found += _off_budget(contender, budget) if budget else []
        found += [_pretrained(contender.name, network, figures) for network in contender.pretrained]
    found += _unread(figure_names(contenders)[1])
    notes: dict[str, list[str]] = {}
    for figure in figures:
        notes.setdefault(figure.note, []).append(figure.label)
    return found + [f"{listed(labels, MOST)}: {note}." for note, labels in notes.items() if note]


def _few_seeds(seeds: int) -> list[str]:
    if seeds < ENOUGH:
        return [f"With fewer than {ENOUGH} training seeds ({seeds}) nobody knows how much retraining moves a figure."]
    if seeds < ENOUGH_TO_WIN:
        return [f"With {seeds} training seeds a win is a hint; the protocol asks for {ENOUGH_TO_WIN} to claim one."]
    return []


def _unread(names: Sequence[str]) -> list[str]:
    """Figures that no training has a number of."""
    shown = [label(name) for name in names if is_structure(name)]
    others = [label(name) for name in names if not is_structure(name)]
    said = [f"No training has a number of {listed(shown, MOST)}: such images do not show it."] if shown else []
    return said + ([f"No training has a number of {listed(others, MOST)}."] if others else [])


def _many_figures(figures: Sequence[Compared]) -> list[str]:
    """Holm's family is one figure's pairs; whoever looks through all figures for a win must know."""
    if len(figures) < 2 or all(row.outcome == "inconclusive" for figure in figures for row in figure.verdicts):
        return []
    chance = min(100.0, 100 * (1 - CONFIDENCE) * len(figures))  # Bonferroni's bound, as figures go together
    return [
        f"p is corrected over the pairs of one figure, not over the {len(figures)} figures: where all contenders are "
        f"alike, one figure or another names a winner in up to {chance:.0f} % of comparisons. Trust most the one that "
        "you chose beforehand."
    ]


def _off_budget(contender: Contender, budget: Budget) -> list[str]:
    """Where the trainings took another amount than was asked for."""
    if budget.kind != "seconds":
        spent = contender.images * (contender.cost.training_flops if budget.kind == "flops" else 1)
        left = 1 - spent / budget.amount
        said = f"{contender.name} leaves {100 * left:.0f} % of {budget} unspent: only whole batches are trained."
        return [said] if spent and left > OFF_COUNT else []
    off = []
    for run in contender.runs:
        more = run.seconds / budget.amount - 1
        if run.state == "done" and run.seconds and abs(more) > OFF_TIME:  # 0: the journal is lost
            off.append(f"{100 * abs(more):.0f} % {'longer' if more > 0 else 'shorter'} (seed {run.seed})")
    return [f"{contender.name} trained {listed(off, MOST)} than {budget}."] if off else []


def _pretrained(name: str, network: str, figures: Sequence[Compared]) -> str:
    """What a network of the loss has to do with those of the metrics."""
    labels: dict[str, list[str]] = {}
    for figure in figures:
        labels.setdefault(figure.name.partition("@")[2].partition(":")[0], []).append(figure.label)
    said = [f"{name} was trained through {network}, which has learnt from other images"]
    for extractor, through in labels.items():
        what, data = f"{extractor}, which sees for {listed(through, MOST)},", LEARNT_FROM.get(extractor)
        if extractor in network:
            said.append(f"{what} is that very network, and no fair judge of it")
        elif data and data in network:
            said.append(f"{what} is another network of {data}, and may favour it")
        elif data:
            said.append(f"{what} was trained on {data}, and nobody here knows what the two share")
        elif extractor == RANDOM_CONV:
            said.append(f"{what} was never trained, so the two share nothing")
    return "; ".join(said) + "."
