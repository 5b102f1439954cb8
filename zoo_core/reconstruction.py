"""Images through a generator's bottleneck and back: how much of them returns, and what the bottleneck uses.

Images are compared as files hold them, in 8 bits. Shapes: B batch, N images, H W pixels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_core import metrics
from zoo_core.data import ImageSet
from zoo_core.evaluation import real_features
from zoo_core.extractors import Extractor, image_batches
from zoo_core.interfaces import Generator, Reconstruction
from zoo_core.metrics import Figure
from zoo_core.progress import counting
from zoo_core.rng import Rng
from zoo_core.sampling import grid, to_uint8

STREAM = "reconstruct"
SSIM_WINDOW = 11
LPIPS_SIDE = 16
"""The smallest side of an image that the metric has a place for."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""Two batches `[B, 3, H, W]` in [-1, 1] -> `[B]`."""
Show = Callable[[Tensor, Tensor], None]
"""Shown each batch of originals and their reconstructions, uint8 `[B, 3, H, W]` on the CPU."""


@dataclass(frozen=True)
class Mean:
    """A mean over images."""

    mean: float
    plus_minus: float | None
    """Half of its 95 % interval, 1.96 standard errors; None for a single image."""
    num: int

    @classmethod
    def of(cls, values: Tensor) -> Mean:
        """Of `[N]`, N at least 1."""
        num = len(values)
        error = float(values.double().std()) / math.sqrt(num) if num > 1 else None
        return cls(float(values.double().mean()), None if error is None else 1.96 * error, num)


@dataclass(frozen=True)
class TokenUsage:
    """How much of its vocabulary a bottleneck uses."""

    vocabulary: int
    used: int
    """Tokens that occurred."""
    perplexity: float
    """exp of the entropy: the size of an evenly used vocabulary that says as much."""
    num: int
    """Tokens counted: a vocabulary cannot show more of itself than that."""

    @classmethod
    def of(cls, counts: Tensor) -> TokenUsage:
        """From how often each token occurred, `[vocabulary]` int64."""
        share = counts[counts > 0].double() / counts.sum()
        perplexity = float((-(share * share.log()).sum()).exp())
        return cls(len(counts), len(share), perplexity, int(counts.sum()))

    @property
    def dead(self) -> int:
        """Tokens that never occurred."""
        return self.vocabulary - self.used

    @property
    def share(self) -> float:
        """The part of the vocabulary that occurred."""
        return self.used / self.vocabulary


@dataclass(frozen=True)
class Report:
    """What one measurement found."""

    num: int
    figures: list[Figure]
    """Distances between all reconstructions and all originals: `rfid@...`, `rkid@...`, or `rfd@...`, `rkd@...`."""
    per_image: dict[str, Mean]
    """`psnr` in dB, `ssim`, `lpips`."""
    tokens: TokenUsage | None
    notes: list[str]
    """What is left out, and why."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        tokens = self.tokens and {
            **dataclasses.asdict(self.tokens),
            "share": self.tokens.share,
            "dead": self.tokens.dead,
        }
        return {**dataclasses.asdict(self), "tokens": tokens}


def measure(
    generator: Generator,
    images: ImageSet,
    *,
    num: int,
    extractor: Extractor,
    reference: str,
    lpips: Distance | None = None,
    seed: int = 0,
    batch: int = 64,
    show: Show | None = None,
) -> Report:
    """Reconstruct `num` of `images`, always the same ones, and compare them with themselves.

    `generator` is `Reconstructing`. `reference` is what the figures call the images. `seed` moves a bottleneck that
    draws. Sources: SSIM, Wang et al. 2004, with a Gaussian window of 11 px and mirrored borders, per colour;
    torchmetrics computes it and PSNR. Raises UserError as `Extractor.features` does.
    """
    device = next(generator.parameters()).device
    compare = _Comparison(images.resolution, lpips, device)

    def seen() -> Iterator[Tensor]:
        for original, drawn, found in reconstructions(generator, images.images, num, seed, batch):
            compare(original, drawn, found)
            if show:
                show(original, drawn)
            yield drawn

    real = real_features(images, extractor, num)
    with counting("reconstructing", num) as advance:
        fake = extractor.features(seen(), num, advance)
    figures = []
    if num > 1:
        found = metrics.figures(fake, real, reference=reference, metrics=("fid", "kid"), neighbours=1)
        figures = [dataclasses.replace(figure, name=f"r{figure.name}") for figure in found]
    else:
        compare.notes.append("Distances between sets are left out: they need two images.")
    return Report(num, figures, compare.means(), compare.tokens(), compare.notes)


@torch.no_grad()
def reconstructions(
    generator: Generator, images: np.ndarray, num: int, seed: int, batch: int
) -> Iterator[tuple[Tensor, Tensor, Reconstruction]]:
    """Batches of originals and reconstructions, uint8 `[B, 3, H, W]` on the CPU, and what the generator answered."""
    device = next(generator.parameters()).device
    done = 0
    for original in image_batches(images, num, batch=batch):
        rng = Rng.of(STREAM, seed, rows=range(done, done + len(original)), device=device)
        found = generator.reconstruct(original.to(device).float() / 127.5 - 1, rng)
        yield original, to_uint8(found.image).cpu(), found
        done += len(original)


def side_by_side(pairs: Tensor) -> np.ndarray:
    """One picture `[h, w, 3]`: each original left of its reconstruction; `pairs [N, 2, 3, H, W]` uint8."""
    num, _, _, height, width = pairs.shape
    across = min(num, math.ceil(math.sqrt(num * height / (2 * width))))
    return grid(pairs.flatten(0, 1), columns=2 * across)


def format_report(report: Report) -> str:
    """A table for people."""
    lines = []
    for figure in report.figures:
        spread = "" if figure.std is None else f" (spread {figure.std:.2g})"
        lines.append(f"{figure.name} = {figure.value:.4g}{spread}")
        lines += [f"  note: {figure.note}"] if figure.note else []
    if report.figures:
        lines.append("  note: reconstructions against their own originals; no figure of drawn images compares with it")
    for name, mean in report.per_image.items():
        unit = " dB" if name == "psnr" else ""
        interval = "" if mean.plus_minus is None else f" +- {mean.plus_minus:.2g}"
        lines.append(f"{name} = {mean.mean:.4g}{interval}{unit}, mean of {mean.num:,} images")
    if report.tokens:
        tokens = report.tokens
        lines.append(
            f"tokens: {tokens.used:,} of {tokens.vocabulary:,} in use ({tokens.share:.1%}), {tokens.dead:,} dead, "
            f"perplexity {tokens.perplexity:.4g}, over {tokens.num:,}"
        )
    return "\n".join([*lines, *report.notes])


class _Comparison:
    """Collects what is measured image by image."""

    def __init__(self, side: int, lpips: Distance | None, device: torch.device) -> None:
        self.notes: list[str] = []
        self._device = device
        self._values: dict[str, list[Tensor]] = {"psnr": []}
        if side >= SSIM_WINDOW:
            self._values["ssim"] = []
        else:
            self.notes.append(f"SSIM is left out: its window of {SSIM_WINDOW} px does not fit into {side} px.")
        if lpips and side >= LPIPS_SIDE:
            self._values["lpips"] = []
        elif lpips:
            self.notes.append(f"LPIPS is left out: it needs {LPIPS_SIDE} px a side, these images have {side}.")
        self._lpips = lpips
        self._counts: Tensor | None = None

    def __call__(self, original: Tensor, drawn: Tensor, found: Reconstruction) -> None:
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

        target, image = (each.to(self._device).float() / 255 for each in (original, drawn))
        computed = {
            "psnr": lambda: peak_signal_noise_ratio(image, target, data_range=1.0, reduction="none", dim=(1, 2, 3)),
            "ssim": lambda: structural_similarity_index_measure(image, target, data_range=1.0, reduction="none"),
            "lpips": lambda: self._lpips(image * 2 - 1, target * 2 - 1),
        }
        for name, values in self._values.items():
            values.append(computed[name]().reshape(-1).cpu())  # a single image loses its dimension
        if found.note and found.note not in self.notes:
            self.notes.append(found.note)
        if found.tokens is not None:
            counts = torch.bincount(found.tokens.flatten().cpu(), minlength=found.vocabulary)
            self._counts = counts if self._counts is None else self._counts + counts

    def means(self) -> dict[str, Mean]:
        """By name. Images that came back without a difference have no PSNR, and are named."""
        values = {name: torch.cat(parts) for name, parts in self._values.items()}
        finite = values["psnr"][values["psnr"].isfinite()]
        if same := len(values["psnr"]) - len(finite):
            self.notes.append(
                f"{same:,} images came back without any difference; PSNR, infinite there, leaves them out."
            )
        values["psnr"] = finite
        return {name: Mean.of(found) for name, found in values.items() if len(found)}

    def tokens(self) -> TokenUsage | None:
        """None where the bottleneck has none."""
        return None if self._counts is None else TokenUsage.of(self._counts)
