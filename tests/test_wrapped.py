"""A stage that accelerate wraps trains as any other: with DDP, FSDP, DeepSpeed; saved, resumed, opened by one process.

DeepSpeed is no dependency; `pip install deepspeed transformers` (accelerate wants both) adds its tests.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import launched_wrapped as launched
import pytest
import toys
from accelerate.utils import DistributedType
from test_launch import distance, launch
from torch import Tensor
from torch.distributed.fsdp import CPUOffloadPolicy

from zoo_core import checkpoint
from zoo_core.errors import UserError
from zoo_core.program import Stage
from zoo_core.wrapping import check

needs_deepspeed = pytest.mark.skipif(
    not (find_spec("deepspeed") and find_spec("transformers")), reason="deepspeed or transformers is not installed"
)
MANNERS = ("ddp", "fsdp", *(pytest.param(f"zero{stage}", marks=needs_deepspeed) for stage in (1, 2)))
needs_vqgan = pytest.mark.skipif(
    not entry_points(group="zoo", name="vqgan"), reason="zoo-vqgan is not installed; `pip install -e plugins/vqgan`"
)


@pytest.fixture(scope="module")
def launch_all(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Have two processes train in some manner, once; answers with the folder of its runs."""
    folder = tmp_path_factory.mktemp("wrapped")

    def launched_in(manner: str) -> Path:
        if not (folder / manner).exists():
            stage = manner.removeprefix("zero") if manner.startswith("zero") else 0
            with launch(folder, Path(launched.__file__), folder, stage) as process:
                said, _ = process.communicate(timeout=240)
            assert process.returncode == 0, said
        return folder / manner

    return launched_in


@pytest.fixture(params=MANNERS)
def ends(request: pytest.FixtureRequest, launch_all: Callable[[str], Path]) -> Path:
    """The folder in which two processes trained in one manner."""
    return launch_all(request.param)


def saved(run: Path) -> dict[str, Tensor]:
    """The tensors of a run's newest checkpoint."""
    return toys.saved(checkpoint.latest(run / "checkpoints").path)


def trained(folder: Path, *, runs_on=None, changes: dict | None = None, **how: object) -> dict[str, Tensor]:
    """What one process saves."""
    launched.trainer(folder, runs_on or toys.accelerator(), changes, **how).run()
    return saved(folder)


@pytest.mark.parametrize("micro", [0, 4])
@pytest.mark.parametrize("adam", [True, False])
def test_wrapped_stage_in_one_process_is_the_stage_itself(tmp_path, adam, micro):
    """Wrapping changes no bit, whatever `accelerate config` says of accumulation."""
    how = {"adam": adam, "dropout": 0.2, "changes": {"micro_batch": micro}}
    runs_on = toys.accelerator()
    runs_on.gradient_accumulation_steps = 3
    wrapped = trained(tmp_path / "wrapped", runs_on=runs_on, **how)
    toys.assert_same(wrapped, trained(tmp_path / "plain", wrapped=False, **how))
    assert toys.numbers(tmp_path / "wrapped") == toys.numbers(tmp_path / "plain")


def test_bf16_wrapper_is_taken_off_again(tmp_path):
    """accelerate puts autocast around `forward`; what is sampled or trained afterwards is the network as it was."""
    made = launched.stage()
    student = made.networks["student"]
    recipe = launched.recipe(images=8, precision="bf16")
    toys.trainer(tmp_path, recipe, made=made).run()
    assert made.networks["student"] is student
    assert not hasattr(student, "_original_forward") and student.forward.__func__ is launched.Student.forward


def test_stage_resumes_to_the_bit_in_one_process(tmp_path):
    how = {"adam": True, "dropout": 0.2}
    whole = trained(tmp_path / "whole", **how)
    trained(tmp_path / "parts", changes={"images": 40}, **how)
    resumed = launched.trainer(tmp_path / "parts", toys.accelerator(), **how)
    resumed.restore(checkpoint.latest(tmp_path / "parts" / "checkpoints"))
    resumed.run()
    toys.assert_same(whole, saved(tmp_path / "parts"))


def test_wrapped_stage_has_one_network_and_one_phase():
    made = launched.stage()
    with pytest.raises(AssertionError):
        Stage(dict(made.networks), made.optimizers, made.phases * 2, wrapped=True)


@pytest.mark.parametrize("asked", ["FSDP", "DEEPSPEED"])
def test_way_of_training_that_accelerate_would_leave_out_is_refused(monkeypatch, asked):
    """On a CPU it trains with DDP instead, and says nothing."""
    runs_on = toys.accelerator()
    check(runs_on, "fp32")
    monkeypatch.setenv(f"ACCELERATE_USE_{asked}", "true")
    with pytest.raises(UserError, match=f"no {asked} on this device"):
        check(runs_on, "fp32")


@pytest.mark.parametrize(
    "setting, value, complaint",
    [("fsdp_version", 1, "fsdp_version: 2"), ("cpu_offload", CPUOffloadPolicy(), "offloading")],
)
def test_fsdp_of_another_kind_is_refused(setting, value, complaint):
    runs_on = toys.accelerator()
    with launched.sharded(runs_on):
        check(runs_on, "bf16")
        setattr(runs_on.state.fsdp_plugin, setting, value)
        with pytest.raises(UserError, match=complaint):
            check(runs_on, "bf16")


@pytest.mark.parametrize(
    "precision, settings, complaint",
    [
        ("fp32", {"zero_optimization": {"stage": 3}}, "ZeRO 1 and 2"),
        ("fp32", {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}, "without offloading"),
        ("bf16", {"zero_optimization": {"stage": 2}}, "trains in fp32"),
        ("fp32", {"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, "trains in fp32"),
        ("fp32", {"zero_optimization": {"stage": 2}, "optimizer": {"type": "Adam"}}, "the recipe's optimizer"),
    ],
)
def test_deepspeed_whose_state_could_not_be_kept_is_refused(precision, settings, complaint):
    plugin = SimpleNamespace(deepspeed_config=settings)
    runs_on = SimpleNamespace(
        distributed_type=DistributedType.DEEPSPEED,
        parallelism_config=None,
        mixed_precision="bf16" if "bf16" in settings else "no",
        state=SimpleNamespace(deepspeed_plugin=plugin),
    )
    with pytest.raises(UserError, match=complaint):
        check(runs_on, precision)
    plugin.deepspeed_config = {"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "none"}}}
    runs_on.mixed_precision = "no"
    check(runs_on, "fp32")


@pytest.mark.launch
@pytest.mark.parametrize("name", launched.MICRO)
def test_two_processes_equal_one(ends, tmp_path, name):
    """In weights, buffers, averages and what is logged, with and without micro-batches."""
    alone = trained(tmp_path, changes={"micro_batch": launched.MICRO[name]})
    together = saved(ends / name)
    assert distance(together, alone) < 1e-5
    assert all(together[key].equal(value) for key, value in alone.items() if not value.is_floating_point())
    lines = zip(toys.numbers(ends / name), toys.numbers(tmp_path), strict=True)
    for number, (ours, theirs) in enumerate(lines):
        assert ours.keys() == theirs.keys() and number < 10
        assert all(math.isclose(ours[key], theirs[key], rel_tol=1e-4, abs_tol=1e-6) for key in ours)


@pytest.mark.launch
def test_two_processes_resume_to_the_bit(ends):
    toys.assert_same(saved(ends / "whole"), saved(ends / "parts"))


@pytest.mark.launch
def test_one_process_goes_on_where_two_stopped(ends, tmp_path):
    """And ends where it would have ended had it begun."""
    resumed = launched.trainer(tmp_path / "resumed", toys.accelerator())
    resumed.restore(checkpoint.open_checkpoint(ends / "plain" / "checkpoints" / "step-5"))
    resumed.run()
    assert distance(saved(tmp_path / "resumed"), trained(tmp_path / "alone")) < 1e-5


@pytest.mark.launch
def test_checkpoint_of_two_processes_opens_in_a_plain_one(ends, tmp_path):
    """Every tensor of it, moments among them, is what that one would save."""
    opened = checkpoint.latest(ends / "whole" / "checkpoints")
    plain = launched.stage(adam=True, wrapped=False)
    checkpoint.restore(opened, plain)
    again = toys.saved(checkpoint.save(tmp_path, plain, opened.state, 1))
    toys.assert_same(toys.saved(opened.path), again)
    assert sum(key.startswith("optimizers:") for key in again) == 4 * 3


@pytest.mark.launch
def test_gradient_that_is_not_finite_stops_all_before_a_weight_moves(ends):
    for rank in range(2):
        end = json.loads((ends / f"{rank}.json").read_text())
        assert "training diverged: in phase student of step 3, the gradient of student" in end["said"]
        assert (end["saved"], end["kept"]) == (3, True)


@needs_vqgan
@pytest.mark.launch
@pytest.mark.slow
def test_prior_of_codes_trains_in_two_processes_and_goes_on_in_one(tmp_path, zoo):
    """Both stages by one command; the second, whose network is wrapped, is interrupted and finished by one process."""
    pictures = toys.write_pictures(tmp_path / "pets")
    settings = {
        "train.batch": 4,
        "train.images": 8,
        "train.log_images": 4,
        "train.stages.prior": "{images: 40000, batch: 4, log_images: 4}",
        "generator.channels": 32,
        "generator.z_channels": 8,
        "generator.quantizer": "{kind: nearest, num_codes: 16, embed_dim: 8}",
        "generator.prior": "{layers: 1, heads: 2, dim: 16}",
        "discriminator": "{name: patch, channels: 4, layers: 1}",
    }
    arguments = ["train", "--plugin", "vqgan", "--data", pictures, "--out", "x", "--no-measure"]
    arguments += [f"--set={name}={value}" for name, value in settings.items()]
    run = tmp_path / "x"
    with launch(tmp_path, "-m", "zoo_core", *arguments) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and not _steps_of_prior(run):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        said, _ = process.communicate(timeout=120)
    assert said.count("Stopped and saved") == 1, said
    stopped = checkpoint.latest(run / "checkpoints" / "prior").step
    assert stopped

    arguments += [f"--set=train.stages.prior.images={4 * (stopped + 2)}"]
    ran = zoo(*arguments)
    assert ran.returncode == 0, ran.stderr
    assert f"Resuming from step {stopped} of stage prior" in ran.stdout
    assert [line["step"] for line in _steps_of_prior(run)] == list(range(1, stopped + 3))


def _steps_of_prior(run: Path) -> list[dict]:
    lines = toys.numbers(run) if (run / "metrics.jsonl").exists() else []
    return [line for line in lines if line.get("stage") == "prior"]
