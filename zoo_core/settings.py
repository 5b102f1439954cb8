"""What a recipe consists of: frozen dataclasses with their checks. No torch, no files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zoo_core.errors import UserError


@dataclass(frozen=True)
class Part:
    """A component by name (`full` or `core/full`) and its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """Which images, and in which form the networks see them."""

    resolution: int
    source: str = ""
    """A folder or a zip; empty: the built-in drawings."""
    pixels: Literal["symmetric", "imagenet"] = "symmetric"
    """[-1, 1], or normalised by ImageNet's mean and deviation."""
    labels: bool = False
    """Whether the networks are given the class."""
    maps: Literal["", "labels", "depth"] = ""
    """A map for each image, which the networks are given: the source then has two folders, `images` and one of this
    name, with files of the same names."""
    mirror: bool = False
    """Mirror each image with probability 1/2."""
    filter: Literal["lanczos", "bicubic", "bilinear", "box"] = "lanczos"
    crop: Literal["center", "none"] = "center"
    """`center`: the largest central square; `none`: squash to a square."""
    num_classes: int = 0
    """How many classes the networks are built for; 0: as many as the data has. The data must have as many."""
    classes: tuple[str, ...] = ()
    """Class names, written by the run itself."""

    def __post_init__(self) -> None:
        if self.resolution < 4 or self.resolution & (self.resolution - 1):
            raise UserError(f"data.resolution must be a power of two from 4 on, not {self.resolution}.")

    @property
    def condition(self) -> int:
        """Classes that the networks are given: 0 unless `labels`."""
        return (self.num_classes or len(self.classes)) if self.labels else 0


@dataclass(frozen=True)
class Optimizer:
    """Adam for one network."""

    lr: float
    betas: tuple[float, float] = (0.0, 0.99)
    eps: float = 1e-8
    epsilon_hat: bool = False
    """TensorFlow's place for epsilon: beside the uncorrected root."""
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    """Largest gradient norm in the main phase; 0 is off."""

    def __post_init__(self) -> None:
        for name in ("lr", "eps"):
            if getattr(self, name) <= 0:
                raise UserError(f"an optimizer's {name} must be above 0, not {getattr(self, name)}.")
        for name in ("weight_decay", "clip_norm"):
            if getattr(self, name) < 0:
                raise UserError(f"an optimizer's {name} cannot be negative.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"an optimizer's betas must be from 0 to below 1, not {list(self.betas)}.")


@dataclass(frozen=True)
class Averaging:
    """Exponential moving average of one network's weights."""

    decay: float = 0.0
    """Per step. Give this or `half_life_images`."""
    half_life_images: float = 0.0
    """The weight of an image's influence halves after so many images."""
    start_images: int = 0
    """Until then the average is a copy."""
    buffers: Literal["copy", "average"] = "copy"
    """Running statistics: take the network's own, or average them too."""

    def __post_init__(self) -> None:
        if (self.decay > 0) == (self.half_life_images > 0):
            raise UserError("an average needs one of decay and half_life_images above 0, and not both.")
        if not 0 <= self.decay < 1:
            raise UserError(f"the decay of an average must be below 1, not {self.decay}.")


@dataclass(frozen=True)
class Train:
    """How long, how much at a time, and how often to look."""

    images: int
    """The budget, in real images."""
    batch: int
    """Images per step, over all processes and micro-batches."""
    micro_batch: int = 0
    """Images per process at a time; 0: all of the process's share at once."""
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    optimizers: dict[str, Optimizer] = field(default_factory=dict)
    averages: dict[str, Averaging] = field(default_factory=dict)
    decay_from_images: int = 0
    """From here the learning rates fall linearly to 0 at `images`; 0 is off."""
    checkpoint_images: int = 0
    """Cadence of checkpoints; 0: only at the end."""
    sample_images: int = 0
    """Cadence of sample grids; 0: only first and last."""
    log_images: int = 0
    """Cadence of lines in metrics.jsonl; 0: about 1,000 lines in all."""
    keep: int = 2
    """Checkpoints to keep."""
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What one stage of several has otherwise than these values: `{prior: {images: 100_000, batch: 8}}`."""

    def __post_init__(self) -> None:
        for name in ("images", "batch", "keep"):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("micro_batch", "checkpoint_images", "sample_images", "log_images", "decay_from_images"):
            if getattr(self, name) < 0:
                raise UserError(f"train.{name} cannot be negative.")
        if self.images < self.batch:
            raise UserError(f"train.images={self.images} is less than one batch of {self.batch}.")


@dataclass(frozen=True)
class Evaluate:
    """Figures measured before the first step and after the last; 0 images is off."""

    num: int = 0
    extractor: str = "random-conv"
    metrics: tuple[str, ...] = ("fid",)
    during: bool = False
    """Also measured with each sample grid of the last stage, for curves."""

    def __post_init__(self) -> None:
        if self.num < 0:
            raise UserError("evaluate.num cannot be negative; 0 is off.")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run."""

    plugin: str
    generator: Part
    data: Data
    train: Train
    discriminator: Part | None = None
    loss: Part | None = None
    evaluate: Evaluate = Evaluate()
    sections: Mapping[str, Part] = field(default_factory=dict)
    """Further parts that this plugin's recipes have."""

    def part(self, kind: str) -> Part | None:
        """The generator, discriminator, loss or further section by name."""
        return getattr(self, kind) if kind in PARTS else self.sections.get(kind)

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


PARTS = ("generator", "discriminator", "loss")
