"""The tutorial's plugin, taken from its page and installed by pip, appears, trains, goes on and samples."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import fakes
import pytest
from conftest import run_zoo
from PIL import Image

PAGE = Path(__file__).resolve().parent.parent / "docs" / "plugin-tutorial.md"
FILES = re.compile(r"^`(zoo-pebble/[^`]+)`\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```(\w*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip installed the package, without a network."""
    pytest.importorskip("pip", reason="this environment has no pip")
    pytest.importorskip("hatchling", reason="this environment has no hatchling; `pip install zoo-core[test]` brings it")
    top = tmp_path_factory.mktemp("tutorial")
    for name, text in FILES.findall(PAGE.read_text()):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", top / "site", top / "zoo-pebble"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return top / "site"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of one colour each."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(12):
        Image.new("RGB", (32, 32), (20 * i, 255 - 20 * i, 90)).save(folder / f"{i}.png")
    return folder


def test_the_page_shows_the_files_that_it_lists() -> None:
    text = PAGE.read_text()
    names = [name for name, _ in FILES.findall(text)]
    listed = re.findall(r"^ +(\S+\.(?:py|toml|yaml))\b", text.split("```")[1], re.MULTILINE)
    assert sorted(Path(name).name for name in names) == sorted(listed) and len(set(names)) == len(names) == 8
    opening = FENCE.findall(text)[::2]
    assert len(opening) == len(names) + 3 and opening.count("sh") == 2  # no block of code escapes the test


def test_the_tutorial_plugin_appears(installed: Path, tmp_path: Path) -> None:
    variables = fakes.on_path(installed)
    assert "pebble       Pebble: An Example" in run_zoo(tmp_path, "list", **variables).stdout
    found = json.loads(run_zoo(tmp_path, "plugins", "--json", "--check", **variables).stdout)
    (row,) = [row for row in found["loaded"] if row["name"] == "pebble"]
    assert (row["package"], row["version"], row["faults"]) == ("zoo-pebble", "0.1.0", [])
    assert row["path"] == str(installed / "zoo_pebble" / "plugin.py")
    assert "recipes: tiny (default)" in run_zoo(tmp_path, "show", "pebble", **variables).stdout


def test_the_tutorial_plugin_trains_goes_on_and_samples(installed: Path, pictures: Path, tmp_path: Path) -> None:
    variables = fakes.on_path(installed)
    train = ["train", "--plugin", "pebble", "--data", pictures, "--no-measure", "--set", "train.batch=4", "--set"]
    done = run_zoo(tmp_path, *train, "train.images=8", **variables)
    assert done.returncode == 0, done.stderr
    again = run_zoo(tmp_path, *train, "train.images=16", **variables)
    assert again.returncode == 0 and "Resuming from step 2 (8 images)." in again.stdout, again.stderr
    run = tmp_path / "runs" / f"pebble-tiny-{pictures.stem}"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "event" not in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert "r1" in steps[0] and "generator" in steps[0]
    sampled = run_zoo(tmp_path, "sample", run, "--num", "3", **variables)
    assert sampled.returncode == 0, sampled.stderr
    assert len(list((run / "sampled" / "step-4-seed-0").glob("0*.png"))) == 3
    assert Image.open(run / "sampled" / "step-4-seed-0" / "000000.png").size == (32, 32)


def test_the_tutorial_plugin_takes_the_attention_of_another(installed: Path, tmp_path: Path) -> None:
    shown = run_zoo(tmp_path, "show", "pebble", "--set", "generator.attention=core/none", **fakes.on_path(installed))
    assert shown.returncode == 0 and "attention: {name: core/none}" in shown.stdout, shown.stderr
