"""Find the installed plugins, each in isolation: one that is broken is named and hides no other.

Entry points of the group `zoo` are loaded one at a time behind the historic hook. The entry point's name is the
plugin's name, so two packages that claim one name are seen, and both refused, before any code of theirs runs.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections import defaultdict
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions

import pluggy

from zoo_core import __version__, hookspecs
from zoo_core.spec import Plugin

GROUP = "zoo"
BUILTIN = "zoo_core.builtin"
MAX_REASON = 200
"""Characters of a reason; an exception may carry pages."""


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
    broken: dict[str, Broken] = {}
    candidates = _candidates(broken)
    blocked = tuple(sorted(name for name in candidates if not _allowed(name)))
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    registered: list[Plugin] = []
    manager.hook.zoo_plugin.call_historic(kwargs={"register": registered.append})
    loaded: dict[str, Loaded] = {}
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
    loaded["core"] = _load(manager, _Candidate(EntryPoint("core", BUILTIN, GROUP), "zoo-core", __version__), registered)
    return Plugins(loaded, broken, blocked)


def _candidates(broken: dict[str, Broken]) -> dict[str, list[_Candidate]]:
    """Entry points by name; a distribution whose own description cannot be read goes to `broken`.

    A distribution seen twice on the path (a checkout and its install) counts once.
    """
    found: dict[str, dict[str, _Candidate]] = defaultdict(dict)
    for distribution in distributions():
        try:
            entries = [entry for entry in distribution.entry_points if entry.group == GROUP]
            if not entries:
                continue
            package, version = distribution.metadata["Name"] or "an unnamed package", distribution.version or ""
        except Exception as error:  # any package of the environment may be damaged
            if _concerns_us(distribution):
                package = _folder_of(distribution)
                broken[package] = Broken(package, package, f"its metadata cannot be read ({words(error)})")
            continue
        for entry in entries:
            found[entry.name].setdefault(_normal(package), _Candidate(entry, package, version))
    return {name: list(by_package.values()) for name, by_package in found.items()}


def _concerns_us(distribution: Distribution) -> bool:
    """Whether a distribution that cannot be read may be a plugin: it mentions the group."""
    try:
        return f"[{GROUP}]" in (distribution.read_text("entry_points.txt") or "")
    except Exception:
        return False


def _folder_of(distribution: Distribution) -> str:
    return os.path.basename(str(getattr(distribution, "_path", "an unnamed package")))


def _normal(package: str) -> str:
    """`Zoo_Pebble` and `zoo-pebble` are one package."""
    return re.sub(r"[-_.]+", "-", package).lower()


def _allowed(name: str) -> bool:
    only, disabled = _listed("ZOO_PLUGINS"), _listed("ZOO_DISABLED")
    return name not in disabled and (not only or name in only)


def _listed(variable: str) -> list[str]:
    return [word.strip() for word in os.environ.get(variable, "").split(",") if word.strip()]


def _load(manager: pluggy.PluginManager, claim: _Candidate, registered: list[Plugin]) -> Loaded:
    """Import one plugin and run its hook; raises _Refused with the reason when anything is wrong."""
    registered.clear()
    module = None
    try:
        with redirect_stdout(sys.stderr):  # what a plugin prints must not end up in `zoo plugins --json`
            module = claim.entry.load()
            manager.register(module)
            manager.check_pending()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may even raise SystemExit at import
        if module is not None and manager.is_registered(module):
            manager.unregister(module)
        raise _Refused(_explain(error)) from error
    name = claim.entry.name
    if not registered:
        raise _Refused(f"{claim.entry.value} registers nothing; it must be a module whose @hookimpl zoo_plugin does")
    if len(registered) > 1:
        raise _Refused(f"its hook zoo_plugin must register one Plugin; it registered {len(registered)}")
    if not isinstance(registered[0], Plugin):
        raise _Refused(f"its hook zoo_plugin must register a Plugin, not a {type(registered[0]).__name__}")
    if registered[0].name != name:
        raise _Refused(f'the entry point "{name}" registers a plugin named "{registered[0].name}"; make them equal')
    return Loaded(registered[0], claim.package, claim.version, getattr(module, "__file__", "") or "")


def _explain(error: BaseException) -> str:
    """What went wrong, pluggy's complaints in the words of a plugin's author."""
    if isinstance(error, pluggy.PluginValidationError):
        text = " ".join(str(error).split())
        unknown = re.search(r"Argument\(s\) \{(.*)\} are declared", text)
        if unknown:
            return f"its hook asks for {unknown[1]}, which this zoo-core does not offer; it needs a newer zoo-core"
        misspelt = re.search(r"unknown hook '\w*'", text)
        if misspelt:
            return f"{misspelt[0]}; the hook is named zoo_plugin"
    return words(error)


def words(error: BaseException) -> str:
    """An exception in one line; its own text may have many, or fail."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= MAX_REASON else line[: MAX_REASON - 3] + "..."
