"""Runs on disk as a report needs them: what was measured of each, and which of them are trainings of one recipe."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from zoo_core import bench, evaluation, parts, runs
from zoo_core import recipe as recipes
from zoo_core.comparison import assemble, contenders, execute
from zoo_core.comparison.measure import Values, of_structure
from zoo_core.errors import UserError
from zoo_core.recipe import Recipe, for_stage

_NOT_TRAINING = ("seed", "checkpoint_images", "sample_images", "log_images", "keep")
_SEED = re.compile(r"[-_.]?seed[-_.]?\d+$")
_SAME_IMAGES = ("resolution", "filter", "crop")
"""Settings of `data` without which the same files are other images."""


@dataclass(frozen=True)
class Found:
    """A run on disk."""

    folder: Path
    recipe: Recipe
    stages: list[str]
    state: execute.Progress
    values: dict[str, dict[int, float | None]]
    """Of its newest weights: by figure, and by the seed of the samples."""
    floors: Values
    notes: dict[str, str]
    """By figure: what `zoo evaluate` says of it."""
    manifest: dict[str, Any]

    @property
    def seed(self) -> int:
        """Of the training."""
        return self.recipe.train.seed

    @property
    def planned(self) -> int:
        """Real images that its recipe asks for, over all stages."""
        return sum(for_stage(self.recipe, stage).train.images for stage in self.stages)

    @property
    def data(self) -> dict[str, Any]:
        """What its manifest says of the images; nothing where it does not say which they were."""
        data = self.manifest.get("data")
        return data if isinstance(data, dict) and "content" in data else {}


def find_all(folders: Sequence[Path], build: bench.Build) -> list[Found]:
    """Read run folders; `build` asks their plugins for their stages. Raises one UserError for all that are none."""
    found, refused = [], []
    for folder in folders:
        try:
            found.append(_find(folder, build))
        except UserError as error:
            refused.append(str(error) if str(folder) in str(error) else f"{folder}: {error}")
    if refused:
        raise UserError("\n".join(refused))
    return found


def _find(folder: Path, build: bench.Build) -> Found:
    if not os.path.exists(folder / runs.RECIPE):  # False, and no error, where the disk refuses to look
        home = runs.load(folder).path  # says what is wrong, if it is not one of a run's checkpoints
        raise UserError(f"{folder} is a checkpoint; a report is made of whole runs, so name {home}.")
    recipe = runs.read_recipe(folder)
    stages = [stage.name for stage in build(recipe, parts.outline(recipe))]
    state = execute.progress(folder, stages, recipe)
    values: dict[str, dict[int, float | None]] = {}
    floors: Values = {}
    notes: dict[str, str] = {}
    if not state.diverged:
        for seed, entry in _measurements(folder, runs.load(folder).step, recipe.train.seed):
            for name, value in assemble.values(entry, recipe).items():
                values.setdefault(name, {})[seed] = value
            floors |= _floors(entry, recipe)
            notes |= {
                row["name"]: row["note"] for row in entry["figures"] if row.get("note") and row.get("std") is None
            }
    return Found(folder, recipe, stages, state, values, floors, notes, runs.read_manifest(folder))


def _measurements(folder: Path, step: int, train_seed: int) -> list[tuple[int, dict[str, Any]]]:
    """(seed of the samples, entry) of what was measured of a run's newest weights."""
    kept = evaluation.read(folder)
    at_end = [(train_seed, kept["end"])] if "end" in kept else []
    entries = at_end + [(entry.get("seed", 0), entry) for entry in kept.get("commands", [])]
    return [(seed, entry) for seed, entry in entries if entry["step"] == step]


def _floors(entry: Mapping[str, Any], recipe: Recipe) -> Values:
    """Real images against real ones, and the structure of real ones, by the names of the figures."""
    rows = {name: (row["real"], row["real_shuffled"]) for name, row in entry["structure"].items()}
    floors = {row["name"].removeprefix("floor:"): row["value"] for row in entry["floor"]}
    return floors | of_structure(rows, assemble.num_of(entry, recipe))


def same_data(found: Sequence[Found]) -> dict[str, Any]:
    """What the manifests say of the images. Raises UserError where two runs saw others, or saw them otherwise."""
    for run in found:
        for name in _SAME_IMAGES:
            here, there = getattr(found[0].recipe.data, name), getattr(run.recipe.data, name)
            if here != there:
                _refuse(found[0], f"with data.{name} = {here}", run, f"with {there}")
    known = [run for run in found if run.data]
    for run in known:
        if run.data["content"] != known[0].data["content"]:
            _refuse(known[0], f"on {known[0].data.get('name')}", run, f"on {run.data.get('name')}")
    return known[0].data if known else {}


def _refuse(one: Found, how: str, other: Found, otherwise: str) -> None:
    raise UserError(
        f"{one.folder} was trained {how} and {other.folder} {otherwise}: figures against different images cannot stand "
        "in one table."
    )


def groups(found: Sequence[Found]) -> dict[str, list[Found]]:
    """Runs of one recipe in the order of their seeds, by a name made of their folder's.

    Raises UserError for two of one seed.
    """
    by_recipe: dict[str, list[Found]] = {}
    for run in found:
        by_recipe.setdefault(_trains(run.recipe), []).append(run)
    groups: dict[str, list[Found]] = {}
    for group in by_recipe.values():
        group.sort(key=lambda run: run.seed)
        for one, other in zip(group, group[1:], strict=False):
            if one.seed == other.seed:
                raise UserError(
                    f"{one.folder} and {other.folder} are the same training twice, with seed {one.seed}; name one."
                )
        groups[next(name for name in _names(group[0].folder.resolve()) if name not in groups)] = group
    return groups


def _names(folder: Path) -> Iterator[str]:
    """What the runs of a recipe may be called, the best first."""
    own, above = (re.sub(r"[^\w.+-]+", "-", _SEED.sub("", name))[:40] for name in (folder.name, folder.parent.name))
    joined = f"{above}-{own}" if above and own else above
    fitting = [name for name in (own, joined, f"run-{own}") if contenders.NAME.fullmatch(name)] or ["run"]
    yield from fitting
    yield from (f"{fitting[0]}-{number}" for number in count(2))


def _trains(recipe: Recipe) -> str:
    """All that decides a training but its seed."""
    values = runs.flat(recipes.to_dict(recipe))
    return repr(
        sorted(
            (key, repr(value))
            for key, value in values.items()
            if not key.startswith(("evaluate.", "data.source"))
            and not (key.startswith("train.") and key.rpartition(".")[2] in _NOT_TRAINING)
        )
    )
