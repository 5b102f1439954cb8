"""Codes while they train: counted over many images, pictured, restarted; and all of it the same however it is split."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
import vqgan_stage1
from launching import launch
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo_core import checkpoint, session
from zoo_core.errors import UserError
from zoo_core.program import Batch, Clock
from zoo_core.rng import Rng
from zoo_vqgan import autoencoder_stage
from zoo_vqgan.code_health import CodeHealth
from zoo_vqgan.options import QuantizerOptions
from zoo_vqgan.quantizers.nearest import NearestQuantizer
from zoo_vqgan.quantizers.usage import Tally, Usage, count
from zoo_vqgan.quantizers.usage_sheet import DEAD, MAP, usage_sheet


def test_a_tally_speaks_of_the_last_images_and_forgets_those_before() -> None:
    tally = Tally(3, 80)
    for step in range(40):
        tally.add(torch.tensor([5, 0, step == 0]), 5)
        assert tally.usage.counts.tolist() == [tally.num_images, 0, int(5 * step < tally.num_images)]
        assert min(5 * step + 5, 80) <= tally.num_images <= 90


def test_micro_batches_are_counted_and_restarted_as_one_batch() -> None:
    options = QuantizerOptions(num_codes=12, embed_dim=3, usage_images=8, restart_images=8)
    z = torch.randn(4, 3, 4, 4)
    ends, numbers = [], []
    for parts in (1, 2):
        torch.manual_seed(0)
        quantizer = NearestQuantizer(num_codes=12, dim=3)
        before = quantizer.codebook.detach().clone()
        health = CodeHealth(quantizer, options, seed=0)
        for step in range(2):
            clock = Clock(step, 4, 80)
            for part in z.chunk(parts):
                health.quantize(part, Rng.fresh(len(part)), clock)
            dead = Usage(count(quantizer(z).codes, 12)).dead
            numbers.append(health.conclude(clock))
        ends.append(quantizer.codebook.detach())
    assert torch.equal(*ends) and numbers[:2] == numbers[2:]
    assert dead.any() and numbers[1]["usage/restarted"] == numbers[1]["dead_codes"] == dead.sum()
    assert torch.equal(ends[0][~dead], before[~dead])
    rows = z.permute(0, 2, 3, 1).flatten(0, 2)
    assert all((row == rows).all(1).any() for row in ends[0][dead])
    assert "usage/restarted" not in numbers[0] and numbers[1]["usage/images"] == 8


def test_no_code_restarts_before_the_use_of_as_many_images_as_asked_is_known() -> None:
    options = QuantizerOptions(num_codes=12, embed_dim=3, usage_images=12, restart_images=8)
    health, restarted = CodeHealth(NearestQuantizer(num_codes=12, dim=3), options, seed=0), []
    for step in range(4):
        clock = Clock(step, 4, 80)
        health.quantize(torch.randn(4, 3, 2, 2), Rng.fresh(4), clock)
        restarted.append("usage/restarted" in health.conclude(clock))
    assert restarted == [False, False, False, True]  # 8 of 12 images were seen when the second step ended


@pytest.mark.parametrize("kind", ["nearest", "ema"])
def test_a_resumed_run_counts_and_restarts_to_the_bit(tmp_path: Path, kind: str) -> None:
    asked = vqgan_stage1.wanted(vqgan_stage1.SCENARIOS[kind], checkpoint_images=24)
    whole = vqgan_stage1.trainer(tmp_path / "whole", asked)
    whole.run()
    half = vqgan_stage1.trainer(tmp_path / "half", vqgan_stage1.wanted(vqgan_stage1.SCENARIOS[kind], images=24))
    half.run()
    resumed = vqgan_stage1.trainer(tmp_path / "half", asked)
    resumed.restore(checkpoint.latest(tmp_path / "half/checkpoints"))
    resumed.run()
    toys.assert_same(toys.state(whole.stage), toys.state(resumed.stage))
    lines = toys.numbers(tmp_path / "whole")
    assert lines == toys.numbers(tmp_path / "half")
    assert [line["usage/images"] for line in lines] == ([8] * 6 if kind == "nearest" else [8, 16, 24, 24, 24, 24])
    assert lines[-1]["codes_in_use"] == pytest.approx(1 - lines[-1]["dead_codes"] / 64)
    assert max(line.get("usage/restarted", 0) for line in lines) > 0


def test_restarted_codes_come_into_use(tmp_path: Path) -> None:
    used = {}
    for every in (0, 8):
        asked = vqgan_stage1.wanted({"kind": "nearest", "restart_images": every, "usage_images": 8})
        vqgan_stage1.trainer(tmp_path / str(every), asked).run()
        used[every] = toys.numbers(tmp_path / str(every))[-1]["codes_in_use"]
    assert used[8] > 1.3 * used[0]


def test_a_moving_table_moves_once_a_step_with_a_second_pass_too() -> None:
    tables = []
    for second in (True, False):
        running = vqgan_stage1.stage(vqgan_stage1.wanted({"kind": "ema"}, loss={"second_pass": second}))
        image = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        batch = Batch(image, None, Rng.of("test", rows=range(4)))
        for phase in running.phases:
            phase.loss(batch, Clock(0, 4, 8))
        tables.append(running.networks["autoencoder"].quantize.embedding)
    assert torch.equal(*tables)


def test_the_temperature_of_gumbel_follows_the_clock_and_is_logged(tmp_path: Path) -> None:
    options = {"temperature": 0.9, "temperature_end": 0.1, "temperature_images": 32}
    asked = vqgan_stage1.wanted(
        {"kind": "gumbel", **options, "temperature_start": 0.5, "temperature_warm_up_images": 16}
    )
    vqgan_stage1.trainer(tmp_path, asked).run()
    found = [line["temperature"] for line in toys.numbers(tmp_path)]
    assert found == pytest.approx([0.5, 0.7, 0.9, 0.5, 0.1, 0.1])


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"kind": "gumbel", "restart_images": 8}, "restart_images must be 0: gumbel"),
        ({"remap": "used.npy", "restart_images": 8}, "restart_images must be 0: a remap"),
        ({"kind": "gumbel", "temperature": 0.0}, "above 0"),
        ({"kind": "gumbel", "temperature_warm_up_images": 8}, "less than temperature_images"),
        ({"usage_images": 0}, "usage_images of at least 1"),
        ({"beta": -0.25}, "beta cannot be negative; it is -0.25"),
        ({"kind": "gumbel", "kl_weight": -1.0}, "kl_weight cannot be negative"),
        ({"kind": "gumbel", "temperature_images": -1}, "temperature_images cannot be negative"),
    ],
)
def test_options_that_make_no_sense_end_in_a_sentence(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        QuantizerOptions(**options)


class Distance(nn.Module):
    """In LPIPS's place: remembers what it was given to draw with."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float | None] = []

    def forward(self, image: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.drawn.append(generator and float(torch.rand((), generator=generator)))
        return (image - target).abs().flatten(1).mean(1)


@pytest.mark.parametrize("dropout", [None, True, False])
def test_lpips_drops_differences_as_officially_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: bool | None
) -> None:
    drawn = []
    for run in ("one", "two"):
        distance = Distance()
        monkeypatch.setattr(autoencoder_stage, "load_lpips", lambda found=distance, **given: found)
        loss = {"perceptual": "lpips"} | ({} if dropout is None else {"perceptual_dropout": dropout})
        vqgan_stage1.trainer(tmp_path / run, vqgan_stage1.wanted({}, loss=loss, images=24)).run()
        drawn.append(distance.drawn)
    assert drawn[0] == drawn[1] and len(drawn[0]) == 3
    assert len(set(drawn[0])) == 3 if dropout is not False else set(drawn[0]) == {None}


def test_the_picture_marks_dead_codes_and_says_the_numbers_of_any_table() -> None:
    for counts in ([0], [3, 0, 1], [10**7, 1, 0, 0, 5]):
        sheet = usage_sheet(Usage(torch.tensor(counts)), 10)
        assert sheet.dtype == np.uint8 and sheet.shape[2] == 3 and sheet.min() < 100
    counts = torch.randint(0, 3, (256,), generator=torch.Generator().manual_seed(0))
    sheet = usage_sheet(Usage(counts), 4096)
    cells = sheet[MAP[1] :, MAP[0] :][8:256:16, 8:256:16].reshape(-1, 3)
    assert ((cells == DEAD).all(1) == (counts == 0).numpy()).all()


def test_a_run_keeps_a_picture_of_the_use_beside_every_grid_but_the_first(tmp_path: Path) -> None:
    toys.accelerator()
    asked = vqgan_stage1.wanted({}, sample_images=24)
    pictures = toys.write_pictures(tmp_path / "pictures")
    asked = asked.replace(data=dataclasses.replace(asked.data, source=str(pictures)))
    session.train(asked, tmp_path / "run", only="autoencoder", say=lambda text: None)
    found = sorted(path.name for path in (tmp_path / "run/samples").iterdir())
    grids = [f"autoencoder-images-{images:09d}.png" for images in (0, 24, 48)]
    assert found == grids + [f"autoencoder-usage-images-{images:09d}.png" for images in (24, 48)]


@pytest.fixture(scope="module")
def launched_in_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage1")
    with launch(folder, Path(vqgan_stage1.__file__), folder) as process:
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return folder


@pytest.mark.launch
@pytest.mark.parametrize("scenario", vqgan_stage1.SCENARIOS)
def test_two_processes_equal_one(launched_in_two: Path, tmp_path: Path, scenario: str) -> None:
    """The table, its restarts, the first normalisation, and what is said of them."""
    ours, theirs = (load_file(launched_in_two / scenario / f"{rank}.safetensors") for rank in range(2))
    toys.assert_same(ours, theirs)
    assert (launched_in_two / "1.json").read_text() == "2"
    alone = vqgan_stage1.trainer(tmp_path, vqgan_stage1.wanted(vqgan_stage1.SCENARIOS[scenario]), sgd=True)
    alone.run()
    for name, value in toys.state(alone.stage).items():
        assert torch.allclose(ours[name], value, rtol=1e-4, atol=1e-5), name
    for together, single in zip(toys.numbers(launched_in_two / scenario), toys.numbers(tmp_path), strict=True):
        assert together.keys() == single.keys()
        assert all(math.isclose(together[name], single[name], rel_tol=1e-3, abs_tol=1e-5) for name in single)
