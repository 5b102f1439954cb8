"""`tools/test --isolated` gives a plugin an environment with its wheels and nothing else of Zoo."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import isolated  # noqa: E402


@pytest.mark.slow
def test_a_plugin_alone_with_the_core_is_listed_built_and_tested_from_its_wheels() -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed; `pip install zoo-core[test]` brings it")
    command = [sys.executable, ROOT / "tools" / "isolated.py", "stylenat", "-n", "0", "-k", "there_and_back"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    verdict, wheels, built, tests = run.stdout.splitlines()
    assert verdict.startswith("stylenat: alone")
    assert [name.split("-")[0] for name in wheels.split(": ")[1].split(", ")] == [
        "zoo_core",
        "zoo_stylenat",
        "zoo_styleswin",
    ]
    assert str(ROOT) not in built and "recipes built: church256, ffhq1024, ffhq256, tiny" in built
    assert tests.strip().startswith("tests: 2 passed")


def wheel(folder: Path, *inside: str) -> Path:
    with zipfile.ZipFile(folder / "zoo_orchid-1.whl", "w") as archive:
        for name in inside:
            archive.writestr(name, "")
    return folder / "zoo_orchid-1.whl"


@pytest.mark.parametrize(
    ("inside", "says"),
    [
        (["zoo_orchid/__init__.py"], "lacks zoo_orchid/recipes/tiny.yaml"),
        (["zoo_orchid/recipes/tiny.yaml", "tests/test_orchid.py"], "holds tests"),
        (["zoo_orchid/recipes/tiny.yaml", "zoo_orchid/test_orchid.py"], "holds tests"),
    ],
)
def test_a_wheel_without_a_recipe_or_with_tests_is_refused(tmp_path: Path, inside: list[str], says: str) -> None:
    (tmp_path / "zoo_orchid" / "recipes").mkdir(parents=True)
    (tmp_path / "zoo_orchid" / "recipes" / "tiny.yaml").touch()
    with pytest.raises(isolated.Failed, match=says):
        isolated.check(wheel(tmp_path, *inside), tmp_path / "zoo_orchid")
    isolated.check(wheel(tmp_path, "zoo_orchid/recipes/tiny.yaml"), tmp_path / "zoo_orchid")


def test_an_unknown_plugin_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert isolated.main(["orchid", "-k", "nothing"]) == 2
    assert "no plugin orchid in this checkout" in capsys.readouterr().err
