"""What a reader must know of runs that followed no plan together: in what they differ, and which of them make pairs.

Runs are given by contender.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zoo_core import recipe as recipes
from zoo_core import runs
from zoo_core.comparison import tracks
from zoo_core.comparison.assemble import label
from zoo_core.comparison.on_disk import Found
from zoo_core.comparison.telling import is_structure, kind, listed
from zoo_core.evaluation import REFERENCE
from zoo_core.recipe import for_stage

SHARED = ("train.batch", "train.precision", "data.labels", "data.mirror")
"""What the common track makes equal, beside augmentation; a sentence says where runs differ."""


def remarks(groups: Mapping[str, Sequence[Found]], figures: Sequence[str]) -> list[str]:
    """A sentence for each thing; `figures` are the names of those that are shown."""
    return [*_differences(groups), *_references(figures), *_pairing(groups)]


def shared_seeds(groups: Mapping[str, Sequence[Found]]) -> set[int]:
    """Training seeds that all contenders have."""
    return set.intersection(*({run.seed for run in group} for group in groups.values()))


def seen(group: Sequence[Found]) -> int:
    """Real images that trainings saw over all stages, in the mean."""
    return round(sum(run.state.images for run in group) / len(group))


def _differences(groups: Mapping[str, Sequence[Found]]) -> list[str]:
    said = []
    if len(groups) > 1:
        said.append("No plan made these runs alike: a verdict compares whole recipes, with all that differs in them.")
    facts = {"images of training": {name: f"{seen(group):,}" for name, group in groups.items()}}
    facts |= {place: {name: _setting(group[0], place) for name, group in groups.items()} for place in SHARED}
    altered = {name: tracks.augmentation(group[0].recipe) for name, group in groups.items()}
    facts["augmentation"] = {name: " and ".join(options) or "none" for name, options in altered.items()}
    for what, by_name in facts.items():
        if len(set(by_name.values())) > 1:
            said.append(f"They differ in {what}: {', '.join(f'{name} {value}' for name, value in by_name.items())}.")
    unknown = [str(run.folder) for group in groups.values() for run in group if not run.data]
    if unknown:
        said.append(f"Nobody knows which images {listed(unknown)} saw: no manifest says.")
    return said


def _setting(run: Found, place: str) -> str:
    """What a recipe sets there, of several stages as much as differs."""
    stages = [runs.flat(recipes.to_dict(for_stage(run.recipe, stage))) for stage in run.stages]
    return " then ".join(dict.fromkeys(str(values.get(place)) for values in stages))


def _references(names: Sequence[str]) -> list[str]:
    """Figures that are not held against the images of training."""
    ends = {name: name.rpartition(":")[2] for name in names if kind(name) != "isc" and not is_structure(name)}
    return [
        f"{label(name)} is held against {end}, not against the images of training."
        for name, end in ends.items()
        if end.partition("=")[0] != REFERENCE
    ]


def _pairing(groups: Mapping[str, Sequence[Found]]) -> list[str]:
    shared = shared_seeds(groups)
    if len(groups) < 2:
        return []
    if not shared:
        return ["The contenders have no training seed in common, so there are no pairs and no verdicts."]
    if any({run.seed for run in group} != shared for group in groups.values()):
        seeds = listed([str(seed) for seed in sorted(shared)], 20)
        which = f"seeds {seeds} are" if len(shared) > 1 else f"seed {seeds} is"
        return [f"Only training {which} in all contenders: verdicts see no other."]
    return []
