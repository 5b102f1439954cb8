"""Installed distributions without pip: a folder to put on PYTHONPATH, as Python's import system sees a package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PLUGIN = """\
from zoo_core import Plugin, hookimpl

@hookimpl
def zoo_plugin(register):
    register(Plugin(name="{name}", summary="Made for a test."{fields}))
"""


def distribution(folder: Path, package: str, entry_points: Mapping[str, str], modules: Mapping[str, str]) -> Path:
    """Write `package` 1.0 into `folder`: its metadata, its `zoo` entry points and its modules (path -> source)."""
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[zoo]", *lines, ""]))
    for path, source in modules.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(source)
    return folder


def plugin(folder: Path, name: str, source: str = "", fields: str = "", package: str = "", **modules: str) -> Path:
    """Write a plugin `name` of one module; `source` replaces a well-behaved one, `fields` are more of its Plugin."""
    package = package or f"zoo-{name}"
    module = package.replace("-", "_")
    source = source or PLUGIN.format(name=name, fields=f", {fields}" if fields else "")
    files = {f"{module}.py": source, **{f"{other}.py": text for other, text in modules.items()}}
    return distribution(folder, package, {name: module}, files)


def on_path(*folders: Path) -> dict[str, str]:
    """The environment variable that lets a new Python see the distributions in `folders`."""
    inherited = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join([*map(str, folders), *filter(None, [inherited])])}
