"""Find components by name and turn references into objects. Finding needs no torch; resolving imports the plugin."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import Any

from zoo_core.errors import UserError, did_you_mean
from zoo_core.plugins import installed
from zoo_core.spec import Plugin


@dataclass(frozen=True)
class Component:
    """One registered component; `full_name` is `plugin/name`."""

    kind: str
    plugin: str
    name: str
    reference: str

    @property
    def full_name(self) -> str:
        return f"{self.plugin}/{self.name}"


def plugin(name: str) -> Plugin:
    """The plugin of that name. Raises UserError when it is unknown or broken."""
    found = installed()
    if name in found.loaded:
        return found.loaded[name].plugin
    if name in found.broken:
        raise UserError(f'plugin "{name}" is installed but broken: {found.broken[name].reason}.')
    if name in found.blocked:
        raise UserError(f'plugin "{name}" is blocked by ZOO_PLUGINS or ZOO_DISABLED.')
    hint = did_you_mean(name, [known for known in found.loaded if known != "core"])
    raise UserError(f'no plugin "{name}" is installed{hint}')


def components(kind: str) -> list[Component]:
    """All components of one kind, sorted by plugin and name."""
    return [
        Component(kind, loaded.plugin.name, name, reference)
        for loaded in sorted(installed().loaded.values(), key=lambda item: item.plugin.name)
        for name, reference in sorted(loaded.plugin.components(kind).items())
    ]


def find(kind: str, name: str, home: str = "") -> Component:
    """Find `full` or `core/full`; a bare name is looked for in the plugin `home`, then in the core, then everywhere.

    Raises UserError when there is none, or several.
    """
    known = components(kind)
    if "/" in name:
        plugin(name.split("/")[0])  # a broken or unknown plugin is named as such
        matches = [component for component in known if component.full_name == name]
    else:
        matches = [component for component in known if component.name == name]
        for first in (home, "core"):  # so that no stranger's package changes what a name means
            nearest = [component for component in matches if component.plugin == first]
            if nearest:
                matches = nearest
                break
    if len(matches) == 1:
        return matches[0]
    if matches:
        choices = " or ".join(component.full_name for component in matches)
        raise UserError(f'several plugins have the {kind} "{name}": write {choices}.')
    full_names = {component.full_name if "/" in name else component.name: component.full_name for component in known}
    hint = did_you_mean(name, full_names, full_names)
    raise UserError(f'no {kind} "{name}"{hint}')


def resolve(reference: str, owner: str) -> Any:
    """Import `module:attribute`, a class or function. Raises UserError naming the owner when it leads nowhere."""
    try:
        found = pkgutil.resolve_name(reference)
        if not callable(found):
            raise TypeError(f"it is a {type(found).__name__}, neither class nor function")
    except (Exception, SystemExit) as error:  # importing a plugin's module runs a stranger's code
        reason = " ".join(str(error).split()) or type(error).__name__
        text = f"{owner} points to {reference}, which cannot be loaded ({reason}); reinstall or mend it."
        raise UserError(text) from error
    return found
