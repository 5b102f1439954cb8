"""`zoo reconstruct`."""

from __future__ import annotations

from pathlib import Path

import click

SHOWN = 32
"""Pairs in the grid, at most."""
PAIR = ("original", "reconstruction")


@click.command("reconstruct")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", default="", help="Images: a folder, a zip or `drawn`. [default: those of the run]")
@click.option(
    "--num", type=click.IntRange(1), default=2000, show_default=True, help="Images, or all if there are fewer."
)
@click.option("--extractor", default="inception-v3-compat", show_default=True, help="Or random-conv: no download.")
@click.option("--extractor-weights", type=click.Path(path_type=Path), help="Its weights, for working offline.")
@click.option("--lpips", default="", metavar="timm|PATH", help="Also LPIPS, with VGG16's weights from there.")
@click.option(
    "--lpips-linear", default="lpips", show_default=True, help="Its linear layers: that package's, or a file."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of a bottleneck that draws.")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Images at a time.")
@click.option("--files", is_flag=True, help="Also write every original and reconstruction.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder. [default: RUN/reconstructed/step-STEP-DATA-seed-SEED]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    run: Path,
    data: str,
    num: int,
    extractor: str,
    extractor_weights: Path | None,
    lpips: str,
    lpips_linear: str,
    seed: int,
    batch: int,
    files: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Encode and decode images: a grid of originals beside reconstructions, and how much of them returns.

    rFID or rFD and PSNR, SSIM, LPIPS if asked for, and the share of its tokens that the bottleneck uses, also as
    report.json beside the grid. Networks of later stages need not be trained yet.
    """
    import itertools
    import json

    import torch

    from zoo_core import evaluation, reconstruction, runs, sampling
    from zoo_core.data import open_for
    from zoo_core.extractors import open_extractor
    from zoo_core.lpips import load_lpips

    opened = runs.load(run)
    generator = opened.reconstructing
    seeing = open_extractor(extractor, extractor_weights, opened.device)  # say at once when it cannot be had
    without = "Or leave --lpips out."
    distance = load_lpips(vgg=lpips, linear=lpips_linear, without=without).to(opened.device) if lpips else None
    images = open_for(opened.recipe.data, data)
    num = min(num, len(images))
    step, reference = opened.step_of(generator.reconstructs_with), evaluation.reference_name(images, opened.path)
    folder = out or opened.path / "reconstructed" / f"step-{step}-{reference}-seed-{seed}"
    pairs: list[torch.Tensor] = []
    count = itertools.count()

    def show(originals: torch.Tensor, drawn: torch.Tensor) -> None:
        for pair in torch.stack([originals, drawn], 1):  # [2, 3, H, W]
            index = next(count)
            if index < SHOWN:
                pairs.append(pair)
            if files:
                for name, image in zip(PAIR, pair, strict=True):
                    sampling.save_png(folder / f"{index:06d}-{name}.png", image.permute(1, 2, 0).numpy())

    with sampling.making(folder):
        sampling.remove_numbered(folder, *PAIR)
        report = reconstruction.measure(
            generator,
            images,
            num=num,
            extractor=seeing,
            reference=reference,
            lpips=distance,
            seed=seed,
            batch=batch,
            show=show,
        )
    sheet = reconstruction.side_by_side(torch.stack(pairs))
    sampling.save_png(folder / "grid.png", sheet, sampling.enlargement(images.resolution))
    if not lpips:
        report.notes.append("LPIPS is left out: --lpips timm, or a file of VGG16's weights there, adds it.")
    entry = {"step": step, "seed": seed, "lpips": lpips, "data": images.describe(), **report.to_dict()}
    text = json.dumps(entry, indent=1)
    runs.write_text(folder / "report.json", text)
    click.echo(text if as_json else f"{reconstruction.format_report(report)}\n{folder / 'grid.png'}")
