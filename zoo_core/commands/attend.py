"""`zoo attend`."""

from __future__ import annotations

from pathlib import Path

import click

from zoo_core.errors import UserError


@click.command("attend")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--seed", type=int, default=0, show_default=True, help="Of the image: the first that `zoo sample` draws.")
@click.option("--layer", multiple=True, help="A layer by path or number, as --list has it; repeatable. [default: all]")
@click.option("--query", multiple=True, metavar="X,Y", help="A pixel to look from; repeatable. [default: up to four]")
@click.option("--label", default="", help="One class, by number or name, for a conditional generator.")
@click.option("--truncation", type=float, help="Pull latents to their mean: 1 is off, 0 is all the mean.")
@click.option(
    "--maps",
    type=click.Path(path_type=Path),
    help="Maps to draw from, of which the first is used: a file, folder or zip. [default: the run's data]",
)
@click.option("--list", "as_list", is_flag=True, help="List the layers, and draw nothing.")
@click.option("--out", type=click.Path(path_type=Path), help="A PNG. [default: RUN/attention/step-STEP-seed-SEED.png]")
def command(
    run: Path,
    seed: int,
    layer: tuple[str, ...],
    query: tuple[str, ...],
    label: str,
    truncation: float | None,
    maps: Path | None,
    as_list: bool,
    out: Path | None,
) -> None:
    """Where attention looks from some points of an image, head by head: a PNG sheet, and the numbers as an .npz."""
    from zoo_core import attending, runs, sampling
    from zoo_core.attention_sheet import Sheet
    from zoo_core.files import replacing

    points = [attending.parse_point(text) for text in query]
    opened = runs.load(run)
    generator = opened.generator
    knobs = sampling.checked_knobs(generator, {} if truncation is None else {"truncation": truncation})
    chosen = sampling.class_number(label, opened.recipe.data.classes, generator.num_classes)
    shown = sampling.maps_for(generator, opened.recipe.data, maps)
    image, layers = attending.draw(generator, seed, label=chosen, knobs=knobs, maps=shown)
    if as_list:
        click.echo(attending.table(layers))
        return
    layers = attending.select(layers, layer)
    attending.check_points(points, image.shape[:2])
    points = points or attending.striking_points(image)

    name = sampling.name_of(opened.step, seed, chosen, knobs | ({"maps": maps.stem} if maps else {}))
    png = _png(out or opened.path / "attention" / f"{name}.png")
    npz = png.with_suffix(".npz")
    title = f"{opened.path.resolve().name}: {opened.recipe.plugin}, {name}"
    sheet = Sheet(image, points, title, num_tiles=sum(each.shape[0] for each in layers) * len(points))
    with replacing(npz) as numbers, replacing(png) as picture:
        with attending.arrays(numbers) as add:
            add("image", image)
            add("queries", points)
            add("layers", [layer.path for layer in layers])
            for each in layers:  # one after the other, for the weights of a large layer fill the memory
                looked = each.look(points, image.shape[:2])
                add(f"{each.path}/weights", looked.weights)
                add(f"{each.path}/queries", looked.places)
                sheet.add(looked)
        sheet.save(picture)
    click.echo(f"{png}\n{npz}")


def _png(path: Path) -> Path:
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a PNG in it with --out.")
    return path if path.suffix.lower() == ".png" else path.with_name(f"{path.name}.png")
