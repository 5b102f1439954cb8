"""The report as one HTML file that needs nothing else, and its verdicts as lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from zoo_core.comparison import plots, results, telling
from zoo_core.comparison.flags import ENOUGH_TO_WIN
from zoo_core.comparison.measure import lower_is_better
from zoo_core.comparison.results import Compared, Comparison, Contender
from zoo_core.comparison.sheets import neighbours, sheets
from zoo_core.comparison.statistics import Verdict
from zoo_core.files import replacing

FILE = "report.html"
COLUMNS = 7
"""Figures side by side in a table; more of them begin another, so that paper holds it."""
FEW = 3
"""Contenders whose pairs are a short list; those of more are shown as a square first."""

TRACKS = {
    "common": "common: batch, precision, augmentation and conditions are the same for all; the rest is each one’s own",
    "paper": "paper: each contender by its own recipe; only data, budget and seeds are shared",
    "swap": "swap: one component differs, everything else is the same",
}
STRUCTURE = {
    "pair_agreement": "the rate of pictures in which ears and feet, which are far apart, read as the same colour",
    "pair_excess": "pair agreement less that of tops and bottoms of different samples: what belongs together within a "
    "picture, and is not merely always the same",
    "count_agreement": "the rate of pictures with as many spots on the headband as buttons on the shirt",
    "symmetry_error": "how far the left half is from the mirrored right one: 0 is exact, about 1 is the half of "
    "another picture",
}


@dataclass(frozen=True)
class Row:
    """One pair of contenders in one figure, as it is printed."""

    first: str
    second: str
    difference: str
    interval: str
    p: str
    winner: str
    reason: str


def write(comparison: Comparison, folder: Path, file: str = FILE) -> None:
    """Write the page into `folder`, beside which the runs' folders lie. Raises UserError when the disk refuses."""
    text = render(comparison, folder, data=str(Path(file).with_suffix(".json")))
    with replacing(folder / file) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def render(comparison: Comparison, folder: Path, data: str = results.FILE) -> str:
    """The page's text; `data` is the name of the file with the numbers."""
    environment = Environment(
        loader=PackageLoader("zoo_core.comparison", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "amount": telling.amount,
        "duration": telling.duration,
        "number": telling.number,
        "probability": telling.probability,
        "said": said,
        "size": telling.size,
        "yaml": _yaml,
    }
    figures, contenders = comparison.figures, comparison.contenders
    main = telling.main_figures(comparison)
    return environment.get_template("report.html.jinja").render(
        comparison=comparison,
        contenders=contenders,
        heading=f"{telling.listed([each.name for each in contenders], 8)}, compared",
        titles=telling.titles(figures),
        headlines=telling.headlines(comparison),
        enough_to_win=ENOUGH_TO_WIN,
        planned=comparison.protocol == results.PROTOCOL,
        track=TRACKS.get(comparison.track),
        tables=[figures[start : start + COLUMNS] for start in range(0, len(figures), COLUMNS)],
        main=main,
        glance=list({telling.kind(figure.name): figure for figure in reversed(main)}.values())[::-1],
        others=[figure for figure in figures if figure not in main],
        rows=rows,
        square=square,
        few=FEW,
        cell=cell,
        lacking=telling.lacking,
        seconds=seconds,
        decimals=telling.decimals,
        direction=telling.direction,
        spoilt=list(dict.fromkeys(name for figure in figures for name in figure.sanity)),
        marks=[Markup(plots.mark(index)) for index in range(len(contenders))],
        **_plots(comparison),
        structure=[(figure, STRUCTURE[telling.kind(figure.name)]) for figure in figures if _explained(figure)],
        sheets=sheets(contenders, folder),
        neighbours=neighbours(contenders, folder),
        measured_memory=any(contender.cost.peak_memory for contender in contenders),
        data_file=data,
    )


def summary(comparison: Comparison) -> list[str]:
    """Lines for the terminal: the headlines, and the verdicts of the main figures."""
    lines = []
    for told in telling.headlines(comparison):
        lines.append(f"{told.title}: {told.answer}. {told.details}")
    named = telling.titles(comparison.figures)
    for figure in telling.main_figures(comparison):
        if not figure.verdicts:
            continue
        lines += ["", f"{named[figure.name]} ({telling.direction(figure)}), {figure.name}"]
        table = [("pair", "difference", "95 % interval", "p (Holm)", "verdict")]
        table += [
            (f"{row.first} – {row.second}", row.difference, row.interval, row.p, _said(row)) for row in rows(figure)
        ]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            padded = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
            lines.append("  " + "  ".join(padded).rstrip())
    if comparison.flags:
        lines += ["", *(f"note: {flag}" for flag in comparison.flags)]
    return lines


def rows(figure: Compared) -> list[Row]:
    """A figure's verdicts, rounded."""
    return [_row(figure, verdict) for verdict in figure.verdicts]


def square(figure: Compared) -> dict[tuple[str, str], Row]:
    """The same from both sides of each pair, by the contender that is spoken of and the one that it is set against."""
    both = [side for verdict in figure.verdicts for side in (verdict, telling.turned(verdict))]
    return {(verdict.first, verdict.second): _row(figure, verdict) for verdict in both}


def cell(figure: Compared, contender: str) -> tuple[str, str]:
    """Mean and interval of a contender, rounded."""
    summary_, places = figure.summaries[contender], telling.decimals(figure)
    return telling.number(summary_.mean, places), telling.interval(summary_.low, summary_.high, places)


def seconds(contender: Contender) -> float:
    """Mean time of the trainings that did not diverge; 0 where all did."""
    ended = [run.seconds for run in contender.runs if run.state != "diverged"]
    return sum(ended) / len(ended) if ended else 0.0


def said(value: Any) -> str:
    """A value of the manifest as a line of text."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key} ({said(item)})" if isinstance(item, Mapping) else f"{key} {said(item)}"
            for key, item in value.items()
        )
    if isinstance(value, (list, tuple)):
        return " ".join(map(said, value)) or telling.NONE
    return telling.NONE if value in (None, "") else str(value)


def _row(figure: Compared, verdict: Verdict) -> Row:
    places = telling.decimals(figure)
    return Row(
        verdict.first,
        verdict.second,
        telling.number(verdict.difference, places),
        telling.interval(verdict.low, verdict.high, places) or telling.NONE,
        telling.probability(verdict.adjusted),
        telling.winner(verdict),
        verdict.reason,
    )


def _said(row: Row) -> str:
    return f"{row.winner} wins" if row.winner else f"inconclusive: {row.reason}"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(_numbered(value), sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)


def _numbered(value: Any) -> Any:
    """Mappings by numbers (channels by resolution) as a recipe has them; JSON has made texts of the numbers."""
    if isinstance(value, Mapping):
        return {int(key) if str(key).isdecimal() else key: _numbered(item) for key, item in value.items()}
    return list(map(_numbered, value)) if isinstance(value, (list, tuple)) else value


def _explained(figure: Compared) -> bool:
    return telling.is_structure(figure.name) and telling.kind(figure.name) in STRUCTURE


def _plots(comparison: Comparison) -> dict[str, Any]:
    """Every plot of the page."""
    figures, contenders = comparison.figures, comparison.contenders
    named, main = telling.titles(figures), telling.main_figures(comparison)
    drawn = {figure.name: Markup(plots.dots(figure, contenders, named[figure.name])) for figure in figures}
    fast = any(contender.cost.images_per_second > 0 for contender in contenders)
    return {
        "dots": [drawn[figure.name] for figure in figures if not _explained(figure)],
        "structure_dots": [drawn[figure.name] for figure in figures if _explained(figure)],
        "curves": [
            [
                Markup(plots.curve(name, along, contenders, title, telling.BETTER[lower_is_better(name)]))
                for along in _measured_axes(comparison)
            ]
            for name, title in _curved(comparison).items()
        ],
        "pareto": [Markup(plots.pareto(figure, contenders, named[figure.name])) for figure in main if fast],
    }


def _measured_axes(comparison: Comparison) -> list[str]:
    """What curves may run along: FLOPs and time only where they were counted."""
    points = [point for each in comparison.contenders for run in each.runs for point in run.curve]
    return [along for along, (_, place) in plots.AXES.items() if any(map(place, points))]


def _curved(comparison: Comparison) -> dict[str, str]:
    """Figures that were measured on the way and are about what the main ones are about, with their titles."""
    labels = {telling.kind(figure.name): figure.label for figure in comparison.figures}
    wanted = {telling.kind(figure.name) for figure in telling.main_figures(comparison)}
    names = dict.fromkeys(
        name
        for contender in comparison.contenders
        for run in contender.runs
        if len(run.curve) > 1  # the end alone is no curve
        for point in run.curve
        for name, value in point.values.items()
        if value is not None
    )
    if "pair_excess" in wanted and not any(telling.kind(name) == "pair_excess" for name in names):
        wanted.add("pair_agreement")
    return {
        name: labels.get(telling.kind(name), telling.kind(name)) + _size(name, comparison.num)
        for name in names
        if telling.kind(name) in wanted
    }


def _size(figure: str, usual: int) -> str:
    """N, where it is not that of the reported figures: a smaller N gives another number."""
    num = telling.num_of(figure)
    return f" (N = {num:,})" if num not in (None, usual) else ""
