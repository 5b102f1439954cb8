"""Runs that are there already, as a comparison: what they were measured as, and all that such a table cannot say.

Contenders are the runs of one recipe with different seeds. Nothing is trained, and no figure of a run is measured; what
the page has beside them may be. A figure is shown where every run has it, of its newest weights.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zoo_core import bench, catalog, parts, runs
from zoo_core import recipe as recipes
from zoo_core.comparison import alongside, assemble, budget, measure, unplanned
from zoo_core.comparison.alongside import Alongside, Wanted
from zoo_core.comparison.cost import Bill
from zoo_core.comparison.flags import flags_for
from zoo_core.comparison.measure import Values
from zoo_core.comparison.on_disk import Found, find_all, groups, same_data
from zoo_core.comparison.results import Compared, Comparison, Contender, Cost, Trained
from zoo_core.comparison.telling import listed, num_of
from zoo_core.errors import UserError

PROTOCOL = "existing runs"
"""In place of a protocol: these runs followed none together."""
NO_COST = Cost(0, 0, 0.0, 0.0, 0.0, 0)


Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    folders: Sequence[Path]
    page: Path
    """To be written."""
    command: str
    """That asks for it."""
    source: str = ""
    """Where the images of training are now; empty: where the runs had them."""
    count_cost: bool = True
    look: bool = True
    """Whether to measure spoilt images and look for neighbours."""


def compare(request: Request, build: bench.Build, say: Say) -> Comparison:
    """Runs as a comparison; `build` asks a recipe's plugin for its stages.

    Raises UserError for what is no run, two runs of the same training, runs on different images, a source of other
    images, and runs without a figure that all have.
    """
    beside = request.page.parent
    found = find_all(request.folders, build)
    data = same_data(found)
    if request.source:
        alongside.open_checked(found, request.source)
    grouped = groups(found)
    names, num, left_out = _common_figures(found)
    samplings = min(len(run.values[name]) for run in found if not run.state.diverged for name in names)
    shown = Shown(names, num, samplings, beside)
    contenders = []
    for name, group in grouped.items():
        if request.count_cost:
            say(f"Counting what {name} costs.")
        contenders.append(_contender(name, group, shown, build, request.count_cost))
    shared = unplanned.shared_seeds(grouped)
    seen = Alongside()
    names, _ = assemble.figure_names(contenders)
    if request.look and names:
        seen = alongside.look(Wanted(grouped, contenders, names, num, request.page, request.source), say)
        contenders = [replace(each, neighbours=seen.neighbours.get(each.name)) for each in contenders]
    figures = [_compared(name, contenders, shared, found, seen.sanity, samplings) for name in names]
    remarks = [*unplanned.remarks(grouped, names), *left_out, *seen.remarks]
    return Comparison(
        track=None,
        budget=None,
        data=data,
        num=num,
        seeds=sorted(shared),
        generation_seeds=sorted({seed for run in found for seed in _drawn(run, shown)}),
        contenders=contenders,
        figures=figures,
        agreement=assemble.agreements(figures),
        flags=flags_for(contenders, figures, remarks, min(map(len, grouped.values()))),
        manifest={"this page": runs.manifest(found[0].recipe, data, 1)}
        | {f"run {_relative(run.folder, beside)}": run.manifest for run in found},
        command=request.command,
        published=[
            row
            for plugin in dict.fromkeys(run.recipe.plugin for run in found)
            for row in assemble.published(catalog.plugin(plugin))
        ],
        protocol=PROTOCOL,
    )


# --- figures ---


def _common_figures(found: Sequence[Found]) -> tuple[list[str], int, list[str]]:
    """Figures that every run has, of one N, that N, and a sentence for each that is left out."""
    ended = [run for run in found if not run.state.diverged]
    every = list(dict.fromkeys(name for run in ended for name in run.values))
    common = [name for name in every if all(name in run.values for run in ended)]
    sizes = {name: num for name in common if (num := num_of(name))}
    if not sizes:
        raise UserError(
            f"there is no figure that all of these runs have: {_lacking(ended, every)}; "
            "measure each alike with `zoo evaluate RUN --num N --extractor NAME`."
        )
    num = max(sizes.values())
    names = [name for name in common if sizes.get(name) == num]
    left_out = [f"{name} is left out: not every run was measured so." for name in every if name not in common]
    left_out += [f"{name} is left out: the other figures are of N = {num}." for name in common if name not in names]
    counts = {len(run.values[name]) for run in ended for name in names}
    if len(counts) > 1:
        first = f"{min(counts)} of each, by their seeds, are" if min(counts) > 1 else "of each, by its seed, is"
        left_out.append(f"Not every run has as many sets of samples; the first {first} shown.")
    return names, num, left_out


def _lacking(ended: Sequence[Found], every: Sequence[str]) -> str:
    """Why no figure is common to all, and which runs are behind it."""
    if not ended:
        return "all of them diverged"
    if bare := [str(run.folder) for run in ended if not run.values]:
        return f"{listed(bare)} {'have' if len(bare) > 1 else 'has'} none of their newest weights"
    usual = max(every, key=lambda name: sum(name in run.values for run in ended))
    without = [str(run.folder) for run in ended if usual not in run.values]
    return f"{listed(without)} without {usual}" if without else f"{usual[:80]} does not say its N"


# --- rows ---


@dataclass(frozen=True)
class Shown:
    """What every run shows."""

    names: list[str]
    num: int
    samplings: int
    beside: Path


def _contender(name: str, group: Sequence[Found], shown: Shown, build: bench.Build, count_cost: bool) -> Contender:
    first = group[0]
    prices, cost = _cost(group, build) if count_cost else ({}, NO_COST)
    stages = build(first.recipe, parts.outline(first.recipe))
    words = first.manifest.get("command")
    return Contender(
        name=name,
        plugin=first.recipe.plugin,
        recipe=recipes.to_dict(first.recipe),
        command=f"zoo {shlex.join(map(str, words))}" if isinstance(words, list) and words else "not recorded",
        images=unplanned.seen(group),
        cost=cost,
        runs=[_trained(run, shown, prices) for run in group],
        pretrained=sorted({network for stage in stages for network in stage.pretrained}),
    )


def _cost(group: Sequence[Found], build: bench.Build) -> tuple[dict[str, float], Cost]:
    """Training FLOPs of an image by stage, and the whole cost; memory, which takes another process, is not measured."""
    recipe, stages = group[0].recipe, group[0].stages
    bill = Bill(recipe, build, stages)
    prices = bill.prices("flops")
    seen = [assemble.Spent.read(run.folder, prices, stages).images for run in group]
    total = sum(sum(by_stage.values()) for by_stage in seen)
    shares = {stage: sum(by_stage[stage] for by_stage in seen) / total for stage in stages} if total else {}
    return prices, bill.cost(shares or budget.shares(recipe, stages), prices, memory=False)


def _drawn(run: Found, shown: Shown) -> list[int]:
    """The seeds of the samples behind what is shown of a run."""
    values = next((run.values[name] for name in shown.names if name in run.values), {})
    return sorted(values)[: shown.samplings]


def _trained(run: Found, shown: Shown, prices: Mapping[str, float]) -> Trained:
    spent = assemble.Spent.read(run.folder, prices, run.stages)
    found = Trained(
        seed=run.seed,
        state="done" if run.state.finished else "diverged" if run.state.diverged else "short",
        images=run.state.images,
        seconds=spent.seconds,
        folder=_relative(run.folder, shown.beside),
        weights="",
        note=run.state.diverged or ("" if run.state.finished else f"{run.state.images:,} of {run.planned:,} images"),
    )
    if run.state.diverged:
        return found
    return replace(
        found,
        weights=measure.weights(runs.load(run.folder)),
        values={
            name: [value for _, value in sorted(run.values[name].items())][: shown.samplings] for name in shown.names
        },
        curve=assemble.curve(run.folder, spent, run.stages[-1], run.recipe),
    )


def _compared(
    name: str,
    contenders: Sequence[Contender],
    shared: set[int],
    found: Sequence[Found],
    sanity: Mapping[str, Values],
    samplings: int,
) -> Compared:
    """One figure: means over each contender's own seeds, verdicts over the seeds that all have."""
    whole = {each.name: assemble.table(each.runs, name, samplings) for each in contenders}
    paired = {
        each.name: assemble.table([run for run in each.runs if run.seed in shared], name, samplings)
        for each in contenders
        if shared
    }
    spoilt = {what: values[name] for what, values in sanity.items() if name in values}
    floor = next((run.floors[name] for run in found if name in run.floors), None)
    notes = dict.fromkeys(run.notes[name] for run in found if name in run.notes)
    return assemble.one(name, whole, floor, spoilt, "; ".join(notes), paired)


def _relative(folder: Path, beside: Path) -> str:
    return os.path.relpath(folder.resolve(), beside.resolve())
