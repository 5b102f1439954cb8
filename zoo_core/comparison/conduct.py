"""The whole course of a comparison: train what is left, measure what is left, put the report together."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from zoo_core import bench, catalog, parts, runs
from zoo_core import recipe as recipes
from zoo_core.comparison import assemble, budget, execute, measure, neighbours
from zoo_core.comparison.cost import Bill
from zoo_core.comparison.flags import flags_for
from zoo_core.comparison.measure import MEASURED, Asked, Values
from zoo_core.comparison.plan import Job, Plan, jobs
from zoo_core.comparison.results import Comparison, Contender, Cost, Neighbours, Trained
from zoo_core.data import ImageSet
from zoo_core.extractors import open_extractor
from zoo_core.files import read_json
from zoo_core.recipe import Recipe
from zoo_core.runs import write_text
from zoo_core.schema import build as build_checked

FIRST_GENERATION_SEED = 1000
"""Grids and curves are drawn from the small ones; reported figures see others."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Priced:
    """What a contender costs, as it is kept."""

    flops: dict[str, float]
    """Training operations of an image, by stage."""
    cost: Cost


@dataclass(frozen=True)
class Real:
    """What figures say of real images, as it is kept."""

    floors: Values
    sanity: dict[str, Values]
    """Of spoilt ones, by what was done to them."""
    notes: dict[str, str]
    """By a figure's kind."""


Form = TypeVar("Form", Priced, Real)


@dataclass(frozen=True)
class Course:
    """A plan being carried out in a folder."""

    plan: Plan
    folder: Path
    images: ImageSet
    build: bench.Build
    """Asks a recipe's plugin for its stages."""
    say: Say
    """Told before anything is measured, which it prevents by raising."""

    def run(self, launcher: str, command: str) -> Comparison:
        """Train, measure, assemble. Raises Interrupted, and UserError for a training that fails or cannot start."""
        execute.train(jobs(self.plan, self.folder), self.progress, launcher, self.say)
        try:
            return self.assembled(command)
        except KeyboardInterrupt:  # each measurement is kept as soon as it is there
            raise execute.Interrupted from None

    def stages(self, recipe: Recipe) -> list[str]:
        """The names of a recipe's stages."""
        return [stage.name for stage in self.build(recipe, parts.outline(recipe))]

    def progress(self, job: Job) -> execute.Progress:
        """How far a job is."""
        recipe = self.plan.recipes[job.contender]
        return execute.progress(job.folder, self.stages(recipe), recipe)

    def assembled(self, command: str) -> Comparison:
        """Measure what has been trained and put it together."""
        request = self.plan.request
        asked = Asked(request.num, request.metrics, open_extractor(request.extractor), self.images)
        contenders = [self._contender(name, asked) for name in self.plan.recipes]
        floors, sanity, notes = self._sanity(asked)
        figures = assemble.compared(contenders, floors, sanity, request.generation_seeds, notes)
        return Comparison(
            track=request.track,
            budget=request.budget,
            data=self.plan.data,
            num=request.num,
            seeds=list(self.plan.train_seeds),
            generation_seeds=list(self._samplings),
            contenders=contenders,
            figures=figures,
            agreement=assemble.agreements(figures),
            flags=flags_for(contenders, figures, self.plan.remarks, request.seeds, request.budget),
            manifest=self._manifest(),
            command=command,
            published=[
                published
                for plugin in dict.fromkeys(contender.plugin for contender in contenders)
                for published in assemble.published(catalog.plugin(plugin))
            ],
        )

    @property
    def _samplings(self) -> range:
        return range(FIRST_GENERATION_SEED, FIRST_GENERATION_SEED + self.plan.request.generation_seeds)

    def _contender(self, name: str, asked: Asked) -> Contender:
        recipe = self.plan.recipes[name]
        names = self.stages(recipe)
        flops, cost = self._cost(name, recipe, names)
        mine = [job for job in jobs(self.plan, self.folder) if job.contender == name]
        trained = [self._trained(job, recipe, names, flops, asked) for job in mine]
        return Contender(
            name=name,
            plugin=recipe.plugin,
            recipe=recipes.to_dict(recipe),
            command=mine[0].line(),
            images=self.plan.images[name],
            cost=cost,
            runs=trained,
            pretrained=self._pretrained(recipe),
            neighbours=self._neighbours(name, trained, asked),
        )

    def _pretrained(self, recipe: Recipe) -> list[str]:
        stages = self.build(recipe, parts.outline(recipe))
        return sorted({network for stage in stages for network in stage.pretrained})

    def _trained(
        self, job: Job, recipe: Recipe, stages: Sequence[str], flops: dict[str, float], asked: Asked
    ) -> Trained:
        state = self.progress(job)
        spent = assemble.Spent.read(job.folder, flops, stages)
        found = Trained(
            seed=job.seed,
            state="done" if state.finished else "diverged" if state.diverged else "short",
            images=state.images,
            seconds=spent.seconds,
            folder=str(job.folder.relative_to(self.folder)),
            weights="",
            note=state.diverged or ("" if state.finished else f"{state.images:,} images of the budget were seen"),
        )
        if not state.finished:
            return found
        run = runs.load(job.folder)
        file = self.folder / MEASURED / f"{job.folder.name}.json"
        values = measure.measured(run, self._samplings, file, asked, self.say)
        by_figure = {
            figure: [values[seed].get(figure) for seed in self._samplings] for figure in next(iter(values.values()))
        }
        return dataclasses.replace(
            found,
            weights=measure.weights(run),
            values=by_figure,
            curve=assemble.curve(job.folder, spent, stages[-1], recipe),
        )

    def _neighbours(self, name: str, trained: Sequence[Trained], asked: Asked) -> Neighbours | None:
        ended = next((run for run in trained if run.state == "done"), None)
        if not ended:
            return None
        keep = self.folder / MEASURED / "neighbours"
        run = self.folder / ended.folder
        return neighbours.find(name, ended, run, self._samplings[0], self.folder, keep, asked, self.say)

    def _cost(self, name: str, recipe: Recipe, stages: Sequence[str]) -> tuple[dict[str, float], Cost]:
        """Measured once and kept, so that the report's numbers stay when it is made again."""
        file = self.folder / MEASURED / "cost" / f"{name}.json"
        kept = _kept(file, Priced)
        if not kept or kept.flops.keys() != set(stages):
            self.say(f"Counting what {name} costs.")
            bill = Bill(recipe, self.build, stages)
            flops = bill.prices("flops")
            kept = Priced(flops, bill.cost(budget.shares(recipe, stages), flops, memory=True))
            write_text(file, json.dumps(dataclasses.asdict(kept), indent=1))
        return kept.flops, kept.cost

    def _sanity(self, asked: Asked) -> tuple[Values, dict[str, Values], dict[str, str]]:
        """Floors, figures of spoilt images, and notes on figures; measured once and kept."""
        file = self.folder / MEASURED / "sanity.json"
        kept = _kept(file, Real)
        if not kept or kept.sanity.keys() != measure.SPOILT.keys():
            self.say("Measuring real images, and spoilt ones.")
            floors, notes = measure.floors(asked)
            kept = Real(floors, measure.sanity(asked), notes)
            write_text(file, json.dumps(dataclasses.asdict(kept), indent=1))
        return kept.floors, kept.sanity, kept.notes

    def _manifest(self) -> dict[str, Any]:
        first = next(iter(self.plan.recipes.values()))
        return runs.manifest(first, self.images.describe(), 1)


def _kept(file: Path, form: type[Form]) -> Form | None:
    """What a file keeps; None where there is none, or not a whole one."""
    try:
        return build_checked(form, read_json(file), str(file))
    except (OSError, ValueError):
        return None
