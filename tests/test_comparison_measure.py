"""What stands beside a comparison's figures: floors, spoilt images, the time that trainings took, and warnings."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import comparisons
import numpy as np
import pytest
import torch
import toys

from zoo_core import metrics
from zoo_core.comparison import assemble, measure
from zoo_core.comparison.assemble import Spent
from zoo_core.comparison.flags import flags_for
from zoo_core.comparison.measure import Asked
from zoo_core.comparison.results import Budget, Contender
from zoo_core.errors import UserError
from zoo_core.evaluation import REFERENCE, real_features
from zoo_core.extractors import open_extractor

NUM = 40


def asked(num_images: int, num: int = NUM, chosen: Sequence[str] = ("fid", "kid", "prc")) -> Asked:
    images = toys.images(num_images)
    kept = dict.fromkeys(("resolution", "filter", "crop", "alpha", "pillow"))
    images = dataclasses.replace(images, meta={**kept, "content": images.content, "num": num_images})
    return Asked(num, tuple(chosen), open_extractor("random-conv"), images)


def of_samples(of: Asked) -> dict[str, metrics.Figure]:
    """A contender's figures, whose samples are noise as the toys' images are."""
    noise = torch.randint(0, 256, (of.num, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    real = real_features(of.images, of.extractor, min(of.num, len(of.images)))
    found = metrics.figures(of.extractor.features([noise], of.num), real, reference=REFERENCE, metrics=of.metrics)
    return {figure.name: figure for figure in found}


# --- floors and spoilt images ---


@pytest.fixture
def unspoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SPOILT", {"not at all": lambda images: images})


def test_floors_and_spoilt_images_are_of_the_same_n_and_reference_as_the_contenders() -> None:
    of = asked(100)
    floors, notes = measure.floors(of)
    assert list(floors) == list(of_samples(of)) and all(f":N={NUM}:" in name for name in floors)
    assert all(list(row) == list(floors) for row in measure.sanity(of).values())
    assert list(notes) == ["fd"] and f"N={NUM} is too small for the covariance" in notes["fd"]


def test_real_images_that_are_not_spoilt_score_as_the_floor_does(unspoilt: None) -> None:
    """As others than those of the reference: against themselves they would score 0, far below the floor."""
    of = asked(100)
    floors, _ = measure.floors(of)
    row = measure.sanity(of)["not at all"]
    fd, precision = (next(name for name in floors if name.startswith(kind)) for kind in ("fd", "precision"))
    assert row[fd] == pytest.approx(floors[fd], rel=0.2) and row[fd] > 0
    assert row[precision] < 1
    assert row[fd] == pytest.approx(of_samples(of)[fd].value, rel=0.2), "samples of the same noise"


@pytest.mark.parametrize("num_images", [30, NUM, 70, 80])
def test_too_few_real_images_have_no_floor_and_every_figure_says_so(num_images: int) -> None:
    of = asked(num_images)
    floors, notes = measure.floors(of)
    row = measure.sanity(of)["blurred"]
    names = of_samples(of)
    if num_images == 80:
        assert set(floors) == set(names) and not any("real images" in note for note in notes.values())
        return
    assert not floors
    assert list(notes) == ["fd", "kd", "precision", "recall"]
    assert all(f"only {num_images} real images" in note for note in notes.values())
    assert "too small for the covariance" in notes["fd"]
    if num_images < NUM:
        assert not set(row) & set(names), "figures of another N stand in no row of theirs"
    else:
        assert set(row) == set(names)
        assert f"{2 * NUM - num_images} of the spoilt ones" in notes["fd"]


def test_spoilt_images_follow_those_of_the_reference() -> None:
    def rows(images: torch.Tensor) -> set[bytes]:
        return {image.numpy().tobytes() for image in images}

    for num_images, shared in ((100, 0), (70, 10), (NUM, NUM)):
        of = asked(num_images)
        reference, others = rows(measure._reference(of)), rows(measure._others(of))
        assert len(reference) == len(others) == NUM and len(reference & others) == shared


def test_spoiling_does_what_it_is_called() -> None:
    images = torch.randint(0, 256, (300, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    blurred = measure.SPOILT["blurred"](images)
    assert blurred[7, 1, 3, 3] == images[7, 1, 2:5, 2:5].float().mean().round() and len(blurred) == 300
    compressed = measure.SPOILT["JPEG, quality 75"](images)
    assert compressed.shape == images.shape and not torch.equal(compressed, images)
    assert len(measure.SPOILT["collapsed to ten images"](images).flatten(1).unique(dim=0)) == 10


@pytest.mark.parametrize(
    ("figure", "lower"),
    [
        *(("fid@inception-v3-compat:6726825d:N=50000:train", True), ("kd@random-conv-v1:32px:N=8:train", True)),
        *(("precision@random-conv-v1:32px:N=8:k=3:train", False), ("recall@x:N=8", False), ("isc@x:N=8", False)),
        *(("symmetry_error@drawn:N=8", True), ("pair_excess@drawn:N=8", False), ("count_agreement@drawn:N=8", False)),
    ],
)
def test_every_figure_points_its_way(figure: str, lower: bool) -> None:
    assert measure.lower_is_better(figure) == lower


# --- what trainings took ---


def line(step: int, seconds_an_image: float | None, **more: float) -> dict[str, float]:
    """Of a training in batches of 10."""
    rate = {} if seconds_an_image is None else {"images_per_second": 1 / seconds_an_image}
    return {"step": step, "images": 10 * step, "seconds": 1.0, **rate, **more}


def test_time_is_of_training_and_not_of_measuring_on_the_way() -> None:
    lines = [line(2, None), line(4, 0.1), line(6, 0.1), line(8, 5.0), line(10, 0.1)]  # measured after step 6
    assert Spent(lines, {"main": 2.0}, ["main"]).seconds == pytest.approx(2 + 2 + 2 + 100 + 2)
    spent = Spent(lines, {"main": 2.0}, ["main"], measured=[6])
    assert spent.seconds == pytest.approx(10)
    assert spent.at("main", 70) == (70, 140.0, pytest.approx(7.0))
    between = Spent([line(2, None), line(5, 0.1), line(8, 5.0)], {}, ["main"], measured=[6])
    assert between.seconds == pytest.approx(8), "measured between two lines"


def test_the_first_line_after_a_stop_goes_at_the_pace_so_far() -> None:
    lines = [line(2, None), line(4, 0.3), {"event": "resumed", "step": 4}, line(6, None, seconds=99.0), line(8, 0.3)]
    assert Spent(lines, {}, ["main"]).seconds == pytest.approx(2 + 6 + 4 + 6)


def test_measuring_is_of_the_last_stage() -> None:
    first = [{**line(2, 0.1), "stage": "first"}, {**line(4, 0.5), "stage": "first"}]
    last = [{**line(step, 0.1), "stage": "last"} for step in (2, 4)] + [{**line(6, 9.0), "stage": "last"}]
    spent = Spent([*first, *last], {"first": 1.0, "last": 3.0}, ["first", "last"], measured=[2, 4])
    assert spent.seconds == pytest.approx(12 + 6)
    assert spent.at("last", 20) == (60, 100.0, pytest.approx(14.0))


@pytest.mark.parametrize(
    "odd",
    [
        *({"images_per_second": value} for value in ("x", [], math.nan, -1.0, 1e-300, 10**400)),
        *({"images": value} for value in (0, -10, "40", math.inf, 10**400, [])),
        *({"step": value} for value in ("x", None, 10**400)),
        *({"seconds": value, "images_per_second": 0} for value in ("x", [], 10**400)),
        *({"stage": value} for value in ([], {}, None, 3)),
        {"event": "resumed"},
    ],
)
def test_lines_that_no_training_writes_count_for_nothing(tmp_path: Path, odd: dict[str, object]) -> None:
    """The next line says how far it was all the same."""
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, [{**line(2, 0.1), **odd}, line(4, 0.1)])))
    spent = Spent.read(tmp_path, {"main": 2.0}, ["main"])
    assert spent.seconds == pytest.approx(4) and spent.at("main", 40) == (40, 80.0, pytest.approx(4))


# --- figures and what must be known of them ---


def contenders() -> list[Contender]:
    return comparisons.comparison(diverged=False, seeds=5).contenders


def warned(found: Sequence[Contender], budget: Budget | None = None, seeds: int = 5) -> list[str]:
    figures = assemble.compared(found, {}, {}, 3)
    return flags_for(found, figures, [], seeds, budget)


def changed(contender: Contender, seed: int = 0, **more: object) -> Contender:
    runs = [dataclasses.replace(run, **more) if run.seed == seed else run for run in contender.runs]
    return dataclasses.replace(contender, runs=runs)


def test_a_figure_that_nobody_has_is_left_out_and_said() -> None:
    found = contenders()
    name = "count_agreement@drawn:N=2000"
    for contender in found:
        for run in contender.runs:
            run.values[name] = [None] * 3
    assert name not in [figure.name for figure in assemble.compared(found, {}, {}, 3)]
    assert "No training has a number of count agreement: such images do not show it." in warned(found)
    found[1].runs[2].values[name] = [0.5] * 3
    row = next(figure for figure in assemble.compared(found, {}, {}, 3) if figure.name == name)
    assert row.summaries[found[1].name].mean == 0.5 and not any("No training has" in flag for flag in warned(found))


def test_values_stand_by_seed_and_sampling() -> None:
    found = contenders()[0]
    figure = next(iter(found.runs[0].values))
    table = assemble.table([changed(found, 2, values={}).runs[i] for i in range(5)], figure, 3)
    assert np.array_equal(table[1], found.runs[1].values[figure]) and np.isnan(table[2]).all()
    with pytest.raises(UserError, match="has 2 values"):
        assemble.table(changed(found, 1, values={figure: [1.0, 2.0]}).runs, figure, 3)
    mixed = dataclasses.replace(contenders()[1], runs=contenders()[1].runs[::-1])
    with pytest.raises(AssertionError, match="in the same place"):
        assemble.compared([found, mixed], {}, {}, 3)


def test_notes_on_figures_are_flags_with_the_names_of_the_figures() -> None:
    found = contenders()
    figures = assemble.compared(found, {}, {}, 3, {"fd": "too few", "kd": "too few", "recall": "else"})
    flags = flags_for(found, figures, [], 5)
    assert "FD and KD: too few." in flags and "recall: else." in flags


@pytest.mark.parametrize(("seeds", "part"), [(2, "fewer than 3"), (3, "a win is a hint"), (4, "a hint"), (5, "")])
def test_few_seeds_are_flagged(seeds: int, part: str) -> None:
    said = [flag for flag in warned(contenders(), seeds=seeds) if "training seeds" in flag]
    assert (part in said[0]) if part else not said


def test_a_training_that_diverged_or_is_short_is_flagged() -> None:
    first, *others = contenders()
    found = changed(changed(first, 1, state="diverged", note="a loss"), 4, state="short", note="96 images were seen")
    flags = warned([found, *others])
    assert f"{first.name}, seed 1, diverged: a loss." in flags
    assert f"{first.name}, seed 4, short: 96 images were seen." in flags


def test_a_budget_of_time_that_was_not_met_is_flagged_with_how_far() -> None:
    first, second, *_ = contenders()  # 1,500 s and 3,000 s
    found = [changed(changed(changed(first, 1, seconds=1800.0), 3, seconds=1200.0), 4, seconds=1640.0), second]
    said = [flag for flag in warned(found, Budget("seconds", 1500)) if "trained" in flag and "through" not in flag]
    assert said[0].startswith(f"{first.name} trained 20 % longer (seed 1) and 20 % shorter (seed 3) than 1,500 s")
    assert said[1].count("100 % longer") == 5 and len(said) == 2
    unknown = [changed(first, seed, seconds=0.0) for seed in range(5)][:1]
    assert not any("shorter" in flag for flag in warned(unknown, Budget("seconds", 1500))), "no journal, no flag"
    for budget in (None, Budget("images", 30_000)):
        assert not any("longer" in flag for flag in warned(found, budget))


@pytest.mark.parametrize(("kind", "amount"), [("images", 40_000), ("flops", 4 / 3 * 30_000 * 3.1e9)])
def test_a_budget_that_whole_batches_leave_unspent_is_flagged(kind: str, amount: float) -> None:
    found = contenders()[:1]
    assert any("leaves 25 % of" in flag for flag in warned(found, Budget(kind, amount)))
    assert not any("leaves" in flag for flag in warned(found, Budget(kind, amount * 0.7505)))
    uncounted = [dataclasses.replace(found[0], cost=dataclasses.replace(found[0].cost, training_flops=0.0))]
    assert not any("leaves" in flag for flag in warned(uncounted, Budget("flops", 1e15)))


@pytest.mark.parametrize(
    ("network", "extractor", "part"),
    [
        ("VGG16 of ImageNet (LPIPS)", "random-conv-v1:32px", "was never trained, so the two share nothing"),
        ("VGG16 of ImageNet (LPIPS)", "inception-v3-compat:6726825d", "another network of ImageNet, and may favour it"),
        ("a network of faces", "inception-v3-compat:6726825d", "trained on ImageNet, and nobody here knows"),
        ("inception-v3-compat", "inception-v3-compat:6726825d", "that very network, and no fair judge"),
    ],
)
def test_a_network_of_the_loss_is_flagged_for_what_it_shares_with_the_metric(
    network: str, extractor: str, part: str
) -> None:
    contender = dataclasses.replace(contenders()[0], pretrained=[network])
    contender = dataclasses.replace(
        contender,
        runs=[
            dataclasses.replace(run, values={f"fd@{extractor}:N=8": [1.0] * 3, "symmetry_error@drawn:N=8": [0.5] * 3})
            for run in contender.runs
        ],
    )
    (said,) = [flag for flag in warned([contender]) if "through" in flag]
    assert said.startswith(f"{contender.name} was trained through {network}, which has learnt from other images; ")
    assert part in said and "sees for FD," in said and "symmetry" not in said


def test_many_figures_are_flagged_where_one_names_a_winner() -> None:
    found = contenders()
    (said,) = [flag for flag in warned(found) if "corrected over the pairs" in flag]
    assert f"not over the {len(comparisons.FIGURES)} figures" in said and "up to 35 % of" in said
    one = [
        dataclasses.replace(each, runs=[dataclasses.replace(run, values=first(run.values)) for run in each.runs])
        for each in found
    ]
    assert not any("corrected" in flag for flag in warned(one)), "one figure is one family"
    assert not any("corrected" in flag for flag in warned(found[:1])), "nobody wins against nobody"


def first(values: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    return dict(list(values.items())[:1])


def test_what_is_not_a_number_becomes_none() -> None:
    rows = {"pair_agreement": (0.5, 0.25), "count_agreement": (math.nan, math.nan), "symmetry_error": (0.1, 1.0)}
    assert measure.of_structure(rows, 8) == {
        "symmetry_error@drawn:N=8": 0.1,
        "pair_agreement@drawn:N=8": 0.5,
        "pair_excess@drawn:N=8": 0.25,
        "count_agreement@drawn:N=8": None,
    }
    assert measure.of_structure({"symmetry_error": (0.1, 1.0)}, 8) == {"symmetry_error@drawn:N=8": 0.1}
