"""Find the installed plugins, each in isolation: one that is broken is named and hides no other.

Entry points of the group `zoo` are loaded one at a time behind the historic hook. The entry point's name is the
plugin's name, so two packages that claim one name are seen, and both refused, before any code of theirs runs.
"""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import EntryPoint, distributions

import pluggy

from zoo_core import hookspecs
from zoo_core.spec import Plugin

GROUP = "zoo"
BUILTIN = "zoo_core.builtin"


@dataclass(frozen=True)
class Loaded:
    """A plugin that works, and where it came from."""

    plugin: Plugin
    package: str
    version: str
    path: str


@dataclass(frozen=True)
class Broken:
    """A plugin that could not be used, and why."""

    name: str
    package: str
    reason: str
    version: str = ""


@dataclass(frozen=True)
class Plugins:
    """Everything that the scan found, by plugin name."""

    loaded: dict[str, Loaded]
    broken: dict[str, Broken]
    blocked: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    entry: EntryPoint
    package: str
    version: str


class _Refused(Exception):
    """Says why a plugin is refused."""


@functools.cache
def installed() -> Plugins:
    """Scan once per process. `installed.cache_clear()` scans anew."""
    candidates = _candidates()
    blocked = tuple(sorted(name for name in candidates if not _allowed(name)))
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    registered: list[Plugin] = []
    manager.hook.zoo_plugin.call_historic(kwargs={"register": registered.append})
    loaded: dict[str, Loaded] = {}
    broken: dict[str, Broken] = {}
    for name, claims in sorted(candidates.items()):
        if name in blocked:
            continue
        packages = ", ".join(claim.package for claim in claims)
        try:
            if len(claims) > 1:
                raise _Refused(f"the name is claimed by several packages ({packages}); uninstall all but one")
            if name == "core":
                raise _Refused("the name belongs to zoo-core itself")
            (claim,) = claims
            loaded[name] = _load(manager, claim, registered)
        except _Refused as refusal:
            if os.environ.get("ZOO_STRICT") == "1":
                raise RuntimeError(f"plugin {name} ({packages}): {refusal}") from refusal.__cause__
            broken[name] = Broken(name, packages, str(refusal), claims[0].version)
    loaded["core"] = _load(manager, _Candidate(EntryPoint("core", BUILTIN, GROUP), "zoo-core", ""), registered)
    return Plugins(loaded, broken, blocked)


def _candidates() -> dict[str, list[_Candidate]]:
    """Entry points by name. A distribution seen twice on the path (a checkout and its install) counts once."""
    found: dict[str, dict[str, _Candidate]] = defaultdict(dict)
    for distribution in distributions():
        entries = [entry for entry in distribution.entry_points if entry.group == GROUP]
        if not entries:
            continue
        package = distribution.metadata["Name"] or "an unnamed package"
        for entry in entries:
            found[entry.name].setdefault(package, _Candidate(entry, package, distribution.version))
    return {name: list(by_package.values()) for name, by_package in found.items()}


def _allowed(name: str) -> bool:
    only = [word for word in os.environ.get("ZOO_PLUGINS", "").split(",") if word]
    disabled = os.environ.get("ZOO_DISABLED", "").split(",")
    return name not in disabled and (not only or name in only)


def _load(manager: pluggy.PluginManager, claim: _Candidate, registered: list[Plugin]) -> Loaded:
    """Import one plugin and run its hook; raises _Refused with the reason when anything is wrong."""
    registered.clear()
    module = None
    try:
        module = claim.entry.load()
        manager.register(module)
        manager.check_pending()
    except KeyboardInterrupt:
        raise
    except pluggy.PluginValidationError as error:
        manager.unregister(module)
        raise _Refused(_explain(error)) from error
    except BaseException as error:  # a plugin may even raise SystemExit at import
        if module is not None and manager.is_registered(module):
            manager.unregister(module)
        raise _Refused(f"{type(error).__name__}: {error}".strip().rstrip(":")) from error
    name = claim.entry.name
    if len(registered) != 1 or not isinstance(registered[0], Plugin):
        raise _Refused(f"its hook zoo_plugin must register one Plugin; it registered {len(registered)}")
    if registered[0].name != name:
        raise _Refused(f'the entry point "{name}" registers a plugin named "{registered[0].name}"; make them equal')
    return Loaded(registered[0], claim.package, claim.version, getattr(module, "__file__", "") or "")


def _explain(error: pluggy.PluginValidationError) -> str:
    text = str(error)
    if "can not be found in the hookspec" in text:
        return "its hook asks for an argument that this zoo-core does not offer; it needs a newer zoo-core"
    if "unknown hook" in text:
        return f"{text.splitlines()[0]}; the hook is named zoo_plugin"
    return text.splitlines()[0]
