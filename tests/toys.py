"""Toy networks, images and stages: small enough to train twenty steps in a blink, whole enough to be a run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import one_hot

from zoo_core import losses
from zoo_core.adversarial import Game
from zoo_core.data import ImageSet
from zoo_core.interfaces import Discriminator, LatentGenerator
from zoo_core.journal import Journal
from zoo_core.parts import Parts
from zoo_core.program import Batch, Clock, Stage, adam
from zoo_core.recipe import Averaging, Data, Optimizer, Part, Recipe, Train
from zoo_core.rng import seed_of
from zoo_core.trainer import Trainer

RESOLUTION = 8


class ToyGenerator(LatentGenerator):
    """Two linear layers; with `norm`, batch norm between them."""

    def __init__(self, *, resolution: int, num_classes: int = 0, latent_dim: int = 4, norm: bool = False) -> None:
        super().__init__()
        self.resolution, self.num_classes, self.latent_dim = resolution, num_classes, latent_dim
        self.enter = nn.Linear(latent_dim + num_classes, 16)
        self.norm = nn.BatchNorm1d(16) if norm else nn.Identity()
        self.leave = nn.Linear(16, 3 * resolution**2)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        if self.num_classes:
            z = torch.cat([z, one_hot(label, self.num_classes).to(z)], 1)
        hidden = self.norm(self.enter(z)).tanh()
        return self.leave(hidden).view(-1, 3, self.resolution, self.resolution)


class ToyDiscriminator(Discriminator):
    """A convolution and a linear layer, smooth, so that R1 has something to differentiate."""

    def __init__(self, *, resolution: int, num_classes: int = 0, channels: int = 8, norm: bool = False) -> None:
        super().__init__()
        self.resolution, self.num_classes = resolution, num_classes
        self.enter = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.leave = nn.Linear(channels * (resolution // 2) ** 2, max(num_classes, 1))

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        logits = self.leave(self.norm(self.enter(image)).tanh().flatten(1))
        return logits.gather(1, label[:, None]) if self.num_classes else logits


def images(num: int = 20, classes: int = 0) -> ImageSet:
    """Random pictures, always the same ones."""
    drawn = np.random.default_rng(0)
    pixels = drawn.integers(0, 256, (num, RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
    labels = drawn.integers(0, classes, num) if classes else None
    return ImageSet(
        images=pixels,
        labels=labels,
        classes=tuple(f"class {i}" for i in range(classes)),
        name="toy",
        key="toy",
        content=hashlib.sha256(pixels.tobytes()).hexdigest(),
        resolution=RESOLUTION,
        filter="none",
        crop="none",
        rejected=(),
        meta={},
    )


def recipe(*, labels: int = 0, loss: dict[str, Any] | None = None, lr: float = 1e-2, **train: Any) -> Recipe:
    """Twenty steps of four images; `loss` has the adversarial terms, `train` changes the train section."""
    settings = {
        "images": 80,
        "batch": 4,
        "log_images": 4,
        "optimizers": {name: Optimizer(lr, (0.0, 0.9)) for name in ("generator", "discriminator")},
        "averages": {"generator": Averaging(half_life_images=20)},
        **train,
    }
    classes = tuple(f"class {i}" for i in range(labels))
    return Recipe(
        plugin="toy",
        generator=Part("toy"),
        discriminator=Part("toy"),
        loss=Part("logistic", loss or {}),
        data=Data(RESOLUTION, labels=bool(labels), mirror=True, classes=classes),
        train=Train(**settings),
    )


def stage(wanted: Recipe, *, norm: bool = False, channels: int = 8) -> Stage:
    """The adversarial stage around toy networks."""
    built = {}
    for name, make in (("generator", ToyGenerator), ("discriminator", ToyDiscriminator)):
        torch.manual_seed(seed_of(wanted.train.seed, "init", name))
        more = {"channels": channels} if name == "discriminator" else {}
        built[name] = make(resolution=RESOLUTION, num_classes=wanted.data.condition, norm=norm, **more)
    game = Game(wanted, Parts(**built, loss=losses.Logistic, loss_options=wanted.loss.options))
    return game.stage({name: adam(network, game.optimizer_spec(name)) for name, network in built.items()})


def accelerator(precision: str = "no") -> Accelerator:
    """A fresh one; accelerate keeps the first one's settings otherwise."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=True, mixed_precision=precision)


def trainer(
    folder: Path,
    wanted: Recipe,
    *,
    made: Stage | None = None,
    change: Callable[[Stage], Stage] = lambda made: made,
    runs_on: Accelerator | None = None,
    norm: bool = False,
    **options: Any,
) -> Trainer:
    """A trainer of toys whose run is kept in `folder`; `change` may put other phases in."""
    runs_on = runs_on or accelerator("bf16" if wanted.train.precision == "bf16" else "no")
    folder.mkdir(parents=True, exist_ok=True)
    made = change(made or stage(wanted, norm=norm))
    journal = Journal(folder / "metrics.jsonl", runs_on)
    pictures = images(classes=len(wanted.data.classes))
    return Trainer(wanted, made, pictures, runs_on, journal, folder / "checkpoints", **options)


def state(made: Stage) -> dict[str, Tensor]:
    """Copies of all that a stage has learnt: weights, buffers, averages and moments."""
    found = {f"{name}/{key}": value for name, net in made.networks.items() for key, value in net.state_dict().items()}
    for average in made.averages:
        found |= {f"average/{average.of}/{key}": value for key, value in average.network.state_dict().items()}
    for name, optimizer in made.optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            found |= {f"optimizer/{name}/{index}/{key}": value for key, value in moments.items()}
    return {name: value.detach().clone() for name, value in found.items()}


def write_pictures(folder: Path, num: int = 8) -> Path:
    """A folder with subfolders cat, dog and owl of `num` PNG files each; returns it."""
    drawn = np.random.default_rng(1)
    for name in ("cat", "dog", "owl"):
        (folder / name).mkdir(parents=True)
        for i in range(num):
            pixels = drawn.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def saved(checkpoint: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder."""
    files = ("networks", "averages", "optimizers")
    return {
        f"{file}:{name}": value.clone()  # safetensors maps the file
        for file in files
        for name, value in load_file(checkpoint / f"{file}.safetensors").items()
    }


def numbers(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that are measurements, without those that depend on the clock on the wall."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "images_per_second")
    return [{name: line[name] for name in line if name not in timed} for line in lines if "event" not in line]


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Equal to the bit."""
    assert first.keys() == second.keys()
    differing = [name for name, value in first.items() if not torch.equal(value, second[name])]
    assert not differing


def during(made: Stage, name: str, step: int, act: Callable[[], None]) -> Stage:
    """The stage with something that happens once, in the first micro-batch of a phase of one step."""
    (phase,) = [phase for phase in made.phases if phase.name == name]
    left = [act]

    def loss(batch: Batch, clock: Clock) -> dict[str, Tensor]:
        if clock.step == step and left:
            left.pop()()
        return phase.loss(batch, clock)

    return with_phase(made, name, loss=loss)


def with_phase(made: Stage, name: str, **changes: Any) -> Stage:
    """The stage with one phase changed."""
    phases = [dataclasses.replace(phase, **changes) if phase.name == name else phase for phase in made.phases]
    return dataclasses.replace(made, phases=tuple(phases))
