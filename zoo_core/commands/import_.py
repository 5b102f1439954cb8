"""`zoo import`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--plugin", required=True, help="The paper that the checkpoint is of; see `zoo list`.")
@click.option("--recipe", default="", help="A recipe by name, or a YAML file. [default: the one that the file fits]")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Any value of the recipe; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), help="The run folder. [default: runs/PLUGIN-RECIPE-imported]")
@click.option(
    "--trust-pickle",
    is_flag=True,
    help="Read a .pt file as a full pickle: this runs whatever code its author put into it, with your rights.",
)
def command(
    file: Path, plugin: str, recipe: str, settings: tuple[str, ...], out: Path | None, trust_pickle: bool
) -> None:
    """Turn an official checkpoint (.pt, .npz or .safetensors) into a run, to sample, evaluate, show and train on.

    Every learned tensor and running statistic must be there and fit; constants are recomputed. No code in the file is
    run. TensorFlow checkpoints are first made an .npz, by tools/dump_tf_checkpoint.py.
    """
    from zoo_core import catalog
    from zoo_core import recipe as recipes

    catalog.plugin(plugin)
    changes = [recipes.parse_set(text) for text in settings]
    if recipe:
        recipes.load(plugin, recipe, changes)  # a mistake in it is told before the file is read

    from zoo_core import importing, parts, restricted_pickle, session, tensor_files

    if out:
        importing.check_free(out)
    if trust_pickle:
        click.echo(f"warning: {tensor_files.TRUSTED.format(file)}", err=True)
    content = tensor_files.read(file, trust_pickle=trust_pickle)
    name = recipe or importing.find_recipe(content, plugin, changes)
    folder = out or Path("runs") / f"{plugin}-{Path(name).stem}-imported"
    importing.check_free(folder)
    found = importing.match(content, plugin, name, changes)
    if found.differences:
        others = importing.fitting(
            content, plugin, [other for other in recipes.names(plugin) if other != name], changes
        )
        raise importing.refusal(file, found, name, others)
    if not recipe:
        click.echo(f"The file fits the recipe {name}.")
    if found.settings:
        said = ", ".join(f"{path}={value}" for path, value in found.settings.items())
        click.echo(f"The file's own configuration is used: {said}.")
    if strange := restricted_pickle.placeholders(content):
        click.echo(f"Left unread, as it is not plain data: {restricted_pickle.listed(strange)}.")
    stages = session.build_stages(found.recipe, parts.outline(found.recipe))
    for remark in importing.fill(stages, found):
        click.echo(f"{remark[0].upper()}{remark[1:]}.")
    source = importing.origin(file, found.imported)
    importing.write_run(folder, found.recipe, stages, found.imported, source)
    click.echo(f"{folder} holds {', '.join(source['networks'])}. Next:")
    train = f"  zoo train --plugin {plugin} --recipe {folder}/recipe.yaml --out {folder} --data IMAGES"
    missing = [stage for stage in stages if stage not in importing.held(stages, found.imported)]
    for stage in missing:
        click.echo(f"{train} --stage {stage.name}")
    if not missing:
        click.echo(f"  zoo sample {folder} --num 64")
        click.echo(train)
