"""VQGAN's first stage on toy images of 8 px. Started as a script, in several processes, it leaves each one's end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import launched
import toys
from accelerate import Accelerator
from safetensors.torch import save_file

from zoo_core import parts, recipe
from zoo_core.processes import open_accelerator
from zoo_core.program import Stage
from zoo_core.recipe import Recipe
from zoo_core.trainer import Trainer
from zoo_vqgan.stages import build

SCENARIOS: dict[str, dict[str, Any]] = {
    "ema": {"kind": "ema", "restart_images": 16},
    "nearest": {"kind": "nearest", "restart_images": 16, "usage_images": 8},
    "gumbel": {"kind": "gumbel", "temperature_images": 40},
}
"""Quantizers that processes must agree on. The adversarial terms count for nothing, as each process weighs its own."""


def wanted(quantizer: dict[str, Any], *, loss: dict[str, Any] | None = None, **train: Any) -> Recipe:
    """Six steps of eight images; the discriminator normalises activations."""
    sizes = {"channels": 32, "multipliers": [1, 2], "blocks": 1, "attention_resolutions": [], "z_channels": 32}
    return recipe.check(
        {
            "plugin": "vqgan",
            "generator": {
                **{"name": "vqgan", **sizes, "prior": {"layers": 1, "heads": 2, "dim": 16}},
                "quantizer": {"num_codes": 64, "embed_dim": 8, "usage_images": 24, **quantizer},
            },
            "discriminator": {"name": "patch", "channels": 8, "layers": 1, "norm": "activation"},
            "loss": {"name": "hinge", "perceptual": "none", "adversarial_start_images": 1000, **(loss or {})},
            "data": {"resolution": toys.RESOLUTION},
            "train": {
                **{"images": 48, "batch": 8, "log_images": 8, **train},
                "optimizers": {name: {"lr": 1e-3} for name in ("autoencoder", "discriminator", "prior")},
            },
        }
    )


def stage(asked: Recipe) -> Stage:
    """The autoencoder's."""
    return build(asked, parts.build(asked))[0]


def trainer(folder: Path, asked: Recipe, runs_on: Accelerator | None = None, *, sgd: bool = False) -> Trainer:
    """Of this stage; `sgd`: with plain gradient descent, which makes no steps of rounding."""
    made = stage(asked)
    return toys.trainer(folder, asked, made=launched.plainly(made) if sgd else made, runs_on=runs_on)


def main(folder: Path) -> None:
    """Run every scenario in this process."""
    runs_on = open_accelerator("fp32", folder)
    for name, quantizer in SCENARIOS.items():
        running = trainer(folder / name, wanted(quantizer), runs_on, sgd=True)
        running.run()
        save_file(toys.state(running.stage), folder / name / f"{runs_on.process_index}.safetensors")
    (folder / f"{runs_on.process_index}.json").write_text(json.dumps(runs_on.num_processes))
    runs_on.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
