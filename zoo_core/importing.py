"""An official checkpoint against a recipe: what fits, what does not, and a run folder made of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core import catalog, checkpoint, parts, recipe, runs
from zoo_core.errors import UserError
from zoo_core.official import Imported
from zoo_core.program import Stage
from zoo_core.progress import counting
from zoo_core.recipe import Recipe
from zoo_core.restricted_pickle import REMEDY, listed, placeholders

MOST_LISTED = 50
"""Tensors that a complaint lists one by one."""

Changes = Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class Match:
    """A file's content beside one recipe's networks."""

    recipe: Recipe
    """With the container's settings."""
    imported: Imported
    settings: Mapping[str, Any]
    """What the container has changed in the recipe, by path."""
    differences: Sequence[str]
    """One line for each tensor that is missing, left over, misshapen or of another kind; empty: it fits."""


def find_recipe(content: Mapping[str, Any], plugin: str, changes: Changes) -> str:
    """The one recipe of the plugin that the file fits; of several, the one that its configuration leaves as it is.

    Raises UserError when there is none, or when there are still several.
    """
    reasons = {name: _why_not(content, plugin, name, changes) for name in recipe.names(plugin)}
    found = [name for name, reason in reasons.items() if not reason]
    if len(found) > 1:
        found = [name for name in found if not match(content, plugin, name, changes).settings] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"the file fits several recipes, {', '.join(found)}; name one with --recipe.")
    lines = (f"\n  {name}: {reason}" for name, reason in reasons.items())
    raise UserError(f"the file fits no recipe of {plugin}; --recipe NAME says more.{''.join(lines)}")


def fitting(content: Mapping[str, Any], plugin: str, names: Sequence[str], changes: Changes) -> list[str]:
    """Those of the recipes that the file fits, with the same changes."""
    return [name for name in names if not _why_not(content, plugin, name, changes)]


def _why_not(content: Mapping[str, Any], plugin: str, name: str, changes: Changes) -> str:
    """Why a file does not fit a recipe; empty when it does."""
    try:
        differences = match(content, plugin, name, changes).differences
    except UserError as error:
        return str(error)
    return f"{len(differences):,} tensors differ" if differences else ""


def match(content: Mapping[str, Any], plugin: str, name: str, changes: Changes) -> Match:
    """Convert the file for one recipe and compare every tensor.

    Raises UserError when the plugin cannot make sense of the content, and for a change that contradicts it.
    """
    before = wanted = recipe.load(plugin, name, changes)
    _outline(wanted)  # a mistake in the recipe is its own, not the file's
    imported = _convert(content, wanted)
    settings = {**imported.settings, **_averages_kept(wanted, imported)}
    if settings:
        wanted = recipe.load(plugin, name, [*changes, *settings.items()])
        _check_contradiction(changes, before, wanted)
        imported = _convert(content, wanted)
        if imported.settings:  # of another type than the recipe's, "2" for 2 say
            said = ", ".join(f"{path}={str(value)[:60]!r}" for path, value in imported.settings.items())
            raise UserError(f"the file's own configuration is not what {plugin} expects: {said}.")
    changed = _changed(before, wanted)
    return Match(parts.complete(wanted), imported, changed, _differences(_outline(wanted), imported))


def refusal(file: Path, found: Match, name: str, others: Sequence[str]) -> UserError:
    """The error for a file that does not fit; `others` are recipes that it would fit."""
    lines = found.differences[:MOST_LISTED]
    if more := len(found.differences) - len(lines):
        lines = [*lines, f"... and {more:,} more"]
    end = f"It fits {' and '.join(others)}: name that with --recipe." if others else "Is it the right file and plugin?"
    first = f"{file} does not fit {found.recipe.plugin}'s recipe {name} ({found.recipe.data.resolution} px):"
    return UserError("\n  ".join([first, *lines]) + f"\n{end}")


def held(stages: Sequence[Stage], imported: Imported) -> list[Stage]:
    """Those of a recipe's stages of which the file has any network; the only one, whatever it has."""
    found = {*imported.networks, *imported.averages}
    return [stage for stage in stages if len(stages) == 1 or found & stage.networks.keys()]


def fill(stages: Sequence[Stage], found: Match) -> list[str]:
    """Load the file's networks into stages that were built of an outline; only those of which it has any take memory.

    What it lacks of such a stage begins as training would, and is named in the answer, as are the other stages.
    Weights of another floating-point type are converted. Raises UserError for one that is not finite.
    """
    remarks, known = [], {name for stage in stages for name in stage.networks}
    for stage in stages:
        if stage in held(stages, found.imported):
            remarks += _fill(stage, found)
        else:
            remarks.append(f"the file holds nothing of the stage {stage.name}: it is still to be trained")
    left = [name for name in found.imported.networks if name not in known]
    return remarks + [f"the recipe has no {name}: the file's is left out" for name in left]


def _fill(stage: Stage, found: Match) -> list[str]:
    remarks = []
    averages = {average.of: average.network for average in stage.averages}
    for name, network in stage.networks.items():
        if not any(value.is_meta for value in network.state_dict().values()):
            continue  # the stage's own, a counter say
        network.to_empty(device="cpu")
        own, averaged = found.imported.networks.get(name), found.imported.averages.get(name)
        if own is None and averaged is None:
            remarks.append(f"the file holds no {name}: it starts fresh")
            own = _fresh(name, found.recipe).state_dict()
        elif own is None:
            remarks.append(f"the file holds only averaged weights of the {name}: training would go on from these")
        elif averaged is not None and name not in averages:
            remarks.append(f"the recipe keeps no average of the {name}: the file's is left out")
        elif averaged is None and name in averages:
            remarks.append(f"the file holds no averaged {name}: the average starts from its own weights")
        _load(network, own or averaged, name)
        if name in averages:
            _load(averages[name].to_empty(device="cpu"), averaged or own, f"averaged {name}")
    return remarks


def _fresh(name: str, wanted: Recipe) -> nn.Module:
    if name == "discriminator":
        return parts.build_network(name, wanted)
    return parts.build_network("generator", wanted).networks()[name]


def origin(file: Path, imported: Imported) -> dict[str, Any]:
    """What the manifest keeps of the file: name, size, sha256, and which networks it held."""
    size, digest = file.stat().st_size, hashlib.sha256()
    with file.open("rb") as opened, counting(f"reading {file.name}, bytes", size) as advance:
        while block := opened.read(2**22):
            digest.update(block)
            advance(len(block))
    held = [*imported.networks, *(f"averaged {name}" for name in imported.averages)]
    return {"file": file.name, "bytes": size, "sha256": digest.hexdigest(), "networks": held}


def write_run(
    folder: Path, wanted: Recipe, stages: Sequence[Stage], imported: Imported, source: Mapping[str, Any]
) -> None:
    """Make a run at step 0, whole or not at all. Raises UserError when the folder is taken or the disk refuses.

    Of several stages, those of which the file has nothing get no checkpoint; the others count as done.
    """
    check_free(folder)
    folder = Path(os.path.abspath(folder))
    missing = [above for above in folder.parents if not above.exists()]
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    manifest = runs.manifest(wanted, {}, 1) | {runs.IMPORTED: dict(source)}
    del manifest["data"]  # it has seen none; its training will name them
    try:
        temporary.mkdir(parents=True)
        runs.prepare(temporary, wanted)
        for stage in held(stages, imported):
            state = {"step": 0, "images": 0, "stage": stage.name, "order": stages.index(stage), "unlogged": {}}
            place = temporary / runs.CHECKPOINTS / (stage.name if len(stages) > 1 else "")
            checkpoint.save(place, stage, state | {runs.IMPORTED: True}, wanted.train.keep)
        runs.write_text(temporary / runs.MANIFEST, json.dumps(manifest, indent=1))
        temporary.rename(folder)
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder} ({error.strerror}); name another with --out.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.exists():
            for made in missing:
                with suppress(OSError):
                    made.rmdir()


def check_free(folder: Path) -> None:
    """Raise UserError unless the folder can be made: it is not there, or empty."""
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise UserError(f"{folder} exists already; name another folder with --out.")


def _outline(wanted: Recipe) -> parts.Parts:
    if wanted.data.labels and not wanted.data.condition:
        raise UserError(
            "the recipe counts its classes in the data; give their number, as in --set data.num_classes=10."
        )
    return parts.outline(wanted)


def _convert(content: Mapping[str, Any], wanted: Recipe) -> Imported:
    plugin = catalog.plugin(wanted.plugin)
    if not plugin.convert:
        raise UserError(f"the plugin {plugin.name} reads no official checkpoints.")
    convert: Callable[..., Imported] = catalog.resolve(plugin.convert, f"the plugin {plugin.name}'s convert")
    try:
        return convert(content, wanted)
    except UserError as error:
        strange = placeholders(content)
        why = f" It asks for {listed(strange)}, which is not plain data; {REMEDY}" if strange else ""
        raise UserError(f"{plugin.name} cannot use this checkpoint: {error}{why}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__  # content of a shape that nobody thought of
        raise UserError(f"{plugin.name} cannot make sense of what the file holds ({reason}).") from error


def _differences(own: parts.Parts, imported: Imported) -> list[str]:
    lines, networks = [], {**own.generator.networks(), "discriminator": own.discriminator}
    for title, found in (("", imported.networks), ("averaged ", imported.averages)):
        for name, state in found.items():
            network = networks.get(name)
            if network is not None:
                lines += _compare(f"{title}{name}", network.state_dict(), state, imported.names.get(name, {}))
    return lines


def _compare(
    title: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor], names: Mapping[str, str]
) -> Iterator[str]:
    for key, wanted in own.items():
        place = f"{title}: {names.get(key, key)}"
        if key not in state:
            yield f"{place} is missing"
        elif state[key].shape != wanted.shape:
            yield f"{place} is {list(state[key].shape)}, which does not fit {list(wanted.shape)}, as Zoo lays it out"
        elif state[key].is_floating_point() != wanted.is_floating_point():
            yield f"{place} holds {str(state[key].dtype).removeprefix('torch.')}, not {_kind(wanted)}"
    for key, left in state.items():
        if key not in own:
            yield f"{title}: {key} {list(left.shape)} is left over; the recipe's network has no place for it"


def _kind(tensor: Tensor) -> str:
    return "floating-point numbers" if tensor.is_floating_point() else "whole numbers"


@torch.no_grad()
def _load(network: nn.Module, state: Mapping[str, Tensor], title: str) -> None:
    own = network.state_dict()
    bad = []
    with counting(f"loading the {title}", len(own)) as advance:
        for name, value in own.items():
            value.copy_(state[name])
            if not bool(value.isfinite().all()):
                bad.append(name)
            advance(1)
    if bad:
        raise UserError(f"the {title} is not finite in {', '.join(bad[:3])} ({len(bad)} tensors in all).")


def _averages_kept(wanted: Recipe, imported: Imported) -> dict[str, int]:
    """Where an average would begin as a copy of the raw weights, further training would lose the file's."""
    specs = wanted.train.averages
    return {
        f"train.averages.{name}.start_images": 0
        for name in imported.averages
        if name in specs and specs[name].start_images
    }


def _changed(before: Recipe, after: Recipe) -> dict[str, Any]:
    old, new = (runs.flat(recipe.to_dict(parts.complete(each))) for each in (before, after))
    return {path: value for path, value in new.items() if old.get(path) != value}


def _check_contradiction(changes: Changes, before: Recipe, after: Recipe) -> None:
    """The file's settings must leave alone what the user has set."""
    mine, theirs = (recipe.to_dict(parts.complete(each)) for each in (before, after))
    for path, value in changes:
        for place in runs.flat(value, path):
            asked, held = _at(mine, place), _at(theirs, place)
            if asked != held:
                raise UserError(f"--set {place}={asked} contradicts the file, which says {held}; leave one out.")


def _at(content: Any, path: str) -> Any:
    """The value at a dotted path; of a part, its name; None where there is none."""
    for key in path.split("."):
        content = (
            {str(name): value for name, value in content.items()}.get(key) if isinstance(content, Mapping) else None
        )
    return content.get("name") if isinstance(content, Mapping) and "name" in content else content
