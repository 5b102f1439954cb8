"""What a page shows beside runs' own figures, for runs that followed no plan: what the same figures say of spoilt real
images, and the training images nearest to samples. It takes the images that the runs were trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_core.comparison import measure, neighbours
from zoo_core.comparison.measure import Asked, Values
from zoo_core.comparison.on_disk import Found
from zoo_core.comparison.results import Contender, Neighbours
from zoo_core.data import ImageSet, open_for
from zoo_core.errors import UserError
from zoo_core.extractors import Extractor, open_extractor

METRICS = {"fid": "fid", "fd": "fid", "kid": "kid", "kd": "kid", "isc": "isc", "precision": "prc", "recall": "prc"}
"""By a figure's kind: what is asked for to have it."""

Say = Callable[[str], None]


@dataclass
class Alongside:
    """What was found, and what could not be."""

    sanity: dict[str, Values] = field(default_factory=dict)
    """By what was done to the images, by figure."""
    neighbours: dict[str, Neighbours] = field(default_factory=dict)
    """By contender."""
    missing: list[str] = field(default_factory=list)
    """A sentence for each thing that is not shown."""


def look(
    grouped: Mapping[str, Sequence[Found]],
    contenders: Sequence[Contender],
    data: Mapping[str, Any],
    names: Sequence[str],
    num: int,
    page: Path,
    say: Say,
) -> Alongside:
    """Measure for the figures `names` of N = `num`; pictures of neighbours go into a folder beside the `page`.

    `data` is what the runs' manifests say of their images. Whatever cannot be had is a sentence, and no error.
    """
    found = Alongside()
    try:
        images = _images(next(iter(grouped.values()))[0], data)
    except UserError as error:
        found.missing.append(f"Neither spoilt images nor nearest training images are shown: {error}")
        return found
    for label, kinds in _kinds(names).items():
        try:
            asked = Asked(num, tuple(dict.fromkeys(METRICS[kind] for kind in kinds)), _extractor(label, images), images)
            say(f"Measuring spoilt images with {label}.")
            sanity = measure.sanity(asked)
        except UserError as error:
            found.missing.append(f"What figures through {label} say of spoilt images is not shown: {error}")
            continue
        for spoilt, values in sanity.items():
            found.sanity[spoilt] = found.sanity.get(spoilt, {}) | values
        try:
            found.neighbours = found.neighbours or _neighbours(grouped, contenders, asked, page, say)
        except UserError as error:
            found.missing.append(f"Nearest training images are not shown: {error}")
    return found


def _images(first: Found, data: Mapping[str, Any]) -> ImageSet:
    """The images of training. Raises UserError where they cannot be had, or nobody knows which they were."""
    spec = first.recipe.data
    if not data:
        raise UserError("no manifest says which images the runs were trained on.")
    images = open_for(spec)
    if images.content != data["content"]:
        raise UserError(f"{spec.source or images.name} holds other images now than when the runs were trained.")
    return images


def _kinds(names: Sequence[str]) -> dict[str, list[str]]:
    """The kinds of figures that a network measures, by the network as the figures name it."""
    found: dict[str, list[str]] = {}
    for name in names:
        kind, _, rest = name.partition("@")
        if kind in METRICS:
            found.setdefault(rest.partition(":N=")[0], []).append(kind)
    return found


def _extractor(label: str, images: ImageSet) -> Extractor:
    """The one that figures of these images call so. Raises UserError where it cannot be had."""
    opened = open_extractor(label.partition(":")[0])
    if opened.label(images.resolution) != label:
        raise UserError(f"the one at hand is {opened.label(images.resolution)}.")
    return opened


def _neighbours(
    grouped: Mapping[str, Sequence[Found]], contenders: Sequence[Contender], asked: Asked, page: Path, say: Say
) -> dict[str, Neighbours]:
    """Of the first training of each that did not diverge, the samples of its first figures."""
    keep, found = page.with_name(f"{page.stem}-neighbours"), {}
    for contender in contenders:
        for run, trained in zip(grouped[contender.name], contender.runs, strict=True):
            if trained.state != "diverged":
                seed = min(seed for values in run.values.values() for seed in values)
                found[contender.name] = neighbours.find(contender.name, trained, seed, page.parent, keep, asked, say)
                break
    return found
