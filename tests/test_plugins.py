"""A plugin that misbehaves is named with the reason; it hides no other plugin and breaks no command."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import fakes
import pytest
from conftest import Zoo, run_zoo

import zoo_core

HOSTILE = {
    "no-module": ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
    "bad-syntax": ("def (:", "SyntaxError"),
    "leaves": ("import sys\nsys.exit(3)", "SystemExit: 3"),
    "many-lines": ("raise RuntimeError('first\\nsecond\\n' + 1000 * 'x')", "RuntimeError: first second xxx"),
    "mute": (
        "class Mute(Exception):\n    def __str__(self):\n        raise ValueError\nraise Mute()",
        "Mute",
    ),
    "raises": (
        "from zoo_core import hookimpl\n@hookimpl\ndef zoo_plugin(register):\n    raise OSError('the hook fails')",
        "OSError: the hook fails",
    ),
    "misspelt": (
        "from zoo_core import hookimpl\n@hookimpl\ndef zoo_plugn(register):\n    pass",
        "unknown hook 'zoo_plugn'; the hook is named zoo_plugin",
    ),
    "newer": (
        "from zoo_core import hookimpl\n@hookimpl\ndef zoo_plugin(register, colour):\n    pass",
        "its hook asks for 'colour', which this zoo-core does not offer; it needs a newer zoo-core",
    ),
    "wraps": (
        "from zoo_core import hookimpl\n@hookimpl(wrapper=True)\ndef zoo_plugin(register):\n    yield",
        "historic incompatible",
    ),
    "unmarked": ("def zoo_plugin(register):\n    pass", "registers nothing"),
    "silent": (
        "from zoo_core import hookimpl\n@hookimpl\ndef zoo_plugin(register):\n    pass",
        "registers nothing",
    ),
    "twins": (
        fakes.PLUGIN.format(name="twins", fields="") + "    register(Plugin(name='other-twin'))",
        "must register one Plugin; it registered 2",
    ),
    "stranger": (
        "from zoo_core import hookimpl\n@hookimpl\ndef zoo_plugin(register):\n    register({'name': 'stranger'})",
        "must register a Plugin, not a dict",
    ),
    "renamed": (
        fakes.PLUGIN.format(name="another", fields=""),
        'the entry point "renamed" registers a plugin named "another"; make them equal',
    ),
    "ill-formed": (
        fakes.PLUGIN.format(name="ill-formed", fields=", generators={'a': 'no reference'}"),
        "generator 'a' must be a reference like 'package.module:Name'",
    ),
    **{
        f"careless-{name}": (
            fakes.PLUGIN.replace("import Plugin", "import Paper, Plugin").format(
                name=f"careless-{name}", fields=f", {fields}"
            ),
            reason,
        )
        for name, (fields, reason) in {
            "paper": ("paper={'title': 'x'}", "paper must be a Paper or None, not {'title': 'x'}"),
            "title": ("paper=Paper(title=None)", "Paper.title must be a string, not None"),
            "weights": ("weights={'a': 'http://'}", "weights 'a' must be a Weights, not 'http://'"),
            "list": ("weights=['a']", "weights must be a mapping with names for keys, not ['a']"),
            "table": ("attentions=['a.b:C']", "attentions must be a mapping with names for keys, not ['a.b:C']"),
            "key": ("losses={1: 'a.b:C'}", "losses must be a mapping with names for keys, not {1: 'a.b:C'}"),
            "stages": ("stages=print", "Plugin.stages must be a string, not <built-in function print>"),
            "recipes": ("recipes=None", "Plugin.recipes must be a string, not None"),
            "recipe": ("recipe=1", "Plugin.recipe must be a string, not 1"),
            "sections": ("sections='codebook'", "sections must be a tuple of strings, not 'codebook'"),
            "convert": ("convert=False", "Plugin.convert must be a string, not False"),
        }.items()
    },
    "careless-summary": (
        "from zoo_core import Plugin, hookimpl\n@hookimpl\ndef zoo_plugin(register):\n"
        "    register(Plugin(name='careless-summary', summary=['x']))",
        "Plugin.summary must be a string, not ['x']",
    ),
    "core": (fakes.PLUGIN.format(name="core", fields=""), "the name belongs to zoo-core itself"),
}
LOUD = fakes.PLUGIN.format(name="loud", fields="") + "\nprint('printed while it is imported')\n"
RECORDS = "import pathlib\npathlib.Path(__file__).with_suffix('.imported').touch()\n"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every hostile plugin, two that claim one name, one whose metadata is damaged, and two good ones."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, (source, _) in HOSTILE.items():
        fakes.plugin(folder, name, source, package=f"hostile-{name}")
    for package in ("zoo-claim", "their-claim"):
        fakes.plugin(folder, "claimed", RECORDS + fakes.PLUGIN.format(name="claimed", fields=""), package=package)
    fakes.distribution(folder, "zoo-damaged", {"damaged": "zoo_damaged"}, {})
    (folder / "zoo_damaged-1.0.dist-info" / "entry_points.txt").write_text("[zoo]\nnonsense\n")
    fakes.plugin(folder, "friend", fields="attentions={'quiet': 'nowhere.to:Attention'}")
    fakes.plugin(folder, "loud", LOUD)
    return folder


@pytest.fixture(scope="module")
def answers(hostile: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    """What the commands say while all of them are installed."""
    cwd = tmp_path_factory.mktemp("cwd")
    commands = ("list", "plugins", "plugins --json", "show friend", "show claimed", "show newer", "--help")
    return {command: run_zoo(cwd, *command.split(), **fakes.on_path(hostile)) for command in commands}


def broken(answers: dict[str, subprocess.CompletedProcess[str]]) -> dict[str, str]:
    return {row["name"]: row["reason"] for row in json.loads(answers["plugins --json"].stdout)["broken"]}


def test_no_hostile_plugin_breaks_a_command(answers: dict[str, subprocess.CompletedProcess[str]]) -> None:
    for command in ("list", "plugins", "plugins --json", "show friend", "--help"):
        assert answers[command].returncode == 0, answers[command].stderr
        assert "Traceback" not in answers[command].stderr


def test_no_hostile_plugin_hides_another(answers: dict[str, subprocess.CompletedProcess[str]]) -> None:
    loaded = {row["name"] for row in json.loads(answers["plugins --json"].stdout)["loaded"]}
    assert {"core", "friend", "loud"} <= loaded
    assert loaded.isdisjoint(HOSTILE.keys() - {"core"})
    for command in ("list", "plugins"):
        names = {line.split()[0] for line in answers[command].stdout.splitlines() if line.strip()}
        assert names >= {"friend", "loud", "claimed", *HOSTILE}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_plugin_is_named_with_the_reason(
    name: str, answers: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    reason = broken(answers)[name]
    assert HOSTILE[name][1] in reason
    assert "\n" not in reason and len(reason) <= 200
    assert any(line.startswith(name) and reason in line for line in answers["list"].stdout.splitlines())


def test_a_name_claimed_twice_is_refused_before_either_is_imported(
    hostile: Path, answers: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    reason = broken(answers)["claimed"]
    assert "claimed by several packages" in reason and "zoo-claim" in reason and "their-claim" in reason
    assert not list(hostile.glob("*.imported"))


def test_one_package_seen_twice_on_the_path_is_no_quarrel(tmp_path: Path, zoo: Zoo) -> None:
    fakes.plugin(tmp_path / "checkout", "twice")
    fakes.plugin(tmp_path / "install", "twice", package="Zoo_Twice")
    found = json.loads(zoo("plugins", "--json", **fakes.on_path(tmp_path / "checkout", tmp_path / "install")).stdout)
    (row,) = [row for row in found["loaded"] if row["name"] == "twice"]
    assert row["path"].startswith(str(tmp_path / "checkout"))


def test_damaged_metadata_of_a_plugin_is_named(answers: dict[str, subprocess.CompletedProcess[str]]) -> None:
    assert "metadata cannot be read" in broken(answers)["zoo_damaged-1.0.dist-info"]


def test_what_a_plugin_prints_does_not_spoil_json(answers: dict[str, subprocess.CompletedProcess[str]]) -> None:
    assert "printed while it is imported" in answers["plugins --json"].stderr
    assert "printed" not in answers["plugins --json"].stdout


def test_asking_for_a_broken_plugin_says_why(answers: dict[str, subprocess.CompletedProcess[str]]) -> None:
    for command, reason in (("show claimed", "several packages"), ("show newer", "needs a newer zoo-core")):
        assert answers[command].returncode == 2
        assert "is installed but broken" in answers[command].stderr and reason in answers[command].stderr


def test_strict_raises_instead(hostile: Path, zoo: Zoo) -> None:
    found = zoo("plugins", **fakes.on_path(hostile), ZOO_STRICT="1", ZOO_PLUGINS="raises")
    assert found.returncode not in (0, 2)
    assert "OSError: the hook fails" in found.stderr and "RuntimeError: plugin raises (hostile-raises)" in found.stderr


def test_disabled_plugins_are_not_imported(tmp_path: Path, zoo: Zoo) -> None:
    fakes.plugin(tmp_path, "first", RECORDS + fakes.PLUGIN.format(name="first", fields=""))
    fakes.plugin(tmp_path, "second")
    for variables in ({"ZOO_DISABLED": "third, first"}, {"ZOO_PLUGINS": " second"}):
        found = json.loads(zoo("plugins", "--json", **fakes.on_path(tmp_path), **variables).stdout)
        assert "first" in found["blocked"]
        assert {"core", "second"} <= {row["name"] for row in found["loaded"]}
        assert not (tmp_path / "zoo_first.imported").exists()
        refused = zoo("show", "first", **fakes.on_path(tmp_path), **variables)
        assert refused.returncode == 2 and "blocked by ZOO_PLUGINS or ZOO_DISABLED" in refused.stderr


# --- references that lead nowhere: found when they are used, and by `zoo plugins --check` ---

FAULTS = {
    "missing": ("generators={'missing': 'zoo_missing_nowhere:Generator'}", "zoo_missing_nowhere"),
    "absent": ("losses={'absent': 'zoo_core.losses:Absent'}", "Absent"),
    "crashes": ("attentions={'crashes': 'zoo_crashes_part:Attention'}", "the part crashes"),
    "exits": ("discriminators={'exits': 'zoo_exits_part:Discriminator'}", "zoo_exits_part"),
    "stageless": ("stages='zoo_stageless_nowhere:build'", "zoo_stageless_nowhere"),
    "converts": ("convert='zoo_converts_nowhere:official'", "zoo_converts_nowhere"),
    "recipeless": ("recipes='zoo_recipeless_nowhere.recipes'", "zoo_recipeless_nowhere"),
    "number": ("losses={'number': 'math:pi'}", "float"),
}


@pytest.fixture(scope="module")
def dangling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plugins whose references lead nowhere."""
    folder = tmp_path_factory.mktemp("dangling")
    for name, (fields, _) in FAULTS.items():
        fakes.plugin(folder, name, fields=fields)
    (folder / "zoo_crashes_part.py").write_text("raise RuntimeError('the part crashes')")
    (folder / "zoo_exits_part.py").write_text("raise SystemExit")
    return folder


def test_check_names_every_reference_to_nothing(dangling: Path, zoo: Zoo) -> None:
    found = zoo("plugins", "--check", "--json", **fakes.on_path(dangling))
    assert found.returncode == 0, found.stderr
    faults = {row["name"]: row["faults"] for row in json.loads(found.stdout)["loaded"]}
    assert not faults["core"]
    for name, (_, word) in FAULTS.items():
        assert len(faults[name]) == 1 and word in faults[name][0], (name, faults[name])


def test_a_reference_to_nothing_does_not_break_show(dangling: Path, zoo: Zoo) -> None:
    for name, (_, word) in FAULTS.items():
        found = zoo("show", name, **fakes.on_path(dangling))
        assert "Traceback" not in found.stderr
        assert name in found.stdout
        assert found.returncode == 0 or word in found.stderr


def test_an_installed_plugin_works_without_the_index(tmp_path: Path, zoo: Zoo) -> None:
    """A copy of the core with no registry.yaml anywhere near it."""
    shutil.copytree(Path(zoo_core.__file__).parent, tmp_path / "copy" / "zoo_core", ignore=_bytecode_and_index)
    fakes.plugin(tmp_path / "copy", "friend", fields="attentions={'quiet': 'nowhere.to:Attention'}")
    found = zoo("list", **fakes.on_path(tmp_path / "copy"))
    assert found.returncode == 0, found.stderr
    assert "friend" in found.stdout and "In the index" not in found.stdout
    where = json.loads(zoo("plugins", "--json", **fakes.on_path(tmp_path / "copy")).stdout)
    assert any(row["path"].startswith(str(tmp_path / "copy")) for row in where["loaded"] if row["name"] == "core")


def _bytecode_and_index(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name in ("__pycache__", "registry.yaml")}
