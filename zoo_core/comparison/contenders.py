"""Who takes part: a plugin, `plugin:recipe`, `recipe.yaml`, `name=` and any of these, or an entry of a plan."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_core import catalog
from zoo_core import recipe as recipes
from zoo_core.errors import UserError
from zoo_core.plain_yaml import parse_yaml, read_text
from zoo_core.recipe import Recipe
from zoo_core.schema import build
from zoo_core.swapping import PLACES, change

NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")

Changes = Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class Entry:
    """One contender as it was asked for."""

    plugin: str = ""
    recipe: str = ""
    """A name, or a file, which may name the plugin itself."""
    attention: str = ""
    discriminator: str = ""
    decoder: str = ""
    loss: str = ""
    set: dict[str, Any] = field(default_factory=dict)
    """Any values of the recipe, by path."""

    def changes(self, plugin: str) -> list[tuple[str, Any]]:
        """All of it as changes of the plugin's recipe, in their order. Raises UserError for an unknown component."""
        named = {kind: getattr(self, kind) for kind in PLACES}
        swapped = [change(kind, name, plugin, self.recipe) for kind, name in named.items() if name]
        return [*swapped, *self.set.items()]


def parse(text: str) -> tuple[str, Entry]:
    """A contender of the command line: its name in tables, and what it is. Raises UserError for an unusable name."""
    name, separator, what = text.partition("=")
    if not separator:
        name, what = "", text
    if what.endswith((".yaml", ".yml")):
        entry, given = Entry(recipe=what), Path(what).stem
    else:
        plugin, _, recipe = what.partition(":")
        entry, given = Entry(plugin=plugin, recipe=recipe), what.replace(":", "-")
    return check_name(name or given), entry


def check_name(name: str) -> str:
    """Names become folders. Raises UserError for one that cannot."""
    if not NAME.fullmatch(name) or len(name) > 60:
        raise UserError(f'a contender cannot be called "{name[:80]}"; take letters, digits, ".", "_", "+" and "-".')
    return name


def resolve(entry: Entry, changes: Changes) -> Recipe:
    """The recipe behind an entry, with `changes` that all contenders get, and with every default written out.

    Raises UserError for a plugin, recipe or component that does not exist, and for a value that is refused.
    """
    plugin = entry.plugin
    if not plugin and entry.recipe:
        raw = parse_yaml(read_text(Path(os.path.expanduser(entry.recipe))), entry.recipe)
        if isinstance(raw, Mapping) and "contenders" in raw:
            raise UserError(f"{entry.recipe} is a whole plan; name it alone.")
        if not isinstance(raw, Mapping) or "plugin" not in raw:
            raise UserError(f"{entry.recipe} names no plugin, so it is no contender by itself; add a line plugin: ...")
        plugin = str(raw["plugin"])
    if not plugin:
        raise UserError("it names neither a plugin nor a recipe file.")
    catalog.plugin(plugin)
    return recipes.load(plugin, entry.recipe, [*entry.changes(plugin), *changes])


def resolve_all(entries: Mapping[str, Entry], changes: Changes) -> tuple[dict[str, Recipe], list[str]]:
    """The recipes of those that can be resolved, by name, and a sentence for each other one."""
    found, refusals = {}, []
    for name, entry in entries.items():
        try:
            found[name] = resolve(entry, changes)
        except UserError as error:
            refusals.append(f"{name}: {error}")
    return found, refusals


@dataclass(frozen=True)
class PlanFile:
    """A comparison as a YAML file; what it leaves out, the command line or a default says."""

    contenders: dict[str, Entry]
    data: str = ""
    track: str = ""
    budget: str = ""
    seeds: int = 0
    generation_seeds: int = 0
    num: int = 0
    batch: int = 0
    match: str = ""
    metrics: tuple[str, ...] = ()
    extractor: str = ""
    set: dict[str, Any] = field(default_factory=dict)
    """Values of the recipe that all contenders get, by path."""


def read_plan_file(path: Path) -> PlanFile:
    """Read a plan. Raises UserError for a file that is none."""
    raw = parse_yaml(read_text(path), str(path))
    found = build(PlanFile, raw, "the plan")
    for name in found.contenders:
        check_name(name)
    if not found.contenders:
        raise UserError(f"{path} names no contenders.")
    return found


def is_plan_file(text: str) -> bool:
    """Whether a YAML file is a plan, not a recipe: it lists contenders."""
    if not text.endswith((".yaml", ".yml")) or "=" in text:
        return False
    raw = parse_yaml(read_text(Path(os.path.expanduser(text))), text)
    return isinstance(raw, Mapping) and "contenders" in raw
