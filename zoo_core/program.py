"""What a training stage is made of: networks, optimizers, phases, averages. The trainer runs it and knows no more."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from zoo_core.data import ImageSet
from zoo_core.interfaces import Generator
from zoo_core.recipe import Averaging, Optimizer
from zoo_core.rng import Rng


@dataclass(frozen=True)
class Batch:
    """Real images for one phase: `image [B, 3, H, W]` in the recipe's pixel space, `label [B]` int64 or None."""

    image: Tensor
    label: Tensor | None
    rng: Rng
    """This phase's random streams, one row per image."""
    maps: Tensor | None = None
    """What `data.maps` names: label maps `[B, 1, H, W]` int64, or depth `[B, 1, H, W]` float32 in the file's units."""

    def __len__(self) -> int:
        return len(self.image)


@dataclass
class Clock:
    """Where training stands. Real images are the unit of time; `step` counts whole batches."""

    step: int
    batch: int
    total_images: int
    terms: dict[str, Tensor] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Real images seen before this step."""
        return self.step * self.batch

    def record(self, name: str, value: Tensor) -> None:
        """Note one term for the log; a term that is not finite stops the run by this name."""
        self.terms[name] = value.detach().float().mean()


LossFunction = Callable[[Batch, Clock], dict[str, Tensor]]


@dataclass(frozen=True)
class Phase:
    """One gradient step: `loss(batch, clock)` returns one scalar for each network in `trains`."""

    name: str
    trains: tuple[str, ...]
    loss: LossFunction
    every: int = 1
    """Runs in the steps that this divides, step 0 among them."""
    start: int = 0
    """The first step in which it may run."""
    clip_norm: float = 0.0
    """Largest gradient norm of each trained network; 0 is off."""

    def due(self, step: int) -> bool:
        """Whether it runs in this step."""
        return step >= self.start and step % self.every == 0


class Average:
    """An exponential moving average of a network's weights, updated after each step that trained it."""

    def __init__(self, of: str, network: nn.Module, spec: Averaging) -> None:
        self.of = of
        self.spec = spec
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, clock: Clock, elapsed: int = 1) -> None:
        """Move towards `network`; before `start_images` copy it.

        `clock` stands at the step just done, `elapsed` steps after the last one that trained the network.
        """
        decay = self.spec.decay or 0.5 ** (elapsed * clock.batch / self.spec.half_life_images)
        if clock.images + clock.batch <= self.spec.start_images:
            decay = 0.0
        ours, theirs = self.network.state_dict(keep_vars=True), network.state_dict(keep_vars=True)
        for name, value in theirs.items():
            averaged = isinstance(value, nn.Parameter) or self.spec.buffers == "average"
            if averaged and decay and value.is_floating_point():
                ours[name].lerp_(value.detach(), 1 - decay)
            else:
                ours[name].copy_(value)


Schedule = Callable[[Clock], float]
"""Learning-rate factor at a step: a pure function of the clock, so that resuming needs no state."""


@dataclass(frozen=True)
class Stage:
    """One stretch of training with its own networks and budget."""

    networks: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]
    phases: tuple[Phase, ...]
    averages: tuple[Average, ...] = ()
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    name: str = "main"
    picture: Callable[[Generator, Tensor], Tensor] | None = None
    """What its sample grids show: the generator as people see it (averaged weights) and real images in the recipe's
    pixel space -> images in [-1, 1], a multiple of as many. None: what the generator draws."""
    pictured: Literal["images", "maps"] = "images"
    """What `picture` is given: real images, or the maps of them, as `Batch.maps` has them."""
    sheets: Mapping[str, Callable[[], np.ndarray]] = field(default_factory=dict)
    """Further pictures by name, `[h, w, 3]` uint8, made with every sample grid but that of step 0."""
    conclude: Callable[[Clock], Mapping[str, float]] | None = None
    """Called in every process when the phases of a step are done; what it answers goes into the log."""
    begin: Callable[[ImageSet], None] | None = None
    """Called once with the data, before any stage trains and before anything is written: loads what only training
    needs, or refuses."""
    pretrained: tuple[str, ...] = ()
    """Networks trained on other data that its losses look through, by name: comparisons say so."""
    wrapped: bool = False
    """Its one network is trained by one phase, whose loss calls it through `forward` only and finds it in `networks`,
    a dict: accelerate may wrap it, and the trainer puts the wrapped one in there."""

    def __post_init__(self) -> None:
        if self.wrapped:
            assert isinstance(self.networks, dict), self.name
            assert len(self.networks) == len(self.optimizers) == len(self.phases) == 1, self.name
        for phase in self.phases:
            assert set(phase.trains) <= set(self.optimizers) <= set(self.networks), phase.name


class EpsilonHatAdam(torch.optim.Adam):
    """Adam whose epsilon is added to the uncorrected root, as TensorFlow does (Kingma and Ba, end of section 2).

    theta -= lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps); torch's own form with eps / sqrt(1 - b2^t).
    """

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step, with epsilon rescaled for this step's bias correction."""
        given = [group["eps"] for group in self.param_groups]
        for group in self.param_groups:
            states = (self.state.get(parameter) for parameter in group["params"])
            taken = next((int(state["step"]) for state in states if state), 0)  # the same for all; reading it waits
            group["eps"] = group["eps"] / (1 - group["betas"][1] ** (taken + 1)) ** 0.5
        try:
            return super().step(closure)
        finally:
            for group, eps in zip(self.param_groups, given, strict=True):
                group["eps"] = eps


def adam(network: nn.Module, spec: Optimizer, *, lr_scale: float = 1.0, beta_power: float = 1.0) -> torch.optim.Adam:
    """Adam over a network's trainable parameters; fused where torch can (2.8x on a CPU).

    `lr_scale` and `beta_power` are a paper's corrections for lazily run penalties.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    kind = EpsilonHatAdam if spec.epsilon_hat else torch.optim.Adam
    return kind(
        parameters,
        lr=spec.lr * lr_scale,
        betas=(spec.betas[0] ** beta_power, spec.betas[1] ** beta_power),
        eps=spec.eps,
        weight_decay=spec.weight_decay,
        fused=all(parameter.device.type in ("cpu", "cuda") for parameter in parameters),
    )
