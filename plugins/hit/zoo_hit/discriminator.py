"""The discriminator: residual blocks that halve the grid by an explicit filter, plain convolutions, no norm layers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu

from zoo_core import interfaces
from zoo_core.errors import UserError
from zoo_core.layers import EqualConv2d, EqualLinear, minibatch_stddev
from zoo_core.resample import downsample_fir, fir_kernel


class GlorotConv2d(nn.Conv2d):
    """`nn.Conv2d` with Keras's initialisation: Glorot uniform weights, zero biases."""

    def reset_parameters(self) -> None:
        _glorot(self)


class GlorotLinear(nn.Linear):
    """`nn.Linear` with Keras's initialisation: Glorot uniform weights, zero biases."""

    def reset_parameters(self) -> None:
        _glorot(self)


def _glorot(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class AveragePool(nn.Module):
    """The mean of each 2x2 pixels: `[B, C, H, W]` -> `[B, C, H/2, W/2]`."""

    def forward(self, x: Tensor) -> Tensor:
        return avg_pool2d(x, 2)


class Blur(nn.Module):
    """Every second pixel of [1, 3, 3, 1] x [1, 3, 3, 1] / 64: `[B, C, H, W]` -> `[B, C, H/2, W/2]`.

    Outside the image is zero, and the filter is not renormalised there: borders darken, as in the original.
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", fir_kernel(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return downsample_fir(x, self.kernel)


class Block(nn.Module):
    """Conv 3x3, halve, conv 3x3, beside halve, conv 1x1: `[B, C, H, W]` -> `[B, C', H/2, W/2]`, the sum / sqrt(2)."""

    def __init__(self, inputs: int, outputs: int, conv: type[nn.Conv2d], halve: nn.Module) -> None:
        super().__init__()
        self.conv1 = conv(inputs, inputs, 3, padding=1)
        self.conv2 = conv(inputs, outputs, 3, padding=1)
        self.skip = conv(inputs, outputs, 1, bias=False)
        self.halve = halve

    def forward(self, x: Tensor) -> Tensor:
        main = activate(self.conv1(x))
        main = activate(self.conv2(self.halve(main)))
        return (main + self.skip(self.halve(x))) * (1 / math.sqrt(2))


class Discriminator(interfaces.Discriminator):
    """HiT's discriminator: `[B, 3, H, W]` -> logits `[B, 1]`. Twice differentiable.

    resolution: side of the image, a power of two from 8. num_classes: not used, it judges without labels.
    channel_multiplier: width at the sides above 32; 1 for ImageNet-128, 2 for the sets of faces. channels: widths by
    side instead, see `channel_table`.
    blur: filter before halving (every published run); otherwise 2x2 means. equalised: weights scaled at run time.
    minibatch_stddev: the batch's mean deviation, in groups of four, as a further channel before the last convolution.
    The last two exist in the official code and are off in every run.
    Raises UserError for sizes that do not fit.
    """

    def __init__(
        self,
        *,
        resolution: int,
        num_classes: int = 0,
        channel_multiplier: float = 1,
        channels: dict[int, int] | None = None,
        blur: bool = True,
        equalised: bool = False,
        minibatch_stddev: bool = False,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.minibatch_stddev = minibatch_stddev
        width = channel_table(resolution, channel_multiplier, channels or {})
        conv, linear = (EqualConv2d, EqualLinear) if equalised else (GlorotConv2d, GlorotLinear)
        sides = [resolution >> level for level in range(resolution.bit_length() - 2)]  # S, S/2 .. 4
        dims = [width[side] for side in sides]
        self.from_rgb = conv(3, dims[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            Block(*pair, conv, Blur() if blur else AveragePool()) for pair in zip(dims, dims[1:], strict=False)
        )
        self.last = conv(dims[-1] + minibatch_stddev, dims[-1], 3, padding=1)
        self.hidden = linear(dims[-1] * 16, dims[-1])
        self.logit = linear(dims[-1], 1)

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """Raises UserError when a label is given."""
        if label is not None:
            raise UserError("this discriminator is unconditional; it takes no label.")
        x = activate(self.from_rgb(image))
        for block in self.blocks:
            x = block(x)
        if self.minibatch_stddev:
            x = minibatch_stddev(x)
        x = activate(self.last(x))  # [B, C, 4, 4]
        return self.logit(activate(self.hidden(x.flatten(1))))  # flat in the order (channel, row, column)


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU, without the gain of sqrt(2) that usually comes with this layout."""
    return leaky_relu(x, 0.2)


def channel_table(resolution: int, channel_multiplier: float, channels: Mapping[int, int]) -> dict[int, int]:
    """Channels by side, 4 to `resolution`: 512 up to 32 px, then 16384 * channel_multiplier / side.

    `channels` has the last word for the sides that it names; above the largest of them the width halves with each
    doubling, down to 8, so that one table serves every resolution.
    Raises UserError for a resolution that is no power of two or below 8, and for a width below 1.
    """
    if resolution < 8 or resolution & (resolution - 1):
        raise UserError(f"resolution {resolution} must be a power of two and at least 8; set data.resolution so.")
    if channel_multiplier <= 0:
        raise UserError(f"channel_multiplier must be above 0, not {channel_multiplier}.")
    sides = [4 << level for level in range(resolution.bit_length() - 2)]
    table = {side: 512 if side <= 32 else int(16384 * channel_multiplier / side) for side in sides}
    for side, width in channels.items():
        if side < 4 or side & (side - 1) or width < 1:
            raise UserError(f"channels gives side {side} the width {width}; sides are 4, 8, 16, .., widths from 1 on.")
    for side in sides:
        if channels and side > max(channels):
            table[side] = max(8, table[side // 2] // 2)
        table[side] = channels.get(side, table[side])
    return table
