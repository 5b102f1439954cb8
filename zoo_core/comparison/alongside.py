"""What a page shows beside runs' own figures, for runs that followed no plan: what the same figures say of spoilt real
images, and the training images nearest to samples. It takes the images that the runs were trained on.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoo_core.comparison import measure, neighbours
from zoo_core.comparison.measure import Asked, Values
from zoo_core.comparison.on_disk import Found
from zoo_core.comparison.results import Contender, Neighbours
from zoo_core.comparison.telling import kind, listed
from zoo_core.data import DRAWN, ImageSet, open_for
from zoo_core.errors import UserError
from zoo_core.extractors import Extractor, open_extractor

METRICS = {"fid": "fid", "fd": "fid", "kid": "kid", "kd": "kid", "isc": "isc", "precision": "prc", "recall": "prc"}
"""By a figure's kind: what is asked for to have it."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What the page shows, to which this is to be added."""

    grouped: Mapping[str, Sequence[Found]]
    contenders: Sequence[Contender]
    names: Sequence[str]
    """Of the figures."""
    num: int
    """N of them."""
    page: Path
    source: str = ""
    """Where the images of training are now; empty: where the runs had them."""


@dataclass
class Alongside:
    """What was found, and what could not be."""

    sanity: dict[str, Values] = field(default_factory=dict)
    """By what was done to the images, by figure."""
    neighbours: dict[str, Neighbours] = field(default_factory=dict)
    """By contender."""
    remarks: list[str] = field(default_factory=list)
    """A sentence for each thing that is not shown, or not to be trusted."""


def look(wanted: Wanted, say: Say) -> Alongside:
    """Measure; pictures of neighbours go into a folder beside the page.

    Whatever cannot be had is a sentence, and no error.
    """
    found = Alongside()
    try:
        images = _images(wanted)
    except UserError as error:
        found.remarks.append(f"Neither spoilt images nor nearest training images are shown: {error}")
        return found
    looked = False
    for label, kinds in _kinds(wanted.names).items():
        try:
            extractor = _extractor(label, images)
        except UserError as error:
            found.remarks.append(f"Nothing is measured through {label} beside the runs' figures: {error}")
            continue
        asked = Asked(wanted.num, tuple(dict.fromkeys(METRICS[each] for each in kinds)), extractor, images)
        _spoil(asked, label, found, say)
        if not looked:  # through the first network that is there
            looked = True
            _find_neighbours(wanted, asked, found, say)
    silent = [name for name in wanted.names if not any(name in values for values in found.sanity.values())]
    if silent:
        found.remarks.append(f"What {listed(silent)} would say of spoilt images is not shown.")
    if not looked:
        found.remarks.append("Nearest training images are not shown: they are looked for in a figure's network.")
    return found


def _images(wanted: Wanted) -> ImageSet:
    """The images of training. Raises UserError where they cannot be had, or nobody knows which they were."""
    found = [run for group in wanted.grouped.values() for run in group]
    known = [run for run in found if run.data]
    if wanted.source or not known:
        return open_checked(found, wanted.source)
    refusals = []
    for source, run in {run.recipe.data.source: run for run in reversed(known)}.items():
        try:
            return open_checked([run], source)
        except UserError as error:
            refusals.append(str(error))
    raise UserError(f"{' '.join(refusals)} --data says where they are now.")


def open_checked(found: Sequence[Found], source: str) -> ImageSet:
    """The images that runs were trained on, from where they are now (empty: where the first had them), with maps if the
    first had any.

    Raises UserError where there are none, or others, or no manifest says which they were.
    """
    run = next((run for run in found if run.data), None)
    if run is None:
        raise UserError("no manifest says which images the runs were trained on.")
    source = source or run.recipe.data.source
    if source not in ("", DRAWN) and not os.path.exists(os.path.expanduser(source)):
        raise UserError(f"{source} is not there.")
    images = open_for(run.recipe.data, source)
    if images.content != run.data["content"]:
        raise UserError(f"{source or images.name} holds other images than those of the training.")
    return images


def _kinds(names: Sequence[str]) -> dict[str, list[str]]:
    """The kinds of figures that a network measures, by the network as the figures name it."""
    found: dict[str, list[str]] = {}
    for name in names:
        if kind(name) in METRICS:
            found.setdefault(name.partition("@")[2].partition(":N=")[0], []).append(kind(name))
    return found


def _extractor(label: str, images: ImageSet) -> Extractor:
    """The one that figures of these images call so. Raises UserError where it cannot be had."""
    opened = open_extractor(label.partition(":")[0])
    if opened.label(images.resolution) != label:
        raise UserError(f"the one at hand is {opened.label(images.resolution)}.")
    return opened


def _spoil(asked: Asked, label: str, found: Alongside, say: Say) -> None:
    say(f"Measuring spoilt images with {label}.")
    try:
        sanity = measure.sanity(asked)
    except UserError as error:
        found.remarks.append(f"Figures of spoilt images through {label} cannot be had: {error}")
        return
    for spoilt, values in sanity.items():
        found.sanity[spoilt] = found.sanity.get(spoilt, {}) | values
    few = f"Of figures of spoilt images: {measure.few(asked)}."
    if len(asked.images) < 2 * asked.num and few not in found.remarks:
        found.remarks.append(few)


def _find_neighbours(wanted: Wanted, asked: Asked, found: Alongside, say: Say) -> None:
    """Of the first training of each that did not diverge, the samples of its first figures."""
    keep = wanted.page.with_name(f"{wanted.page.stem}-neighbours")
    for contender in wanted.contenders:
        for run, trained in zip(wanted.grouped[contender.name], contender.runs, strict=True):
            if trained.state == "diverged":
                continue
            seed = min(run.values[wanted.names[0]])
            try:
                mine = asked
                if run.recipe.data.maps:  # samples are drawn from this run's own maps
                    mine = dataclasses.replace(asked, images=open_checked([run], wanted.source))
                found.neighbours[contender.name] = neighbours.find(
                    contender.name, trained, run.folder, seed, wanted.page.parent, keep, mine, say
                )
            except UserError as error:
                found.remarks.append(f"Training images nearest to {contender.name}'s samples are not shown: {error}")
            break
