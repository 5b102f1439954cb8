"""What `zoo report` measures beside the runs' own figures: spoilt images, and training images near to samples."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import toys
from PIL import Image
from reports import FD, entry, measured, recipe, report, train

from zoo_core.comparison import alongside, measure
from zoo_core.errors import UserError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs"))


def test_spoilt_images_and_neighbours_stand_beside_what_runs_have(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "slow-seed-0", tmp_path / "run")
    found, made = report(tmp_path, "run", look=True)
    assert made is not None, found.err
    (figure,) = made.figures
    assert set(figure.sanity) == set(measure.SPOILT)
    assert len(set(figure.sanity.values())) == len(figure.sanity) and min(figure.sanity.values()) > 0
    looked = made.contenders[0].neighbours
    assert (looked.num_samples, looked.num_real, looked.generation_seed) == (8, 16, 0)
    assert looked.picture == "report-neighbours/run.png" and (tmp_path / looked.picture).exists()
    page = (tmp_path / "report.html").read_text()
    assert (
        "Nearest training images" in page and "blurred" in page and not any("not shown" in flag for flag in made.flags)
    )
    repeated, _ = report(tmp_path, "run", look=True)
    assert "Looking for" in found.out and "Looking for" not in repeated.out
    found, made = report(tmp_path, "run", look=True, out="new/folder/page")
    assert made.contenders[0].neighbours.picture == "page-neighbours/run.png", made.flags
    assert (tmp_path / "new/folder/page-neighbours/run.png").exists()


def test_kept_neighbours_with_another_picture_are_not_believed(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "slow-seed-0", tmp_path / "run")
    report(tmp_path, "run", look=True)
    kept = tmp_path / "report-neighbours" / "run.json"
    content = json.loads(kept.read_text())
    content["neighbours"]["picture"] = "../elsewhere.png"
    kept.write_text(json.dumps(content))
    _, made = report(tmp_path, "run", look=True)
    assert made.contenders[0].neighbours.picture == "report-neighbours/run.png"


def test_neighbours_are_of_the_first_training_that_did_not_diverge_and_of_its_first_samples(
    trained: Path, tmp_path: Path
) -> None:
    for seed in range(2):
        run = tmp_path / f"run-seed-{seed}"
        shutil.copytree(trained / "slow-seed-0", run)
        recipe(run, ("train", "seed"), seed)
        measured(run, {seed: 3.0, 10: 4.0})
    shutil.rmtree(tmp_path / "run-seed-0" / "checkpoints")
    with (tmp_path / "run-seed-0" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"event": "diverged", "step": 2, "term": "generator"}) + "\n")
    _, made = report(tmp_path, look=True)
    looked = made.contenders[0].neighbours
    assert (looked.train_seed, looked.generation_seed) == (1, 1)


def test_one_network_measures_spoilt_images_for_all_its_figures(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained / "slow-seed-0", run)
    kernel = FD.replace("fd@", "kd@").replace("N=8", "N=8:subsets=100x8")
    content = entry(3.0)
    content["figures"].append({"name": kernel, "value": 0.1, "std": 0.01, "note": "of each single measurement"})
    (run / "evaluation.json").write_text(json.dumps({"end": content}))
    _, made = report(tmp_path, "run", look=True)
    assert [figure.name for figure in made.figures] == [FD, kernel]
    assert all(set(figure.sanity) == set(measure.SPOILT) for figure in made.figures)
    assert not made.figures[1].note, "a spread of its own is not shown, nor what is said of it"


def test_figures_through_several_networks_keep_their_spoilt_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = SimpleNamespace(images=range(100), num=8)
    found = alongside.Alongside()
    for name in ("one", "other"):
        monkeypatch.setattr(measure, "sanity", lambda asked, name=name: {"blurred": {f"fd@{name}": 1.0}})
        alongside._spoil(asked, name, found, lambda text: None)
    assert found.sanity == {"blurred": {"fd@one": 1.0, "fd@other": 1.0}} and not found.remarks


def test_neighbours_that_cannot_be_had_of_one_contender_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toys.recipe()
    runs = {name: [SimpleNamespace(folder=Path(name), recipe=data, values={FD: {0: 1.0}})] for name in ("one", "other")}
    contenders = [SimpleNamespace(name=name, runs=[SimpleNamespace(state="done")]) for name in runs]

    def find(name: str, *rest: object) -> str:
        if name == "one":
            raise UserError("its disk is gone.")
        return f"neighbours of {name}"

    monkeypatch.setattr(alongside.neighbours, "find", find)
    found = alongside.Alongside()
    alongside._find_neighbours(alongside.Wanted(runs, contenders, [FD], 8, Path("page.html")), None, found, print)
    assert found.neighbours == {"other": "neighbours of other"}
    assert found.remarks == ["Training images nearest to one's samples are not shown: its disk is gone."]


def test_samples_from_maps_are_drawn_from_the_maps_of_their_own_run(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = toys.recipe()
    mapped = plain.replace(data=dataclasses.replace(plain.data, labels=False, maps="depth"))
    runs = {
        name: [SimpleNamespace(recipe=recipe, folder=Path(name), values={FD: {0: 1.0}})]
        for name, recipe in (("mapped", mapped), ("plain", plain))
    }
    contenders = [SimpleNamespace(name=name, runs=[SimpleNamespace(state="done")]) for name in runs]
    monkeypatch.setattr(alongside, "open_checked", lambda found, source: f"maps of {found[0].folder}")
    monkeypatch.setattr(alongside.neighbours, "find", lambda *given: given[-2].images)
    asked, found = measure.Asked(8, ("fid",), None, "images"), alongside.Alongside()
    alongside._find_neighbours(alongside.Wanted(runs, contenders, [FD], 8, Path("page.html")), asked, found, print)
    assert found.neighbours == {"mapped": "maps of mapped", "plain": "images"}


def test_few_real_images_are_said_of_spoilt_ones(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "slow-seed-0", tmp_path / "run")
    larger = FD.replace("N=8", "N=12")
    measured(tmp_path / "run", {0: 3.0}, entry(4.0, name=larger, seed=0))
    _, made = report(tmp_path, "run", look=True)
    assert made.num == 12 and set(made.figures[0].sanity) == set(measure.SPOILT)
    assert (
        "Of figures of spoilt images: only 16 real images, so there is no floor at N=12, and 8 of the spoilt ones have "
        "their originals in the reference." in made.flags
    )


def test_images_that_moved_are_named_or_found_by_another_run(trained: Path, tmp_path: Path) -> None:
    for seed in range(2):
        shutil.copytree(trained / "slow-seed-0", tmp_path / f"run-seed-{seed}")
        recipe(tmp_path / f"run-seed-{seed}", ("train", "seed"), seed)
    moved_images(tmp_path / "run-seed-0")
    _, made = report(tmp_path, "run-seed-0", "run-seed-1", look=True)
    assert len(made.contenders) == 1 and made.contenders[0].neighbours and made.figures[0].sanity
    found, made = report(tmp_path, "run-seed-0", look=True)
    assert not made.contenders[0].neighbours and "--data says where they are now" in found.out
    _, made = report(tmp_path, "run-seed-0", "--data", str(trained / "pics"), look=True)
    assert made.contenders[0].neighbours and made.figures[0].sanity


def moved_images(run: Path) -> None:
    recipe(run, ("data", "source"), str(run / "nowhere"))


def changed_images(run: Path) -> None:
    shutil.copytree(run.parent / "pics", run / "pics")
    Image.new("RGB", (32, 32)).save(run / "pics" / "0.png")
    recipe(run, ("data", "source"), str(run / "pics"))


def without_manifest(run: Path) -> None:
    (run / "manifest.json").unlink()


def by_another_network(run: Path) -> None:
    measured(run, {0: 3.0}, entry(4.0, name=FD.replace("random-conv-v1", "seen-by-nobody"), seed=0))


def of_another_size(run: Path) -> None:
    measured(run, {0: 3.0}, entry(4.0, name=FD.replace("32px", "64px"), seed=0))


def structure_alone(run: Path) -> None:
    row = dict.fromkeys(("images", "images_shuffled", "real", "real_shuffled"), 0.5)
    content = entry(3.0, structure={"symmetry_error": row}) | {"figures": [], "floor": []}
    (run / "evaluation.json").write_text(json.dumps({"end": content}))


UNSEEN = {
    "images that are gone": (moved_images, "nowhere is not there. --data says where they are now."),
    "images that changed": (changed_images, "holds other images than those of the training"),
    "unknown images": (without_manifest, "no manifest says which images"),
    "an unknown network": (by_another_network, "Nothing is measured through seen-by-nobody:32px beside the runs'"),
    "features of another size": (of_another_size, "the one at hand is random-conv-v1:32px"),
    "no network": (
        structure_alone,
        "Nearest training images are not shown: they are looked for in a figure's network.",
    ),
}


@pytest.mark.parametrize("what", UNSEEN)
def test_what_cannot_be_measured_beside_runs_is_said(trained: Path, tmp_path: Path, what: str) -> None:
    shutil.copytree(trained / "slow-seed-0", tmp_path / "run")
    shutil.copytree(trained / "pics", tmp_path / "pics")
    spoil, says = UNSEEN[what]
    spoil(tmp_path / "run")
    found, made = report(tmp_path, "run", look=True)
    assert made is not None, found.err
    assert any(says in flag for flag in made.flags), made.flags
    there = what in ("an unknown network", "features of another size")
    assert bool(made.contenders[0].neighbours) == there
    bare = [figure.name for figure in made.figures if not figure.sanity]
    silent = [flag for flag in made.flags if flag.endswith("would say of spoilt images is not shown.")]
    assert len(bare) == 1 and (bool(silent) == (there or what == "no network"))
    assert all(bare[0] in flag for flag in silent)
