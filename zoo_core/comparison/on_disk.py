"""Runs on disk as a report needs them: what was measured of each, and which of them are trainings of one recipe."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_core import bench, evaluation, parts, runs
from zoo_core import recipe as recipes
from zoo_core.comparison import execute
from zoo_core.comparison.measure import Values, of_structure
from zoo_core.errors import UserError
from zoo_core.recipe import Recipe, for_stage

SIZE = re.compile(r":N=(\d+)")
"""N in a figure's name."""

_NOT_TRAINING = ("seed", "checkpoint_images", "sample_images", "log_images", "keep")
_SEED = re.compile(r"[-_.]?seed[-_.]?\d+$")


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
    manifest: dict[str, Any]

    @property
    def seed(self) -> int:
        """Of the training."""
        return self.recipe.train.seed

    @property
    def planned(self) -> int:
        """Real images that its recipe asks for, over all stages."""
        return sum(for_stage(self.recipe, stage).train.images for stage in self.stages)


def find(folder: Path, build: bench.Build) -> Found:
    """Read a run folder; `build` asks its plugin for its stages. Raises UserError for what is none."""
    if not os.path.exists(folder / runs.RECIPE):  # False, and no error, where the disk refuses to look
        home = runs.load(folder).path  # says what is wrong, if it is not one of a run's checkpoints
        raise UserError(f"{folder} is a checkpoint; a report is made of whole runs, so name {home}.")
    recipe = runs.read_recipe(folder)
    stages = [stage.name for stage in build(recipe, parts.outline(recipe))]
    state = execute.progress(folder, stages, recipe)
    values: dict[str, dict[int, float | None]] = {}
    floors: Values = {}
    if not state.diverged:
        for seed, entry in _measurements(folder, runs.load(folder).step, recipe.train.seed):
            for name, value in _values(entry, recipe).items():
                values.setdefault(name, {})[seed] = value
            floors |= _floors(entry, recipe)
    return Found(folder, recipe, stages, state, values, floors, runs.read_manifest(folder))


def _measurements(folder: Path, step: int, train_seed: int) -> list[tuple[int, dict[str, Any]]]:
    """(seed of the samples, entry) of what was measured of a run's newest weights."""
    kept = evaluation.read(folder)
    at_end = [(train_seed, kept["end"])] if "end" in kept else []
    entries = at_end + [(entry.get("seed", 0), entry) for entry in kept.get("commands", [])]
    return [(seed, entry) for seed, entry in entries if entry["step"] == step]


def _values(entry: Mapping[str, Any], recipe: Recipe) -> Values:
    rows = {name: (_number(row["images"]), _number(row["images_shuffled"])) for name, row in entry["structure"].items()}
    return {row["name"]: row["value"] for row in entry["figures"]} | of_structure(rows, _num_of(entry, recipe))


def _floors(entry: Mapping[str, Any], recipe: Recipe) -> Values:
    """Real images against real ones, and the structure of real ones, by the names of the figures."""
    rows = {name: (_number(row["real"]), _number(row["real_shuffled"])) for name, row in entry["structure"].items()}
    floors = {row["name"].removeprefix("floor:"): row["value"] for row in entry["floor"]}
    return floors | of_structure(rows, _num_of(entry, recipe))


def _num_of(entry: Mapping[str, Any], recipe: Recipe) -> int:
    """N, as the figures' names say, for structure which has no name of its own."""
    found = [SIZE.search(row["name"]) for row in entry["figures"]]
    return next((int(match[1]) for match in found if match), recipe.evaluate.num)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def same_data(found: Sequence[Found]) -> dict[str, Any]:
    """What the manifests say of the images. Raises UserError where two say other things."""
    known = {run.folder: run.manifest.get("data") for run in found}
    described = {folder: data for folder, data in known.items() if isinstance(data, dict) and "content" in data}
    first = next(iter(described), None)
    for folder, data in described.items():
        if data["content"] != described[first]["content"]:
            raise UserError(
                f"{first} was trained on {described[first].get('name')} and {folder} on {data.get('name')}: figures "
                "against different images cannot stand in one table."
            )
    return described[first] if first else {}


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
        base = _SEED.sub("", group[0].folder.resolve().name) or "run"
        names = [base, *(f"{base}-{number}" for number in range(2, len(by_recipe) + 2))]
        groups[next(name for name in names if name not in groups)] = group
    return groups


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
