"""A run that was stopped and goes on is the run that never stopped, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
import toys
from accelerate.state import AcceleratorState

from zoo_core import checkpoint, evaluation, recipe, runs, session
from zoo_core.errors import UserError
from zoo_core.recipe import Averaging
from zoo_core.trainer import Stopped

needs_sagan = pytest.mark.skipif(
    not entry_points(group="zoo", name="sagan"), reason="zoo-sagan is not installed; `pip install -e plugins/sagan`"
)

HARD = {
    "labels": 3,
    "checkpoint_images": 40,
    "log_images": 12,
    "loss": {"r1": 1.0, "r1_every": 9, "consistency_real": 1.0, "augment": ("color",), "generator_every": 2},
    "averages": {
        "generator": Averaging(half_life_images=20, buffers="average"),
        "discriminator": Averaging(decay=0.9, start_images=12),
    },
}
"""A run with every kind of state; R1 of step 9 waits in the checkpoint of step 10 for the log line after step 12."""


@pytest.mark.parametrize("settings", [{}, HARD, {**HARD, "micro_batch": 2}, {**HARD, "precision": "bf16"}])
def test_twenty_steps_are_ten_and_ten_to_the_bit(tmp_path, settings):
    whole = toys.trainer(tmp_path / "whole", toys.recipe(**settings), norm=True)
    whole.run()

    def stop_after_ten(made):
        return toys.during(made, "discriminator", 9, lambda: os.kill(os.getpid(), signal.SIGINT))

    parted = tmp_path / "parted"
    first = toys.trainer(parted, toys.recipe(**settings), norm=True, change=stop_after_ten)
    with pytest.raises(Stopped):
        first.run()
    assert first.step == 10
    torch.manual_seed(123)  # nothing may hang on torch's own state
    second = toys.trainer(parted, toys.recipe(**settings), norm=True)
    second.restore(checkpoint.latest(parted / "checkpoints"))
    second.journal.rewind(second.step)
    second.run()
    toys.assert_same(toys.state(whole.stage), toys.state(second.stage))
    toys.assert_same(toys.saved(tmp_path / "whole/checkpoints/step-20"), toys.saved(parted / "checkpoints/step-20"))
    assert toys.numbers(tmp_path / "whole") == toys.numbers(parted)
    assert toys.numbers(parted)[-1]["step"] == 20


def test_crash_between_checkpoints_repeats_what_was_lost_to_the_bit(tmp_path):
    """The lines that were written after the checkpoint are written again, not twice."""
    whole = toys.trainer(tmp_path / "whole", toys.recipe(**HARD))
    whole.run()

    def crash():
        raise RuntimeError("a crash")

    crashing = toys.trainer(
        tmp_path / "parted", toys.recipe(**HARD), change=lambda made: toys.during(made, "discriminator", 17, crash)
    )
    with pytest.raises(RuntimeError):
        crashing.run()
    again = toys.trainer(tmp_path / "parted", toys.recipe(**HARD))
    again.restore(checkpoint.latest(tmp_path / "parted" / "checkpoints"))
    assert again.step == 10
    again.journal.rewind(10)
    again.run()
    toys.assert_same(toys.state(whole.stage), toys.state(again.stage))
    assert toys.numbers(tmp_path / "whole") == toys.numbers(tmp_path / "parted")


def test_raised_budget_goes_on(tmp_path):
    toys.trainer(tmp_path / "short", toys.recipe(images=40)).run()
    longer = toys.trainer(tmp_path / "short", toys.recipe(images=80))
    longer.restore(checkpoint.latest(tmp_path / "short" / "checkpoints"))
    longer.run()
    straight = toys.trainer(tmp_path / "straight", toys.recipe(images=80))
    straight.run()
    toys.assert_same(toys.state(straight.stage), toys.state(longer.stage))


# -- whole sessions


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.write_pictures(tmp_path_factory.mktemp("pictures") / "pets")


TINY = {
    "train.images": 160,
    "train.batch": 4,
    "train.checkpoint_images": 60,
    "train.log_images": 12,
    "train.sample_images": 80,
    "generator.channels": 2,
    "discriminator.channels": 2,
}


def sagan(pictures: Path, **changes: object) -> recipe.Recipe:
    settings = {**TINY, "data.source": str(pictures), **{key.replace("__", "."): changes[key] for key in changes}}
    return recipe.load("sagan", "tiny", list(settings.items()))


Train = Callable[..., tuple[session.Outcome, list[str]]]


@pytest.fixture
def train(pictures: Path) -> Iterator[Train]:
    def run(folder: Path, measure: session.Measure | None = None, **changes: object):
        AcceleratorState._reset_state(reset_partial_state=True)
        said: list[str] = []
        return session.train(sagan(pictures, **changes), folder, say=said.append, measure=measure), said

    yield run


@needs_sagan
def test_finished_run_is_finished(tmp_path, train):
    outcome, said = train(tmp_path / "run")
    assert outcome.finished and outcome.images == 160 and outcome.main
    assert "Training sagan" in said[0]
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    outcome, said = train(tmp_path / "run")
    assert outcome.finished and "Going on with sagan" in said[0]
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert before == after


@needs_sagan
@pytest.mark.parametrize(
    "change, named",
    [
        ({"train__seed": 1}, "train.seed is 0 there and 1 here"),
        ({"train__batch": 8}, "train.batch"),
        ({"train__micro_batch": 2}, "train.micro_batch"),
        ({"generator__channels": 3}, "generator.channels"),
        ({"loss": {"name": "hinge", "r1": 2.0}}, "loss.r1"),
        ({"train__optimizers": {"generator": {"lr": 1.0}}}, "train.optimizers.generator.lr"),
        ({"train__decay_from_images": 80}, "train.decay_from_images"),
    ],
)
def test_run_of_another_recipe_is_refused_and_untouched(tmp_path_factory, train, change, named):
    folder = tmp_path_factory.getbasetemp() / "refused"
    if not folder.exists():
        train(folder, train__images=8)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"another recipe: {named}") as caught:
        train(folder, train__images=8, **change)
    assert "--out" in str(caught.value)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@needs_sagan
def test_budget_and_cadences_may_change(tmp_path, train):
    train(tmp_path / "run", train__images=20)
    outcome, said = train(tmp_path / "run", train__images=40, train__checkpoint_images=12, train__keep=5)
    assert outcome.images == 40 and any("Resuming from step 5" in line for line in said)
    assert runs.read_recipe(tmp_path / "run").train.images == 40
    straight, _ = train(tmp_path / "straight", train__images=40)
    newest = "checkpoints/step-10"
    toys.assert_same(toys.saved(tmp_path / "straight" / newest), toys.saved(tmp_path / "run" / newest))


@needs_sagan
def test_damaged_newest_checkpoint_is_named_and_the_run_goes_on(tmp_path, train):
    train(tmp_path / "run")
    kept = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert kept == ["step-30", "step-40"]
    end, numbers = toys.saved(tmp_path / "run/checkpoints/step-40"), toys.numbers(tmp_path / "run")
    (tmp_path / "run/checkpoints/step-40/networks.safetensors").write_bytes(b"garbage")
    _, said = train(tmp_path / "run")
    assert any("step-40" in line and "networks.safetensors" in line for line in said)
    assert any("Resuming from step 30" in line for line in said)
    toys.assert_same(end, toys.saved(tmp_path / "run/checkpoints/step-40"))
    assert toys.numbers(tmp_path / "run") == numbers  # and not twice


@needs_sagan
def test_run_never_starts_from_zero_in_silence(tmp_path, train):
    train(tmp_path / "run", train__images=8)
    (tmp_path / "run/checkpoints/step-2/state.json").unlink()
    with pytest.raises(UserError, match="no checkpoint in .* can be used; move the whole run away, and repeat"):
        train(tmp_path / "run", train__images=8)
    for path in (tmp_path / "run/checkpoints/step-2").iterdir():
        path.unlink()
    (tmp_path / "run/checkpoints/step-2").rmdir()
    _, said = train(tmp_path / "run", train__images=8)
    assert "This run has no checkpoint yet; it starts from zero." in said


@needs_sagan
def test_run_on_other_images_is_refused(tmp_path, train):
    changed = toys.write_pictures(tmp_path / "changed", num=6)
    train(tmp_path / "run", train__images=8, data__source=str(changed))
    (changed / "cat" / "0.png").unlink()
    with pytest.raises(UserError, match="the images in changed are not the ones"):
        train(tmp_path / "run", train__images=8, data__source=str(changed))


@needs_sagan
def test_second_training_in_one_folder_is_refused(tmp_path, train):
    with runs.locked(tmp_path / "run"), pytest.raises(UserError, match="another process is working"):
        train(tmp_path / "run", train__images=8)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock"]
    outcome, _ = train(tmp_path / "run", train__images=8)
    assert outcome.finished


def test_an_error_of_its_own_leaves_a_held_folder_as_it_is(tmp_path):
    with pytest.raises(BlockingIOError), runs.held(tmp_path):
        raise BlockingIOError("a full pipe")
    with runs.held(tmp_path):
        pass


@needs_sagan
def test_folder_of_something_else_is_refused(tmp_path, train):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to-mother.txt").write_text("Dear mother")
    with pytest.raises(UserError, match="is not a run; name another folder"):
        train(tmp_path / "letters", train__images=8)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name another with --out"):
        train(tmp_path / "file", train__images=8)


@needs_sagan
@pytest.mark.parametrize("text", ["", "[]", "- a", "3", "{", "\x00"])
def test_damaged_recipe_of_a_run_is_a_users_error(tmp_path, train, text):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match="recipe.yaml"):
        train(tmp_path / "run", train__images=8)


@needs_sagan
def test_samples_that_cannot_be_written_are_a_users_error(tmp_path, train):
    train(tmp_path / "run", train__images=8)
    for path in (tmp_path / "run" / "samples").iterdir():
        path.unlink()
    (tmp_path / "run" / "samples").rmdir()
    (tmp_path / "run" / "samples").write_text("in the way")
    with pytest.raises(UserError, match="cannot write .*samples"):
        train(tmp_path / "run", train__images=16)


@needs_sagan
def test_session_measures_at_its_start_and_end_only(tmp_path, train):
    asked: list[tuple[str, int]] = []

    def measure(when, step, generator, images):
        assert generator.num_classes == 3 and len(images) == 24
        asked.append((when, step))

    train(tmp_path / "run", measure, train__images=8)
    train(tmp_path / "run", measure, train__images=16)
    assert asked == [("start", 0), ("end", 2), ("end", 4)]


@needs_sagan
def test_measurement_that_was_cut_off_is_made_up_for_and_no_other_is_repeated(tmp_path, pictures, monkeypatch):
    made: list[int] = []

    def measure(*arguments, num, **more):
        made.append(num)
        return evaluation.Report([], [], {})

    monkeypatch.setattr(evaluation, "measure", measure)
    wanted = sagan(pictures, evaluate__num=7)
    measurer = evaluation.Measurer(wanted, tmp_path, lambda text: None)
    for _ in range(2):
        measurer("start", 0, None, None)
        measurer("end", 5, None, None)
    assert len(made) == 2
    measurer("end", 9, None, None)
    assert len(made) == 3 and evaluation.read(tmp_path)["end"]["step"] == 9


# -- as a person does it


def start(folder: Path, pictures: Path, *more: str) -> subprocess.Popen:
    settings = [f"--set={name}={value}" for name, value in TINY.items()]
    arguments = ["train", "--plugin", "sagan", "--recipe", "tiny", "--data", str(pictures), "--out", "my runs/x"]
    command = [sys.executable, "-m", "zoo_core", *arguments, "--no-measure", *settings, *more]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)


def wait_for_line(process: subprocess.Popen, metrics: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and any(
            json.loads(line).get("step", 0) >= step
            for line in metrics.read_text().splitlines()
            if line.endswith("}") and "event" not in line
        ):
            return
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"step {step} did not come: {process.communicate()}")


@needs_sagan
def test_interrupted_command_saves_says_how_to_go_on_and_goes_on(tmp_path, pictures, train):
    """Ctrl-C, then a polite kill, then to the end: the same as never stopped."""
    budget = "--set=train.images=240"
    run = tmp_path / "my runs" / "x"
    steps = []
    for number, after in ((signal.SIGINT, 3), (signal.SIGTERM, 20)):
        with start(tmp_path, pictures, budget) as process:
            wait_for_line(process, run / "metrics.jsonl", after)
            process.send_signal(number)
            out, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (130, "")
        assert "Stopped and saved" in out and "zoo train --plugin sagan" in out and "--out 'my runs/x'" in out
        steps.append(checkpoint.latest(run / "checkpoints").step)
    assert 3 <= steps[0] < steps[1] < 60
    with start(tmp_path, pictures, budget) as process:
        out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert f"Resuming from step {steps[1]}" in out and "Done" in out
    train(tmp_path / "whole", train__images=240)
    toys.assert_same(toys.saved(tmp_path / "whole/checkpoints/step-60"), toys.saved(run / "checkpoints/step-60"))
    assert toys.numbers(tmp_path / "whole") == toys.numbers(run)
    names = [sorted(path.name for path in (folder / "samples").iterdir()) for folder in (tmp_path / "whole", run)]
    assert names[0] == names[1]
    for name in names[0]:
        assert (tmp_path / "whole/samples" / name).read_bytes() == (run / "samples" / name).read_bytes()
    for name in ("averaged.safetensors", "recipe.yaml"):
        assert (tmp_path / "whole" / name).read_bytes() == (run / name).read_bytes()
