"""What a comparison keeps of its measurements: taken where it is whole, measured again where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zoo_core.comparison import conduct, execute, measure
from zoo_core.comparison.conduct import Course
from zoo_core.comparison.results import Cost

ROW = {"fd@x:N=8": 1.5, "recall@x:N=8": None}
IDENTITY = {"weights": "ab", "num": 8}
SEEDS = {"1000": ROW, "1001": ROW}


class Bill:
    """Costs that nobody had to measure."""

    def __init__(self, recipe: Any, build: Any, stages: Any) -> None:
        self.price = float(recipe)

    def prices(self, kind: str) -> dict[str, float]:
        return {"main": self.price}

    def cost(self, *arguments: Any, **options: Any) -> Cost:
        return Cost(1, 2, self.price, 4.0, 5.0, 6)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> Course:
    """A comparison with nothing left to train, whose measurements cost nothing."""
    monkeypatch.setattr(conduct, "Bill", Bill)
    monkeypatch.setattr(conduct.budget, "shares", lambda recipe, stages: {"main": 1.0})
    monkeypatch.setattr(measure, "floors", lambda asked: (ROW, {"fd": "a note"}))
    monkeypatch.setattr(measure, "sanity", lambda asked: dict.fromkeys(measure.SPOILT, ROW))
    plan: Any = SimpleNamespace(train_seeds=range(0), recipes={}, request=None)
    return Course(plan, tmp_path, None, None, said.append)


def priced(course: Course, name: str = "one", price: Any = 3) -> tuple[dict[str, float], Cost]:
    return course._cost(name, price, ["main"])


def test_costs_are_counted_once(course: Course, said: list[str]) -> None:
    assert priced(course) == ({"main": 3.0}, Cost(1, 2, 3.0, 4.0, 5.0, 6)) == priced(course, price=9)
    assert said == ["Counting what one costs."]


def test_a_contender_may_be_called_as_a_file_of_another_would_be(course: Course) -> None:
    """`cost-x`'s first training is measured in the file that costs of an `x-seed-0` once were in."""
    runs = [course.folder / "measured" / f"{name}-seed-0.json" for name in ("cost-x", "x")]
    for file in runs:
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({**IDENTITY, "seeds": SEEDS}))
    priced(course, "x-seed-0"), priced(course, "cost-x")
    assert all(measure._kept(file, IDENTITY) == SEEDS for file in runs)


DAMAGED = ["", "[]", '{"a": 1}', '{"flops": 3}', '{"floors": {}, "sanity": {}, "notes": {}}', "[" * 100_000]


@pytest.mark.parametrize("text", [*DAMAGED, '{"flops": {"main": 1}, "cost": {"generator_parameters": 1}}'])
def test_costs_that_are_not_whole_are_counted_again(course: Course, said: list[str], text: str) -> None:
    whole = priced(course)
    (file,) = course.folder.rglob("one.json")
    for damaged in (text, file.read_text().replace('"main"', '"other"'), file.read_text().replace("3.0", '"x"')):
        said.clear()
        file.write_text(damaged)
        assert priced(course) == whole and said == ["Counting what one costs."]


@pytest.mark.parametrize("text", DAMAGED)
def test_what_real_images_score_is_measured_again_where_it_is_not_whole(
    course: Course, said: list[str], text: str
) -> None:
    whole = course._sanity(None)
    assert whole == (ROW, dict.fromkeys(measure.SPOILT, ROW), {"fd": "a note"}) == course._sanity(None)
    assert len(said) == 1
    (file,) = course.folder.rglob("sanity.json")
    for damaged in (text, file.read_text().replace("blurred", "bent"), file.read_text().replace("1.5", '"x"')):
        said.clear()
        file.write_text(damaged)
        assert course._sanity(None) == whole and len(said) == 1


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        ({**IDENTITY, "seeds": SEEDS}, True),
        ({**IDENTITY, "weights": "cd", "seeds": SEEDS}, False),
        ({**IDENTITY, "seeds": {**SEEDS, "1001": {}}}, False),
        ({**IDENTITY, "seeds": {**SEEDS, "1001": {"fd@x:N=8": 1.5}}}, False),
        ({**IDENTITY, "seeds": {**SEEDS, "1001": 3}}, False),
        ({**IDENTITY, "seeds": {**SEEDS, "1001": {**ROW, "fd@x:N=8": "x"}}}, False),
        ({**IDENTITY, "seeds": [ROW]}, False),
        ({**IDENTITY, "seeds": {"1000": {}}}, False),
        (IDENTITY, False),
        ([IDENTITY], False),
    ],
)
def test_measurements_are_taken_when_they_are_whole_and_of_the_same(tmp_path: Path, content: Any, whole: bool) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps(content))
    assert measure._kept(file, IDENTITY) == (SEEDS if whole else {})


def test_a_stop_while_it_measures_is_a_stop_that_can_be_gone_on_from(
    course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: Course, command: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Course, "assembled", stopped)
    with pytest.raises((execute.Interrupted, KeyboardInterrupt)) as seen:
        course.run("", "zoo compare")
    assert seen.type is execute.Interrupted
