"""`random-conv-v1`: a feature extractor of fixed random convolutions that needs no download.

Weights and calibration images come from raw generator bits, so that every machine and library version has the same.
Shapes: B batch, C channels, D features; images `[B, 3, H, W]`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_fidelity import FeatureExtractorBase, register_feature_extractor
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

RANDOM_CONV = "random-conv-v1"
SEED = 2611
SIDES = (32, 64, 128)
"""The working sides in pixels."""
WIDTHS = (16, 32, 48, 64, 64, 64)
"""Channels of the levels; a working side of 32, 64, 128 pixels has the first 4, 5, 6 of them."""
NUM_POOLED = 16
NUM_LAYOUT = 32


def _uniform(stream: int, *shape: int) -> np.ndarray:
    """Uniform in [0, 1), float64. Philox's raw bits are fixed for good; numpy's own distributions are not."""
    raw = np.random.Philox(key=[SEED, stream]).random_raw(math.prod(shape))
    return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)


def random_conv_weights(side: int) -> list[Tensor]:
    """The kernels `[out, in, k, k]` float32, uniform with variance 1 / fan-in: level 0, its halvings, the layout."""
    shapes = []
    channels = 3
    for width in WIDTHS[: int(math.log2(side // 4)) + 1]:
        shapes.append((width, channels, 3, 3))
        channels = width
    shapes.append((NUM_LAYOUT, channels, 4, 4))
    return [
        torch.from_numpy(((2 * _uniform(level, *shape) - 1) * math.sqrt(3 / math.prod(shape[1:]))).astype(np.float32))
        for level, shape in enumerate(shapes)
    ]


def weights_sha256() -> str:
    """The sha256 of all kernels of all working sides: what makes this version 1."""
    digest = hashlib.sha256()
    for side in SIDES:
        for kernel in random_conv_weights(side):
            digest.update(kernel.numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def dead_leaves(num: int, side: int) -> np.ndarray:
    """Draw `num` images uint8 `[num, side, side, 3]` of overlapping plain boxes and discs.

    They have the flat regions and sharp edges of natural images, and set the scale of each feature.
    """
    draws = _uniform(99, num, 24, 8)
    images = np.empty((num, side, side, 3), np.uint8)
    y, x = np.mgrid[:side, :side]
    for image, leaves in zip(images, draws, strict=True):
        image[:] = (leaves[0, :3] * 256).astype(np.uint8)
        for leaf in leaves[1:]:
            centre_y, centre_x = leaf[3] * side, leaf[4] * side
            radius = (2 / 32 + 0.4 * leaf[5] ** 2) * side
            box = (abs(x - centre_x) < radius) & (abs(y - centre_y) < radius * (0.3 + leaf[6]))
            disc = (x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2
            image[box if leaf[7] < 0.5 else disc] = (leaf[:3] * 256).astype(np.uint8)
    return images


@dataclass(frozen=True)
class _Pyramid:
    """A fixed network on square images of `side` pixels: 32 features for each level, 32 for the layout."""

    kernels: tuple[Tensor, ...]
    offsets: tuple[Tensor, ...]
    """Mean and deviation of each layer's output on dead leaves, `[2, 1, C, 1, 1]`."""
    scale: Tensor
    """Mean and deviation of each feature on dead leaves, `[2, D]`."""

    def to(self, device: torch.device) -> _Pyramid:
        return _Pyramid(
            tuple(k.to(device) for k in self.kernels), tuple(o.to(device) for o in self.offsets), self.scale.to(device)
        )

    def __call__(self, x: Tensor) -> Tensor:
        """`x [B, 3, side, side]` in 0 to 255 -> `[B, D]`, near mean 0 and deviation 1."""
        features, _ = _forward(x, self.kernels, self.offsets)
        return (features - self.scale[0]) / self.scale[1]


def _forward(
    x: Tensor, kernels: tuple[Tensor, ...], offsets: tuple[Tensor, ...] = ()
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the raw features and each layer's offsets; without `offsets`, measure them on `x` itself."""
    x = x / 127.5 - 1
    features, used = [], []
    last = len(kernels) - 1
    for level, kernel in enumerate(kernels):
        # Level 0 sees every pixel, each further level half the side, down to a 4 x 4 map ...
        x = F.conv2d(x, kernel, stride=2 if 0 < level < last else 1, padding=0 if level == last else 1)
        if offsets:
            mean, deviation = offsets[level]
        else:
            mean, deviation = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
        used.append(torch.stack([mean, deviation]))
        x = (x - mean) / deviation
        if level == last:
            features.append(x.flatten(1))  # ... which one kernel covers whole: it sees where things are
            break
        x = F.leaky_relu(x, 0.2)
        if level < last - 1:
            pooled = x[:, :NUM_POOLED]
            features += [pooled.mean((2, 3)), pooled.std((2, 3))]  # what there is, wherever it is
    return torch.cat(features, dim=1), tuple(used)


@lru_cache(maxsize=len(SIDES))
@torch.no_grad()
def _pyramid(side: int) -> _Pyramid:
    """Build the pyramid of one working side; float64 for the calibration, so that machines agree after rounding."""
    kernels = tuple(random_conv_weights(side))
    images = torch.from_numpy(dead_leaves(256 * 32 // side, side)).permute(0, 3, 1, 2).double()
    features, offsets = _forward(images, tuple(kernel.double() for kernel in kernels))
    scale = torch.stack([features.mean(0), features.std(0)])
    return _Pyramid(kernels, tuple(offset.float() for offset in offsets), scale.float())


def working_side(height: int, width: int) -> int:
    """The side at which an image is looked at: the power of two, 32 to 128, at or below its shorter side."""
    return max(side for side in SIDES if side == 32 or side <= min(height, width))


class RandomConvolutions(FeatureExtractorBase):
    """`random-conv-v1`: a random convolution pyramid of fixed seed that needs no download.

    Its Frechet distance is not FID and has no published numbers to stand beside; it ranks models on one data set.
    Images above the working side are averaged down by area, those below 32 pixels enlarged by repetition.
    The number of features is 128, 160 or 192 at a working side of 32, 64 or 128 pixels.
    """

    def __init__(self, name: str, features_list: list[str], **ignored: object) -> None:
        super().__init__(name, features_list)
        self.pyramids: dict[tuple[int, torch.device], _Pyramid] = {}

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("pyramid",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        if metric == "isc":
            raise ValueError(f"{RANDOM_CONV} has no class logits, so it has no Inception Score")
        return "pyramid"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """uint8 `[B, 3, H, W]` -> `([B, D],)`."""
        if x.dtype != torch.uint8 or x.dim() != 4 or x.shape[1] != 3:
            raise ValueError(f"{RANDOM_CONV} takes uint8 images [B, 3, H, W], not {x.dtype} {list(x.shape)}")
        side = working_side(*x.shape[2:])
        if (side, x.device) not in self.pyramids:
            self.pyramids[side, x.device] = _pyramid(side).to(x.device)
        x = x.float()
        if x.shape[2:] != (side, side):
            x = F.interpolate(x, size=(side, side), mode="nearest" if min(x.shape[2:]) < side else "area")
        # On a CPU a chunk's maps must stay in its cache: at 128 px that is 2.5 times as fast as 250 at once.
        chunk = max(8, 64 * 32**2 // side**2) if x.device.type == "cpu" else len(x)
        return (torch.cat([self.pyramids[side, x.device](part) for part in x.split(max(1, chunk))]),)


if RANDOM_CONV not in FEATURE_EXTRACTORS_REGISTRY:
    register_feature_extractor(RANDOM_CONV, RandomConvolutions)
