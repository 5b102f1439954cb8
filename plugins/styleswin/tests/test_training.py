"""The stage trains as the official code does: three steps of the trainer against its numbers; its learning rates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from goldens import Case, drawn
from torch import Tensor, nn

from zoo_core import parts, recipe, session
from zoo_core.journal import Journal
from zoo_core.program import Batch, Clock, Phase, Stage
from zoo_core.rng import Rng
from zoo_core.trainer import Trainer
from zoo_styleswin import convert

BATCH = 4

TOLERANCE = (5e-4, 1e-3, 5e-3)
"""Relative, by step."""
SIGNS = (
    "Adam divides a gradient by its own size, so where it is next to nothing rounding chooses the sign of a whole "
    "step: the same three steps in float64 end 3e-4 from the golden's logits and 4e-4 from its R1."
)
SUMS = "Relative to the parameter's norm, since the numbers of a sum cancel; signs that rounding chooses move it."


class Given(Rng):
    """An Rng that has one thing to give: the golden's z."""

    def __init__(self, z: Tensor) -> None:
        super().__init__(range(len(z)))
        self.z = z

    def fork(self, name: str) -> Given:
        return self

    def normal(self, *shape: int) -> Tensor:
        assert self.z.shape[1:] == shape
        return self.z


class GoldenTrainer(Trainer):
    """The trainer, with the golden's images and z in place of the data's and its own."""

    def _load(self, phase: Phase, index: int) -> Batch:
        network = "g" if phase.name == "generator" else "d"
        z = drawn(f"train:z{network}:{self.step}", (BATCH, 512))
        return Batch(drawn(f"train:real:{self.step}", (BATCH, 3, 16, 16)), None, Given(z))


def build(case: Case) -> tuple[recipe.Recipe, Stage]:
    """The published recipe at the golden's size, with its weights."""
    g, d, width = case.meta["g_ctor"], case.meta["d_ctor"], "channel_multiplier"
    changes = {
        "generator": {"style_dim": g["style_dim"], "mapping_layers": g["n_mlp"], width: g[width]},
        "discriminator": {width: d[width], "spectral_norm": d["sn"]},
        "loss": {"r1": case.meta["r1"], "r1_every": case.meta["r1_weight_interval"]},
        "loss.consistency_real": 0,
        "loss.consistency_fake": 0,
        "data": {"resolution": g["size"]},
        "train": {"images": BATCH * len(TOLERANCE), "batch": BATCH, "decay_from_images": 0},
    }
    wanted = recipe.load("styleswin", "ffhq256", list(changes.items()))
    built = parts.build(wanted)
    built.generator.load_state_dict(convert.from_official(case.weights("g"), convert.GENERATOR))
    built.discriminator.load_state_dict(convert.from_official(case.weights("d"), convert.DISCRIMINATOR))
    (stage,) = session.build_stages(wanted, built)
    # The golden is short, so it takes R1 more often, with the weight and Adam's correction of the usual interval.
    return wanted, toys.with_phase(stage, "r1", every=case.meta["r1_every_in_this_test"])


def official_figures(network: nn.Module, table: convert.Table, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """L2 norm and sum of each parameter, in the golden's order."""
    state = convert.to_official(network.state_dict(), table)
    tensors = [state[name].double() for name in names]
    return np.array([float(x.norm()) for x in tensors]), np.array([float(x.sum()) for x in tensors])


@pytest.mark.parity
def test_three_steps_give_the_official_numbers(tmp_path: Path) -> None:
    case = Case("styleswin/train_s16")
    wanted, stage = build(case)
    passes: list[Tensor] = []
    stage.networks["discriminator"].register_forward_hook(lambda module, inputs, output: passes.append(output))
    runs_on = toys.accelerator()
    journal = Journal(tmp_path / "metrics.jsonl", runs_on)
    trainer = GoldenTrainer(wanted, stage, toys.images(), runs_on, journal, tmp_path / "checkpoints")

    for step, tolerance in enumerate(TOLERANCE):
        numbers = trainer._one_step()
        trainer.step += 1
        figures = {
            "d_loss": "discriminator",
            "d_gradnorm": "gradient/discriminator.discriminator",
            "g_loss": "generator",
        }
        regularised = f"{step}/r1" in case.data
        for theirs, ours in (figures | {"r1": "r1"} if regularised else figures).items():
            quantity = f"losses, R1 and gradient norms, step {step + 1}"
            case.check_numbers("training step", quantity, f"{step}/{theirs}", [numbers[ours]], tolerance, why=SIGNS)
        fake, real, *r1, fake_for_generator = passes
        assert len(r1) == regularised
        logits = {"real_logits": real, "fake_logits": fake, "fake_logits_g": fake_for_generator}
        for theirs, value in logits.items():
            case.check("training step", f"logits, step {step + 1}", f"{step}/{theirs}", value, tolerance, why=SIGNS)
        passes.clear()

    (average,) = stage.averages
    for name, network, table in (
        ("g", stage.networks["generator"], convert.GENERATOR),
        ("ema", average.network, convert.GENERATOR),
        ("d", stage.networks["discriminator"], convert.DISCRIMINATOR),
    ):
        module = "moving average" if name == "ema" else "training step"
        norms, sums = official_figures(network, table, case.meta["d_names" if name == "d" else "g_names"])
        case.check_numbers(module, "norms of parameters after step 3", f"final/{name}_l2", norms, 5e-5)
        error = np.abs(sums - case.data[f"final/{name}_sum"]) / norms
        case.note(module, "sums of parameters after step 3", error.max(), 1e-2, count=error.size, why=SUMS)
    image = average.network(drawn("train:zeval", (2, 512)))
    case.check("moving average", "image after step 3", "final/ema_image", image)


def test_learning_rates_fall_from_the_uncorrected_value_as_in_the_official_code() -> None:
    images, start, batch = 320, 192, 32
    settings = {"train.images": images, "train.decay_from_images": start}
    wanted = recipe.load("styleswin", "ffhq256", list(settings.items()))
    with torch.device("meta"):
        (stage,) = session.build_stages(wanted, parts.build(wanted))
    for step in range(images // batch):
        clock = Clock(step, batch, images)
        generator, discriminator = (
            stage.schedules[name](clock) * stage.optimizers[name].param_groups[0]["lr"]
            for name in ("generator", "discriminator")
        )
        # The official code subtracts a share of the rate in each step after the start, and sets the discriminator's to
        # four times the generator's; only until then has that one the factor 16 / 17.
        falling = 5e-5 * (1 - max(0, step - 6) / 4)
        assert generator == pytest.approx(falling, rel=1e-6)
        assert discriminator == pytest.approx(4 * falling if step > 6 else 2e-4 * 16 / 17)
