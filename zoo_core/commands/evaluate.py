"""`zoo evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

METRICS = ("fid", "kid", "isc", "prc")


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", default="", help="Real images: a folder, a zip or `drawn`. [default: those of the run]")
@click.option("--num", type=click.IntRange(2), default=2000, show_default=True, help="Samples to measure.")
@click.option("--real", type=click.IntRange(0), help="Real images to compare with; 0: all. [default: as many]")
@click.option("--metric", multiple=True, type=click.Choice(METRICS), help="Repeatable. [default: all that apply]")
@click.option("--extractor", default="inception-v3-compat", show_default=True, help="Or random-conv: no download.")
@click.option("--extractor-weights", type=click.Path(path_type=Path), help="Its weights, for working offline.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the samples.")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Samples at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    run: Path,
    data: str,
    num: int,
    real: int | None,
    metric: tuple[str, ...],
    extractor: str,
    extractor_weights: Path | None,
    seed: int,
    batch: int,
    as_json: bool,
) -> None:
    """Measure a run against real images: FID, KID, Inception Score, precision and recall, beside their floor.

    Figures carry everything that moves them in their names; without the official Inception weights another extractor
    is named, never passed off as FID.
    """
    import json

    from zoo_core import evaluation, runs
    from zoo_core.data import open_for
    from zoo_core.extractors import open_extractor

    opened = runs.load(run)
    seeing = open_extractor(extractor, extractor_weights, opened.device)  # say at once when it cannot be had
    evaluation.read(opened.path)  # or that the figures could not be kept
    images = open_for(opened.recipe.data, data)
    report = evaluation.measure(
        opened.generator,
        images,
        num=num,
        extractor=seeing,
        metrics_wanted=metric or None,
        seed=seed,
        num_real=real,
        batch=batch,
        reference=evaluation.reference_name(images, opened.path),
    )
    kept = evaluation.read(opened.path)
    entry = {"step": opened.step, "seed": seed, "data": images.describe(), **report.to_dict()}
    kept.setdefault("commands", []).append(entry)
    evaluation.write(opened.path, kept)
    click.echo(json.dumps(entry, indent=1) if as_json else evaluation.format_report(report))
