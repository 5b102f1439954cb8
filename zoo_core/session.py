"""From a recipe to a trained run: opens the data, the run folder and the stages, and goes on where it stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from zoo_core import catalog, checkpoint, parts, runs, sampling
from zoo_core.data import ImageSet, open_images
from zoo_core.errors import UserError
from zoo_core.files import replacing
from zoo_core.interfaces import Generator
from zoo_core.journal import Journal
from zoo_core.processes import on_main, open_accelerator
from zoo_core.program import Clock, Stage
from zoo_core.recipe import Recipe
from zoo_core.trainer import Stopped, Trainer, divide

GRID = 64
"""Images of a sample grid, at most."""

Say = Callable[[str], None]
Measure = Callable[[str, int, Generator, ImageSet], None]
"""Called with "start" or "end", the steps taken, the generator to sample from and the real images."""


@dataclass(frozen=True)
class Outcome:
    """How a session ended."""

    folder: Path
    images: int
    finished: bool
    main: bool = True
    """Whether this is the process that speaks for all."""


def open_data(recipe: Recipe, accelerator: Accelerator | None = None) -> tuple[Recipe, ImageSet]:
    """Open the recipe's images; the recipe comes back with the class names written in."""
    data = recipe.data

    def open_them(progress: bool) -> ImageSet:
        return open_images(data.source or None, data.resolution, filter=data.filter, crop=data.crop, progress=progress)

    if accelerator and accelerator.num_processes > 1:
        on_main(accelerator, lambda: open_them(True))  # reads and names bad files once; the others find them cached
    images = open_them(accelerator is None or accelerator.num_processes == 1)
    if data.labels and images.labels is None:
        raise UserError(
            f"the recipe trains with labels, but {images.name} has no class folders; "
            "put each class in a subfolder, or set data.labels=false."
        )
    if data.labels and data.num_classes not in (0, len(images.classes)):
        raise UserError(
            f"the recipe is for {data.num_classes} classes and {images.name} has {len(images.classes)}; "
            "set data.num_classes=0 to build for the classes at hand."
        )
    if len(images) < recipe.train.batch:
        raise UserError(f"{images.name} has {len(images)} images, less than one batch of {recipe.train.batch}.")
    classes = tuple(images.classes) if data.labels else ()
    return recipe.replace(data=dataclasses.replace(data, classes=classes)), images


def build_stages(recipe: Recipe, built: parts.Parts) -> list[Stage]:
    """Ask the recipe's plugin for its stages."""
    plugin = catalog.plugin(recipe.plugin)
    if not plugin.stages:
        raise UserError(f"the plugin {plugin.name} brings components only; train another plugin with them.")
    return catalog.resolve(plugin.stages, f"the plugin {plugin.name}'s stages")(recipe, built)


def rehearse(recipe: Recipe, num_processes: int = 1) -> None:
    """Build the stages without memory, so that a mistake in the recipe is found before the data are read.

    Classes that only the data can count are taken to be two. Raises UserError.
    """
    divide(recipe, num_processes)
    if recipe.data.labels and not recipe.data.condition:
        recipe = recipe.replace(data=dataclasses.replace(recipe.data, num_classes=2))
    try:
        with torch.device("meta"):
            build_stages(recipe, parts.build(recipe))
    except (NotImplementedError, RuntimeError):  # a network that needs memory to be built shows its mistakes later
        return


def train(
    recipe: Recipe, folder: Path, *, trackers: Sequence[str] = (), say: Say = print, measure: Measure | None = None
) -> Outcome:
    """Train a recipe in a run folder, or go on with it. Raises UserError, Diverged among them."""
    accelerator = open_accelerator(recipe.train.precision, folder, trackers)
    rehearse(recipe, accelerator.num_processes)
    recipe, images = open_data(recipe, accelerator)
    recipe = parts.complete(recipe)
    built = parts.build(recipe)
    for network in (built.generator, built.discriminator):
        if network is not None:
            network.to(accelerator.device)
    stages = build_stages(recipe, built)
    say = say if accelerator.is_main_process else lambda text: None
    main = accelerator.is_main_process
    with ExitStack() as held:

        def begin() -> None:
            held.enter_context(runs.locked(folder))
            new = runs.prepare(folder, recipe)
            runs.keep_manifest(folder, runs.manifest(recipe, images.describe(), accelerator.num_processes))
            say(f"{'Training' if new else 'Going on with'} {recipe.plugin} in {folder}: {_about(recipe, images)}")

        on_main(accelerator, begin)
        if trackers:
            accelerator.init_trackers("zoo", config={"recipe": recipe.plugin})
        done = 0
        for stage in stages:
            try:
                done += _run_stage(recipe, stage, stages, images, accelerator, folder, say, measure, bool(trackers))
            except Stopped:
                accelerator.end_training()
                return Outcome(folder, done, finished=False, main=main)
        accelerator.wait_for_everyone()
        accelerator.end_training()
    return Outcome(folder, done, finished=True, main=main)


def _run_stage(
    recipe: Recipe,
    stage: Stage,
    stages: Sequence[Stage],
    images: ImageSet,
    accelerator: Accelerator,
    folder: Path,
    say: Say,
    measure: Measure | None,
    trackers: bool,
) -> int:
    name = stage.name if len(stages) > 1 else ""
    journal = Journal(folder / "metrics.jsonl", accelerator, stage=name, trackers=trackers)
    home = folder / runs.CHECKPOINTS
    checkpoints = home / name
    trainer = Trainer(recipe, stage, images, accelerator, journal, checkpoints, _grids(folder, recipe))
    found = checkpoint.latest(checkpoints, warn=say)
    if found is not None:
        trainer.restore(found)
        journal.rewind(found.step)
        if trainer.step > trainer.num_steps:
            raise UserError(
                f"{folder} has seen {trainer.step * trainer.batch:,} images already, more than the "
                f"{trainer.total_images:,} asked for; give it at least as many, or name another folder with --out."
            )
        if trainer.step < trainer.num_steps:
            say(f"Resuming from step {trainer.step} ({trainer.step * trainer.batch:,} images).")
            journal.event("resumed", step=trainer.step)
    else:
        if (folder / "metrics.jsonl").exists():
            say("This run has no checkpoint yet; it starts from zero.")
        journal.rewind(-1)
        journal.event("started", step=0)
    generator = _averaged_generator(stage)

    def measured(when: str) -> None:
        if measure and generator:
            measure(when, trainer.step, generator, images)

    def finish() -> None:
        if generator:
            _export(folder / "averaged.safetensors", generator)
        measured("end")

    if trainer.step == 0:
        on_main(accelerator, lambda: measured("start"))
    trainer.run()
    on_main(accelerator, finish)
    return trainer.step * trainer.batch


def _averaged_generator(stage: Stage) -> Generator | None:
    for average in stage.averages:
        if average.of == "generator":
            return average.network
    return stage.networks.get("generator")


def _grids(folder: Path, recipe: Recipe) -> Callable[[Clock, Stage], None]:
    """Draw the same seeds each time, so that people see the model improve."""

    def observe(clock: Clock, stage: Stage) -> None:
        generator = _averaged_generator(stage)
        if generator is None:
            return
        columns = _columns(generator.num_classes)
        num = GRID - GRID % columns if columns else GRID
        images = torch.cat(list(sampling.draw(generator, num, seed=0, by_turns=True)))
        picture = sampling.grid(images, columns)
        scale = sampling.enlargement(recipe.data.resolution)
        sampling.save_png(folder / "samples" / f"images-{clock.images:09d}.png", picture, scale)

    return observe


def _columns(num_classes: int) -> int:
    """A column per class where they are few enough to see."""
    return num_classes if 2 <= num_classes <= 16 else 0


def _export(path: Path, generator: Generator) -> None:
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in generator.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary)


def _about(recipe: Recipe, images: ImageSet) -> str:
    seen = f"{recipe.train.images:,} images of {len(images):,} in {images.name}"
    return f"{seen} at {recipe.data.resolution} px, batch {recipe.train.batch}."
