"""What a comparison found: plain data, as `report.json` holds it and the page shows it."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zoo_core.comparison.statistics import Summary, Verdict
from zoo_core.errors import UserError
from zoo_core.files import read_json
from zoo_core.schema import build

PROTOCOL = "zoo-fair/1"
FILE = "report.json"
MAX_BYTES = 50 * 2**20

Track = Literal["common", "paper", "swap"]
State = Literal["done", "short", "diverged"]


@dataclass(frozen=True)
class Budget:
    """What all contenders may spend; the others of these are reported."""

    kind: Literal["images", "flops", "seconds"]
    amount: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "amount", float(self.amount))  # so that 30_000 and what JSON makes of it are one

    def __str__(self) -> str:
        return {
            "images": f"{self.amount:,.0f} real images",
            "flops": f"{self.amount:.3g} training FLOPs",
            "seconds": f"{self.amount:,.0f} s of training on this machine",
        }[self.kind]


@dataclass(frozen=True)
class CurvePoint:
    """Figures of one training on its way, drawn from a seed that the reported figures do not use."""

    images: int
    flops: float
    seconds: float
    values: dict[str, float | None]


@dataclass(frozen=True)
class Trained:
    """One training of one contender."""

    seed: int
    state: State
    images: int
    """Real images seen, over all stages."""
    seconds: float
    """Of training, by the journal's clock; without what measuring on the way took."""
    folder: str
    """Beside the report, relative to it."""
    weights: str
    """sha256, hex, over the checkpoints' own manifests; empty where there is none."""
    values: dict[str, list[float | None]] = field(default_factory=dict)
    """By figure: one number for each set of samples; empty where it diverged."""
    curve: list[CurvePoint] = field(default_factory=list)
    note: str = ""
    """Why it is short or diverged."""


@dataclass(frozen=True)
class Cost:
    """What a contender is and takes, on the machine that the manifest names. All 0 where nobody counted."""

    generator_parameters: int
    other_parameters: int
    """Of networks that only training needs."""
    training_flops: float
    """Of one real image, forward and backward of all phases, lazy ones amortised, averaged over the stages."""
    sampling_flops: float
    """Of one image."""
    images_per_second: float
    """Sampling, as many images at a time for all contenders, see `cost.SAMPLED`."""
    peak_memory: int
    """Bytes of a training step above the networks; 0 where it was not measured."""


@dataclass(frozen=True)
class Neighbours:
    """The training images nearest to samples of one training. Distances are Euclidean, between features."""

    train_seed: int
    generation_seed: int
    space: str
    """The extractor of the features, as figures name it."""
    num_samples: int
    """Behind the medians: the first of the generation seed."""
    num_real: int
    """Training images that were searched."""
    images: list[list[int]]
    """For each sample that is shown: numbers of training images, the nearest first."""
    distances: list[list[float]]
    """Of these."""
    of_samples: float
    """Median distance from a sample to the nearest training image."""
    of_real: float
    """Median distance from a training image to the nearest other one."""
    picture: str
    """Beside the report, relative to it: the samples that are shown in a row, below each its neighbours."""

    @property
    def ratio(self) -> float | None:
        """What memorising lowers; None where most training images are there twice."""
        return self.of_samples / self.of_real if self.of_real else None


@dataclass(frozen=True)
class Contender:
    """One row."""

    name: str
    plugin: str
    recipe: dict[str, Any]
    """Resolved, of the first seed."""
    command: str
    """Trains it from nothing, with the first seed; `--set train.seed=S` for others."""
    images: int
    """That the budget gives it; without a plan, what its trainings saw, in the mean."""
    cost: Cost
    runs: list[Trained]
    pretrained: list[str] = field(default_factory=list)
    """Networks trained on other data that its loss looks through."""
    neighbours: Neighbours | None = None
    """Of its first training that ended; None where none did, or nobody looked."""


@dataclass(frozen=True)
class Compared:
    """One figure over all contenders."""

    name: str
    """Everything that moves the number: `fd@random-conv-v1:32px:N=2000:train`."""
    label: str
    """Short, for tables and axes."""
    lower_is_better: bool
    floor: float | None
    """Real images against other real images of the same number; for structure, its value on real images."""
    sanity: dict[str, float | None]
    """What it says of images that everyone can judge: blurred, compressed, collapsed, shuffled."""
    summaries: dict[str, Summary]
    """By contender."""
    verdicts: list[Verdict]
    note: str = ""


@dataclass(frozen=True)
class Published:
    """A number that the paper printed: measured otherwise, so never in the same table."""

    plugin: str
    model: str
    data: str
    figure: str
    value: str
    source: str


@dataclass(frozen=True)
class Comparison:
    """The whole."""

    track: Track | None
    budget: Budget | None
    """None, both, where runs followed no plan together."""
    data: dict[str, Any]
    """As `ImageSet.describe` has it."""
    num: int
    """N of every figure."""
    seeds: list[int]
    """Of trainings that all contenders have: those that verdicts see."""
    generation_seeds: list[int]
    contenders: list[Contender]
    figures: list[Compared]
    agreement: list[list[float | None]]
    """Kendall's tau between the figures' ranks of the contenders, in the order of `figures`, better being higher."""
    flags: list[str]
    """What a reader must know before trusting a row, a sentence each."""
    manifest: dict[str, Any]
    command: str
    """That made it, and makes it again."""
    published: list[Published] = field(default_factory=list)
    protocol: str = PROTOCOL


def to_json(comparison: Comparison) -> str:
    """As text; a number that is not finite is null."""
    return json.dumps(_finite(dataclasses.asdict(comparison)), indent=1, sort_keys=False)


def read(path: Path) -> Comparison:
    """Read a `report.json`. Raises UserError for a file that is none, or of another protocol."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is too large to be a report.")
        content = read_json(path)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}).") from None
    except UserError:
        raise
    except ValueError:
        raise UserError(f"{path} is not JSON; name the report.json of a comparison.") from None
    if not isinstance(content, dict) or content.get("protocol") != PROTOCOL:
        raise UserError(f"{path} is not a report of the protocol {PROTOCOL}.")
    try:
        return build(Comparison, content, "the report")
    except UserError as error:
        remedy = "If another version of zoo wrote it, repeat the comparison's command, which trains nothing anew."
        raise UserError(f"{error} {remedy}") from None


def is_report(path: Path) -> bool:
    """Whether a file is a report's numbers, of any protocol."""
    try:
        return path.stat().st_size <= MAX_BYTES and "protocol" in dict(read_json(path))
    except (OSError, TypeError, ValueError):
        return False


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
