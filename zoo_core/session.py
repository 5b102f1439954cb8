"""From a recipe to a trained run: opens the data, the run folder and the stages, and goes on where it stopped."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from zoo_core import catalog, checkpoint, parts, runs, sampling
from zoo_core.data import ImageSet, check_fit, open_for
from zoo_core.errors import UserError, did_you_mean
from zoo_core.files import replacing
from zoo_core.given_maps import colour
from zoo_core.interfaces import PIXELS, Generator
from zoo_core.journal import Journal
from zoo_core.processes import on_main, open_accelerator
from zoo_core.program import Clock, Stage
from zoo_core.recipe import Recipe, for_stage
from zoo_core.trainer import Stopped, Trainer, divide, num_steps

GRID = 64
"""Images of a sample grid, at most."""

Say = Callable[[str], None]
Measure = Callable[[str, int, Generator, ImageSet], None]
"""Called with "start", "during" or "end", the steps taken, the generator to sample from and the real images."""


@dataclass(frozen=True)
class Outcome:
    """How a session ended."""

    folder: Path
    images: int
    finished: bool
    main: bool = True
    """Whether this is the process that speaks for all."""
    whole: bool = True
    """Whether the last stage is done, too."""


def open_data(recipe: Recipe, accelerator: Accelerator | None = None) -> tuple[Recipe, ImageSet]:
    """Open the recipe's images; the recipe comes back with the class names written in."""
    data = recipe.data

    def open_them(progress: bool) -> ImageSet:
        return open_for(data, progress=progress)

    if accelerator and accelerator.num_processes > 1:
        on_main(accelerator, lambda: open_them(True))  # reads and names bad files once; the others find them cached
    images = open_them(accelerator is None or accelerator.num_processes == 1)
    parts_of_it = (recipe, *(for_stage(recipe, stage) for stage in recipe.train.stages))
    check_fit(data, images, [part.train.batch for part in parts_of_it])
    classes = tuple(images.classes) if data.labels else ()
    return recipe.replace(data=dataclasses.replace(data, classes=classes)), images


def build_stages(recipe: Recipe, built: parts.Parts) -> list[Stage]:
    """Ask the recipe's plugin for its stages."""
    plugin = catalog.plugin(recipe.plugin)
    if not plugin.stages:
        raise UserError(f"the plugin {plugin.name} brings components only; train another plugin with them.")
    if built.generator.map_kind not in ("", recipe.data.maps):
        raise UserError(
            f"the generator draws from maps of {built.generator.map_kind}; "
            f"set data.maps={built.generator.map_kind}, and name a source that has them."
        )
    stages = catalog.resolve(plugin.stages, f"the plugin {plugin.name}'s stages")(recipe, built)
    for name in recipe.train.stages:
        stage_named(stages, name, "train.stages")
    _check_adversaries(recipe, built, stages)
    if recipe.data.maps and not built.generator.map_kind and all(stage.pictured != "maps" for stage in stages):
        raise UserError("nothing in this recipe looks at maps; leave data.maps out, or set the generator's condition.")
    return stages


def _check_adversaries(recipe: Recipe, built: parts.Parts, stages: Sequence[Stage]) -> None:
    """A discriminator or a loss that nothing trains with would be left out in silence."""
    trained = [module for stage in stages for network in stage.networks.values() for module in network.modules()]
    if not any(module is built.discriminator for module in trained):
        for kind in ("discriminator", "loss"):
            if recipe.part(kind) is not None:
                name = recipe.part(kind).name
                raise UserError(f"no stage of {recipe.plugin} is adversarial; leave the {kind} {name} out.")


def stage_named(stages: Sequence[Stage], name: str, place: str) -> Stage:
    """The stage of that name. Raises UserError when there is none."""
    for stage in stages:
        if stage.name == name:
            return stage
    known = [stage.name for stage in stages]
    raise UserError(f'{place}: there is no stage "{name}"{did_you_mean(name, known)}')


def rehearse(recipe: Recipe, num_processes: int = 1, only: str = "") -> None:
    """Build the stages without memory, so that a mistake in the recipe is found before the data are read.

    Classes that only the data can count are taken to be two. `only` is a stage that must be there. Raises UserError.
    """
    for part in (recipe, *(for_stage(recipe, stage) for stage in recipe.train.stages)):
        divide(part, num_processes)
    if recipe.data.labels and not recipe.data.condition:
        recipe = recipe.replace(data=dataclasses.replace(recipe.data, num_classes=2))
    try:
        with torch.device("meta"):
            stages = build_stages(recipe, parts.build(recipe))
        if only:
            stage_named(stages, only, "--stage")
    except (NotImplementedError, RuntimeError):  # a network that needs memory to be built shows its mistakes later
        return


def train(
    recipe: Recipe,
    folder: Path,
    *,
    only: str = "",
    trackers: Sequence[str] = (),
    say: Say = print,
    measure: Measure | None = None,
) -> Outcome:
    """Train a recipe's stages in a run folder one after the other, or go on with it; `only` names one of them.

    Raises UserError, Diverged among them.
    """
    accelerator = open_accelerator(recipe.train.precision, folder, trackers)
    rehearse(recipe, accelerator.num_processes, only)
    recipe, images = open_data(recipe, accelerator)
    recipe = parts.complete(recipe)
    built = parts.build(recipe)
    for network in (built.generator, built.discriminator):
        if network is not None:
            network.to(accelerator.device)
    stages = build_stages(recipe, built)
    if only:
        stage_named(stages, only, "--stage")
    for stage in stages:
        if stage.begin and only in ("", stage.name):
            stage.begin(images)
    trained = [stage.name for stage in stages if only in ("", stage.name)]
    main = accelerator.is_main_process
    say = say if main else lambda text: None
    with ExitStack() as held:

        def begin() -> None:
            held.enter_context(runs.locked(folder))
            new = runs.prepare(folder, recipe)
            runs.keep_manifest(folder, runs.manifest(recipe, images.describe(), accelerator.num_processes))
            begun = f"{'Training' if new else 'Going on with'} {recipe.plugin} in {folder}"
            say(f"{begun}: {_about(recipe, images, trained)}")

        on_main(accelerator, begin)
        if trackers:
            accelerator.init_trackers("zoo", config={"recipe": recipe.plugin})
        session = _Session(recipe, folder, images, accelerator, stages, built.generator, say, measure, bool(trackers))
        try:
            done = session.run(only)
        except Stopped as stopped:
            accelerator.end_training()
            return Outcome(folder, stopped.images, finished=False, main=main)
        accelerator.wait_for_everyone()
        accelerator.end_training()
    return Outcome(folder, done, finished=True, main=main, whole=only in ("", stages[-1].name))


@dataclass(frozen=True)
class _Session:
    """A run's stages in training."""

    recipe: Recipe
    folder: Path
    images: ImageSet
    accelerator: Accelerator
    stages: Sequence[Stage]
    generator: Generator
    say: Say
    measure: Measure | None
    trackers: bool

    def run(self, only: str) -> int:
        """Train the stages in order, or `only` one, whose predecessors must be done; returns the images seen."""
        done = 0
        for stage in self.stages:
            if not only or stage.name == only:
                done += self._train(stage)
            if stage.name == only:
                break
            if len(self.stages) > 1:
                self._hand_on(stage)
        return done

    def _train(self, stage: Stage) -> int:
        first, last = stage is self.stages[0], stage is self.stages[-1]
        journal = Journal(
            self.folder / "metrics.jsonl", self.accelerator, stage=self._name(stage), trackers=self.trackers
        )
        trainer = Trainer(
            self._recipe(stage),
            stage,
            self.images,
            self.accelerator,
            journal,
            self._checkpoints(stage),
            self._look,
            order=self.stages.index(stage),
        )
        self._resume(trainer, journal)
        if first and trainer.step == 0:
            on_main(self.accelerator, lambda: self._measured("start", stage, trainer.step))
        trainer.run()
        if last:
            on_main(self.accelerator, lambda: self._finish(stage, trainer.step))
        return trainer.step * trainer.batch

    def _resume(self, trainer: Trainer, journal: Journal) -> None:
        found = checkpoint.latest(self._checkpoints(trainer.stage), warn=self.say)
        name = self._name(trainer.stage)
        if found is None:
            if not name and (self.folder / "metrics.jsonl").exists():
                self.say("This run has no checkpoint yet; it starts from zero.")
            if name:
                self.say(f"Stage {name}: {trainer.total_images:,} images, batch {trainer.batch}.")
            journal.rewind(-1)
            journal.event("started", step=0)
            return
        trainer.restore(found)
        journal.rewind(found.step)
        if trainer.step > trainer.num_steps:
            raise UserError(
                f"{self.folder} has seen {trainer.step * trainer.batch:,} images already, more than the "
                f"{trainer.total_images:,} asked for; give it at least as many, or name another folder with --out."
            )
        if trainer.step < trainer.num_steps:
            where = f" of stage {name}" if name else ""
            self.say(f"Resuming from step {trainer.step}{where} ({trainer.step * trainer.batch:,} images).")
            journal.event("resumed", step=trainer.step)

    def _hand_on(self, stage: Stage) -> None:
        """Leave a finished stage's networks as later stages, and people, use them: with averaged weights if any."""
        found = checkpoint.latest(self._checkpoints(stage), warn=self.say)
        if found is None or (found.step < num_steps(self._recipe(stage)) and not found.state.get(runs.IMPORTED)):
            raise UserError(
                f"stage {stage.name} comes first and is not done; leave --stage out, or train --stage {stage.name}."
            )
        for name, network in stage.networks.items():
            tensors = found.network(name, averaged=True) or found.network(name) or {}
            checkpoint.load_exactly(network, tensors, f"{found.path}: {name}")

    def _finish(self, stage: Stage, step: int) -> None:
        _export(self.folder / "averaged.safetensors", self._shown(stage))
        self._measured("end", stage, step)

    def _measured(self, when: str, stage: Stage, step: int) -> None:
        if self.measure:
            self.measure(when, step, self._shown(stage), self.images)

    def _look(self, clock: Clock, stage: Stage) -> None:
        self._draw_grid(clock, stage)
        on_the_way = stage is self.stages[-1] and 0 < clock.step < num_steps(self._recipe(stage))
        if self.recipe.evaluate.during and on_the_way:
            self._measured("during", stage, clock.step)

    def _draw_grid(self, clock: Clock, stage: Stage) -> None:
        """Draw the same seeds, or show the same real images, each time, so that people see the model improve.

        What is drawn from a map stands beside it.
        """
        generator = self._shown(stage)
        columns = _columns(generator.num_classes)
        if stage.picture:
            given = self._real(stage.pictured).to(self.accelerator.device)
            images, columns = sampling.to_uint8(stage.picture(generator, given)).cpu(), 0
        elif generator.map_kind:
            maps, columns = self.images.maps_in_turn(generator.map_kind), 0
            drawn = torch.cat(list(sampling.draw(generator, GRID // 2, seed=0, by_turns=True, maps=maps)))
            images = torch.stack([colour(maps(range(GRID // 2))), drawn], 1).flatten(0, 1)
        else:
            num = GRID - GRID % columns if columns else GRID
            images = torch.cat(list(sampling.draw(generator, num, seed=0, by_turns=True)))
        scale = sampling.enlargement(self.recipe.data.resolution)
        sampling.save_png(self._sample_path(clock, stage), sampling.grid(images, columns), scale)
        for title, sheet in stage.sheets.items() if clock.step else ():
            sampling.save_png(self._sample_path(clock, stage, title), sheet())

    def _real(self, what: str) -> Tensor:
        """What a stage's picture is given: the first images, in the recipe's pixel space, or their maps."""
        index = np.arange(min(GRID // 2, len(self.images)))
        if what == "maps":
            return self.images.take_maps(index)
        return PIXELS[self.recipe.data.pixels].encode(self.images.take(index)[0] / 255)

    def _sample_path(self, clock: Clock, stage: Stage, title: str = "") -> Path:
        name = "-".join(filter(None, (self._name(stage), title, f"images-{clock.images:09d}.png")))
        return self.folder / "samples" / name

    def _shown(self, stage: Stage) -> Generator:
        """The generator as people should see it, and as `runs.load` gives it: each network that this stage averages
        with its averaged weights."""
        averaged = {average.of: average.network for average in stage.averages}
        if "generator" in averaged:
            return averaged["generator"]
        mine = averaged.keys() & self.generator.networks().keys()
        if not mine:
            return self.generator
        shown = copy.deepcopy(self.generator)
        for name in mine:
            shown.networks()[name].load_state_dict(averaged[name].state_dict())
        return shown

    def _name(self, stage: Stage) -> str:
        """What marks a stage's files: nothing where it is the only one."""
        return stage.name if len(self.stages) > 1 else ""

    def _checkpoints(self, stage: Stage) -> Path:
        return self.folder / runs.CHECKPOINTS / self._name(stage)

    def _recipe(self, stage: Stage) -> Recipe:
        return for_stage(self.recipe, stage.name)


def _columns(num_classes: int) -> int:
    """A column per class where they are few enough to see."""
    return num_classes if 2 <= num_classes <= 16 else 0


def _export(path: Path, generator: Generator) -> None:
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in generator.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary)


def _about(recipe: Recipe, images: ImageSet, stages: Sequence[str]) -> str:
    """What these stages will see."""
    seen = []
    for name in stages:
        train, which = for_stage(recipe, name).train, f" ({name})" if len(stages) > 1 else ""
        seen.append(f"{train.images:,} images in batches of {train.batch}{which}")
    return f"{', then '.join(seen)}, from {len(images):,} in {images.name} at {recipe.data.resolution} px."
