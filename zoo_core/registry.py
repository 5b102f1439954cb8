"""Read the curated index of papers, `registry.yaml`. It informs; it is never how a plugin is found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from zoo_core import schema
from zoo_core.errors import UserError

FILE = "registry.yaml"


@dataclass(frozen=True)
class Entry:
    """One paper of the index."""

    name: str
    """The plugin's name, which is also that of its entry point."""
    package: str
    """The distribution to `pip install`."""
    paper: str
    """The paper's title."""
    summary: str
    """One line."""
    status: Literal["planned", "partial", "working", "verified"]
    """`planned`: no package yet. `partial`: components only. `working`: trains and samples. `verified`: also agrees
    with the official code in every published configuration."""
    arxiv: str = ""
    """The paper's arXiv number, such as "1805.08318"; text, because YAML would read it as a number."""


def location() -> Path | None:
    """Where the index is: inside the installed package, or at the top of the checkout; None when in neither."""
    package = Path(__file__).resolve().parent
    if (package / FILE).is_file():
        return package / FILE
    checkout = package.parent
    return checkout / FILE if (checkout / FILE).is_file() and (checkout / "pyproject.toml").is_file() else None


def entries(path: Path | None = None) -> tuple[Entry, ...]:
    """The papers of the index at `path` (the one that `location` finds), in its order; () when there is no index.

    Raises UserError when the file is not an index, naming the line or the key that is wrong.
    """
    path = path or location()
    if path is None:
        return ()
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(rows, list):
        raise UserError(f"{path} must be a list of papers.")
    found: dict[str, Entry] = {}
    for number, row in enumerate(rows):
        entry = schema.build(Entry, row, f"{path.name}[{number}]")
        if entry.name in found:
            raise UserError(f'{path} lists "{entry.name}" twice.')
        found[entry.name] = entry
    return tuple(found.values())
