"""Which component fits which host: each one is laid over every plugin's default recipe, and tried.

A host is a plugin that trains. Whatever is installed takes part, so a stranger's component joins by being installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

from zoo_core import catalog
from zoo_core import recipe as recipes
from zoo_core.catalog import Component
from zoo_core.errors import UserError
from zoo_core.plugins import installed, words
from zoo_core.recipe import Recipe
from zoo_core.swapping import change

KINDS = ("attention", "discriminator", "loss")
"""Kinds of component that all hosts have a place for."""

WITHOUT_LABELS = ("data.labels", False)

Attempt = Callable[[Recipe], None]
"""Builds a recipe, or takes a step with it. A UserError is a refusal; any other exception means that it is broken."""


@dataclass(frozen=True)
class Cell:
    """A component in a host. `fits` as the host's recipe is, or with `change`."""

    component: str
    host: str
    reason: str = ""
    """Why it does not fit as it is."""
    change: str = ""
    """The setting with which it fits all the same, as `--set` takes it."""
    broken: bool = False
    """Not refused by a sentence, but failed."""

    @property
    def fits(self) -> bool:
        """Whether it can be used."""
        return not self.reason or bool(self.change)


@dataclass(frozen=True)
class Table:
    """All components of a kind in all hosts."""

    kind: str
    components: tuple[str, ...]
    hosts: tuple[str, ...]
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    """By component and host."""


def hosts() -> list[str]:
    """The plugins that train, by name."""
    return sorted(name for name, item in installed().loaded.items() if item.plugin.stages)


def table(kind: str, attempt: Attempt) -> Table:
    """Try every component of a kind in every host."""
    components, places = catalog.components(kind), hosts()
    cells = [_cell(kind, component, host, attempt) for component in components for host in places]
    return Table(
        kind,
        tuple(component.full_name for component in components),
        tuple(places),
        {(each.component, each.host): each for each in cells},
    )


def swapped(kind: str, component: Component, host: str, changes: Sequence[tuple[str, Any]] = ()) -> Recipe:
    """The host's default recipe with another component; `changes` are laid over it, as `--set` would. Raises
    UserError."""
    return recipes.load(host, "", [change(kind, component.full_name, host, ""), *changes])


def lines(found: Table) -> list[str]:
    """The table as text, for 80 columns while hosts are few: a tick, or the number of the reason below; "✓1" fits with
    what sentence 1 says."""
    reasons: dict[str, int] = {}
    marks = {key: _mark(each, reasons) for key, each in found.cells.items()}
    first = max(map(len, (found.kind, *found.components)))
    widths = {host: max(len(host), 3) for host in found.hosts}
    said = ["  ".join([found.kind.ljust(first), *(host.center(widths[host]) for host in found.hosts)])]
    for component in found.components:
        row = (marks[component, host].center(widths[host]) for host in found.hosts)
        said.append("  ".join([component.ljust(first), *row]))
    return [line.rstrip() for line in said] + [
        line
        for reason, number in reasons.items()
        for line in wrap(
            f"  {number}  {reason}", 80, subsequent_indent=" " * 5, break_long_words=False, break_on_hyphens=False
        )
    ]


def _cell(kind: str, component: Component, host: str, attempt: Attempt) -> Cell:
    """Try one; where it is refused, also without labels."""
    here = component.full_name, host
    reason, broken = _tried(lambda: attempt(swapped(kind, component, host)))
    if reason and not broken and not _tried(lambda: attempt(swapped(kind, component, host, [WITHOUT_LABELS])))[0]:
        return Cell(*here, reason, change="data.labels=false")
    return Cell(*here, reason, broken=broken)


def _mark(each: Cell, reasons: dict[str, int]) -> str:
    if not each.reason:
        return "✓"
    number = reasons.setdefault(("broken: " if each.broken else "") + each.reason, len(reasons) + 1)
    return f"✓{number}" if each.change else str(number)


def _tried(act: Callable[[], None]) -> tuple[str, bool]:
    """Why it does not fit, "" if it does; and whether it is broken."""
    try:
        act()
    except UserError as error:
        return str(error), False
    except (Exception, SystemExit) as error:  # a stranger's code; the other cells are wanted all the same
        return words(error), True
    return "", False
