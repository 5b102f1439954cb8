"""Several processes are one run: equal to one process, in step with each other, and ended together."""

from __future__ import annotations

import json
import math
import signal
import time
from importlib.metadata import entry_points
from pathlib import Path

import launched
import pytest
import toys
from conftest import Zoo
from launching import launch
from safetensors.torch import load_file
from torch import Tensor

from zoo_core import checkpoint
from zoo_core.errors import UserError
from zoo_core.processes import open_accelerator

pytestmark = pytest.mark.launch
needs_sagan = pytest.mark.skipif(
    not entry_points(group="zoo", name="sagan"), reason="zoo-sagan is not installed; `pip install -e plugins/sagan`"
)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which every scenario was run by two processes."""
    folder = tmp_path_factory.mktemp("launched")
    with launch(folder, Path(launched.__file__), folder) as process:
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return folder


def of_rank(ends: Path, scenario: str, rank: int) -> tuple[dict, dict[str, Tensor]]:
    folder = ends / scenario
    return json.loads((folder / f"{rank}.json").read_text()), load_file(folder / f"{rank}.safetensors")


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest difference of a tensor, relative to its largest value."""
    assert first.keys() == second.keys()
    return max(
        ((first[name] - second[name]).abs().max() / second[name].abs().max().clamp_min(1e-6)).item()
        for name in first
        if first[name].is_floating_point()
    )


@pytest.mark.parametrize("scenario", [scenario.__name__ for scenario in launched.SCENARIOS])
def test_processes_never_drift_apart(ends, scenario):
    (one, mine), (two, theirs) = (of_rank(ends, scenario, rank) for rank in range(2))
    toys.assert_same(mine, theirs)
    if scenario != "strangers":
        assert one["step"] == two["step"]


def test_two_processes_equal_one(ends, tmp_path):
    alone = launched.plain(tmp_path, toys.accelerator())
    alone.run()
    assert distance(of_rank(ends, "plain", 0)[1], toys.state(alone.stage)) < 1e-6
    lines = zip(toys.numbers(ends / "plain"), toys.numbers(tmp_path), strict=True)
    assert len(toys.numbers(tmp_path)) == 10
    for together, single in lines:
        assert together.keys() == single.keys()
        assert all(math.isclose(together[name], single[name], rel_tol=1e-4, abs_tol=1e-6) for name in single)


def test_two_processes_equal_two_micro_batches_where_batches_have_statistics(ends, tmp_path):
    """And not one batch: each process's share has statistics of its own."""
    found = {}
    for micro in (4, 0):
        recipe = launched.recipe(micro_batch=micro)
        alone = toys.trainer(tmp_path / str(micro), recipe, norm=True, change=launched.plainly)
        alone.run()
        found[micro] = toys.state(alone.stage)
    together = of_rank(ends, "norm", 0)[1]
    assert distance(together, found[4]) < 1e-6
    assert distance(together, found[0]) > 1e-3


def test_number_that_is_not_finite_in_one_process_stops_all(ends):
    for rank in range(2):
        end, _ = of_rank(ends, "poisoned", rank)
        assert "in phase discriminator of step 6, the term discriminator is not finite" in end["error"]
        assert (end["step"], end["saved"]) == (6, 5)


def test_request_to_stop_one_process_stops_all_at_the_same_step(ends):
    for rank in range(2):
        end, _ = of_rank(ends, "stopped", rank)
        assert end == {"stopped": True, "error": "", "step": 4, "saved": 4}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system does not name threads in /proc")
def test_no_thread_outlives_the_group_of_processes(ends):
    """One of Gloo's that lets go of a tensor while the interpreter shuts down aborts the process."""
    for rank in range(2):
        left = (ends / f"{rank}.threads").read_text().split()
        assert left
        assert not [name for name in left if "gloo" in name]


def test_full_disk_of_the_main_process_ends_all(ends):
    (main, _), (other, _) = (of_rank(ends, "full", rank) for rank in range(2))
    assert "cannot write the checkpoint" in main["error"]
    assert other["error"] == "the main process stopped; it says why."


def test_processes_that_found_different_checkpoints_do_not_start(ends):
    for rank in range(2):
        assert "start from the steps [0, 1]" in of_rank(ends, "strangers", rank)[0]["error"]


@needs_sagan
def test_launched_command_is_interrupted_and_goes_on(tmp_path):
    """Ctrl-C reaches the launcher, which tells its processes; the same command goes on, as one run with one voice."""
    pictures = toys.write_pictures(tmp_path / "pets")
    settings = {"train.batch": 4, "train.log_images": 4, "generator.channels": 2, "discriminator.channels": 2}
    arguments = ["-m", "zoo_core", "train", "--plugin", "sagan", "--data", pictures, "--out", "x", "--no-measure"]
    arguments += [f"--set={name}={value}" for name, value in settings.items()]
    run = tmp_path / "x"

    with launch(tmp_path, *arguments, "--set=train.images=40000") as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and len(metrics := _lines(run)) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    assert said.count("Stopped and saved") == 1, said
    stopped = checkpoint.latest(run / "checkpoints").step
    assert stopped >= 3 and len(metrics) >= 4

    images = 4 * (stopped + 5)
    with launch(tmp_path, *arguments, f"--set=train.images={images}") as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert said.count(f"Resuming from step {stopped}") == 1 and said.count("Done") == 1
    assert checkpoint.latest(run / "checkpoints").step == stopped + 5
    assert [line["step"] for line in toys.numbers(run)] == list(range(1, stopped + 6))
    assert json.loads((run / "manifest.json").read_text())["hardware"]["processes"] == 2


def _lines(run: Path) -> list[str]:
    metrics = run / "metrics.jsonl"
    return metrics.read_text().splitlines() if metrics.exists() else []


@needs_sagan
def test_world_without_a_launcher_is_refused_in_one_sentence(zoo: Zoo, tmp_path):
    toys.write_pictures(tmp_path / "pets", num=2)
    ran = zoo("train", "--plugin", "sagan", "--data", "pets", "--out", "x", WORLD_SIZE="2", CUDA_VISIBLE_DEVICES="")
    assert ran.returncode == 2
    assert ran.stderr.startswith("Error: WORLD_SIZE=2, but no launcher") and len(ran.stderr.splitlines()) == 1
    assert "accelerate launch" in ran.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("world", ["0", "many", ""])
def test_world_that_is_no_number_of_processes_is_refused(tmp_path, monkeypatch, world):
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(UserError, match=f"WORLD_SIZE={world}"):
        open_accelerator("fp32", tmp_path)


@pytest.mark.filterwarnings("ignore:.*no supported trackers")
@pytest.mark.parametrize("tracker, complaint", [("nonsense", "nonsense"), ("dvclive", "dvclive.*pip install")])
def test_tracker_that_is_not_there_is_refused(tmp_path, tracker, complaint):
    toys.accelerator()
    with pytest.raises(UserError, match=complaint):
        open_accelerator("fp32", tmp_path, [tracker])
