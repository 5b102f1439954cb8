"""A made-up comparison, with everything that a real one may bring: for tests of the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from zoo_core.comparison import assemble
from zoo_core.comparison.flags import flags_for
from zoo_core.comparison.results import Budget, Comparison, Contender, Cost, CurvePoint, Published, Trained

NAMES = ("styleswin", "stylenat", "sagan", "hit-low-resolution-stages-only", "styleswin+hydra")
N = 2000
FIGURES = {  # name -> (mean of each contender, spread of trainings as a share)
    f"fd@random-conv-v1:32px:N={N}:train": ((19.2, 23.9, 61.4, 35.0, 19.4), 0.03),
    f"kd@random-conv-v1:32px:N={N}:subsets=100x1000:train": ((0.0121, 0.0149, 0.0514, 0.0271, 0.0122), 0.05),
    f"precision@random-conv-v1:32px:N={N}:k=3:train": ((0.61, 0.58, 0.41, 0.55, 0.60), 0.03),
    f"recall@random-conv-v1:32px:N={N}:k=3:train": ((0.42, 0.40, 0.11, 0.31, 0.43), 0.04),
    f"symmetry_error@drawn:N={N}": ((0.357, 0.391, 0.62, 0.47, 0.345), 0.02),
    f"pair_agreement@drawn:N={N}": ((0.437, 0.412, 0.205, 0.66, 0.52), 0.04),
    f"pair_excess@drawn:N={N}": ((0.289, 0.271, 0.034, 0.508, 0.37), 0.04),
}
FLOORS = (0.31, 0.0002, 0.93, 0.93, 0.0, 1.0, 0.832)


def comparison(names: Sequence[str] = NAMES, seeds: int = 3, samplings: int = 3, diverged: bool = True) -> Comparison:
    """The third contender diverges in its last training; the first and the fifth hardly differ."""
    contenders = [_contender(name, index, seeds, samplings, diverged) for index, name in enumerate(names)]
    spoilt = {
        "blurred": {name: 41.7 if name.startswith("fd") else 0.2 for name in FIGURES},
        "JPEG, quality 75": {name: 3.4 if name.startswith("fd") else 0.7 for name in FIGURES},
        "collapsed to ten images": {name: 512.5 if name.startswith("fd") else None for name in FIGURES},
    }
    figures = assemble.compared(contenders, dict(zip(FIGURES, FLOORS, strict=True)), spoilt, samplings)
    remarks = ["hit-low-resolution-stages-only mirrors images in its recipe; in the common track nobody does."]
    return Comparison(
        track="common",
        budget=Budget("images", 30_000),
        data={"name": "drawn", "content": "34edd1232209b449" * 4, "resolution": 32, "num": 20_000, "classes": ["cat"]},
        num=N,
        seeds=list(range(seeds)),
        generation_seeds=list(range(1, samplings + 1)),
        contenders=contenders,
        figures=figures,
        agreement=assemble.agreements(figures),
        flags=flags_for(contenders, figures, remarks, seeds),
        manifest={
            "python": "3.11.7",
            "packages": {"torch": "2.15.0", "numpy": "2.4.6"},
            "plugins": {"sagan": {"package": "zoo-sagan", "version": "1.0.0"}},
            "hardware": {"machine": "x86_64", "cores": 2, "accelerator": "none"},
            "git": "c43198d" * 5,
            "seed": 0,
        },
        command=f"zoo compare {' '.join(names)} --budget images=30k --seeds {seeds} --out runs/compare-attention",
        published=[
            Published("styleswin", "StyleSwin", "FFHQ 256", "FID", "2.81", "table 1 of arXiv 2112.10762"),
            Published("sagan", "SAGAN", "ImageNet 128", "FID", "18.65", "table 1 of arXiv 1805.08318"),
        ],
    )


def _contender(name: str, index: int, seeds: int, samplings: int, diverged: bool) -> Contender:
    runs = [_run(name, index, seed, samplings, diverged and index == 2 and seed == seeds - 1) for seed in range(seeds)]
    return Contender(
        name=name,
        plugin="styleswin",
        recipe={"plugin": "styleswin", "generator": {"name": "styleswin", "channels": {4: 128, 8: 128}}, "train": {}},
        command=f"zoo train --plugin styleswin --recipe recipes/{name}.yaml --out runs/{name}-seed-0",
        images=30_000,
        cost=Cost(1_912_345 + index, 2_345_678, 3.1e9 / (index + 1), 4.2e8, 100.0 * 3**index, 412 * 2**20),
        runs=runs,
        pretrained=["lpips-vgg"] if index == 3 else [],
    )


def _run(name: str, index: int, seed: int, samplings: int, diverged: bool) -> Trained:
    rng = np.random.default_rng([index, seed])
    values, ends = {}, {}
    for figure, (means, spread) in FIGURES.items():
        ends[figure] = means[index] * (1 + spread * rng.normal())
        values[figure] = [float(ends[figure] * (1 + spread / 3 * rng.normal())) for _ in range(samplings)]
    curve = []
    for images in range(0, 15_001 if diverged else 30_001, 3_000):
        left = 0.5 ** (images / 5_000)
        point = {}
        for figure, end in ends.items():
            distance = 12 * left * (1 + 0.1 * rng.normal())
            falls = figure.startswith(("fd", "kd", "symmetry"))
            point[figure] = float(end * (1 + distance if falls else 1 - left))
        curve.append(CurvePoint(images, images * 3.1e9 / (index + 1), images / 20 * (index + 1), point))
    return Trained(
        seed=seed,
        state="diverged" if diverged else "done",
        images=15_000 if diverged else 30_000,
        seconds=1_500.0 * (index + 1),
        folder=f"runs/{name}-seed-{seed}",
        weights="" if diverged else "ab" * 32,
        values={} if diverged else values,
        curve=curve,
        note="generator was not finite in step 938" if diverged else "",
    )


def draw_grids(found: Comparison, folder: Path) -> None:
    """A grid in each run's folder but the last contender's, an older one beside it."""
    for index, contender in enumerate(found.contenders[:-1]):
        for run in contender.runs:
            samples = folder / run.folder / "samples"
            samples.mkdir(parents=True)
            noise = np.random.default_rng(index).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            for images in (0, run.images):
                Image.fromarray(noise).resize((256, 256), 0).save(samples / f"images-{images:09d}.png")


def nothing(found: Comparison) -> Comparison:
    """The same with None, 0 and nothing wherever that is allowed."""
    contenders = [
        dataclasses.replace(
            contender,
            cost=Cost(0, 0, 0.0, 0.0, 0.0, 0),
            runs=[dataclasses.replace(run, curve=[], values={}, state="diverged") for run in contender.runs],
        )
        for contender in found.contenders
    ]
    figures = assemble.compared(found.contenders, {}, {"blurred": {}}, len(found.generation_seeds))
    empty = [
        dataclasses.replace(
            figure,
            summaries={
                name: dataclasses.replace(row, mean=None, low=None, high=None, between=None, within=None, trainings=0)
                for name, row in figure.summaries.items()
            },
            verdicts=[
                dataclasses.replace(
                    verdict, difference=None, low=None, high=None, p=None, adjusted=None, outcome="inconclusive"
                )
                for verdict in figure.verdicts
            ],
        )
        for figure in figures
    ]
    return dataclasses.replace(
        found,
        contenders=contenders,
        figures=empty,
        agreement=[[None] * len(empty) for _ in empty],
        flags=[],
        published=[],
        manifest={},
        data={},
    )
