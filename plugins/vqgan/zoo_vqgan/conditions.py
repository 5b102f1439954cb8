"""What the user asks for, as tokens that stand before the codes (paper, section 3.3).

Condition tokens share the transformer's vocabulary and embedding with the codes of the image: label 3 is row 3.
Bounding boxes of scenes are not built.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_core.errors import UserError


class Condition(ABC):
    """`condition(value, num)` -> int64 tokens for `num` images: `[num, M]`, or `[num, h, w]` if it is spatial.

    Raises UserError for a value that does not fit.
    """

    vocabulary: int
    """Tokens are below this number."""
    spatial: bool = False
    """The tokens lie on a grid over the image, so a window of the image has a condition of its own."""

    def value(self, num: int, size: tuple[int, int], label: Tensor | None, maps: Tensor | None) -> Tensor | None:
        """What it takes of all that is known of `num` whole pictures of `size`, (height, width) in pixels."""
        return label

    @abstractmethod
    def __call__(self, value: Tensor | None, num: int) -> Tensor:
        """Tokens on the device of `value`; on the CPU where there is none."""

    def check_vocabulary(self, vocabulary: int) -> None:
        """Raise UserError if the transformer's embedding has fewer rows than there are condition tokens."""
        if self.vocabulary > vocabulary:
            raise UserError(
                f"The condition has {self.vocabulary} different tokens, the transformer's vocabulary only "
                f"{vocabulary}; they share one embedding. Take fewer (generator.condition.num_codes, or classes), or "
                "more generator.quantizer.num_codes."
            )


class Label(Condition):
    """One token, the number of the class: value `[num]` int64."""

    def __init__(self, num_classes: int) -> None:
        self.vocabulary = num_classes

    def __call__(self, value: Tensor | None, num: int) -> Tensor:
        value = _given(value, num, "label")
        if value.shape != (num,):
            raise UserError(f"{num} images need {num} labels, not a tensor of shape {list(value.shape)}.")
        if value.is_floating_point():
            raise UserError(f"Each label must be a whole number, not {value.dtype}.")
        wrong = value[(value < 0) | (value >= self.vocabulary)]
        if len(wrong):
            raise UserError(f"The label {int(wrong[0])} is not one of 0 to {self.vocabulary - 1}.")
        return value[:, None].long()


class Unconditional(Condition):
    """One constant token that starts the sequence; no value."""

    def __init__(self, token: int = 0) -> None:
        self.token = token
        self.vocabulary = token + 1

    def __call__(self, value: Tensor | None, num: int) -> Tensor:
        if value is not None:
            raise UserError("This prior is unconditional; it takes no condition.")
        return torch.full((num, 1), self.token)


class Spatial(Condition):
    """A condition that is an image: value `[num, C, H, W]`, tokens `[num, h, w]`.

    `side`: the value is first shrunk to this square size by taking the nearest pixels; 0 leaves it (the official
    `downsample_cond_size`, there -1).
    """

    spatial = True

    def __init__(self, side: int = 0) -> None:
        self.side = side

    def __call__(self, value: Tensor | None, num: int) -> Tensor:
        value = _given(value, num, "condition image")
        if value.ndim != 4:
            raise UserError(f"A condition image has the shape [images, channels, H, W], not {list(value.shape)}.")
        if self.side:
            value = F.interpolate(value.float(), size=(self.side, self.side)).to(value.dtype)
        return self.encode(value)

    @abstractmethod
    def encode(self, value: Tensor) -> Tensor:
        """`[num, C, H, W]` -> int64 `[num, h, w]`."""


class Coordinates(Spatial):
    """Where in the whole picture a crop lies: value `[num, 1, H, W]` in [0, 1], see `raster`; one token an area of
    `factor` by `factor` pixels."""

    def __init__(self, vocabulary: int, factor: int, side: int = 0) -> None:
        super().__init__(side)
        self.vocabulary = vocabulary
        self.factor = factor

    def value(self, num: int, size: tuple[int, int], label: Tensor | None, maps: Tensor | None) -> Tensor:
        """The whole picture's raster."""
        return raster(*size).expand(num, -1, -1, -1)

    def encode(self, value: Tensor) -> Tensor:
        """Mean of each area, times the vocabulary, rounded half to even.

        Areas of 1, which `raster` has only in very large pictures, would get the token `vocabulary`, for which the
        official code has no embedding; here they get the last one.
        """
        if value.shape[1] != 1 or value.shape[2] % self.factor or value.shape[3] % self.factor:
            raise UserError(
                f"Coordinates need one channel, and sides that {self.factor} divides, not {list(value.shape[1:])}."
            )
        pooled = F.avg_pool2d(value, self.factor).clamp(0, 1)
        return (pooled[:, 0] * self.vocabulary).round().long().clamp(max=self.vocabulary - 1)


def raster(height: int, width: int) -> Tensor:
    """The coordinates of a whole picture, raster index over their number, `[1, 1, H, W]`; to be cropped with it."""
    num = height * width
    return (torch.arange(num, dtype=torch.float64) / num).float().view(1, 1, height, width)


class Codes(Spatial):
    """The codes that a second autoencoder gives to a map of depth or labels: `encode` is its
    `[num, C, H, W] -> [num, h, w]`. It is run without gradients; keeping it in evaluation mode is its owner's part.
    `prepare` is what has to be done to whole maps, before they may be cropped."""

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        vocabulary: int,
        side: int = 0,
        prepare: Callable[[Tensor], Tensor] = lambda maps: maps,
    ) -> None:
        super().__init__(side)
        self.vocabulary = vocabulary
        self._encode = encode
        self._prepare = prepare

    def value(self, num: int, size: tuple[int, int], label: Tensor | None, maps: Tensor | None) -> Tensor:
        """The maps, prepared. Raises UserError where there are none, or of another size than the pictures."""
        if maps is None:
            raise UserError("this generator draws what maps show; give it one for each image.")
        if maps.shape != (num, 1, *size):
            raise UserError(
                f"{num} images of {size[0]}x{size[1]} (height x width) need maps of that size, of the shape "
                f"{[num, 1, *size]}; these have {list(maps.shape)}."
            )
        return self._prepare(maps)

    @torch.no_grad()
    def encode(self, value: Tensor) -> Tensor:
        """The second autoencoder's codes."""
        return self._encode(value)


def stretch(depth: Tensor) -> Tensor:
    """Depth `[B, 1, H, W]` of any unit, each map stretched to [-1, 1]; a flat one is -1."""
    least, greatest = depth.amin((1, 2, 3), keepdim=True), depth.amax((1, 2, 3), keepdim=True)
    return (depth - least) / (greatest - least).clamp(min=1e-8) * 2 - 1


def _given(value: Tensor | None, num: int, what: str) -> Tensor:
    if value is None:
        raise UserError(f"This prior is conditional; give it a {what} for each image.")
    if len(value) != num:
        raise UserError(f"{num} images were asked for, but the condition has {len(value)} rows.")
    return value
