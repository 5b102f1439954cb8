"""YAML -> a checked, frozen `Recipe`; inheritance, `--set`, and the resolved recipe back to YAML. No torch here."""

from __future__ import annotations

import dataclasses
import importlib.resources
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from zoo_core import catalog
from zoo_core.errors import UserError, did_you_mean
from zoo_core.plain_yaml import parse_yaml, read_text
from zoo_core.schema import build, check_keys, coerce, join
from zoo_core.settings import PARTS, Averaging, Data, Evaluate, Optimizer, Part, Recipe, Train

__all__ = ["PARTS", "Averaging", "Data", "Evaluate", "Optimizer", "Part", "Recipe", "Train"]


def load(plugin: str, recipe: str = "", changes: Sequence[tuple[str, Any]] = ()) -> Recipe:
    """Read a recipe by name or file, apply `(path, value)` changes in order, and check it.

    Raises UserError on an unknown plugin or recipe, a recipe for another plugin, an unknown key, a wrong type.
    """
    raw = read(plugin, recipe or catalog.plugin(plugin).recipe)
    for path, value in changes:
        raw = _set(raw, path, value)
    found = check(raw)
    if found.plugin != plugin:
        raise UserError(f'this recipe is for the plugin "{found.plugin}", not for "{plugin}"; name that plugin.')
    return found


def names(plugin: str) -> list[str]:
    """The recipes that a plugin ships."""
    return sorted(Path(name).stem for name in _shipped(catalog.plugin(plugin).recipes))


def read(plugin: str, recipe: str) -> dict[str, Any]:
    """Read a recipe's YAML with what it begins from merged in, unchecked."""
    return _read(plugin, recipe, (), Path())


def check(raw: Mapping[str, Any], place: str = "the recipe") -> Recipe:
    """Turn a merged mapping into a Recipe."""
    if not isinstance(raw, Mapping):
        raise UserError(f"{place} is not a recipe: it must be a mapping of sections.")
    if "plugin" not in raw:
        raise UserError("the recipe names no plugin.")
    plugin = catalog.plugin(coerce(raw["plugin"], str, "plugin"))
    known = ("plugin", "generator", "discriminator", "loss", "data", "train", "evaluate", *plugin.sections)
    check_keys(raw, known, "")
    for name in ("generator", "data", "train"):
        if raw.get(name) is None:
            raise UserError(f"{place} has no {name} section.")
    parts = {name: _part(raw[name], name) for name in PARTS if raw.get(name) is not None}
    sections = {name: _part(raw[name], name) for name in plugin.sections if raw.get(name) is not None}
    return Recipe(
        plugin=plugin.name,
        data=build(Data, raw["data"], "data"),
        train=build(Train, raw["train"], "train"),
        evaluate=build(Evaluate, raw.get("evaluate", {}), "evaluate"),
        sections=sections,
        **parts,
    )


def for_stage(recipe: Recipe, stage: str) -> Recipe:
    """The recipe as one of several stages sees it: with what `train.stages` says of it laid over `train`."""
    if stage not in recipe.train.stages:
        return recipe
    train = dataclasses.asdict(dataclasses.replace(recipe.train, stages={}))
    changed = merge(train, recipe.train.stages[stage])
    return recipe.replace(train=build(Train, changed, f"train.stages.{stage}"))


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain YAML values; `check(to_dict(r)) == r`."""
    content: dict[str, Any] = {"plugin": recipe.plugin}
    for name in (*PARTS, *recipe.sections):
        part = recipe.part(name)
        if part is not None:
            content[name] = {"name": part.name, **part.options}
    for name in ("data", "train", "evaluate"):
        content[name] = dataclasses.asdict(getattr(recipe, name))
    return plain(content)


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML text."""
    return yaml.safe_dump(to_dict(recipe), sort_keys=False, default_flow_style=None, width=110)


def parse_set(text: str) -> tuple[str, Any]:
    """`train.batch=16` -> `("train.batch", 16)`; the value is YAML."""
    path, separator, value = text.partition("=")
    if not separator or not path:
        raise UserError(f'--set takes path=value, such as train.batch=16, not "{text}".')
    return path, parse_yaml(value, f"--set {path}")


def _read(plugin: str, recipe: str, seen: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """`folder` is where a relative file name starts: beside the recipe that names it."""
    text, place, beside = _text(plugin, recipe, folder)
    if place in seen:
        raise UserError(f"recipes begin from each other in a circle: {' -> '.join((*seen, place))}.")
    raw = parse_yaml(text, place)
    if not isinstance(raw, dict):
        raise UserError(f"{place} is not a recipe: it must be a mapping of sections.")
    raw = {"plugin": plugin, **{key: _named(key, value) for key, value in raw.items()}}
    base = raw.pop("recipe", None)
    if base is None:
        return raw
    base_plugin, base = coerce(raw["plugin"], str, "plugin"), coerce(base, str, "recipe")
    return merge(_read(base_plugin, base, (*seen, place), beside), raw)


def _text(plugin: str, recipe: str, folder: Path) -> tuple[str, str, Path]:
    """The recipe's text, how to name it, and the folder that it lies in."""
    if recipe.endswith((".yaml", ".yml")) or "/" in recipe:
        path = Path(os.path.normpath(folder / os.path.expanduser(recipe)))
        return read_text(path), str(path), path.parent
    shipped = _shipped(catalog.plugin(plugin).recipes)
    if not shipped:
        raise UserError(f"the plugin {plugin} brings no recipes; train another one, or name a recipe file.")
    if f"{recipe}.yaml" not in shipped:
        known = [Path(name).stem for name in shipped]
        raise UserError(f'{plugin} has no recipe "{recipe}"{did_you_mean(recipe, known)}')
    return read_text(shipped[f"{recipe}.yaml"]), f"{plugin}:{recipe}", Path()


def _shipped(package: str) -> dict[str, Any]:
    if not package:
        return {}
    try:
        folder = importlib.resources.files(package)
        return {entry.name: entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    except (Exception, SystemExit) as error:  # importing the package runs a stranger's code
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the recipes {package} cannot be read ({reason}); reinstall or mend the plugin.") from error


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `change` over `base`; null takes a key away.

    A part with another name replaces the old one with all its options, but a loss keeps them: R1, its cadence and the
    like are the stage's, whatever the loss is called.
    """
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        if value is None:
            merged.pop(key, None)
        elif both and (key == "loss" or value.get("name") in (None, old.get("name"))):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def _set(raw: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Lay one value at a dotted path; a part given as text is its name."""
    change: Any = value
    for key in reversed(path.split(".")):
        change = {key: _named(key, change)}
    return merge(raw, change)


def _named(key: Any, value: Any) -> Any:
    """A part given as text is its name: `attention: full` is `attention: {name: full}`."""
    if key in (*PARTS, "attention", "decoder") and isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict):
        return {inner: _named(inner, item) for inner, item in value.items()}
    return value


def _part(value: Any, place: str) -> Part:
    if not isinstance(value, Mapping) or "name" not in value:
        raise UserError(f"{place} must be {{name: ..., options}}, not {value!r}.")
    options = {coerce(key, str, place): item for key, item in value.items() if key != "name"}
    return Part(coerce(value["name"], str, join(place, "name")), options)


def plain(value: Any) -> Any:
    """The same in mappings and lists, as YAML reads them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
