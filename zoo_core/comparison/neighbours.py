"""The training images that samples lie nearest to, in the features that the figures are measured in.

Training images are looked at as they are stored, none of them mirrored.
Shapes: Q queries, R training images, D features.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_core import runs, sampling
from zoo_core.comparison.measure import Asked
from zoo_core.comparison.results import Neighbours, Trained
from zoo_core.evaluation import real_features
from zoo_core.extractors import image_batches
from zoo_core.files import read_json
from zoo_core.schema import build

SHOWN = 8
"""Samples that are shown with their neighbours."""
NEAREST = 2
"""Neighbours shown of each."""
SAMPLES = 256
"""Samples behind the medians, and as many training images."""
MOST = 20_000
"""Training images that are searched, at most: a random choice, the same for all contenders."""
ROWS = 32
"""Queries whose distances to all training images are held at once: 2.5 MB at 20,000."""


def nearest(queries: Tensor, among: Tensor, num: int, *, own: bool = False, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """The `num` rows of `among [R, D]` nearest to each of `queries [Q, D]`: Euclidean distances `[Q, num]`, ascending,
    and which rows they are `[Q, num]`; of equal distances the earlier row first.

    With `own` the queries are the first rows of `among`, and none is a neighbour of itself.
    """
    distances, numbers = [], []
    for start in range(0, len(queries), rows):
        # Not by way of matrix products, whose rounding would leave a copy at a distance of its own.
        part = torch.cdist(queries[start : start + rows], among, compute_mode="donot_use_mm_for_euclid_dist")
        if own:
            part.diagonal(start).fill_(math.inf)
        ordered = part.sort(dim=1, stable=True)
        distances.append(ordered.values[:, :num])
        numbers.append(ordered.indices[:, :num])
    return torch.cat(distances), torch.cat(numbers)


def look(samples: Tensor, asked: Asked, *, train_seed: int, generation_seed: int, picture: str) -> Neighbours:
    """Neighbours of `samples`, uint8 `[Q, 3, H, W]`; the seeds and the picture's place are passed on."""
    images = asked.images
    # At a large N this is what the figures have asked for and is kept; it begins with the same images.
    real = real_features(images, asked.extractor, min(len(images), max(2 * asked.num, MOST))).take(MOST)
    seen = asked.extractor.features(samples.split(256), len(samples))
    distances, rows = nearest(seen.features, real.features, NEAREST)
    among_real, _ = nearest(real.features[: len(samples)], real.features, 1, own=True)
    # The numbers of the images in the order of their features: numbers go through it as images do.
    numbers = np.arange(len(images)).reshape(-1, 1, 1, 1)
    order = torch.cat([batch.flatten() for batch in image_batches(numbers, len(real))])
    return Neighbours(
        train_seed=train_seed,
        generation_seed=generation_seed,
        space=real.extractor,
        num_samples=len(samples),
        num_real=len(real),
        images=order[rows[:SHOWN]].tolist(),
        distances=distances[:SHOWN].tolist(),
        of_samples=float(distances[:, 0].median()),
        of_real=float(among_real[:, 0].median()),
        picture=picture,
    )


def side_by_side(samples: Tensor, found: Neighbours, asked: Asked) -> np.ndarray:
    """The samples that are shown, uint8 `[h, w, 3]`, and below each its neighbours, the nearest first."""
    rows = [asked.images.take(np.array(column))[0] for column in zip(*found.images, strict=True)]
    return sampling.grid(torch.cat([samples[: len(found.images)], *rows]), columns=len(found.images))


def find(
    contender: str,
    trained: Trained,
    run: Path,
    seed: int,
    folder: Path,
    keep: Path,
    asked: Asked,
    say: Callable[[str], None],
) -> Neighbours:
    """The neighbours of one training's samples of a generation seed, the same samples as the figures are of.

    `run` is the training's own folder. What is found is kept with its picture in the folder `keep`, below the report's
    own `folder`, and not looked for again if it is of the same weights.
    """
    file = keep / f"{contender}.json"
    png = file.with_suffix(".png")
    identity = {
        "weights": trained.weights,
        "generation_seed": seed,
        "data": asked.images.describe(),
        "extractor": asked.extractor.identity,
        "num": asked.num,
    }
    kept = _kept(file, identity)
    place = png.relative_to(folder).as_posix()
    if kept and kept.picture == place and png.exists():
        return kept
    say(f"Looking for the training images nearest to {contender}'s samples.")
    generator = runs.load(run).generator
    maps = asked.images.maps_in_turn(generator.map_kind)
    samples = torch.cat(list(sampling.draw(generator, min(SAMPLES, asked.num), seed, maps=maps)))
    found = look(samples, asked, train_seed=trained.seed, generation_seed=seed, picture=place)
    sampling.save_png(png, side_by_side(samples, found, asked), sampling.enlargement(asked.images.resolution))
    content = {**identity, "neighbours": dataclasses.asdict(found)}
    runs.write_text(file, json.dumps(content, indent=1))  # last, so that what is kept has its picture
    return found


def _kept(file: Path, identity: Mapping[str, Any]) -> Neighbours | None:
    try:
        content = read_json(file)
        same = all(content[key] == value for key, value in identity.items())
        return build(Neighbours, content["neighbours"], str(file)) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
