"""`zoo bench`: how it takes turns, what it writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Zoo

from zoo_core import bench, bench_memory, recipe
from zoo_core.bench import Task
from zoo_core.commands import bench as bench_command
from zoo_core.errors import UserError
from zoo_core.formulation import is_plain
from zoo_core.interfaces import Work

# Turns.


def work_of(tasks: list[Task]) -> SimpleNamespace:
    """A workload of these tasks."""
    stages = dict.fromkeys(task.stage for task in tasks if task.every)
    return SimpleNamespace(accelerator=SimpleNamespace(device=torch.device("cpu")), tasks=tasks, steps=stages)


def measured(tasks: list[Task], plain_tasks: list[Task] | None = None, **options) -> list[bench.Row]:
    return bench.measure({"fast": work_of(tasks), "plain": work_of(plain_tasks or tasks)}, **options)


def test_formulations_take_turns_in_alternating_order_after_a_warm_up() -> None:
    seen: list[bool] = []
    measured([Task("sampling", lambda: seen.append(is_plain()), 0, 1), Task("a", lambda: None, 1, 1)], repeats=3)
    assert seen == [False, True] + [False, True] + [True, False] + [False, True]


def test_the_whole_step_counts_a_phase_as_often_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(bench.time, "process_time", lambda: 1000.0)

    def lasting(fast: float, textbook: float) -> Callable[[], None]:
        def act() -> None:
            now[0] += textbook if is_plain() else fast

        return act

    tasks = [
        Task("sampling", lasting(1, 1), 0, 4),
        Task("main", lasting(2, 6), 1, 4),
        Task("lazy", lasting(8, 8), 16, 4),
        Task("averages", lasting(0.5, 7), 1, 4, has_plain=False),
    ]
    rows = measured(tasks, repeats=2)
    assert [row.task.name for row in rows] == ["sampling", "main", "lazy", "averages", "whole step"]
    whole = rows[-1].summary()
    assert whole["fast"]["ms"] == {"median": 3000, "min": 3000, "max": 3000}  # 2 + 8 / 16 + 0.5
    assert whole["fast"]["images_per_second"] == pytest.approx(4 / 3)
    assert rows[-1].seconds["plain"] == [7, 7]
    assert rows[1].ratios() == [3, 3]
    assert rows[3].ratios() == [1, 1]
    assert all(row.seconds["fast"] == [0, 0] for row in measured(tasks, repeats=2, clock="cpu"))


def test_each_stage_has_a_whole_step_of_its_own_phases_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])

    def lasting(seconds: float) -> Callable[[], None]:
        return lambda: now.__setitem__(0, now[0] + seconds)

    tasks = [
        Task("sampling", lasting(4), 0, 4, work=Work(64, "codes")),
        Task("a", lasting(2), 1, 4, "first"),
        Task("b", lasting(3), 1, 4, "first"),
        Task("a", lasting(8), 1, 32, "second"),
    ]
    rows = [row.summary() for row in measured(tasks, repeats=1)]
    named = [(row["stage"], row["name"], row["batch"], row["fast"]["ms"]["median"]) for row in rows]
    assert named == [
        ("", "sampling", 4, 4000),
        ("first", "a", 4, 2000),
        ("first", "b", 4, 3000),
        ("first", "whole step", 4, 5000),
        ("second", "a", 32, 8000),
        ("second", "whole step", 32, 8000),
    ]
    assert (rows[0]["steps"], rows[0]["unit"], rows[0]["fast"]["steps_per_second"]) == (64, "codes", 64)
    assert "unit" not in rows[1] and "steps_per_second" not in rows[1]["fast"]


def test_formulations_of_two_recipes_each_run_their_own() -> None:
    ran: list[str] = []
    ours = [Task("sampling", lambda: ran.append("ours"), 0, 1), Task("a", lambda: None, 1, 1)]
    theirs = [Task("sampling", lambda: ran.append("theirs"), 0, 1), Task("a", lambda: None, 1, 1)]
    measured(ours, theirs, repeats=1)
    assert ran == ["ours", "theirs"] * 2
    with pytest.raises(UserError, match="nothing to compare"):
        measured(ours, theirs[:1], repeats=1)


def test_without_another_formulation_there_is_no_ratio() -> None:
    row = bench.Row(Task("a", lambda: None, 1, 2), {"fast": [1.0, 2.0, 4.0]}, {"fast": 8e9})
    summary = row.summary()
    assert "plain_over_fast" not in summary
    assert summary["fast"]["ms"] == {"median": 2000, "min": 1000, "max": 4000}
    assert summary["fast"]["gflop_per_image"] == 4


def test_peak_memory_is_what_a_task_holds_at_most() -> None:
    gauge, size = bench_memory._Resident(), 200 * 2**20
    peak = gauge.peak([Task("two", lambda: [torch.ones(size // 8), torch.ones(size // 8)], 1, 1)] * 2)
    assert 0.95 * size < peak < 1.2 * size


# The command.


def test_the_command_measures_without_data_and_keeps_only_its_json(zoo: Zoo, tmp_path: Path) -> None:
    pytest.importorskip("zoo_sagan")
    small = ["data.num_classes=3", "generator.channels=4", "discriminator.channels=4", "train.averages=null"]
    settings = [word for text in small for word in ("--set", text)]
    cache = tmp_path / "cache"
    done = zoo(
        *("bench", "--plugin", "sagan", "--recipe", "tiny", "--batch", 2, *settings),
        *("--against", "plain", "--repeats", 2, "--clock", "cpu", "--json", "found.json"),
        ZOO_CACHE=str(cache),
    )
    assert done.returncode == 0, done.stderr
    assert not cache.exists() and [path.name for path in tmp_path.iterdir()] == ["found.json"]
    report = json.loads((tmp_path / "found.json").read_text())
    assert (report["batch"], report["resolution"], report["clock"], report["repeats"]) == (2, 32, "cpu", 2)
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["sampling", "generator", "discriminator", "whole step"]
    for row in rows.values():
        assert row["name"] in done.stdout
        assert row["plain_over_fast"]["min"] <= row["plain_over_fast"]["median"] <= row["plain_over_fast"]["max"]
        for name in ("fast", "plain"):
            rate = 2 / (row[name]["ms"]["median"] / 1000)
            assert row[name]["images_per_second"] == pytest.approx(rate)
            assert row[name]["gflop_per_image"] > 0
    assert all(report["peak_memory_bytes"][name]["step"] > 0 for name in ("fast", "plain"))


def test_the_command_measures_every_stage_with_its_own_batch_and_another_size(zoo: Zoo, tmp_path: Path) -> None:
    pytest.importorskip("zoo_vqgan")
    small = ["generator.prior={layers: 2, heads: 2, dim: 64}", "discriminator.channels=4", "train.averages=null"]
    small += ["train.batch=1", "train.stages.prior.batch=3"]
    settings = [word for text in small for word in ("--set", text)]
    done = zoo(
        *("bench", "--plugin", "vqgan", "--recipe", "tiny", *settings, "--size", "32x40", "--clock", "cpu"),
        *("--against", "plain", "--against-set", "loss.second_pass=true", "--repeats", 1, "--json", "found.json"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "found.json").read_text())
    assert report["against_set"] == ["loss.second_pass=true"]
    rows = {(row["stage"], row["name"]): row for row in report["rows"]}
    assert [(*key, row["batch"]) for key, row in rows.items()] == [
        ("", "sampling", 1),
        ("", "sampling 32x40", 1),
        ("autoencoder", "autoencoder", 1),
        ("autoencoder", "discriminator", 1),
        ("autoencoder", "whole step", 1),
        ("prior", "prior", 3),
        ("prior", "whole step", 3),
    ]
    window = rows["", "sampling 32x40"]
    assert (rows["", "sampling"]["steps"], window["steps"], window["unit"]) == (64, 80, "codes")
    assert window["plain"]["gflop_per_image"] > 2 * window["fast"]["gflop_per_image"]  # it reads fewer tokens
    judged = rows["autoencoder", "discriminator"]
    assert judged["plain"]["gflop_per_image"] > 2 * judged["fast"]["gflop_per_image"]  # one more autoencoder
    memory = report["peak_memory_bytes"]["plain"]
    assert list(memory) == ["sampling", "autoencoder: step", "prior: step"] and min(memory.values()) > 0


def test_batch_is_that_of_all_stages_and_no_micro_batch_is_larger() -> None:
    pytest.importorskip("zoo_vqgan")
    changes = [("train.micro_batch", 8), ("train.stages.prior.micro_batch", 16)]
    fitted = bench_command._fitted(recipe.load("vqgan", "tiny", [*changes, ("train.batch", 4)]), 4)
    seen = [recipe.for_stage(fitted, stage).train for stage in ("autoencoder", "prior")]
    assert [(train.batch, train.micro_batch) for train in seen] == [(4, 0), (4, 0)]
    own = bench_command._fitted(recipe.load("vqgan", "tiny", changes), None)
    seen = [recipe.for_stage(own, stage).train for stage in ("autoencoder", "prior")]
    assert [(train.batch, train.micro_batch) for train in seen] == [(16, 8), (32, 16)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--plugin", "sagan", "--recipe", "tiny", "--against-set", "train.batch=2"], "add --against plain"),
        (["--plugin", "sagan", "--recipe", "tiny", "--size", "512"], "such as 512x768"),
        (["--plugin", "hydro"], 'no plugin "hydro"'),
        (["--plugin", "sagan", "--batch", 0], "0 is not in the range"),
        (["--plugin", "sagan", "--recipe", "tiny"], "--set data.num_classes=10"),
    ],
    ids=str,
)
def test_a_mistake_is_a_sentence_and_exit_code_2(zoo: Zoo, arguments: list, sentence: str) -> None:
    done = zoo("bench", *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr and "Traceback" not in done.stderr
