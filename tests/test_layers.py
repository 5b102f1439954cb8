"""Imports point down, in one direction; the core knows no paper; reading what a plugin says costs no torch."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import fakes
import pytest

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = sorted(path for path in ROOT.glob("plugins/*/zoo_*") if path.is_dir())

SPINE = (
    *("cli", "commands", "session", "evaluation", "trainer", "runs", "sampling", "checkpoint", "adversarial"),
    *("program", "parts", "losses", "attention", "interfaces", "recipe", "catalog", "plugins", "hookspecs", "spec"),
)
"""From the top down. `recipe` is plain data without torch, so it stands below what it describes."""

NOT_FOR_PLUGINS = (
    *("cli", "commands", "session", "trainer", "runs", "evaluation", "checkpoint", "journal", "processes"),
    *("wrapping", "drivers", "sharded", "zero"),
    *("importing", "tensor_files", "restricted_pickle", "attending", "attention_sheet", "bench", "bench_memory"),
    *("flops", "reconstruction"),
)
WITHOUT_TORCH = ("cli", "recipe", "catalog", "plugins", "registry", "builtin", "hookspecs", "spec", "schema", "errors")

PAPERS = re.compile(r"sagan|styleswin|stylenat|vqgan|\bhit\b|codebook|quantiz", re.IGNORECASE)


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the modules of this repository that it imports, wherever in the file."""
    files = {_module(path): path for top in (ROOT / "zoo_core", *PLUGINS) for path in top.rglob("*.py")}
    return {module: _imported(module, path, files.keys()) for module, path in files.items()}


def _module(path: Path) -> str:
    top = next(above for above in path.parents if above == ROOT or above.parent == ROOT / "plugins")
    return ".".join(path.relative_to(top).with_suffix("").parts).removesuffix(".__init__")


def _imported(module: str, path: Path, known: set[str]) -> set[str]:
    tree = ast.parse(path.read_text())
    # The package's front door opens a run for `from zoo_core import load`, only when it is called.
    nodes = tree.body if module == "zoo_core" else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & known) or {node.module or ""}
    return (found & known) - {module}


def test_no_circle() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_no_arrow_points_up() -> None:
    height = {name: len(SPINE) - index for index, name in enumerate(SPINE)}
    floors = {module: height.get(module.removeprefix("zoo_core.").split(".")[0]) for module in imports()}
    assert set(SPINE) <= {module.removeprefix("zoo_core.").split(".")[0] for module in imports()}
    upward = [
        f"{module} -> {target}"
        for module, targets in imports().items()
        for target in targets
        if module.startswith("zoo_core.") and floors[module] and (floors[target] or 0) > floors[module]
    ]
    assert not upward


def test_only_the_top_knows_the_commands() -> None:
    above = {"zoo_core.__main__", "zoo_core.cli"}
    for module, targets in imports().items():
        for target in targets:
            if target.startswith(("zoo_core.commands", "zoo_core.cli", "zoo_core.session")):
                assert module in above or module.startswith("zoo_core.commands."), f"{module} -> {target}"


def test_plugins_import_only_what_is_meant_for_them() -> None:
    assert PLUGINS
    forbidden = tuple(f"zoo_core.{name}" for name in NOT_FOR_PLUGINS)
    for module, targets in imports().items():
        if not module.startswith("zoo_core"):
            assert not [target for target in targets if target.startswith(forbidden)], module
        else:
            assert all(target.startswith("zoo_core") for target in targets), module


def test_the_core_names_no_paper() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / "zoo_core").rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if PAPERS.search(line)
    ]
    assert not found


def test_no_file_is_longer_than_350_lines() -> None:
    files = [path for top in (ROOT / "zoo_core", *ROOT.glob("plugins/*")) for path in top.rglob("*.py")]
    assert not [str(path.relative_to(ROOT)) for path in files if len(path.read_text().splitlines()) > 350]


def test_what_finding_needs_imports_no_torch(tmp_path: Path) -> None:
    """zoo_core itself, what reads plugins and recipes, each command's module, each plugin's plugin.py and recipes."""
    (tmp_path / "torch.py").write_text("raise AssertionError('torch was imported')")
    modules = ["zoo_core", *(f"zoo_core.{name}" for name in WITHOUT_TORCH)]
    modules += [module for module in imports() if module.startswith("zoo_core.commands")]
    modules += [f"{path.name}.{part}" for path in PLUGINS for part in ("plugin", "recipes")]
    code = "import importlib, sys\nfor module in sys.argv[1:]: importlib.import_module(module)"
    variables = os.environ | fakes.on_path(tmp_path, ROOT, *(path.parent for path in PLUGINS))
    command = [sys.executable, "-c", code, *modules]
    found = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
