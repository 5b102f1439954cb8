"""`zoo report`: runs that are there already, on the page of a comparison, with all that such a table cannot say."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import toys
from calls import call
from reports import FD, entry, measured, recipe, report, train, two_contenders

from zoo_core import session
from zoo_core.comparison import existing, unplanned


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    return two_contenders(trained, tmp_path)


def test_runs_of_one_recipe_are_one_contender_and_seeds_are_paired(place: Path) -> None:
    found, made = report(place)
    assert made is not None, found.err
    assert {each.name: [run.seed for run in each.runs] for each in made.contenders} == {
        "fast": [0, 1, 2],
        "slow": [0, 1, 2],
    }
    (figure,) = made.figures
    assert figure.name == FD and figure.floor == 1.5
    assert figure.summaries["slow"].mean == pytest.approx(51.25) and figure.summaries["slow"].within is not None
    (verdict,) = figure.verdicts
    assert verdict.outcome == "win" and verdict.difference == pytest.approx(-30)
    assert made.contenders[0].runs[1].values == {FD: [21.0, 21.5]}
    assert "FD: fast wins." in found.out
    page = (place / "report.html").read_text()
    assert "no common plan" in page and "common track" not in page and "data:image/png" in page
    assert (made.track, made.budget, made.seeds) == (None, None, [0, 1, 2])
    assert {row.plugin for row in made.published} == {"sagan"}


def test_the_page_says_that_there_was_no_plan_and_what_differs(place: Path) -> None:
    for seed in range(3):
        journal = place / f"fast-seed-{seed}" / "metrics.jsonl"
        journal.write_text(journal.read_text().replace('"images": 16', '"images": 32'))
    _, made = report(place)
    assert made.flags[0].startswith("No plan made these runs alike")
    assert "They differ in images of training: fast 32, slow 16." in made.flags
    assert "They differ in train.batch: fast 16, slow 8." in made.flags
    assert not any("augmentation" in flag for flag in made.flags)
    for seed in range(3):
        recipe(place / f"fast-seed-{seed}", ("loss", "augment"), ["color"])
    _, made = report(place)
    assert "They differ in augmentation: fast augment, slow none." in made.flags
    _, made = report(place, "slow-seed-0", "slow-seed-1")
    assert not any("No plan" in flag or "differ" in flag for flag in made.flags)


def test_the_manifest_is_of_the_runs_and_of_who_made_the_page(place: Path) -> None:
    path = place / "slow-seed-0" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"python": "of old"}))
    _, made = report(place, "slow-seed-0")
    assert made.manifest["run slow-seed-0"]["python"] == "of old"
    assert made.manifest["this page"]["python"] != "of old" and made.manifest["this page"]["hardware"]["cores"] > 0
    assert made.command == "zoo report slow-seed-0 --no-cost --no-measure"


def test_where_data_lie_and_what_is_kept_make_no_other_contender(place: Path) -> None:
    recipe(place / "slow-seed-1", ("data", "source"), "elsewhere")
    recipe(place / "slow-seed-1", ("train", "keep"), 7)
    (place / "slow-seed-2" / "manifest.json").unlink()
    _, made = report(place, "slow-seed-0", "slow-seed-1", "slow-seed-2", "slow-seed-0")
    assert [[run.seed for run in each.runs] for each in made.contenders] == [[0, 1, 2]]
    assert "Nobody knows which images slow-seed-2 saw: no manifest says." in made.flags


def test_settings_of_several_stages_are_told_apart() -> None:
    run = SimpleNamespace(recipe=toys.recipe(batch=4, stages={"last": {"batch": 32}}), stages=["first", "last"])
    assert unplanned._setting(run, "train.batch") == "4 then 32"
    assert unplanned._setting(run, "train.precision") == "fp32"


def test_a_run_appears_with_its_cost_and_the_command_that_made_it(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "slow-seed-0", tmp_path / "run")
    found, made = report(tmp_path, "run", cost=True)
    assert made is not None, found.err
    (only,) = made.contenders
    assert only.command.startswith("zoo train --plugin sagan --data pics")
    assert only.cost.generator_parameters > 0 and only.cost.training_flops > 0 and only.cost.images_per_second > 0
    assert only.runs[0].folder == "run" and only.runs[0].state == "done" and len(only.runs[0].weights) == 64
    assert made.num == 8 and "nobody to compare it with" in found.out


def test_a_figure_that_not_all_have_is_left_out_and_said(place: Path) -> None:
    other = FD.replace("N=8", "N=16")
    measured(place / "slow-seed-1", {1: 51.0, 11: 51.5}, entry(3.0, name=other, seed=0))
    _, made = report(place)
    assert [figure.name for figure in made.figures] == [FD]
    assert f"{other} is left out: not every run was measured so." in made.flags


def test_figures_of_older_weights_do_not_count(place: Path) -> None:
    measured(place / "slow-seed-1", {1: 51.0, 11: 51.5}, entry(3.0, step=1, seed=-1))
    _, made = report(place)
    assert [run.values[FD] for run in made.contenders[1].runs] == [[50.0, 50.5], [51.0, 51.5], [52.0, 52.5]]


def test_of_unequal_numbers_of_samples_the_fewest_are_shown(place: Path) -> None:
    measured(place / "slow-seed-1", {1: 51.0})
    _, made = report(place)
    assert {len(run.values[FD]) for each in made.contenders for run in each.runs} == {1}
    assert "Not every run has as many sets of samples; the first of each, by its seed, is shown." in made.flags
    assert made.generation_seeds == [0, 1, 2], "not those that are left out"


def test_a_seed_that_not_all_have_moves_no_verdict(place: Path) -> None:
    measured(place / "slow-seed-2", {2: 5000.0, 12: 5000.0})
    shutil.rmtree(place / "fast-seed-2")
    _, made = report(place)
    (verdict,) = made.figures[0].verdicts
    assert verdict.difference == pytest.approx(-30)
    assert made.figures[0].summaries["slow"].mean > 1000
    assert "Only training seeds 0 and 1 are in all contenders: verdicts see no other." in made.flags


def test_without_a_seed_in_common_there_is_no_verdict(place: Path) -> None:
    found, made = report(place, "slow-seed-0", "fast-seed-1")
    assert made is not None and not made.figures[0].verdicts, found.err
    assert any("no training seed in common" in flag for flag in made.flags)
    assert (
        not made.seeds
        and "Without a second training seed in common nobody can win" in (place / "report.html").read_text()
    )


def test_seeds_in_common_are_what_verdicts_stand_on(place: Path) -> None:
    shutil.rmtree(place / "fast-seed-0")
    shutil.rmtree(place / "fast-seed-1")
    _, made = report(place)
    assert made.seeds == [2]
    assert "Only training seed 2 is in all contenders: verdicts see no other." in made.flags
    assert any(flag.startswith("With fewer than 3 training seeds (1)") for flag in made.flags)
    assert "Without a second training seed in common nobody can win" in (place / "report.html").read_text()


def test_a_diverged_training_counts_and_a_short_one_is_said(place: Path) -> None:
    shutil.rmtree(place / "slow-seed-2" / "checkpoints")
    with (place / "slow-seed-2" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"event": "diverged", "step": 2, "term": "generator"}) + "\n")
    for seed in range(3):
        recipe(place / f"fast-seed-{seed}", ("train", "images"), 64)
    _, made = report(place)
    assert [run.state for run in made.contenders[0].runs] == ["short"] * 3
    assert any(flag.startswith("slow, seed 2, diverged: generator was not finite") for flag in made.flags)
    text = (place / "report.html").read_text()
    assert "1 of 3 diverged" in text and "3 of 3" not in text, "the short ones have numbers"


def test_a_short_training_costs_what_it_saw(trained: Path, tmp_path: Path) -> None:
    for name in ("short", "whole"):
        shutil.copytree(trained / "slow-seed-0", tmp_path / name)
    recipe(tmp_path / "short", ("train", "images"), 64_000)
    _, made = report(tmp_path, "short", "whole", cost=True)
    short, whole = made.contenders
    assert short.runs[0].note == "16 of 64,000 images"
    assert (short.images, whole.images) == (16, 16)
    assert short.cost.training_flops == whole.cost.training_flops > 0


def test_a_number_that_could_not_be_read_is_no_number(place: Path) -> None:
    measured(place / "slow-seed-1", {1: None, 11: None})
    found, made = report(place)
    assert made is not None, found.err
    assert made.contenders[1].runs[1].values == {FD: [None, None]}
    text = (place / "report.html").read_text()
    assert "1 of 3 without a number" in text and "diverged" not in text.partition("<body>")[2].partition("Verdicts")[0]


def test_what_evaluate_said_of_a_figure_is_said_again(place: Path) -> None:
    for seed in range(3):
        path = place / f"slow-seed-{seed}" / "evaluation.json"
        content = json.loads(path.read_text())
        content["end"]["figures"][0]["note"] = "N=8 is too small for the covariance of 128 features"
        del content["end"]["figures"][0]["std"]
        path.write_text(json.dumps(content))
    _, made = report(place)
    assert made.figures[0].note == "N=8 is too small for the covariance of 128 features"
    assert "FD: N=8 is too small for the covariance of 128 features." in made.flags


def test_curves_name_the_n_that_they_were_measured_with(place: Path) -> None:
    row = dict.fromkeys(("images", "images_shuffled", "real", "real_shuffled"), 0.5)
    larger = FD.replace("N=8", "N=32")
    for run in place.glob("*-seed-*"):
        ways = [entry(90.0 - step, step, structure={"pair_agreement": row}) for step in (1, 2)]
        at_end = [entry(9.0, name=larger, seed=seed, structure={"pair_agreement": row}) for seed in (0, 1)]
        (run / "evaluation.json").write_text(json.dumps({"during": ways[:1], "end": ways[1], "commands": at_end}))
    _, made = report(place)
    assert made.num == 32
    assert [figure.name for figure in made.figures] == [larger, "pair_agreement@drawn:N=32", "pair_excess@drawn:N=32"]
    assert {name for point in made.contenders[0].runs[0].curve for name in point.values} == {
        FD,
        "pair_agreement@drawn:N=8",
        "pair_excess@drawn:N=8",
    }
    assert "FD (N = 8)" in (place / "report.html").read_text()


def test_figures_against_other_images_are_told_apart(place: Path) -> None:
    other = FD.replace(":train", ":pets-0123abcd")
    for run in place.glob("*-seed-*"):
        (run / "evaluation.json").write_text(json.dumps({"end": entry(9.0, name=other)}))
    _, made = report(place)
    assert "FD is held against pets-0123abcd, not against the images of training." in made.flags
    whole = FD.replace(":train", ":train=781")
    alone = "isc@inception-v3-compat:6726825d:N=8:splits=10"
    assert unplanned._references([FD, whole, alone, "pair_excess@drawn:N=8"]) == []


def test_structure_stands_beside_what_real_pictures_score(place: Path) -> None:
    row = {"images": 0.5, "images_shuffled": 0.25, "real": 1.0, "real_shuffled": 0.125}
    unread = dict.fromkeys(row)
    for run in place.glob("*-seed-*"):
        structure = {"pair_agreement": row, "count_agreement": unread, "pair_readable": row}
        (run / "evaluation.json").write_text(json.dumps({"end": entry(9.0, structure=structure)}))
    _, made = report(place)
    figures = {figure.name.partition("@")[0]: figure for figure in made.figures}
    assert set(figures) == {"fd", "pair_agreement", "pair_excess"}
    assert "No training has a number of count agreement: such images do not show it." in made.flags
    assert figures["pair_excess"].name == "pair_excess@drawn:N=8"
    assert figures["pair_excess"].floor == 0.875 and figures["pair_excess"].summaries["slow"].mean == 0.25


def test_a_run_that_is_not_through_pays_for_the_stages_that_it_saw(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = [{"stage": "first", "step": 1, "images": 24}, {"stage": "last", "step": 1, "images": 8}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    bill = SimpleNamespace(prices=lambda kind: {"first": 1.0, "last": 2.0}, cost=lambda shares, prices, memory: shares)
    monkeypatch.setattr(existing, "Bill", lambda *what: bill)
    run = SimpleNamespace(recipe=None, stages=["first", "last"], folder=tmp_path)
    assert existing._cost([run], None)[1] == {"first": 0.75, "last": 0.25}


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["one/seed-0", "other/seed-0"], ["one", "other"]),
        (["one/x-seed-0", "other/x-seed-0"], ["x", "other-x"]),
        (["a<b> $x$-seed-0", "-seed-1"], ["a-b-x-", "0"]),
    ],
)
def test_contenders_are_called_after_their_folders(place: Path, folders: list[str], names: list[str]) -> None:
    top = place / "0"
    for run, folder in zip(("slow-seed-0", "fast-seed-0"), folders, strict=True):
        (top / folder).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(place / run, top / folder)
    _, made = report(place, *(f"0/{folder}" for folder in folders))
    assert [each.name for each in made.contenders] == names


def test_a_network_that_a_loss_looks_through_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = session.build_stages

    def through(*given: Any) -> list[Any]:
        return [dataclasses.replace(stage, pretrained=("VGG16 of ImageNet (LPIPS)",)) for stage in built(*given)]

    monkeypatch.setattr(session, "build_stages", through)
    _, made = report(place, "slow-seed-0")
    assert made.contenders[0].pretrained == ["VGG16 of ImageNet (LPIPS)"]
    assert any("trained through VGG16 of ImageNet (LPIPS)" in flag for flag in made.flags)


def test_the_home_folder_may_be_written_short(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    (place / "elsewhere").mkdir()
    words = ["~/slow-seed-0", "--no-cost", "--no-measure"]
    found = call(place / "elsewhere", ["report", *words, "--out", "~/page.html"])
    assert found.code == 0 and (place / "page.html").exists(), found.err


def test_folders_that_are_no_text_make_a_page(place: Path) -> None:
    odd = place / os.fsdecode(b"run\xff-seed-0")
    (place / "slow-seed-0").rename(odd)
    found = call(place, ["report", odd.name, "--no-cost", "--no-measure"])
    assert found.code == 0, found.err


def other_images(place: Path) -> None:
    path = place / "slow-seed-1" / "manifest.json"
    content = json.loads(path.read_text())
    content["data"] |= {"content": "0" * 64, "name": "others"}
    path.write_text(json.dumps(content))


def size(run: Path) -> str:
    recipe(run, ("data", "resolution"), 64)
    return run.name


def edited(run: Path, value: float, name: str = FD) -> list[str]:
    (run / "evaluation.json").write_text(json.dumps({"end": entry(value, name=name)}))
    return [run.name]


def broken(place: Path, name: str, plugin: str) -> str:
    path = place / name / "recipe.yaml"
    path.write_text(path.read_text().replace("plugin: sagan", f"plugin: {plugin}"))
    return name


REFUSED = {
    "no runs": (lambda place: [], "Name at least one run"),
    "nothing there": (lambda place: ["nowhere"], "there is no run folder nowhere"),
    "not a run": (lambda place: ["."], "is not a run"),
    "a checkpoint": (lambda place: ["slow-seed-0/checkpoints/step-2"], "is a checkpoint"),
    "the same training twice": (lambda place: ["slow-seed-0", "twin"], "the same training twice, with seed 0"),
    "no figure in common": (lambda place: ["slow-seed-0", "bare"], "no figure that all of these runs have"),
    "who has no figure": (
        lambda place: ["slow-seed-0", "slow-seed-1", "bare"],
        "bare has none of their newest weights",
    ),
    "other images": (lambda place: other_images(place) or ["slow-seed-0", "slow-seed-1"], "trained on pics and"),
    "another size": (lambda place: ["slow-seed-0", size(place / "fast-seed-0")], "with data.resolution = 32 and"),
    "another crop": (
        lambda place: recipe(place / "fast-seed-0", ("data", "crop"), "none") or ["slow-seed-0", "fast-seed-0"],
        "with data.crop = center and",
    ),
    "no plugin": (lambda place: [broken(place, "slow-seed-0", "gone")], 'slow-seed-0: no plugin "gone"'),
    "all at once": (lambda place: [broken(place, "slow-seed-0", "gone"), "nowhere"], "there is no run folder nowhere"),
    "a figure without end": (lambda place: edited(place / "slow-seed-0", 1e308), "an entry is not a measurement"),
    "no N": (lambda place: edited(place / "slow-seed-0", 1.0, "fd@random-conv-v1:32px:N=0:train"), "no figure that"),
    "an N of many digits": (
        lambda place: edited(place / "slow-seed-0", 1.0, f"fd@random-conv-v1:32px:N={'9' * 5000}:train"),
        "no figure that",
    ),
    "numbers of another": (lambda place: ["slow-seed-0", "--out", "slow-seed-0/manifest.html"], "there and no report"),
    "a page of another": (
        lambda place: (place / "mine.htm").rename(place / "mine.html") and ["slow-seed-0", "--out", "mine.html"],
        "mine.html is there and no report",
    ),
    "data nowhere": (lambda place: ["slow-seed-0", "--data", "nowhere"], "nowhere is not there."),
    "other data": (lambda place: ["slow-seed-0", "--data", "drawn"], "drawn holds other images than those of the"),
    "data for nothing": (lambda place: ["slow-seed-0", "--data", "x", "--no-measure"], "--data is for what"),
    "a scribbled file": (lambda place: ["scribbled"], "cannot be read"),
    "no page": (lambda place: ["slow-seed-0", "--out", "numbers.json"], "--out names the page"),
    "a comparison's own": (lambda place: ["slow-seed-0", "--out", "compared"], "holds a comparison"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_a_sentence_and_writes_nothing(place: Path, what: str) -> None:
    for name in ("twin", "bare", "scribbled"):
        shutil.copytree(place / "slow-seed-0", place / name)
    (place / "bare" / "evaluation.json").unlink()
    recipe(place / "bare", ("train", "seed"), 7)
    (place / "scribbled" / "evaluation.json").write_text("{")
    (place / "compared").mkdir()
    (place / "compared" / "plan.json").touch()
    (place / "mine.htm").write_text("mine")
    arguments, says = REFUSED[what]
    words = arguments(place)
    found = call(place, ["report", "--no-cost", *([] if "--data" in words else ["--no-measure"]), *words])
    assert found.code == 2 and says in found.err and "Traceback" not in found.err
    assert not list(place.rglob("report.*")) and all(page.read_text() == "mine" for page in place.glob("*.html"))
    if what == "numbers of another":
        assert "packages" in json.loads((place / "slow-seed-0" / "manifest.json").read_text())
