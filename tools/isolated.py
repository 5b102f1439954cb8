"""Each plugin alone with the core: `python3 tools/test --isolated [PLUGIN ...] [PYTEST OPTION ...]`.

For every plugin: wheels of the core, of the plugin and of what it depends on, installed into a fresh environment that
borrows the third-party packages of the one this runs in (nothing is downloaded) and knows no other part of Zoo. In it
the plugin is imported and listed, its recipes are built on `meta`, and its own tests run. Standard library only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

from launcher import ROOT, plugin_projects, python_of

LOOK = """
import importlib, sys
import zoo_core
from zoo_core import parts, plugins, recipe
from pathlib import Path

name, checkout, *wanted = sys.argv[1:]
found = plugins.installed()
assert not found.broken, found.broken
assert {*found.loaded} - {"core"} == {*wanted}, f"installed are {', '.join(found.loaded)}"
for package in ("zoo_core", *(f"zoo_{one}" for one in wanted)):
    file = Path(importlib.import_module(package).__file__)
    assert file.is_relative_to(sys.prefix), f"{package} is imported from {file}"
assert not [path for path in sys.path if Path(path or ".").resolve().is_relative_to(checkout)], sys.path
for chosen in recipe.names(name):
    parts.outline(recipe.load(name, chosen))
print(f"zoo_core from {zoo_core.__file__}; recipes built: {', '.join(recipe.names(name))}")
"""

WATCH = """
import sys

def pytest_runtest_teardown():
    for name, module in [*sys.modules.items()]:
        file = getattr(module, "__file__", None) or sys.prefix
        if name.split(".")[0].startswith("zoo_") and not file.startswith(sys.prefix):
            raise RuntimeError(f"the tests imported {name} from {file}")
"""


class Failed(Exception):
    """A plugin does not stand alone: what was being done, and the output."""


def main(arguments: Sequence[str]) -> int:
    """Try the plugins named before the first option, or all; returns 1 if one does not stand alone, 2 if unknown."""
    options = next((index for index, text in enumerate(arguments) if text.startswith("-")), len(arguments))
    projects = {file.parent.name: file.parent for file in plugin_projects(ROOT)}
    names = list(arguments[:options]) or list(projects)
    if unknown := [name for name in names if name not in projects]:
        print(f"no plugin {', '.join(unknown)} in this checkout; there are {', '.join(projects)}", file=sys.stderr)
        return 2
    failed = 0
    with tempfile.TemporaryDirectory(prefix="zoo-isolated-") as folder:
        for name in names:
            start = time.monotonic()
            try:
                said = alone(name, projects, Path(folder), arguments[options:])
                print(f"{name}: alone in {time.monotonic() - start:.0f} s\n  " + "\n  ".join(said), flush=True)
            except Failed as error:
                failed = 1
                print(f"{name}: FAILED, {error}", flush=True)
    return failed


def alone(name: str, projects: dict[str, Path], folder: Path, options: Sequence[str]) -> list[str]:
    """What was found of one plugin in an environment of its own. Raises Failed."""
    names = needed(name, projects)
    wheels = [build(project, folder / "wheels") for project in (ROOT, *(projects[one] for one in names))]
    environment = folder / name
    make(environment)
    python, place = str(python_of(environment)), environment / "empty"
    place.mkdir()
    pip = [*pip_for(python), "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    run("installing its wheels", [*pip, *map(str, wheels)], place)
    listed = run("zoo list", [str(environment / "bin" / "zoo"), "list"], place)
    papers = re.findall(r"^(\S+) ", listed.split("\n\n")[0], re.MULTILINE)
    if papers != [*names, "core"]:
        raise Failed(f"`zoo list` names {', '.join(papers)}:\n{listed}")
    look = run("building its recipes", [python, "-c", LOOK, name, str(ROOT), *names], place)
    (place / "only_wheels.py").write_text(WATCH, encoding="utf-8")
    tests = [
        python,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "-p",
        "only_wheels",
        "-p",
        "no:cacheprovider",
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    passed = run("its tests", [*tests, "--rootdir", str(ROOT), *options, str(projects[name] / "tests")], place)
    shutil.rmtree(environment)
    summary = passed.strip().splitlines()[-1].strip("= ")
    return [f"wheels: {', '.join(wheel.name for wheel in wheels)}", look.strip().splitlines()[-1], f"tests: {summary}"]


def needed(name: str, projects: dict[str, Path]) -> list[str]:
    """The plugin and the plugins it depends on, sorted."""
    found, queue = set(), [name]
    while queue:
        found.add(one := queue.pop())
        project = tomllib.loads((projects[one] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        requirements = (re.match(r"zoo-(\w+)", text) for text in project["dependencies"])
        queue += [match[1] for match in requirements if match and match[1] != "core" and match[1] not in found]
    return sorted(found)


def build(project: Path, folder: Path) -> Path:
    """The wheel of a project; built once a run."""
    name = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"].replace("-", "_")
    if not (made := [*folder.glob(f"{name}-*.whl")]):
        command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
        run(f"building the wheel of {name}", command, project)
        made = [*folder.glob(f"{name}-*.whl")]
        check(made[0], project / name)
    return made[0]


def check(wheel: Path, package: Path) -> None:
    """Raise Failed unless the wheel holds every recipe of the package, and no tests."""
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
    if tests := [entry for entry in inside if re.search(r"(^|/)(tests/|test_|conftest)", entry)]:
        raise Failed(f"{wheel.name} holds tests: {tests[0]}")
    recipes = {file.relative_to(package.parent).as_posix() for file in package.glob("recipes/*.yaml")}
    if lacking := sorted(recipes - {*inside}):
        raise Failed(f"{wheel.name} lacks {lacking[0]}")


def make(environment: Path) -> None:
    """A fresh environment with a link to each third-party package of this one: no .pth file, nothing of Zoo."""
    venv.create(environment, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    for folder in [Path(path) for path in sys.path if path.endswith(("site-packages", "dist-packages"))]:
        for entry in folder.iterdir():
            own = entry.name.startswith(("zoo_", "__editable__", "_editable_impl")) or entry.suffix in (
                ".pth",
                ".egg-link",
            )
            if not own and entry.name != "__pycache__" and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)


def pip_for(python: str) -> list[str]:
    """How to run pip for an environment that has none of its own."""
    for owner in (sys.executable, sys._base_executable):
        if subprocess.run([owner, "-m", "pip", "--version"], capture_output=True).returncode == 0:
            return [owner, "-m", "pip", "--python", python]
    raise Failed(f"neither {sys.executable} nor {sys._base_executable} has pip")


def run(doing: str, command: Sequence[str], folder: Path) -> str:
    """The output of a program that sees no package of the checkout. Raises Failed with its end when it fails."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "ZOO_PLUGINS", "ZOO_DISABLED", "ZOO_STRICT")
    variables = {key: value for key, value in os.environ.items() if key not in hidden and not key.startswith("PIP_")}
    done = subprocess.run(
        command,
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise Failed(f"{doing}:\n" + "\n".join(done.stdout.splitlines()[-40:]))
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
