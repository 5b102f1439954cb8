"""Figures of trained runs, of several sets of samples each, kept beside the runs; and of images that anyone can judge.

A figure is named by all that moves it, as in `zoo evaluate`. Structure's names are `pair_agreement@drawn:N=2000`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from zoo_core import metrics, structure
from zoo_core.data import ImageSet
from zoo_core.errors import UserError
from zoo_core.evaluation import REFERENCE, Report, measure, real_features
from zoo_core.extractors import Extractor, image_batches
from zoo_core.files import read_json
from zoo_core.metrics import Figure
from zoo_core.runs import Run, write_text
from zoo_core.schema import coerce

MEASURED = "measured"
STRUCTURES = {"symmetry_error": True, "pair_agreement": False, "pair_excess": False, "count_agreement": False}
"""Structure figures of a comparison, and whether lower is better. `pair_excess` is the agreement of ears and feet less
that of tops and bottoms of different samples: what is consistent, and not just always the same."""
HIGHER = ("precision", "recall", "isc")
"""Figures of which more is better."""

Values = dict[str, float | None]


@dataclass(frozen=True)
class Asked:
    """What is measured, of every run alike."""

    num: int
    metrics: tuple[str, ...]
    extractor: Extractor
    images: ImageSet


def lower_is_better(figure: str) -> bool:
    """Which way a figure points."""
    name = figure.partition("@")[0]
    return STRUCTURES.get(name, not name.startswith(HIGHER))


def weights(run: Run) -> str:
    """sha256 over the manifests of the run's checkpoints, which hold the sha256 of every file."""
    digest = hashlib.sha256()
    for found in run.checkpoints:
        digest.update((found.path / "manifest.json").read_bytes())
    return digest.hexdigest()


def measured(run: Run, seeds: range, file: Path, asked: Asked, say: Callable[[str], None]) -> dict[int, Values]:
    """The figures of a run for each generation seed; those in the file are not measured again, if they are of the same
    weights. Each is written when it is there."""
    identity = {
        "weights": weights(run),
        "data": asked.images.describe(),
        "extractor": asked.extractor.identity,
        "num": asked.num,
        "metrics": list(asked.metrics),
    }
    kept = _kept(file, identity)
    for seed in seeds:
        if str(seed) not in kept:
            say(f"Measuring {run.path.name}, samples of seed {seed}.")
            kept[str(seed)] = figures(run, seed, asked)
            write_text(file, json.dumps({**identity, "seeds": kept}, indent=1))
    return {seed: kept[str(seed)] for seed in seeds}


def figures(run: Run, seed: int, asked: Asked) -> Values:
    """A run's figures on the samples of one generation seed, by name."""
    report = measure(
        run.generator,
        asked.images,
        num=asked.num,
        extractor=asked.extractor,
        metrics_wanted=asked.metrics,
        seed=seed,
    )
    return values_of(report, asked.num)


def values_of(report: Report, num: int) -> Values:
    """A report's figures by name."""
    found: Values = {figure.name: _finite(figure.value) for figure in report.figures}
    return found | of_structure(
        {name: (row["images"], row["images_shuffled"]) for name, row in report.structure.items()}, num
    )


def of_structure(rows: Mapping[str, tuple[float, float]], num: int) -> Values:
    """Structure figures under the names of a comparison; from (value, value shuffled) by figure."""
    if not rows:
        return {}
    said = {name: rows[name][0] for name in STRUCTURES if name in rows}
    if "pair_agreement" in rows:
        agreed, by_chance = rows["pair_agreement"]
        said["pair_excess"] = None if agreed is None or by_chance is None else agreed - by_chance
    return {f"{name}@drawn:N={num}": _finite(value) for name, value in said.items()}


def _kept(file: Path, identity: Mapping[str, Any]) -> dict[str, Values]:
    """By generation seed; nothing where the file is of something else, damaged, or not whole."""
    try:
        content = read_json(file)
        same = all(content[key] == value for key, value in identity.items())
        kept = coerce(content["seeds"], dict[str, Values], str(file)) if same else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    names = {frozenset(values) for values in kept.values()}
    return kept if len(names) == 1 and all(names) else {}


# --- images that anyone can judge ---


def floors(asked: Asked) -> tuple[Values, dict[str, str]]:
    """Real images against other real ones, by the figures' names; for structure its value on real images. And what a
    reader must know before trusting a figure at this N, by its kind: `fd`."""
    real = real_features(asked.images, asked.extractor, min(len(asked.images), 2 * asked.num))
    values: Values = _structure_of(asked, _reference(asked)) if asked.images.is_drawn else {}
    if len(real) < 2 * asked.num:  # halves would be smaller, and figures of two N do not stand beside each other
        itself = real.take(asked.num)  # as large as what contenders are held against, so that the notes are theirs
        found = metrics.figures(itself, itself, reference=REFERENCE, metrics=_with_floor(asked))
        return values, {_kind(figure): "; ".join(filter(None, (_note(figure), few(asked)))) for figure in found}
    found = metrics.floor(real, asked.num, reference=REFERENCE, metrics=asked.metrics)
    values |= {figure.name.removeprefix("floor:"): _finite(figure.value) for figure in found}
    return values, {_kind(figure): _note(figure) for figure in found if _note(figure)}


def sanity(asked: Asked) -> dict[str, Values]:
    """What the figures say of real images that were spoilt, by what was done to them.

    They are other images than those of the reference, as far as there are enough. Held against their own originals they
    would owe nothing to chance, could pass below the floor, and each would find its near neighbour.
    """
    real = _others(asked)
    reference = real_features(asked.images, asked.extractor, min(len(asked.images), 2 * asked.num)).take(asked.num)
    rows = {}
    for name, spoil in SPOILT.items():
        spoilt = spoil(real)
        features = asked.extractor.features(spoilt.split(256), len(spoilt))
        found = metrics.figures(features, reference, reference=REFERENCE, metrics=asked.metrics)
        rows[name] = {figure.name: _finite(figure.value) for figure in found}
        if asked.images.is_drawn:
            rows[name] |= _structure_of(asked, spoilt)
    return rows


def _with_floor(asked: Asked) -> list[str]:
    return [metric for metric in asked.metrics if metric != "isc"]


def _kind(figure: Figure) -> str:
    return figure.name.removeprefix("floor:").partition("@")[0]


def _note(figure: Figure) -> str:
    """Its note, but for one on the spread of a single measurement: a comparison shows another."""
    return figure.note if figure.std is None else ""


def few(asked: Asked) -> str:
    """What fewer than 2 N real images mean."""
    num, wanted = len(asked.images), asked.num
    if num < wanted:
        return f"only {num:,} real images, so there is neither a floor nor a spoilt set at N={wanted:,}"
    return (
        f"only {num:,} real images, so there is no floor at N={wanted:,}, "
        f"and {2 * wanted - num:,} of the spoilt ones have their originals in the reference"
    )


def _reference(asked: Asked) -> Tensor:
    """The real images that samples are held against."""
    num = min(asked.num, len(asked.images))
    return torch.cat(list(image_batches(asked.images.images, num)))


def _others(asked: Asked) -> Tensor:
    """As many real images as `_reference` has: those after it, or the last of all where they are too few."""
    num = min(2 * asked.num, len(asked.images))
    skipped = num - min(asked.num, num)
    kept = []
    for batch in image_batches(asked.images.images, num):
        kept.append(batch[skipped:])
        skipped = max(0, skipped - len(batch))
    return torch.cat(kept)


def _structure_of(asked: Asked, images: Tensor) -> Values:
    pictures = images.permute(0, 2, 3, 1).contiguous().numpy()
    found = structure.report(pictures, _reference(asked).permute(0, 2, 3, 1).contiguous().numpy())
    return of_structure({name: (row["images"], row["images_shuffled"]) for name, row in found.items()}, asked.num)


def _blurred(images: Tensor) -> Tensor:
    """Each pixel the mean of 3 x 3."""
    parts = (pad(part.float(), (1, 1, 1, 1), mode="replicate") for part in images.split(256))
    return torch.cat([avg_pool2d(part, 3, 1).round().to(torch.uint8) for part in parts])


def _compressed(images: Tensor) -> Tensor:
    """Through JPEG at quality 75, as pictures on the web are."""
    done = []
    for image in images.permute(0, 2, 3, 1).numpy():
        file = BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(file, format="JPEG", quality=75)
        done.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(done)).permute(0, 3, 1, 2).contiguous()


def _collapsed(images: Tensor) -> Tensor:
    """Ten real images, over and over: each is perfect."""
    few = images[:10]
    return few.repeat(-(-len(images) // len(few)), 1, 1, 1)[: len(images)]


SPOILT: Mapping[str, Callable[[Tensor], Tensor]] = {
    "blurred": _blurred,
    "JPEG, quality 75": _compressed,
    "collapsed to ten images": _collapsed,
}
"""Images uint8 `[N, 3, H, W]` -> the same, spoilt."""


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def check(asked: Asked) -> None:
    """Raise UserError for what the metrics would refuse after hours of training."""
    metrics.check(asked.metrics, asked.extractor.name, asked.extractor.classifies)
    if len(asked.images) < 8 or asked.num < 8:
        raise UserError("figures need at least 8 images, real ones and samples; give more, or another --num.")
