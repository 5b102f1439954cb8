#!/usr/bin/env python3
"""Compare registry.yaml with the installed plugins: names, packages, paper titles and arXiv numbers, statuses.

Run it in the project's environment: `.venv/bin/python tools/check_registry.py`. Exits 1 when they disagree.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from zoo_core import plugins, registry
from zoo_core.plugins import Plugins
from zoo_core.registry import Entry


def problems(index: Iterable[Entry], found: Plugins, ours: Iterable[str]) -> list[str]:
    """What is wrong, one sentence each. `ours` names the plugins of this checkout: those must be in the index."""
    wrong: list[str] = []
    index = list(index)
    for entry in index:
        if entry.name in found.broken:
            wrong.append(f"{entry.name}: installed but broken: {found.broken[entry.name].reason}")
        elif entry.name not in found.loaded:
            if entry.status != "planned":
                wrong.append(f'{entry.name}: the index says "{entry.status}", but no such plugin is installed')
        else:
            wrong += [f"{entry.name}: {text}" for text in _differences(entry, found)]
    listed = {entry.name for entry in index}
    wrong += [f"{name}: a plugin of this checkout that the index does not list" for name in ours if name not in listed]
    return wrong


def _differences(entry: Entry, found: Plugins) -> list[str]:
    loaded = found.loaded[entry.name]
    paper = loaded.plugin.paper
    pairs = [
        ("package", entry.package, loaded.package),
        ("paper", entry.paper, paper.title if paper else ""),
        ("arxiv", entry.arxiv, paper.arxiv if paper else ""),
    ]
    wrong = [f'{key}: "{here}" in the index, "{there}" in the plugin' for key, here, there in pairs if here != there]
    if entry.status == "planned":
        wrong.append('the index says "planned", but the plugin is installed')
    return wrong


def main() -> int:
    """Print each disagreement; 0 when there is none."""
    folders = (Path(__file__).resolve().parent.parent / "plugins").glob("*/pyproject.toml")
    index = registry.entries()
    wrong = problems(index, plugins.installed(), sorted(file.parent.name for file in folders))
    for line in wrong:
        print(line)
    if not wrong:
        print(f"the index's {len(index)} papers agree with the installed plugins")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
