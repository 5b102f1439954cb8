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
@click.option("--grid", is_flag=True, help="Write the grid only, no single files.")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Images at a time.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder. [default: RUN/sampled/step-STEP-seed-SEED...]")
def command(
    run: Path, num: int, seed: int, label: str, truncation: float | None, grid: bool, batch: int, out: Path | None
) -> None:
    """Draw images from a run or one of its checkpoints: PNG files and a grid."""
    import torch

    from zoo_core import runs, sampling
    from zoo_core.errors import UserError
    from zoo_core.progress import counting

    opened = runs.load(run)
    generator = opened.generator
    knobs = sampling.checked_knobs(generator, {} if truncation is None else {"truncation": truncation})
    chosen = sampling.class_number(label, opened.recipe.data.classes, generator.num_classes)
    folder = out or opened.path / "sampled" / sampling.name_of(opened.step, seed, chosen, truncation)
    shown = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} ({error.strerror}); name another with --out.") from None
    with counting("sampling", num) as advance:
        batches = sampling.draw(generator, num, seed, label=chosen, batch=batch, knobs=knobs, progress=advance)
        count = 0
        for images in batches:
            for image in images if not grid else ():
                sampling.save_png(folder / f"{count:06d}.png", image.permute(1, 2, 0).numpy())
                count += 1
            if len(shown) * batch < 256:
                shown.append(images)
    sheet = sampling.grid(torch.cat(shown)[:256])
    sampling.save_png(folder / "grid.png", sheet, sampling.enlargement(opened.recipe.data.resolution))
    click.echo(f"{folder / 'grid.png'}" + ("" if grid else f" and {num} images beside it"))
