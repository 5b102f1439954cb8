"""Plots as SVG for inside the page. Their colours are the page's variables, so that they follow light and dark."""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from zoo_core.comparison.results import Compared, Contender, CurvePoint
from zoo_core.comparison.telling import BOUNDED, decimals, direction, kind, lacking, number

COLOURS = 7
"""The page's variables --series-0 to --series-6."""
WIDTH = 360
"""Of a panel, in the page's pixels: it stands alone on a phone and three in a row on a desk."""

INK, RULE = "#00aa01", "#00aa02"
_SERIES = [f"#00bb0{number}" for number in range(COLOURS)]
_THEME = {INK: "currentColor", RULE: "var(--rule)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES)
}
"""Colours that matplotlib writes, and what the page puts in their place."""
Place = tuple[float, float]
_ROUND = [(math.cos(turn * math.tau / 24), math.sin(turn * math.tau / 24)) for turn in range(24)]
SHAPES = (
    _ROUND,
    [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    [(-1, -0.8), (1, -0.8), (0, 1)],
    [(0, -1.15), (1.15, 0), (0, 1.15), (-1.15, 0)],
    [(-1, 0.8), (1, 0.8), (0, -1)],
    [(-1, -0.35), (-0.35, -0.35), (-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35)]
    + [(1, 0.35), (0.35, 0.35), (0.35, 1), (-0.35, 1), (-0.35, 0.35), (-1, 0.35)],
)
"""Outlines of markers: contenders differ in shape too, not in colour alone."""
AXES: dict[str, tuple[str, Callable[[CurvePoint], float]]] = {
    "images": ("real images seen", lambda point: point.images),
    "flops": ("training FLOPs", lambda point: point.flops),
    "seconds": ("hours of training", lambda point: point.seconds / 3600),
}
"""What a curve may run along."""
SPOTS = ((8, 0), (-8, 0), (8, 9), (-8, 9), (8, -9), (-8, -9), (0, 18), (0, -18))
"""Where a name may stand beside its mark, in points right of and above it: the first that is free."""

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.solid_capstyle": "round",
}


def mark(index: int) -> str:
    """A contender's marker for a legend, as SVG."""
    colour, shape = _look(index)
    points = " ".join(f"{x:.2f},{-y:.2f}" for x, y in SHAPES[shape])
    return (
        '<svg class="mark" viewBox="-1.3 -1.3 2.6 2.6" aria-hidden="true">'
        f'<polygon points="{points}" fill="var(--series-{colour})"/></svg>'
    )


def dots(figure: Compared, contenders: Sequence[Contender], title: str) -> str:
    """Every number of a figure, a line for each training, over the mean and its interval."""

    def draw(axes: Axes) -> None:
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.yaxis.set_major_locator(NullLocator())
        shown: list[float] = []
        for index, contender in enumerate(contenders):
            shown += _row(axes, figure, contender, index)
        axes.set_ylim(len(contenders) - 0.45, -0.75)
        logarithmic = _scale(axes, "x", shown, figure.name)
        real = ""
        if figure.floor is not None and _near(figure.floor, shown, logarithmic):
            for index in range(len(contenders)):  # not through the names
                axes.plot(
                    [figure.floor] * 2, [index - 0.14, index + 0.42], color=INK, linewidth=1.2, linestyle=(0, (2, 2))
                )
            real = "; dashed: real images"
        elif figure.floor is not None:
            real = f"; real images, at {number(figure.floor, decimals(figure))}, are off the scale"
        axes.set_xlabel(f"{direction(figure)}{real}")
        axes.set_title(_short(title, 48))

    return _panel(f"{title} of every training and set of samples, {direction(figure)}", draw, 78 + 40 * len(contenders))


def _row(axes: Axes, figure: Compared, contender: Contender, index: int) -> list[float]:
    """One contender's numbers below its name; returns them."""
    summary = figure.summaries[contender.name]
    beside = axes.get_yaxis_transform()
    said = lacking(figure, contender)
    room = max(12, 55 - len(said)) if said else 40
    axes.text(0, index - 0.34, _short(contender.name, room), transform=beside, va="center")
    if said:
        axes.text(1, index - 0.34, said, transform=beside, va="center", ha="right", style="italic")
    shown: list[float] = []
    if summary.low is not None and summary.high is not None:
        axes.plot([summary.low, summary.high], [index + 0.12] * 2, color=INK, alpha=0.22, linewidth=7)
        shown += [summary.low, summary.high]
    if summary.mean is not None:
        axes.plot([summary.mean] * 2, [index - 0.1, index + 0.34], color=INK, linewidth=1.6)
        shown.append(summary.mean)
    step = 0.32 / max(1, len(contender.runs) - 1)
    for order, run in enumerate(contender.runs):
        values = [value for value in run.values.get(figure.name, []) if value is not None]
        height = index + (0.12 if len(contender.runs) == 1 else -0.04 + step * order)
        axes.plot(
            values, [height] * len(values), linestyle="none", zorder=3, alpha=0.85, **_marker(contender, index, 5)
        )
        shown += values
    return shown


def curve(name: str, along: str, contenders: Sequence[Contender], title: str, better: str) -> str:
    """A figure on the way: each training thin, their mean thick; `better` says which way is."""
    label, place = AXES[along]
    if (
        along == "seconds"
        and max(run.curve[-1].seconds for each in contenders for run in each.runs if run.curve) < 7200
    ):
        label, place = "minutes of training", lambda point: point.seconds / 60

    def draw(axes: Axes) -> None:
        shown: list[float] = []
        for index, contender in enumerate(contenders):
            colour = _SERIES[_look(index)[0]]
            lines = [[point for point in run.curve if point.values.get(name) is not None] for run in contender.runs]
            for points, run in zip(lines, contender.runs, strict=True):
                values = [point.values[name] for point in points]
                axes.plot(list(map(place, points)), values, color=colour, linewidth=0.9, alpha=0.5)
                if run.state == "diverged" and points:
                    axes.plot(place(points[-1]), values[-1], marker="x", color=colour, markersize=7)
                shown += values
            means = _means([points for points, run in zip(lines, contender.runs, strict=True) if _ended(run.state)])
            places = [sum(map(place, points)) / len(points) for points in means]
            values = [sum(point.values[name] for point in points) / len(points) for points in means]
            axes.plot(places, values, linewidth=2.2, zorder=3, color=colour)
            axes.plot(places[-1:], values[-1:], zorder=4, **_marker(contender, index, 7))
        axes.xaxis.set_major_formatter(_plainly if along == "seconds" else EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        logarithmic = _scale(axes, "y", shown, name)
        axes.set_xlabel(label)
        axes.set_ylabel(better)
        axes.set_title(f"{_short(title, 36)}{', log scale' if logarithmic else ''}")

    return _panel(f"{title} against {label}, {better}", draw, 250)


def pareto(figure: Compared, contenders: Sequence[Contender], title: str) -> str:
    """Quality against throughput; the line joins those that nobody beats in both."""
    sign = -1 if figure.lower_is_better else 1

    def draw(axes: Axes) -> None:
        marks: dict[str, Place] = {}
        bars, shown = [], []
        for index, contender in enumerate(contenders):
            summary, rate = figure.summaries[contender.name], contender.cost.images_per_second
            if summary.mean is None or rate <= 0:
                continue
            if summary.low is not None and summary.high is not None:
                axes.plot([rate] * 2, [summary.low, summary.high], color=_SERIES[_look(index)[0]], linewidth=1.4)
                shown += [summary.low, summary.high]
                bars.append([(rate, summary.low), (rate, summary.high)])
            axes.plot(rate, summary.mean, zorder=3, **_marker(contender, index, 9))
            marks[contender.name] = (rate, summary.mean)
            shown.append(summary.mean)
        placed = sorted(marks.values())
        front = [
            (rate, mean)
            for rate, mean in placed
            if not any(a >= rate and sign * b >= sign * mean and (a, b) != (rate, mean) for a, b in placed)
        ]
        axes.plot(
            [rate for rate, _ in front], [mean for _, mean in front], color=INK, linewidth=1, linestyle=(0, (4, 3))
        )
        axes.margins(0.12)  # room for names
        if not _scale(axes, "x", [rate for rate, _ in placed], "images per second"):
            axes.set_xlim(left=0)  # a gap looks as wide as it is
        logarithmic = _scale(axes, "y", shown, figure.name)
        axes.set_xlabel("images sampled per second")
        axes.set_ylabel(direction(figure))
        axes.set_title(f"{_short(title, 36)}{', log scale' if logarithmic else ''}")
        _name(axes, marks, [*bars, *pairwise(front)])

    return _panel(f"{title} against sampling throughput, {direction(figure)}", draw, 270)


def _name(axes: Axes, marks: Mapping[str, Place], lines: Sequence[Sequence[Place]]) -> None:
    """Each name beside its mark, clear of marks, lines and other names; the legend alone has it where no spot is."""
    axes.figure.draw_without_rendering()  # lays it out: from here on places stay
    drawn = axes.transData.transform
    taken = [_around(drawn(place), 6) for place in marks.values()]
    taken += [_around(dot, 1) for line in lines for dot in np.linspace(*drawn(line), 80)]
    for name, place in marks.items():
        for spot in SPOTS:
            side = {8: "left", -8: "right"}.get(spot[0], "center")
            text = axes.annotate(_short(name, 24), place, spot, textcoords="offset points", ha=side, va="center")
            text.set_in_layout(False)
            box = text.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            if inside and not box.padded(-1).count_overlaps(taken):
                taken.append(box)
                break
            text.remove()


def _around(place: Place, radius: float) -> Bbox:
    return Bbox.from_bounds(place[0] - radius, place[1] - radius, 2 * radius, 2 * radius)


def _means(lines: Sequence[Sequence[CurvePoint]]) -> list[list[CurvePoint]]:
    """The points of all trainings at the images where every one has a point."""
    by_images = [{point.images: point for point in points} for points in lines]
    shared = sorted(set.intersection(*map(set, by_images))) if by_images else []
    return [[points[images] for points in by_images] for images in shared]


def _ended(state: str) -> bool:
    return state != "diverged"


def _look(index: int) -> tuple[int, int]:
    """Colour and shape of a contender; 42 differ."""
    return index % COLOURS, (index + index // COLOURS) % len(SHAPES)


def _marker(contender: Contender, index: int, size: float) -> dict[str, object]:
    colour, shape = _look(index)
    outline = Outline([*SHAPES[shape], SHAPES[shape][0]], closed=True)
    return {"marker": outline, "color": _SERIES[colour], "markersize": size, "markeredgewidth": 0}


def _near(floor: float, values: Sequence[float], logarithmic: bool) -> bool:
    """Whether a floor can be shown without squeezing all else into less than two fifths of the plot."""
    if logarithmic:
        floor, values = math.log(max(floor, 1e-300)), [math.log(value) for value in values]
    return not values or max(*values, floor) - min(*values, floor) <= 2.5 * (max(values) - min(values))


def _scale(axes: Axes, which: str, values: Sequence[float], name: str) -> bool:
    """Choose an axis' scale: logarithmic, which is returned, where what has no upper end spans a factor of 10."""
    axis = getattr(axes, f"{which}axis")
    endless = kind(name) not in BOUNDED
    logarithmic = endless and bool(values) and min(values) > 0 and max(values) / min(values) > 10
    if logarithmic:
        getattr(axes, f"set_{which}scale")("log")
        wide = max(values) / min(values) > 300
        axis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 3)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(_plainly)
    return logarithmic


def _plainly(value: float, _: int) -> str:
    return f"{value:.6g}".replace("-", "−")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _panel(about: str, draw: Callable[[Axes], None], height: int) -> str:
    """One plot as an `svg` element that scales with the page."""
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has its own fonts
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        draw(axes)
        file = io.StringIO()
        with rc_context({"svg.hashsalt": about}):
            FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return _inline(file.getvalue(), about)


def _inline(svg: str, about: str) -> str:
    """matplotlib's file as an element of a page: no prologue, no metadata, colours by name, ids used by this plot only.

    Of ids only those that something points to are kept; they are hashes salted with what the plot shows.
    """
    body = re.search(r"<svg.*?>(.*)</svg>", svg, re.DOTALL)[1]
    view = re.search(r'viewBox="[^"]*"', svg)[0]
    for block in ("metadata", "style"):
        body = re.sub(rf"<{block}.*?</{block}>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    body = re.sub(r"((?:fill|stroke): )(#00[ab]b?[0-9a-f]{2,3})", lambda found: found[1] + _theme(found[2]), body)
    return f'<svg class="plot" {view} role="img" aria-label="{html.escape(about)}">{body}</svg>'


def _theme(colour: str) -> str:
    return _THEME.get(colour, colour)
