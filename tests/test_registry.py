"""The curated index says what is true, and nothing depends on it."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from zoo_core import registry
from zoo_core.errors import UserError
from zoo_core.plugins import Broken, Loaded, Plugins
from zoo_core.registry import Entry
from zoo_core.spec import Paper, Plugin

ROOT = Path(__file__).resolve().parent.parent

ENTRY = Entry("orchid", "zoo-orchid", "A Paper", "One line.", "working", "1234.56789")


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_registry", ROOT / "tools" / "check_registry.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loaded(title: str = "A Paper", arxiv: str = "1234.56789", package: str = "zoo-orchid") -> Plugins:
    plugin = Plugin("orchid", paper=Paper(title, arxiv=arxiv))
    return Plugins({"orchid": Loaded(plugin, package, "1.0", "orchid.py")}, {})


def test_a_missing_index_is_an_empty_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "zoo_core" / "registry.py"))
    assert registry.location() is None
    assert registry.entries() == ()


def test_the_index_of_a_wheel_lies_in_the_package_and_that_of_a_checkout_above_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "zoo_core" / "registry.py"))
    (tmp_path / "registry.yaml").write_text("[]")
    assert registry.location() is None, "a stranger's file above an installed package is not the index"
    (tmp_path / "pyproject.toml").touch()
    assert registry.location() == tmp_path / "registry.yaml"
    (tmp_path / "zoo_core").mkdir()
    (tmp_path / "zoo_core" / "registry.yaml").write_text("[]")
    assert registry.location() == tmp_path / "zoo_core" / "registry.yaml"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("name: orchid", "must be a list"),
        ("- [", "not readable YAML"),
        ("- {name: a, package: b, paper: c, summary: d, status: working, arXiv: e}", "arXiv"),
        ("- {name: a, package: b, paper: c, summary: d, status: soon}", "soon"),
        ("- {name: a, package: b, paper: c, summary: d, status: working, arxiv: 2112.10762}", "must be text"),
        ("- {name: a, package: b, paper: c, summary: d, status: working}\n" * 2, "twice"),
        ("- {name: a}", "package is missing"),
    ],
)
def test_a_wrong_index_is_named(tmp_path: Path, text: str, names: str) -> None:
    file = tmp_path / "registry.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=names):
        registry.entries(file)


def test_every_plugin_of_this_checkout_is_in_the_index_under_its_package() -> None:
    index = {entry.name: entry for entry in registry.entries()}
    assert index
    for file in ROOT.glob("plugins/*/pyproject.toml"):
        project = tomllib.loads(file.read_text())["project"]
        for name in project["entry-points"]["zoo"]:
            assert index[name].package == project["name"]
            assert index[name].status != "planned"


def test_what_is_planned_has_no_package_here() -> None:
    built = {file.parent.name for file in ROOT.glob("plugins/*/pyproject.toml")}
    assert not built & {entry.name for entry in registry.entries() if entry.status == "planned"}


def test_the_check_finds_an_index_in_order(checker: ModuleType) -> None:
    assert checker.problems([ENTRY], loaded(), ["orchid"]) == []


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (loaded(title="Another"), "Another"),
        (loaded(arxiv="1"), "arxiv"),
        (loaded(package="zoo-other"), "zoo-other"),
        (Plugins({}, {}), "no such plugin is installed"),
        (Plugins({}, {"orchid": Broken("orchid", "zoo-orchid", "it fell over")}), "it fell over"),
    ],
)
def test_the_check_names_each_disagreement(checker: ModuleType, found: Plugins, says: str) -> None:
    (problem,) = checker.problems([ENTRY], found, ["orchid"])
    assert problem.startswith("orchid") and says in problem


def test_the_check_names_an_unlisted_plugin(checker: ModuleType) -> None:
    (problem,) = checker.problems([], loaded(), ["orchid"])
    assert "does not list" in problem
