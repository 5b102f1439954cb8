"""A run of several stages: one after the other, each with its own settings and checkpoints, each to be resumed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import fakes
import numpy as np
import pytest
import torch
import toys
import two_stages
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from zoo_core import checkpoint, plugins, recipe, session
from zoo_core.data import ImageSet
from zoo_core.errors import UserError
from zoo_core.interfaces import Generator
from zoo_core.recipe import Recipe
from zoo_core.runs import load

RECIPE = """
plugin: two
generator: {name: two}
data: {resolution: 8}
train:
  images: 80
  batch: 4
  log_images: 4
  optimizers: {table: {lr: 0.1}, chooser: {lr: 0.1}}
  averages: {table: {half_life_images: 20}}
  stages: {chooser: {images: 48, batch: 8}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which the plugin is installed, with a recipe file and pictures."""
    fields = 'generators={"two": "two_stages:TwoNetworks"}, stages="two_stages:build"'
    fakes.plugin(tmp_path / "site", "two", fields=fields)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    plugins.installed.cache_clear()
    (tmp_path / "two.yaml").write_text(RECIPE)
    toys.write_pictures(tmp_path / "pictures")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield tmp_path
    plugins.installed.cache_clear()


def wanted(home: Path, **settings: object) -> Recipe:
    changes = [("data.source", str(home / "pictures")), *((path.replace("__", "."), v) for path, v in settings.items())]
    return recipe.load("two", str(home / "two.yaml"), changes)


def train(home: Path, run: str = "run", only: str = "", **settings: object) -> tuple[session.Outcome, list[str]]:
    said: list[str] = []
    outcome = session.train(wanted(home, **settings), home / run, only=only, say=said.append)
    return outcome, said


def stages_in(home: Path) -> list[str]:
    lines = [json.loads(line) for line in (home / "run/metrics.jsonl").read_text().splitlines()]
    return list(dict.fromkeys(line["stage"] for line in lines))


def test_stages_run_in_order_each_with_its_own_budget_batch_and_checkpoints(home: Path) -> None:
    outcome, _ = train(home)
    assert outcome.finished and outcome.images == 80 + 48
    assert stages_in(home) == ["table", "chooser"]
    found = {path.name: checkpoint.latest(path).step for path in (home / "run/checkpoints").iterdir()}
    assert found == {"table": 20, "chooser": 6}
    assert (home / "run/samples/table-images-000000080.png").exists()
    assert (home / "run/samples/chooser-images-000000048.png").exists()


def test_the_first_line_speaks_of_the_stages_that_are_trained(home: Path) -> None:
    first = train(home, only="table")[1][0]
    assert first.endswith(": 80 images in batches of 4, from 24 in pictures at 8 px.")
    first = train(home, only="chooser")[1][0]
    assert first.endswith(": 48 images in batches of 8, from 24 in pictures at 8 px.")
    first = train(home)[1][0]
    assert ": 80 images in batches of 4 (table), then 48 images in batches of 8 (chooser), from 24" in first


def test_later_stages_and_the_opened_run_use_the_averaged_weights_of_earlier_ones(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, trained = two_stages.build, []

    def watched(recipe, parts):
        trained.append(parts.generator)
        return built(recipe, parts)

    monkeypatch.setattr(two_stages, "build", watched)
    train(home)
    found = checkpoint.latest(home / "run/checkpoints/table")
    raw, averaged = found.network("table"), found.network("table", averaged=True)
    run = load(home / "run", "cpu")
    assert run.step == 6 and run.checkpoint.path.parent.name == "chooser"
    for generator in (trained[-1], run.generator):
        for name, value in generator.table.state_dict().items():
            assert torch.equal(value, averaged[name]) and not torch.equal(value, raw[name])


def test_what_a_training_shows_and_measures_at_its_end_is_what_the_opened_run_gives(home: Path) -> None:
    """The last stage's averaged weights, too, though they are of one of the generator's networks only."""
    averages = {"table": {"half_life_images": 20}, "chooser": {"half_life_images": 20}}
    seen: dict[str, dict[str, torch.Tensor]] = {}

    def measure(when: str, step: int, generator: Generator, images: ImageSet) -> None:
        seen[when] = {name: value.clone() for name, value in generator.state_dict().items()}

    session.train(wanted(home, train__averages=averages), home / "run", measure=measure, say=lambda text: None)
    found = load(home / "run", "cpu").generator.state_dict()
    toys.assert_same(seen["end"], found)
    toys.assert_same(load_file(home / "run/averaged.safetensors"), found)
    raw = checkpoint.latest(home / "run/checkpoints/chooser").network("chooser")
    assert any(not torch.equal(found[f"chooser.{name}"], value) for name, value in raw.items())


def test_a_picture_is_made_with_averaged_weights(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, seen = two_stages.build, []

    def picture(shown: Generator, real: torch.Tensor) -> torch.Tensor:
        seen.append({name: value.clone() for name, value in shown.table.state_dict().items()})
        return real.clamp(-1, 1)

    def watched(recipe, parts):
        first, second = built(recipe, parts)
        return [dataclasses.replace(first, picture=picture), second]

    monkeypatch.setattr(two_stages, "build", watched)
    train(home, only="table", train__averages={"table": {"half_life_images": 20}})
    found = checkpoint.latest(home / "run/checkpoints/table")
    toys.assert_same(seen[-1], found.network("table", averaged=True))
    assert not torch.equal(seen[-1]["weight"], found.network("table")["weight"])


def test_run_stopped_in_its_second_stage_goes_on_to_the_bit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(home, "whole")
    built = two_stages.build

    def interrupted(recipe, parts):
        first, second = built(recipe, parts)
        return [first, toys.during(second, "chooser", 3, lambda: os.kill(os.getpid(), signal.SIGINT))]

    monkeypatch.setattr(two_stages, "build", interrupted)
    outcome, _ = train(home)
    assert not outcome.finished and outcome.images == 32
    monkeypatch.setattr(two_stages, "build", built)
    outcome, said = train(home)
    assert outcome.finished and any("step 4 of stage chooser" in text for text in said)
    for stage, step in (("table", 20), ("chooser", 6)):
        parts = [toys.saved(home / run / f"checkpoints/{stage}/step-{step}") for run in ("whole", "run")]
        toys.assert_same(*parts)


def test_one_stage_alone_needs_those_before_it(home: Path) -> None:
    with pytest.raises(UserError, match="stage table comes first and is not done"):
        train(home, only="chooser")
    assert not train(home, only="table")[0].whole
    assert stages_in(home) == ["table"]
    with pytest.raises(UserError, match="has no trained chooser"):
        load(home / "run", "cpu").generator  # noqa: B018
    assert load(home / "run", "cpu").network("table") is not None
    train(home, only="chooser")
    assert stages_in(home) == ["table", "chooser"]


def test_checkpoint_of_one_stage_is_opened_with_the_newest_of_the_others(home: Path) -> None:
    train(home, train__checkpoint_images=40)
    run = load(home / "run/checkpoints/table/step-10", "cpu")
    assert [found.path.name for found in run.checkpoints] == ["step-10", "step-6"]


@pytest.mark.parametrize("only", ["", "decoder"])
def test_unknown_stage_is_refused_before_anything_is_written(home: Path, only: str) -> None:
    settings = {} if only else {"train__stages": {"choser": {"batch": 2}}}
    with pytest.raises(UserError, match="there is no stage"):
        train(home, only=only, **settings)
    assert not (home / "run").exists()


def test_budget_of_one_stage_may_change_and_its_batch_may_not(home: Path) -> None:
    train(home)
    outcome, _ = train(home, train__stages__chooser__images=64)
    assert outcome.images == 80 + 64
    with pytest.raises(UserError, match="train.stages.chooser.batch is 8 there and 4 here"):
        train(home, train__stages__chooser__images=64, train__stages__chooser__batch=4)


def test_what_a_stage_concludes_is_logged_and_its_sheets_stand_beside_the_grids(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = two_stages.build

    def telling(recipe, parts):
        first, second = built(recipe, parts)
        conclude, sheets = (lambda clock: {"seen": clock.images}), {"grey": lambda: np.full((4, 6, 3), 9, np.uint8)}
        return [dataclasses.replace(first, conclude=conclude, sheets=sheets), second]

    monkeypatch.setattr(two_stages, "build", telling)
    train(home, only="table", train__sample_images=40)
    lines = [json.loads(line) for line in (home / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["seen"] for line in lines if "event" not in line] == list(range(0, 80, 4))
    sheets = sorted((home / "run/samples").glob("*grey*"))
    assert [sheet.name for sheet in sheets] == [f"table-grey-images-{images:09d}.png" for images in (40, 80)]
    assert Image.open(sheets[0]).size == (6, 4)
