"""Each distribution holds what it needs and declares what it imports."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECTS = [ROOT, *sorted(file.parent for file in ROOT.glob("plugins/*/pyproject.toml"))]
DISTRIBUTION_OF = {"PIL": "pillow", "yaml": "pyyaml"}

each_project = pytest.mark.parametrize("project", PROJECTS, ids=lambda folder: folder.name)


def package(project: Path) -> str:
    return metadata(project)["name"].replace("-", "_")


def metadata(project: Path) -> dict:
    return tomllib.loads((project / "pyproject.toml").read_text())["project"]


@each_project
def test_a_wheel_holds_its_code_data_and_licence(project: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed; `pip install zoo-core[test]` brings it")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    run = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    name = package(project)
    source = {
        file.relative_to(project).as_posix()
        for file in (project / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        inside = {entry for entry in archive.namelist() if not entry.startswith(f"{name}-")}
        (licence,) = [entry for entry in archive.namelist() if entry.endswith(".dist-info/licenses/LICENSE")]
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
        entry_points = configparser.ConfigParser()
        (listed,) = [entry for entry in archive.namelist() if entry.endswith("entry_points.txt")]
        entry_points.read_string(archive.read(listed).decode())
        if project == ROOT:
            source.add("zoo_core/registry.yaml")
            assert archive.read("zoo_core/registry.yaml") == (ROOT / "registry.yaml").read_bytes()
            assert dict(entry_points["console_scripts"]) == {"zoo": "zoo_core.cli:main"}
        else:
            assert dict(entry_points["zoo"]) == {project.name: f"{name}.plugin"}
    assert source == inside, "the wheel and the source differ"


@each_project
def test_a_distribution_declares_what_it_imports(project: Path) -> None:
    project_metadata = metadata(project)
    declared = [*project_metadata["dependencies"], *sum(project_metadata.get("optional-dependencies", {}).values(), [])]
    allowed = {re.split(r"[\s<>=!~;\[]", requirement)[0] for requirement in declared} | {project_metadata["name"]}
    for file in (project / package(project)).rglob("*.py"):
        for name in imported(file):
            needs = DISTRIBUTION_OF.get(name, name.replace("_", "-"))
            assert needs in allowed, f"{file.relative_to(ROOT)} imports {name}; pyproject.toml does not declare {needs}"


def imported(file: Path) -> set[str]:
    """The top-level names of what a file imports, the standard library apart."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names


def test_the_lock_names_an_exact_version_of_every_dependency() -> None:
    lines = [line for line in (ROOT / "tools" / "lock.txt").read_text().splitlines() if not line.startswith("#")]
    locked = {}
    for line in lines:
        match = re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)(; sys_platform == \"linux\")?", line)
        assert match, f"not an exact version: {line}"
        locked[match[1]] = match[2]
    for project in PROJECTS:
        extras = metadata(project).get("optional-dependencies", {})
        for requirement in [*metadata(project)["dependencies"], *extras.get("test", [])]:
            name = re.split(r"[\s<>=!~;\[]", requirement)[0]
            assert name in locked or name.startswith("zoo-"), f"{requirement} of {project.name} is not in the lock"
