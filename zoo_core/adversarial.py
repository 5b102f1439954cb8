"""The stage that a GAN paper fills in: its losses as phases, its penalties as options of the recipe's loss section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

from zoo_core.augment import augment, check_policy
from zoo_core.errors import UserError
from zoo_core.interfaces import Discriminator, LatentGenerator, Loss
from zoo_core.losses import consistency, r1_penalty
from zoo_core.parts import Parts, checked
from zoo_core.program import Average, Batch, Clock, Phase, Schedule, Stage
from zoo_core.recipe import Recipe
from zoo_core.rng import Rng
from zoo_core.schema import build, options_of

T = TypeVar("T")


@dataclass(frozen=True)
class Terms:
    """What the loss section of an adversarial recipe may say beside the loss's own options. 0 and () are off."""

    r1: float = 0.0
    """gamma in R1 = gamma / 2 * mean ||d D(real) / d image||^2."""
    r1_every: int = 16
    """R1 runs in every so many steps, with its weight multiplied by as many."""
    consistency_real: float = 0.0
    """Weight of bCR's real half: the judgement should not change under `consistency_augment`."""
    consistency_fake: float = 0.0
    consistency_augment: tuple[str, ...] = ("flip", "translation", "brightness", "saturation", "contrast", "cutout")
    augment: tuple[str, ...] = ()
    """DiffAugment: every image that the discriminator sees, real or fake, in both networks' phases."""
    generator_every: int = 1
    """The generator takes one step for so many of the discriminator's."""

    def __post_init__(self) -> None:
        for name in ("r1", "consistency_real", "consistency_fake"):
            if getattr(self, name) < 0:
                raise UserError(f"loss.{name} cannot be negative.")
        for name in ("r1_every", "generator_every"):
            if getattr(self, name) < 1:
                raise UserError(f"loss.{name} must be at least 1.")
        check_policy((*self.augment, *self.consistency_augment))


@dataclass(frozen=True)
class Judged:
    """Images and what the discriminator said of them."""

    image: Tensor
    label: Tensor | None
    logits: Tensor


class Game:
    """A generator against a discriminator: the phases and what else a stage needs."""

    def __init__(self, recipe: Recipe, parts: Parts) -> None:
        if parts.discriminator is None or parts.loss is None:
            raise UserError(f"{recipe.plugin} trains adversarially: the recipe needs discriminator and loss sections.")
        if not isinstance(parts.generator, LatentGenerator):
            raise UserError(f"the generator {recipe.generator.name} draws no latent vector; it has a stage of its own.")
        _check_labels(recipe, parts)
        self.recipe = recipe
        self.generator: LatentGenerator = parts.generator
        self.discriminator: Discriminator = parts.discriminator
        self.terms, self.loss = split_loss(parts, Terms)
        if self.terms.r1:
            _check_second_order(self.discriminator)

    def fake(self, rng: Rng, labelled: bool) -> tuple[Tensor, Tensor | None]:
        """Draw z (and uniform labels) and generate."""
        label = rng.fork("label").integers(0, self.recipe.data.condition) if labelled else None
        return self.generator(self.generator.latent(rng.fork("z")), label), label

    def judge(self, image: Tensor, label: Tensor | None, rng: Rng) -> Tensor:
        """The discriminator behind DiffAugment, if there is any."""
        return self.discriminator(augment(image, rng, self.terms.augment), label)

    def discriminator_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The loss on fakes and reals, with bCR when the recipe asks for it."""
        with torch.no_grad():
            image, label = self.fake(batch.rng, batch.label is not None)
        fake = self._judge_fake(image, label, batch.rng)
        return {"discriminator": self._tell_apart(fake, self._judge_real(batch), batch.rng, clock)}

    def r1_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Lazy R1 on the step's real images, without augmentation."""
        return {"discriminator": self._r1(batch, clock)[0]}

    def generator_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The generator's loss on fresh fakes."""
        image, label = self.fake(batch.rng, batch.label is not None)
        return {"generator": self._convince(self._judge_fake(image, label, batch.rng), clock)}

    def simultaneous_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Both networks' losses at the same parameters, from one pass of the fakes; R1 is added in its steps.

        The trainer takes of each loss its own network's gradient, so neither moves the other network.
        """
        image, label = self.fake(batch.rng, batch.label is not None)
        fake = self._judge_fake(image, label, batch.rng)
        generator = self._convince(fake, clock)
        penalty, real = 0.0, None
        if self.terms.r1 and clock.step % self.terms.r1_every == 0:
            penalty, real = self._r1(batch, clock)
        if real is None or self.terms.augment:  # R1's images are not augmented
            real = self._judge_real(batch)
        return {"generator": generator, "discriminator": self._tell_apart(fake, real, batch.rng, clock) + penalty}

    def _judge_real(self, batch: Batch) -> Judged:
        return Judged(batch.image, batch.label, self.judge(batch.image, batch.label, batch.rng.fork("augment real")))

    def _judge_fake(self, image: Tensor, label: Tensor | None, rng: Rng) -> Judged:
        with self.discriminator.on_fakes():
            return Judged(image, label, self.judge(image, label, rng.fork("augment fake")))

    def _convince(self, fake: Judged, clock: Clock) -> Tensor:
        """The generator's loss."""
        total = self.loss.generator(fake.logits)
        clock.record("generator", total)
        return total

    def _tell_apart(self, fake: Judged, real: Judged, rng: Rng, clock: Clock) -> Tensor:
        """The discriminator's loss, and bCR, which judges the images once more."""
        terms = self.terms
        total = self.loss.discriminator(real.logits, fake.logits)
        clock.record("discriminator", total)
        clock.record("logits_real", real.logits)
        clock.record("logits_fake", fake.logits)
        if terms.consistency_fake:
            changed = augment(fake.image.detach(), rng.fork("consistency fake"), terms.consistency_augment)
            with self.discriminator.on_fakes():
                term = consistency(fake.logits, self.discriminator(changed, fake.label))
            clock.record("consistency_fake", term)
            total = total + terms.consistency_fake * term
        if terms.consistency_real:
            changed = augment(real.image, rng.fork("consistency real"), terms.consistency_augment)
            term = consistency(real.logits, self.discriminator(changed, real.label))
            clock.record("consistency_real", term)
            total = total + terms.consistency_real * term
        return total

    def _r1(self, batch: Batch, clock: Clock) -> tuple[Tensor, Judged]:
        """R1 with its weight, and the judgement that it differentiated, which need not be made again."""
        logits: list[Tensor] = []

        def judge(image: Tensor) -> Tensor:
            logits.append(self.discriminator(image, batch.label))
            return logits[0]

        penalty = r1_penalty(judge, batch.image)
        clock.record("r1", penalty)
        weighted = 0.5 * self.terms.r1 * self.terms.r1_every * penalty
        return weighted, Judged(batch.image, batch.label, logits[0])

    def phases(self, order: Sequence[str] = ("discriminator", "r1", "generator")) -> tuple[Phase, ...]:
        """The phases that the recipe switches on, in the paper's order.

        "simultaneous" stands for all three: one step of both networks from the same parameters.
        Raises UserError for what a simultaneous step cannot do.
        """
        clip = {name: spec.clip_norm for name, spec in self.recipe.train.optimizers.items()}
        if "simultaneous" in order:
            self._check_simultaneous(clip)
        known = {
            "discriminator": Phase(
                "discriminator", ("discriminator",), self.discriminator_loss, clip_norm=clip.get("discriminator", 0.0)
            ),
            "r1": Phase("r1", ("discriminator",), self.r1_loss, every=self.terms.r1_every),
            "generator": Phase(
                "generator",
                ("generator",),
                self.generator_loss,
                every=self.terms.generator_every,
                clip_norm=clip.get("generator", 0.0),
            ),
            "simultaneous": Phase(
                "simultaneous",
                ("generator", "discriminator"),
                self.simultaneous_loss,
                clip_norm=clip.get("generator", 0.0),
            ),
        }
        return tuple(known[name] for name in order if name != "r1" or self.terms.r1)

    def _check_simultaneous(self, clip: dict[str, float]) -> None:
        if self.terms.generator_every > 1:
            raise UserError(f"{self.recipe.plugin} trains both networks in one step; loss.generator_every must be 1.")
        if len(set(clip.values())) > 1:
            raise UserError(
                f"{self.recipe.plugin} trains both networks in one step; give both optimizers the same clip_norm."
            )

    def averages(self) -> tuple[Average, ...]:
        """The moving averages that the recipe asks for."""
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        specs = self.recipe.train.averages
        for name in specs:
            if name not in networks:
                raise UserError(f"train.averages.{name}: there is no such network; there is {', '.join(networks)}.")
        return tuple(Average(name, networks[name], spec) for name, spec in specs.items())

    def stage(
        self,
        optimizers: dict[str, torch.optim.Optimizer],
        *,
        order: Sequence[str] = ("discriminator", "r1", "generator"),
        schedules: dict[str, Schedule] | None = None,
    ) -> Stage:
        """The whole stage around a paper's own optimizers."""
        decay = linear_decay(self.recipe.train.decay_from_images)
        return Stage(
            networks={"generator": self.generator, "discriminator": self.discriminator},
            optimizers=optimizers,
            phases=self.phases(order),
            averages=self.averages(),
            schedules=dict.fromkeys(optimizers, decay) | (schedules or {}),
        )

    def optimizer_spec(self, name: str):
        """The recipe's optimizer of one network. Raises UserError when it has none."""
        specs = self.recipe.train.optimizers
        for given in specs:
            if given not in ("generator", "discriminator"):
                known = "there is generator, discriminator."
                raise UserError(f"train.optimizers.{given}: there is no such network; {known}")
        if name not in specs:
            raise UserError(f"the recipe has no train.optimizers.{name}; give it an lr.")
        return specs[name]


def linear_decay(start_images: int) -> Schedule:
    """A factor of 1 until `start_images`, then falling linearly to 0 at the end; 0 is off."""

    def factor(clock: Clock) -> float:
        if not start_images or clock.images <= start_images:
            return 1.0
        return max(0.0, (clock.total_images - clock.images) / (clock.total_images - start_images))

    return factor


def split_loss(parts: Parts, terms: type[T]) -> tuple[T, Loss]:
    """Tell a stage's own options, the fields of the dataclass `terms`, from those of the recipe's loss; build both.

    Raises UserError for an option that neither has.
    """
    ours = {field.name for field in fields(terms)}
    known = options_of(parts.loss)
    given = {name: value for name, value in parts.loss_options.items() if name in ours}
    own = {name: value for name, value in parts.loss_options.items() if name not in ours}
    for name in own:
        if name not in known:
            checked({name: own[name]}, dict.fromkeys((*known, *ours)), "loss")  # names the nearest of all
    return build(terms, given, "loss"), parts.loss(**checked(own, known, "loss"))


def _check_labels(recipe: Recipe, parts: Parts) -> None:
    """A class-conditional pair: one that does not see the labels would teach the other to forget them."""
    for kind, network in (("generator", parts.generator), ("discriminator", parts.discriminator)):
        if recipe.data.condition and not network.num_classes:
            raise UserError(
                f"the recipe trains by class, but the {kind} {recipe.part(kind).name} takes no labels; "
                f"set data.labels=false, or choose a {kind} that knows labels."
            )


def _check_second_order(discriminator: Discriminator) -> None:
    for name, module in discriminator.named_modules():
        if not getattr(module, "second_order", True):
            raise UserError(
                f"R1 differentiates the discriminator twice, which its {name} ({type(module).__name__}) cannot; "
                "choose another attention there or its option second_order, if it has one, or set loss.r1=0."
            )
