"""`zoo sample`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("sample")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--num", type=click.IntRange(1), default=64, show_default=True, help="Images.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed draws the same images.")
@click.option("--label", default="", help="One class, by number or name, for a conditional generator.")
@click.option("--truncation", type=float, help="Pull latents to their mean: 1 is off, 0 is all the mean.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A knob, such as top_k=100; repeatable.")
@click.option("--size", default="", metavar="HxW", help="Height and width in pixels, such as 512x768.")
@click.option(
    "--maps",
    type=click.Path(path_type=Path),
    help="Maps to draw from: a file, folder or zip. [default: the run's data]",
)
@click.option("--grid", is_flag=True, help="Write the grid only, no single files.")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Images at a time.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder. [default: RUN/sampled/step-STEP-seed-SEED...]")
def command(
    run: Path,
    num: int,
    seed: int,
    label: str,
    truncation: float | None,
    settings: tuple[str, ...],
    size: str,
    maps: Path | None,
    grid: bool,
    batch: int,
    out: Path | None,
) -> None:
    """Draw images from a run or one of its checkpoints: PNG files and a grid."""
    import torch

    from zoo_core import runs, sampling
    from zoo_core.recipe import parse_set

    wanted = sampling.parse_size(size)
    given = dict(parse_set(text) for text in settings) | ({} if truncation is None else {"truncation": truncation})
    opened = runs.load(run)
    generator = opened.generator
    knobs = sampling.checked_knobs(generator, given, wanted)
    chosen = sampling.class_number(label, opened.recipe.data.classes, generator.num_classes)
    shown_maps = sampling.maps_for(generator, opened.recipe.data, maps, wanted)
    named = knobs | ({"maps": maps.stem} if maps else {})
    folder = out or opened.path / "sampled" / sampling.name_of(opened.step, seed, chosen, named)
    shown = []
    with sampling.making(folder), sampling.counting_steps(generator, num, wanted) as advance:
        sampling.remove_numbered(folder)
        batches = sampling.draw(
            generator, num, seed, label=chosen, batch=batch, knobs=knobs, maps=shown_maps, progress=advance
        )
        count = 0
        for images in batches:
            for image in images if not grid else ():
                sampling.save_png(folder / f"{count:06d}.png", image.permute(1, 2, 0).numpy())
                count += 1
            if len(shown) * batch < 256:
                shown.append(images)
    sheet = sampling.grid(torch.cat(shown)[:256])
    sampling.save_png(folder / "grid.png", sheet, sampling.enlargement(min(shown[0].shape[2:])))
    click.echo(f"{folder / 'grid.png'}" + ("" if grid else f" and {num} images beside it"))
