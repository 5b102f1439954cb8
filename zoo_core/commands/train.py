"""`zoo train`."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from zoo_core.recipe import Recipe


@click.command("train")
@click.option("--plugin", required=True, help="The paper to train; see `zoo list`.")
@click.option("--recipe", default="", help="A recipe by name, or a YAML file. [default: the plugin's own]")
@click.option("--data", default="", help="A folder (subfolders are classes) or a zip of images. [default: drawn]")
@click.option("--out", type=click.Path(path_type=Path), help="The run folder. [default: runs/PLUGIN-RECIPE-...]")
@click.option("--attention", default="", help="Another attention for the generator, such as core/full.")
@click.option("--discriminator", default="", help="Another discriminator.")
@click.option("--loss", default="", help="Another adversarial loss.")
@click.option("--stage", default="", help="Only this stage of several; those before it must be done.")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Any value of the recipe; repeatable.")
@click.option("--tracker", multiple=True, help="Also log to an accelerate tracker (tensorboard, wandb, ...).")
@click.option("--no-measure", is_flag=True, help="Skip the figures before the first step and after the last.")
def command(
    plugin: str,
    recipe: str,
    data: str,
    out: Path | None,
    attention: str,
    discriminator: str,
    loss: str,
    stage: str,
    settings: tuple[str, ...],
    tracker: tuple[str, ...],
    no_measure: bool,
) -> int:
    """Train a paper's model, or go on with a run that was stopped: repeat the same command."""
    from zoo_core import recipe as recipes
    from zoo_core import swapping

    changes: list[tuple[str, Any]] = []
    if data:
        changes.append(("data.source", data))
    swaps = {"attention": attention, "discriminator": discriminator, "loss": loss}
    changes += [swapping.change(kind, name, plugin, recipe) for kind, name in swaps.items() if name]
    changes += [recipes.parse_set(text) for text in settings]
    wanted = _placed(recipes.load(plugin, recipe, changes))
    folder = out or Path("runs") / _run_name(plugin, recipe, wanted.data.source, attention, discriminator, loss)

    from zoo_core import evaluation, session

    measure = None if no_measure or not wanted.evaluate.num else evaluation.Measurer(wanted, folder, click.echo)
    outcome = session.train(wanted, folder, only=stage, trackers=tracker, say=click.echo, measure=measure)
    say = click.echo if outcome.main else lambda text: None
    if not outcome.finished:
        say(f"Stopped and saved. To go on, repeat the command:\n  {_zoo()} {shlex.join(sys.argv[1:])}")
        return 130
    more = f"More: {_zoo()} sample {folder} --num 64" if outcome.whole else "Without --stage the command goes on."
    say(f"Done: {folder}/samples has the pictures. {more}")
    return 0


def _placed(wanted: Recipe) -> Recipe:
    """The recipe with its images named by their full path, so that the run can be used from any folder."""
    source = wanted.data.source
    full = "" if source in ("", "drawn") else os.path.realpath(os.path.expanduser(source))
    return wanted.replace(data=dataclasses.replace(wanted.data, source=full))


def _default_recipe(plugin: str) -> str:
    from zoo_core import catalog

    return catalog.plugin(plugin).recipe


def _run_name(plugin: str, recipe: str, source: str, *swapped: str) -> str:
    """A folder for each different command: what was chosen, in its order."""
    words = [plugin, Path(recipe).stem or _default_recipe(plugin), *swapped, Path(source).stem]
    return "-".join(word.replace("/", "-") for word in words if word)


def _zoo() -> str:
    """How this command line was started: a launcher says so."""
    return os.environ.get("ZOO_COMMAND", "zoo")
