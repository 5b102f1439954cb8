"""`zoo compare` as a user runs it: trained, killed and repeated, verified, refused."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Zoo

from zoo_core import runs
from zoo_core.commands import compare
from zoo_core.comparison import execute, results
from zoo_core.comparison.plan import Job
from zoo_core.errors import UserError

SMALL = (
    *("--budget", "images=96", "--num", "32", "--generation-seeds", "2", "--seeds", "2", "--batch", "16"),
    *("--set", "train.optimizers.generator.lr=1e-3"),
)
NARROW = "plugin: sagan\nrecipe: tiny\ngenerator: {channels: 4}\ndiscriminator: {channels: 8}\nloss: {name: LOSS}\n"


@pytest.fixture
def contenders(tmp_path: Path) -> tuple[str, ...]:
    """Two recipe files that train in a blink."""
    for name in ("hinge", "logistic"):
        (tmp_path / f"{name}.yaml").write_text(NARROW.replace("LOSS", name))
    return "hinge.yaml", "logistic.yaml"


def report(folder: Path) -> results.Comparison:
    return results.read(folder / results.FILE)


def reproducible(found: results.Comparison) -> results.Comparison:
    """The report without what a clock on the wall, this machine's memory or the folder's name moved: the same again
    for the same plan."""
    contenders = [
        dataclasses.replace(
            contender,
            command="",
            cost=dataclasses.replace(contender.cost, images_per_second=0.0, peak_memory=0),
            runs=[
                dataclasses.replace(
                    run,
                    seconds=0.0,
                    weights="",
                    curve=[dataclasses.replace(point, seconds=0.0) for point in run.curve],
                )
                for run in contender.runs
            ],
        )
        for contender in found.contenders
    ]
    return dataclasses.replace(found, contenders=contenders, manifest={}, command="")


@pytest.mark.slow
def test_killed_at_random_moments_and_repeated_the_report_is_the_same(
    tmp_path: Path, zoo: Zoo, contenders: tuple[str, ...]
) -> None:
    done = zoo("compare", *contenders, *SMALL, "--out", "whole")
    assert done.returncode == 0, done.stderr
    whole = report(tmp_path / "whole")
    assert [run.state for contender in whole.contenders for run in contender.runs] == ["done"] * 4

    seed = random.randrange(2**32)
    moments = random.Random(seed)
    command = [sys.executable, "-m", "zoo_core", "compare", *contenders, *SMALL, "--out", "killed"]
    for _ in range(3):
        child = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(moments.uniform(1, 25))
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    done = zoo("compare", *contenders, *SMALL, "--out", "killed")
    assert done.returncode == 0, done.stderr
    assert reproducible(report(tmp_path / "killed")) == reproducible(whole), f"moments of seed {seed}"

    again = zoo("compare", "--verify", "killed/report.json")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("ok:") == 4


def test_a_dry_run_prints_a_line_for_each_training_and_trains_nothing(
    tmp_path: Path, zoo: Zoo, contenders: tuple[str, ...]
) -> None:
    done = zoo("compare", *contenders, *SMALL, "--out", "later", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all("train --plugin sagan --recipe later/recipes/" in line for line in lines)
    assert not (tmp_path / "later" / "runs").exists()


def test_all_problems_are_listed_and_nothing_is_trained(tmp_path: Path, zoo: Zoo) -> None:
    done = zoo("compare", "nobody", "sagan:imagenet128-paper", "hit", "--budget", "images=4", "--out", "never")
    assert done.returncode == 2
    for part in ('no plugin "nobody"', "different resolutions", "too few for one batch"):
        assert part in done.stderr
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("sagan", "sagan"), "two contenders are called"),
        (("sagan", "--budget", "watts=3"), "--budget takes"),
        (("sagan", "--match", "weight"), "params"),
        (("sagan", "--extractor", "nothing"), "nothing"),
        (("sagan", "--metric", "beauty"), "beauty"),
        (("nowhere.yaml",), "nowhere.yaml"),
        (("../x=sagan",), "cannot be called"),
        (("--verify", "nowhere.json"), "cannot read"),
        (("sagan", "--data", "nowhere", "--extractor", "nothing", "b=nobody"), "--data: there is no"),
        (("sagan", "--data", "nowhere", "--extractor", "nothing", "b=nobody"), "nothing"),
        (("sagan", "--data", "nowhere", "--extractor", "nothing", "b=nobody"), 'b: no plugin "nobody"'),
        (("sagan", "--launcher", "no-such-program {command}"), "cannot start no-such-program"),
        (("sagan", "--launcher", " "), "--launcher is blank"),
        (("sagan", "--out", "x" * 300), "cannot use the folder"),
    ],
)
def test_mistakes_are_a_sentence_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(part)):
        compare.command.main(list(arguments), standalone_mode=False)
    assert not list(tmp_path.iterdir())


# --- where a training runs ---


JOB = Job("a", 0, Path("runs/a-seed-0"), ("train", "--plugin", "a b"))


@pytest.mark.parametrize(
    ("launcher", "wanted"),
    [
        ("", [sys.executable, "-m", "zoo_core", "train", "--plugin", "a b"]),
        (
            "accelerate launch --num_processes 2",
            ["accelerate", "launch", "--num_processes", "2", "-m", "zoo_core", "train", "--plugin", "a b"],
        ),
        ("srun {command}", ["srun", sys.executable, "-m", "zoo_core", "train", "--plugin", "a b"]),
        ("ssh there 'cd work; zoo {arguments}'", ["ssh", "there", "cd work; zoo train --plugin 'a b'"]),
    ],
)
def test_a_launcher_is_a_template(launcher: str, wanted: list[str]) -> None:
    assert execute.command_line(JOB, launcher) == wanted


def test_a_launcher_that_is_no_command_is_refused() -> None:
    with pytest.raises(UserError, match="--launcher"):
        execute.command_line(JOB, "srun 'open")
    with pytest.raises(UserError, match="cannot start"):
        execute.train([JOB], lambda job: execute.Progress(False, "", 0), "/no/such/program {command}", print)


def test_a_training_that_fails_stops_the_comparison_and_one_that_diverged_does_not() -> None:
    failing = [JOB, JOB]
    with pytest.raises(UserError, match="exit code 3"):
        execute.train(failing, lambda job: execute.Progress(False, "", 0), "sh -c 'exit 3'", lambda text: None)
    with pytest.raises(UserError, match="exit code 0 before its end.*--launcher.*sbatch --wait.*--dry-run"):
        execute.train(failing, lambda job: execute.Progress(False, "", 0), "sh -c 'exit 0'", lambda text: None)
    said: list[str] = []
    states = iter([execute.Progress(False, "", 0)] + [execute.Progress(False, "a loss", 16)] * 9)
    execute.train([JOB], lambda job: next(states), "sh -c 'exit 2'", said.append)
    assert any("diverged" in line for line in said)
    with pytest.raises(execute.Interrupted):
        execute.train([JOB], lambda job: execute.Progress(False, "", 0), "sh -c 'exit 130'", lambda text: None)


def test_a_training_that_runs_already_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "POLL_SECONDS", 0.02)
    job = dataclasses.replace(JOB, folder=tmp_path / "run")
    held = ExitStack()
    held.enter_context(runs.held(job.folder))
    threading.Timer(0.2, held.close).start()
    said: list[str] = []
    states = iter([execute.Progress(False, "", 0)] + [execute.Progress(True, "", 96)] * 9)
    execute.train([job], lambda job: next(states), "sh -c 'exit 3'", said.append)  # not started: it is over by then
    assert sum("waiting for it" in line for line in said) == 1


def test_a_stop_is_handed_on_to_the_training(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    child = f"trap 'touch {asked}; exit 130' TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done"

    def stop() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(execute.Interrupted):
        execute.train([JOB], lambda job: execute.Progress(False, "", 0), f'sh -c "{child}" {{command}}', print)
    assert asked.exists()
