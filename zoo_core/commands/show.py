"""`zoo show`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from zoo_core.recipe import Recipe
    from zoo_core.settings import Averaging


@click.command("show")
@click.argument("name")
@click.option("--recipe", default="", help="A recipe by name or file: the resolved recipe, the phases, the sizes.")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Any value of the recipe; repeatable.")
def command(name: str, recipe: str, settings: tuple[str, ...]) -> None:
    """A plugin's paper, components and recipes; with --recipe, all that the recipe decides. Or, by its folder, a run:
    where it came from, how far it is, its recipe."""
    if recipe or settings:
        _show_recipe(name, recipe, settings)
    elif os.sep in name or os.path.isfile(os.path.join(name, "recipe.yaml")):
        _show_run(name)
    else:
        _show_plugin(name)


def _show_plugin(name: str) -> None:
    from zoo_core import catalog, recipe
    from zoo_core.plugins import installed
    from zoo_core.spec import KINDS

    plugin = catalog.plugin(name)
    origin = installed().loaded[name]
    click.echo(f"{name}: {plugin.summary}")
    if plugin.paper:
        source = f"arXiv {plugin.paper.arxiv}" if plugin.paper.arxiv else ""
        click.echo(f"paper: {', '.join(filter(None, (plugin.paper.title, source, plugin.paper.venue)))}")
    click.echo(f"package: {origin.package} {origin.version}")
    for kind in KINDS:
        for component, reference in sorted(plugin.components(kind).items()):
            click.echo(f"{kind}: {name}/{component} ({reference})")
    recipes = [f"{known} (default)" if known == plugin.recipe else known for known in recipe.names(name)]
    click.echo(f"recipes: {', '.join(recipes) or 'none'}")
    for title, weights in plugin.weights.items():
        click.echo(f"weights: {title}: {weights.url} ({weights.license}) {weights.note}".rstrip())


def _show_run(folder: str) -> None:
    from zoo_core import runs

    opened = runs.load(folder, "cpu")
    manifest = runs.read_manifest(opened.path)
    click.echo(f"{opened.path}: {opened.recipe.plugin}, {opened.step:,} steps of {opened.recipe.train.batch} images")
    try:
        if source := manifest.get(runs.IMPORTED):
            click.echo(f"imported: {source['file']}, {source['bytes']:,} bytes, sha256 {source['sha256']}")
            click.echo(f"held: {', '.join(source['networks'])}")
        if data := manifest.get("data"):
            click.echo(f"trained on: {data.get('name')}")
    except (AttributeError, KeyError, TypeError, ValueError):  # a stranger may have written it
        click.echo("origin: its manifest.json is damaged")
    click.echo(f"started: {manifest.get('started', 'unknown')}\n")
    _print_recipe(opened.recipe)


def _show_recipe(name: str, given: str, settings: tuple[str, ...]) -> None:
    from zoo_core import recipe, session

    wanted = recipe.load(name, given, [recipe.parse_set(text) for text in settings])
    if wanted.data.labels and not wanted.data.condition:
        wanted, _ = session.open_data(wanted)
    _print_recipe(wanted)


def _print_recipe(wanted: Recipe) -> None:
    """The resolved recipe, the phases and the sizes."""
    import torch

    from zoo_core import parts, recipe, session

    wanted = parts.complete(wanted)
    with torch.device("meta"):
        stages = session.build_stages(wanted, parts.build(wanted))
    click.echo(recipe.to_yaml(wanted))
    for stage in stages:
        click.echo(f"stage {stage.name}: {recipe.for_stage(wanted, stage.name).train.images:,} images")
        click.echo(f"  {'phase':<16} {'trains':<26} {'every':>5} {'start':>7} {'clip':>5}")
        for phase in stage.phases:
            clip = f"{phase.clip_norm:g}" if phase.clip_norm else "-"
            click.echo(f"  {phase.name:<16} {', '.join(phase.trains):<26} {phase.every:>5} {phase.start:>7} {clip:>5}")
        for network, module in stage.networks.items():
            if next(module.parameters(), None) is None:
                continue  # a stage's own counters
            trainable = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
            optimizer = stage.optimizers.get(network)
            rate = f", lr {optimizer.param_groups[0]['lr']:g}" if optimizer else ""
            click.echo(f"  {network}: {trainable:,} trainable parameters{rate}")
        for average in stage.averages:
            click.echo(f"  average of {average.of}: {_in_words(average.spec)}")


def _in_words(spec: Averaging) -> str:
    """An average as people say it."""
    memory = f"decay {spec.decay:g} a step" if spec.decay else f"half-life {spec.half_life_images:,.10g} images"
    start = f", from {spec.start_images:,} images on" if spec.start_images else ""
    statistics = "averaged too" if spec.buffers == "average" else "copied"
    return f"{memory}{start}, running statistics {statistics}"
