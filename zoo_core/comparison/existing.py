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
from zoo_core.comparison import alongside, assemble, budget, measure
from zoo_core.comparison.alongside import Alongside
from zoo_core.comparison.cost import Bill
from zoo_core.comparison.flags import flags_for
from zoo_core.comparison.measure import Values
from zoo_core.comparison.on_disk import SIZE, Found, find, groups, same_data
from zoo_core.comparison.results import Budget, Compared, Comparison, Contender, Cost, Trained
from zoo_core.comparison.telling import listed
from zoo_core.errors import UserError
from zoo_core.recipe import for_stage

PROTOCOL = "existing runs"
"""In place of a protocol: these runs followed none together."""
NO_COST = Cost(0, 0, 0.0, 0.0, 0.0, 0)
SHARED = ("train.batch", "train.precision", "data.labels", "data.mirror", "data.filter", "data.crop")
"""What the common track makes equal; a flag says where runs differ."""


Say = Callable[[str], None]


def compare(
    folders: Sequence[Path], build: bench.Build, page: Path, say: Say, *, count_cost: bool, look: bool
) -> Comparison:
    """Runs as a comparison that is to be shown on `page`; `build` asks a recipe's plugin for its stages.

    With `count_cost` it counts what contenders cost, with `look` it measures spoilt images and looks for neighbours.
    Raises UserError for what is no run, two runs of the same training, runs on different images, and runs without a
    figure that all have.
    """
    beside = page.parent
    found = [find(folder, build) for folder in folders]
    data = same_data(found)
    grouped = groups(found)
    names, num, left_out = _common_figures(found)
    samplings = min(len(run.values[name]) for run in found if not run.state.diverged for name in names)
    shown = Shown(names, num, samplings, beside)
    contenders = []
    for name, group in grouped.items():
        if count_cost:
            say(f"Counting what {name} costs.")
        prices, cost = _cost(group[0], build) if count_cost else ({}, NO_COST)
        contenders.append(_contender(name, group, shown, build, prices, cost))
    shared = set.intersection(*({run.seed for run in group} for group in grouped.values()))
    seen = Alongside()
    if look:
        seen = alongside.look(grouped, contenders, data, names, num, page, say)
        contenders = [replace(each, neighbours=seen.neighbours.get(each.name)) for each in contenders]
    floors = {name: value for run in found for name, value in run.floors.items()}
    figures = [_compared(name, contenders, shared, floors, seen.sanity, samplings) for name in names]
    seeds = sorted({run.seed for run in found})
    remarks = [*_differences(grouped), *_pairing(grouped, shared), *left_out, *seen.missing]
    return Comparison(
        track="paper",
        budget=Budget("images", max(run.planned for run in found)),
        data=data,
        num=num,
        seeds=seeds,
        generation_seeds=sorted({seed for run in found for name in names for seed in run.values.get(name, ())}),
        contenders=contenders,
        figures=figures,
        agreement=assemble.agreements(figures),
        flags=flags_for(contenders, figures, remarks, min(len(group) for group in grouped.values())),
        manifest={f"run {_relative(run.folder, beside)}": run.manifest for run in found},
        command=f"zoo report {shlex.join(map(str, folders))}",
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
    sizes = {name: int(match[1]) for name in common if (match := SIZE.search(name))}
    if not sizes:
        said = "; ".join(f"{run.folder} has {listed(list(run.values)) or 'none'}" for run in ended[:4])
        raise UserError(
            "there is no figure that all of these runs have"
            + (f" ({said})" if said else ", for all of them diverged")
            + "; measure each alike with `zoo evaluate RUN --num N --extractor NAME`."
        )
    num = max(sizes.values())
    names = [name for name in common if sizes.get(name) == num]
    left_out = [f"{name} is left out: not every run was measured so." for name in every if name not in common]
    left_out += [f"{name} is left out: the other figures are of N = {num}." for name in common if name not in names]
    counts = {len(run.values[name]) for run in ended for name in names}
    if len(counts) > 1:
        left_out.append(f"Not every run has as many sets of samples; the first {min(counts)} of each are shown.")
    return names, num, left_out


# --- rows ---


@dataclass(frozen=True)
class Shown:
    """What every run shows."""

    names: list[str]
    num: int
    samplings: int
    beside: Path


def _contender(
    name: str, group: Sequence[Found], shown: Shown, build: bench.Build, prices: Mapping[str, float], cost: Cost
) -> Contender:
    first = group[0]
    stages = build(first.recipe, parts.outline(first.recipe))
    words = first.manifest.get("command")
    return Contender(
        name=name,
        plugin=first.recipe.plugin,
        recipe=recipes.to_dict(first.recipe),
        command=f"zoo {shlex.join(map(str, words))}" if isinstance(words, list) and words else "not recorded",
        images=first.planned,
        cost=cost,
        runs=[_trained(run, shown, prices) for run in group],
        pretrained=sorted({network for stage in stages for network in stage.pretrained}),
    )


def _cost(run: Found, build: bench.Build) -> tuple[dict[str, float], Cost]:
    """Training FLOPs of an image by stage, and the whole cost; memory, which takes another process, is not measured."""
    bill = Bill(run.recipe, build, run.stages)
    prices = bill.prices("flops")
    return prices, bill.cost(budget.shares(run.recipe, run.stages), prices, memory=False)


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
    batch = for_stage(run.recipe, run.stages[-1]).train.batch
    return replace(
        found,
        weights=measure.weights(runs.load(run.folder)),
        values={
            name: [value for _, value in sorted(run.values[name].items())][: shown.samplings] for name in shown.names
        },
        curve=assemble.curve(run.folder, spent, run.stages[-1], batch, shown.num),
    )


def _compared(
    name: str,
    contenders: Sequence[Contender],
    shared: set[int],
    floors: Values,
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
    spoilt = {what: values.get(name) for what, values in sanity.items()}
    return assemble.one(name, whole, floors.get(name), spoilt, paired=paired)


# --- what a reader must know ---


def _differences(groups: Mapping[str, Sequence[Found]]) -> list[str]:
    said = [
        "These runs were not made under one plan, so a verdict compares whole recipes, with all that differs in them."
    ]
    first = {name: group[0] for name, group in groups.items()}
    facts = {"images of training": {name: f"{run.planned:,}" for name, run in first.items()}}
    flat = {name: runs.flat(recipes.to_dict(run.recipe)) for name, run in first.items()}
    facts |= {place: {name: str(values.get(place)) for name, values in flat.items()} for place in SHARED}
    for what, by_name in facts.items():
        if len(set(by_name.values())) > 1:
            said.append(f"They differ in {what}: {', '.join(f'{name} {value}' for name, value in by_name.items())}.")
    unknown = [str(run.folder) for group in groups.values() for run in group if "data" not in run.manifest]
    if unknown:
        said.append(f"Nobody knows which images {listed(unknown)} saw: no manifest says.")
    return said


def _pairing(groups: Mapping[str, Sequence[Found]], shared: set[int]) -> list[str]:
    if len(groups) < 2:
        return []
    if not shared:
        return ["The contenders have no training seed in common, so there are no pairs and no verdicts."]
    if any({run.seed for run in group} != shared for group in groups.values()):
        seeds = listed([str(seed) for seed in sorted(shared)], 20)
        return [
            f"Only training seed{'s' if len(shared) > 1 else ''} {seeds} are in all contenders: verdicts see no other."
        ]
    return []


def _relative(folder: Path, beside: Path) -> str:
    return os.path.relpath(folder.resolve(), beside.resolve())
