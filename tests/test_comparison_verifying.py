"""`zoo compare --verify`: what it finds in a report that was tampered with, and in a folder that lacks something."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import call
from PIL import Image

from zoo_core import bench_memory, session
from zoo_core.comparison import assemble, plan, results, verifying
from zoo_core.comparison.conduct import Course
from zoo_core.errors import UserError

N = 16
COMPARE = [
    *("compare", "hinge.yaml", "logistic.yaml", "--data", "pictures", "--budget", "images=32", "--num", str(N)),
    *("--generation-seeds", "2", "--seeds", "2", "--batch", "8", "--metric", "fid", "--metric", "prc"),
    *("--set", "data.labels=false", "--out", "kept"),
]
NARROW = "plugin: sagan\nrecipe: tiny\ngenerator: {channels: 4}\ndiscriminator: {channels: 4}\nloss: {name: LOSS}\n"
FD = f"fd@random-conv-v1:32px:N={N}:train"

Report = dict[str, Any]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison: two contenders of two trainings each, trained one by one as by a queue."""
    top = tmp_path_factory.mktemp("comparison")
    (top / "pictures").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (2 * N, 32, 32, 3), dtype=np.uint8)
    for number, picture in enumerate(noise):
        Image.fromarray(picture).save(top / "pictures" / f"{number}.png")
    for name in ("hinge", "logistic"):
        (top / f"{name}.yaml").write_text(NARROW.replace("LOSS", name))
    planned = call(top, [*COMPARE, "--dry-run"])
    assert planned.code == 0, planned.err
    for line in planned.out.splitlines():
        trained = call(top, shlex.split(line)[1:])
        assert trained.code == 0, trained.err
    with pytest.MonkeyPatch.context() as patch:  # another process for each contender
        patch.setattr(bench_memory, "peaks", lambda *asked: {"step": 2**20})
        done = call(top, COMPARE)
    assert done.code == 0, done.err
    return top / "kept"


@pytest.fixture
def moved(kept: Path, tmp_path: Path) -> Path:
    """A copy of the folder under another name, to be spoilt."""
    return shutil.copytree(kept, tmp_path / "moved")


def verify(folder: Path, report: str = results.FILE) -> list[str]:
    """What is said of a report that holds."""
    said: list[str] = []
    verifying.verify(folder / report, session.build_stages, said.append)
    return said


def changed(file: Path, change: Callable[[Any], Any], to: Path | None = None) -> None:
    """Rewrite a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    (to or file).write_text(json.dumps(content))


# --- the report ---


def test_a_report_holds_wherever_its_folder_is_and_one_training_is_measured_again(moved: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in moved.rglob("*")}
    answer = call(moved.parent, ["compare", "--verify", "moved/report.json"])
    assert answer.code == 0, answer.err
    assert answer.out.count("ok: ") == 4 and "The report holds." in answer.out
    assert answer.out.count("Measuring again, chosen at random") == 1
    assert {path: path.stat().st_mtime_ns for path in moved.rglob("*")} == before, "nothing is written"


def put(*path: str | int, value: Any) -> Callable[[Report], None]:
    """Changes one place of a report."""

    def act(report: Report) -> None:
        for step in path[:-1]:
            report = report[step]
        assert report[path[-1]] != value
        report[path[-1]] = value

    return act


def without_a_contender(report: Report) -> None:
    gone = report["contenders"].pop()["name"]
    for figure in report["figures"]:
        figure["summaries"].pop(gone)
        figure["verdicts"] = []


def without_a_figure(report: Report) -> None:
    report["figures"].pop(0)
    report["agreement"] = [row[1:] for row in report["agreement"][1:]]
    for contender in report["contenders"]:
        for run in contender["runs"]:
            run["values"].pop(FD)


def twice(report: Report) -> None:
    report["contenders"].append(copy.deepcopy(report["contenders"][1]))


def with_a_run(report: Report) -> None:
    runs = report["contenders"][0]["runs"]
    runs.append({**runs[-1], "seed": 2})


def without_runs(report: Report) -> None:
    for contender in report["contenders"]:
        contender["runs"] = []


def better(report: Report) -> None:
    """The second contender's values halved, and all that follows from them."""
    for run in report["contenders"][1]["runs"]:
        run["values"][FD] = [value / 2 for value in run["values"][FD]]
    found = results.build(results.Comparison, report, "the report")
    figures = [
        assemble.one(
            figure.name,
            {each.name: assemble.table(each.runs, figure.name, 2) for each in found.contenders},
            *(figure.floor, figure.sanity, figure.note),
        )
        for figure in found.figures
    ]
    agreement = assemble.agreements(figures)
    report |= json.loads(results.to_json(dataclasses.replace(found, figures=figures, agreement=agreement)))


RUN = ("contenders", 0, "runs", 0)
TAMPERED = {
    "a contender is dropped": (without_a_contender, "contenders, logistic: missing in the report"),
    "a contender is there twice": (twice, "contenders, no. 3: in the report alone"),
    "contenders are turned round": (lambda report: report["contenders"].reverse(), "contenders: in another order"),
    "a figure is dropped": (without_a_figure, f"figures, {FD}: missing in the report"),
    "values are halved with all that follows": (better, f"contenders, logistic, runs, seed 1, values, {FD}, no. 2: "),
    "values are of unequal length": (put(*RUN, "values", FD, value=[1.0]), f"seed 0, values, {FD}, no. 2: missing"),
    "a run is added": (with_a_run, "contenders, hinge, runs, seed 2: in the report alone"),
    "runs are dropped": (without_runs, "contenders, logistic, runs, seed 1: missing in the report"),
    "a state": (put(*RUN, "state", value="diverged"), "seed 0, state: 'diverged' in the report, 'done' by what"),
    "seconds": (put(*RUN, "seconds", value=1e-3), "contenders, hinge, runs, seed 0, seconds: 0.001 in the report"),
    "weights": (put(*RUN, "weights", value="ab" * 32), "hinge-seed-0 holds other weights"),
    "no weights": (put(*RUN, "weights", value=""), "contenders, hinge, runs, seed 0, weights: ''"),
    "a curve": (put(*RUN, "curve", 1, "values", FD, value=0.0), f"curve, at 16 images, values, {FD}: 0.0 in"),
    "a folder elsewhere": (put(*RUN, "folder", value="../../etc"), "seed 0, folder: '../../etc'"),
    "a folder that is too long": (put(*RUN, "folder", value="x" * 5000), "contenders, hinge, runs, seed 0, folder: "),
    "a cost": (put("contenders", 1, "cost", "training_flops", value=1.0), "contenders, logistic, cost, training_flops"),
    "a contender's images": (put("contenders", 0, "images", value=64), "contenders, hinge, images: 64"),
    "a recipe": (put("contenders", 0, "recipe", "train", "batch", value=4), "contenders, hinge, recipe, train, batch"),
    "a type": (put("contenders", 0, "recipe", "data", "labels", value=None), "recipe, data, labels: None"),
    "pretrained networks": (put("contenders", 0, "pretrained", value=["vgg"]), "pretrained, vgg: in the report alone"),
    "neighbours": (put("contenders", 0, "neighbours", "of_real", value=9.0), "contenders, hinge, neighbours, of_real"),
    "a contender's command": (put("contenders", 1, "command", value="zoo train"), "contenders, logistic, command: "),
    "no command": (put("contenders", 0, "command", value=""), "contenders, hinge, command: "),
    "the track": (put("track", value="paper"), "track: 'paper' in the report, 'common' by what the folder keeps"),
    "the budget": (put("budget", "amount", value=64), "budget, amount: 64 in the report, 32.0"),
    "the images": (put("data", "content", value="ab" * 32), "data, content: "),
    "N": (put("num", value=2000), "num: 2000 in the report, 16"),
    "seeds": (put("seeds", value=[0]), "seeds, no. 2: missing in the report"),
    "generation seeds": (put("generation_seeds", value=[]), "generation_seeds, no. 1: missing in the report"),
    "a floor": (put("figures", 0, "floor", value=1.0), f"figures, {FD}, floor: 1.0 in the report"),
    "a sanity row": (put("figures", 0, "sanity", "blurred", value=0.5), f"figures, {FD}, sanity, blurred: 0.5"),
    "a mean": (put("figures", 0, "summaries", "hinge", "mean", value=1.0), f"{FD}, summaries, hinge, mean: 1.0"),
    "a verdict": (put("figures", 0, "verdicts", 0, "outcome", value="win"), "hinge against logistic, outcome: 'win'"),
    "a direction": (put("figures", 0, "lower_is_better", value=False), f"figures, {FD}, lower_is_better: False"),
    "a note": (put("figures", 0, "note", value=""), f"figures, {FD}, note: ''"),
    "agreement": (put("agreement", value=[]), "agreement, no. 1: missing in the report"),
    "flags": (put("flags", value=[]), "nobody knows how much retraining moves a figure.: missing in the report"),
    "published numbers": (put("published", 0, "value", value="1.00"), "published, no. 1, value: '1.00'"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_every_change_of_a_report_is_named(kept: Path, what: str) -> None:
    change, part = TAMPERED[what]
    changed(kept / results.FILE, change, kept / "tampered.json")
    with pytest.raises(UserError) as refused:
        verify(kept, "tampered.json")
    assert part in str(refused.value)
    assert len(str(refused.value).splitlines()) <= verifying.MOST + 2


def test_faults_beyond_the_first_are_counted(kept: Path) -> None:
    changed(kept / results.FILE, without_runs, kept / "tampered.json")
    changed(kept / "tampered.json", lambda report: report["data"].clear())
    with pytest.raises(UserError, match=r"\n  - and \d+ more$"):
        verify(kept, "tampered.json")


def test_last_digits_may_differ_and_no_more(kept: Path) -> None:
    def shifted(share: float) -> Callable[[Report], None]:
        def act(report: Report) -> None:
            report["figures"][0]["summaries"]["hinge"]["mean"] *= 1 + share

        return act

    changed(kept / results.FILE, shifted(1e-12), kept / "tampered.json")
    verify(kept, "tampered.json")
    changed(kept / results.FILE, shifted(1e-6), kept / "tampered.json")
    with pytest.raises(UserError, match="summaries, hinge, mean"):
        verify(kept, "tampered.json")


# --- the folder ---


def made_again(folder: Path) -> None:
    """The report of what the folder holds now."""
    made = plan.load(folder)
    course = Course(made, folder, verifying._images(made), session.build_stages, pytest.fail)
    (folder / results.FILE).write_text(results.to_json(course.assembled("zoo compare")))


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("measured/logistic-seed-1.json", "Measuring logistic-seed-1, samples of seed 1000."),
        ("measured/cost/hinge.json", "Counting what hinge costs."),
        ("measured/sanity.json", "Measuring real images"),
        ("measured/neighbours/hinge.json", "nearest to hinge's samples"),
        ("measured/neighbours/hinge.png", "nearest to hinge's samples"),
    ],
)
def test_what_is_lost_is_named_and_not_measured_again(moved: Path, lost: str, said: str) -> None:
    (moved / lost).unlink()
    with pytest.raises(UserError, match="would be done again") as refused:
        verify(moved)
    assert said in str(refused.value)
    assert not (moved / lost).exists()


def test_measurements_that_were_forged_with_the_report_are_measured_otherwise(
    moved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever training is chosen."""

    def halved(content: Any) -> None:
        for values in content["seeds"].values():
            values[FD] /= 2

    for file in moved.glob("measured/*-seed-*.json"):
        changed(file, halved)
    made_again(moved)
    chosen: list[str] = []

    def choose(among: list[Any]) -> Any:
        chosen.append(str(len(among)))
        return among[-1]

    monkeypatch.setattr(random, "choice", choose)
    with pytest.raises(UserError, match=rf"logistic, training seed 1, samples of seed 1001: {FD} is \d"):
        verify(moved)
    assert chosen == ["4", "2"], "of all trainings, and of all sets of samples"


def test_where_every_training_diverged_there_is_nothing_to_measure_again(moved: Path) -> None:
    for run in moved.glob("runs/*"):
        shutil.rmtree(run / "checkpoints")
        with (run / "metrics.jsonl").open("a") as journal:
            journal.write('{"event": "diverged", "term": "a loss", "step": 3}\n')
    made_again(moved)
    assert verify(moved)[-1] == "No training ended, so none is measured again."


def test_a_run_of_another_recipe_is_named(moved: Path) -> None:
    recipe = moved / "runs" / "logistic-seed-0" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("lr: 0.0004", "lr: 0.04"))
    with pytest.raises(UserError, match="logistic-seed-0 was trained by another recipe"):
        verify(moved)


def test_a_checkpoint_that_was_touched_is_named(moved: Path) -> None:
    file = next((moved / "runs" / "hinge-seed-1").rglob("networks.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="hinge-seed-1.* can be used"):
        verify(moved)


def test_images_that_were_exchanged_are_named(moved: Path, kept: Path) -> None:
    picture = kept.parent / "pictures" / "3.png"
    before = picture.read_bytes()
    try:
        Image.new("RGB", (32, 32)).save(picture)
        with pytest.raises(UserError, match="another content than the plan's"):
            verify(moved)
    finally:
        picture.write_bytes(before)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (put("request", "num", value=2000), "was changed since"),
        (put("images", "hinge", value=64), "was changed since"),
        (put("fingerprint", value=""), "was changed since"),
        (put("request", "seeds", value=3), "seeds, no. 3: missing in the report"),
        (put("recipes", value={}), "plan.json"),
        (lambda content: content["recipes"].update({"../hinge": {}}), "cannot be called"),
        (lambda content: content["recipes"].update({"a\0b": {}}), "cannot be called"),
        (lambda content: content.pop("recipes"), "damaged"),
        (put("data", value="drawn"), "damaged"),
    ],
)
def test_a_plan_that_was_changed_is_refused(moved: Path, change: Callable[[Any], None], part: str) -> None:
    changed(moved / plan.FILE, change)
    with pytest.raises(UserError) as refused:
        verify(moved)
    assert part in str(refused.value)


def test_a_recipe_that_was_changed_beside_the_plan_is_refused(moved: Path) -> None:
    recipe = moved / plan.RECIPES / "hinge.yaml"
    recipe.write_text(recipe.read_text().replace("lr: 0.0004", "lr: 0.04"))
    with pytest.raises(UserError, match="was changed since"):
        verify(moved)


# --- a figure that is measured again ---


@pytest.mark.parametrize(
    ("figure", "before", "now", "same"),
    [
        ("fd@x:N=2000", 20.0, 20.01, True),
        ("fd@x:N=2000", 20.0, 20.1, False),
        ("kd@x:N=2000", 2e-5, 2.5e-5, True),
        ("kd@x:N=2000", 1e-3, 1.5e-3, False),
        ("recall@x:N=2000", 0.5, 0.501, True),
        ("recall@x:N=2000", 0.5, 0.502, False),
        ("pair_agreement@drawn:N=2000", None, None, True),
        ("pair_agreement@drawn:N=2000", None, 0.5, False),
    ],
)
def test_a_figure_measured_again_may_be_off_by_what_rounding_does(
    figure: str, before: float | None, now: float | None, same: bool
) -> None:
    assert (not list(verifying._unlike({figure: before}, {figure: now}, 2000))) == same


def test_a_figure_that_only_one_measurement_has_is_named() -> None:
    assert len(list(verifying._unlike({"fd@x": 1.0}, {"kd@x": 1.0}, 2000))) == 2
