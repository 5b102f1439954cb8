"""Figures of merit from features: Frechet and kernel distance, Inception Score, precision and recall.

torch-fidelity computes every one of them; this module names them by all that moves them, measures the floor, and keeps
the features of real images between runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

from zoo_core import cache
from zoo_core.errors import UserError, did_you_mean
from zoo_core.extractors import OFFICIAL, Features
from zoo_core.rng import seed_of

METRICS = ("fid", "kid", "isc", "prc")
"""What can be asked for. Through any weights but Inception's official ones "fid" is reported as `fd`, "kid" as `kd`."""

CACHE_FORMAT = 1
PRC_BATCH = 2500
"""Rows of distances held at once: 0.5 GB at 50,000 images."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    """Everything that moves the number: `fid@inception-v3-compat:6726825d:N=50000:train`."""
    value: float
    std: float | None = None
    """Spread over torch-fidelity's subsets or splits, where it has them; not a confidence interval."""
    note: str = ""
    """What a reader must know before trusting it; empty when there is nothing."""


def check(metrics: Sequence[str], extractor: str, classifies: bool) -> None:
    """Raise UserError for an unknown metric, or one that needs the class logits of an extractor that has none."""
    for metric in metrics:
        if metric not in METRICS:
            raise UserError(f'there is no metric "{metric}"{did_you_mean(metric, METRICS)}')
    if "isc" in metrics and not classifies:
        raise UserError(f"{extractor} has no class logits, so it has no Inception Score; leave isc out.")


def figures(
    fake: Features,
    real: Features,
    *,
    reference: str,
    metrics: Sequence[str] | None = None,
    subset_size: int = 1000,
    num_subsets: int = 100,
    neighbours: int = 3,
    splits: int = 10,
) -> list[Figure]:
    """Compare generated with real images.

    `reference` names the real ones in the figures: the split, and whatever of the data's filter the caller wants seen.
    `metrics` is a choice of "fid", "kid", "isc", "prc"; None: all that the extractor allows (isc needs class logits).
    A number of real images that is not N stands behind the reference: `N=2000:train=3781`. Kernel subsets larger than
    either set are cut to it, which the name says like every other option.
    Sources: FID 1706.08500, KID 1801.01401, Inception Score 1606.03498, precision and recall 1904.06991.
    Raises UserError for an unknown metric, features of two extractors, too few images, a score without logits.
    """
    if metrics is None:
        metrics = [metric for metric in METRICS if metric != "isc" or fake.logits is not None]
    check(metrics, fake.extractor, fake.logits is not None)
    if fake.extractor != real.extractor:
        raise UserError(
            f"generated images were seen by {fake.extractor}, real ones by {real.extractor}; use one for both."
        )
    fewest = min(len(fake), len(real))
    if fewest < neighbours + 1 or fewest < 2:
        least = max(2, neighbours + 1)
        raise UserError(
            f"{fewest} images are too few to measure; give at least {least} generated and, as the floor halves them, "
            f"{2 * least} real ones, or train without figures: evaluate.num=0 or --no-measure."
        )

    against = reference if len(real) == len(fake) else f"{reference}={len(real)}"
    official = fake.extractor == OFFICIAL

    def name(metric: str, *options: str, alone: bool = False) -> str:
        parts = [f"{metric}@{fake.extractor}", f"N={len(fake)}", *options, *([] if alone else [against])]
        return ":".join(parts)

    found = []
    for metric in dict.fromkeys(metrics):
        if metric == "fid":
            statistics = [metric_fid.fid_features_to_statistics(x.features) for x in (fake, real)]
            value = metric_fid.fid_statistics_to_metric(*statistics, False)[metric_fid.KEY_METRIC_FID]
            note = _rank_note(fewest, fake.features.shape[1])
            found.append(Figure(name("fid" if official else "fd"), value, note=note))
        elif metric == "kid":
            size = min(subset_size, fewest)
            result = metric_kid.kid_features_to_metric(
                fake.features, real.features, kid_subsets=num_subsets, kid_subset_size=size, verbose=False
            )
            label = name("kid" if official else "kd", f"subsets={num_subsets}x{size}")
            note = "each subset is the whole set, so the spread says nothing" if size == len(fake) == len(real) else ""
            found.append(
                Figure(label, result[metric_kid.KEY_METRIC_KID_MEAN], result[metric_kid.KEY_METRIC_KID_STD], note)
            )
        elif metric == "isc":
            used = min(splits, len(fake))
            result = metric_isc.isc_features_to_metric(fake.logits, splits=used)
            label = name("isc", f"splits={used}", alone=True)
            found.append(Figure(label, result[metric_isc.KEY_METRIC_ISC_MEAN], result[metric_isc.KEY_METRIC_ISC_STD]))
        else:
            result = metric_prc.prc_features_to_metric(
                fake.features,
                real.features,
                prc_neighborhood=neighbours,
                prc_batch_size=PRC_BATCH,
                save_cpu_ram=True,
                verbose=False,
            )
            for key in (metric_prc.KEY_METRIC_PRECISION, metric_prc.KEY_METRIC_RECALL):
                found.append(Figure(name(key, f"k={neighbours}"), result[key]))
    return found


def floor(
    real: Features, num: int, *, reference: str, seed: int = 0, metrics: Sequence[str] | None = None, **options: int
) -> list[Figure]:
    """Compare real with real: two random halves of `real`, no image in both, of `num` images each if there are enough.

    What no generator can be expected to beat at that N. Give 2 * num real images for a floor at N = num; from fewer,
    the halves are smaller, their true N is in the name, and a note says that the floor at `num` would be lower.
    `options` are those of `figures`. Names begin with `floor:`. The Inception Score has no floor.
    Raises UserError as `figures` does.
    """
    half = min(num, len(real) // 2)
    order = torch.from_numpy(np.argsort(np.random.Philox(seed_of(seed, "floor")).random_raw(len(real)), kind="stable"))
    one, other = (
        replace(real, features=real.features[rows], logits=None) for rows in order[: 2 * half].split(half or 1)
    )
    note = ""
    if half < num:
        note = f"only {len(real):,} real images, so halves of {half:,}; a floor at N={num} would be lower"
    chosen = [metric for metric in (METRICS if metrics is None else metrics) if metric != "isc"]
    return [
        replace(figure, name=f"floor:{figure.name}", note="; ".join(part for part in (figure.note, note) if part))
        for figure in figures(one, other, reference=reference, metrics=chosen, **options)
    ]


def _rank_note(num: int, dim: int) -> str:
    if num > dim:
        return ""
    return f"N={num} is too small for the covariance of {dim} features; use more than {dim} images"


# --- features of real images, kept between runs ---


def cached_features(key: dict[str, object], compute: Callable[[], Features]) -> Features:
    """Return the features of real images that were stored under `key`, or compute and store them; without logits.

    `key` is JSON and must hold all that moves them: `Extractor.identity`, the data's `describe()`, the number of
    images, the seed of their order. A file that is damaged or belongs to another key is named in the log and made
    again; no pickle is read. A cache that cannot be written is named in the log and does not stop the measuring.
    """
    text = json.dumps({"format": CACHE_FORMAT, **key}, sort_keys=True)
    path = cache.root() / "metrics" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"
    if path.exists():
        try:
            return _load(path, text)
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            _log.warning("cached features %s cannot be used (%s); measuring again", path, error)
    computed = replace(compute(), logits=None)
    try:
        _store(path, text, computed)
    except OSError as error:
        _log.warning("features cannot be kept in %s (%s); the next run measures again", path.parent, error.strerror)
    return computed


def _load(path: Path, key: str) -> Features:
    with np.load(path, allow_pickle=False) as stored:  # its members carry checksums, tested on reading
        if str(stored["key"]) != key:
            raise ValueError("it belongs to something else")
        array, extractor = stored["features"], str(stored["extractor"])
    if array.dtype != np.float32 or array.ndim != 2 or not math.prod(array.shape) or not np.isfinite(array).all():
        raise ValueError(f"it holds {array.dtype} {array.shape}, not finite float32 [N, D]")
    return Features(torch.from_numpy(array), extractor)


def _store(path: Path, key: str, features: Features) -> None:
    """Write beside the place and rename, so that no reader meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix="tmp-", suffix=".npz", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, key=key, extractor=features.extractor, features=features.features.numpy())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
