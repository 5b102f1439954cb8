"""Resampling by fixed filters, written as depthwise convolutions: fast on every device and twice differentiable.

The plain formulation of each is its definition: insert zeros, pad, filter each channel by itself, drop samples.

Images are `[B, C, H, W]`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, pad

from zoo_core.formulation import is_plain

BINOMIAL = (1.0, 3.0, 3.0, 1.0)
"""The usual anti-aliasing filter; a stretched 1-2-1."""

_HALF = 0.5**0.5


def fir_kernel(taps: Sequence[float] = BINOMIAL, gain: float = 1.0) -> Tensor:
    """The separable filter `outer(taps, taps)`, its sum scaled to `gain`: `[len(taps), len(taps)]` float32."""
    line = torch.tensor(tuple(taps), dtype=torch.float32)
    kernel = torch.outer(line, line)
    return kernel / kernel.sum() * gain


def upfirdn2d(image: Tensor, kernel: Tensor, up: int = 1, down: int = 1, padding: tuple[int, int] = (0, 0)) -> Tensor:
    """Insert zeros, pad, filter, keep every `down`-th sample; the same on both axes (Karras et al., arXiv 1912.04958).

    `up - 1` zeros follow each sample, also the last; `padding` is (before, after), negative to crop; the filter is a
    true convolution (the kernel is flipped). A side of n becomes `(n * up + before + after - k) // down + 1`.
    """
    if is_plain():
        return _plain_upfirdn2d(image, kernel, up, down, padding)
    channels = image.shape[1]
    weight = kernel.expand(channels, 1, *kernel.shape)
    before, after = padding
    if up == 1:
        if before == after >= 0:
            return conv2d(image, weight.flip(2, 3), stride=down, padding=before, groups=channels)
        return conv2d(pad(image, (before, after) * 2), weight.flip(2, 3), stride=down, groups=channels)
    # A transposed convolution is the full convolution of the zero-stuffed image, less the trailing zeros. Sample i of
    # the padded, valid one is its sample i + k - 1 - before; what to cut off each end is the same for both parities.
    height, width = kernel.shape
    cut = [(width - 1 - before, width - up - after), (height - 1 - before, height - up - after)]
    common = tuple(min(ends) if min(ends) > 0 else 0 for ends in reversed(cut))
    full = conv_transpose2d(image, weight, stride=up, padding=common, groups=channels)
    rest = [common[1] - end for end in cut[0]] + [common[0] - end for end in cut[1]]
    if any(rest):
        full = pad(full, rest)
    return full if down == 1 else full[:, :, ::down, ::down]


def _plain_upfirdn2d(image: Tensor, kernel: Tensor, up: int, down: int, padding: tuple[int, int]) -> Tensor:
    batch, channels, height, width = image.shape
    x = image.reshape(batch * channels, 1, height, 1, width, 1)
    x = pad(x, (0, up - 1, 0, 0, 0, up - 1)).view(batch * channels, 1, height * up, width * up)
    x = conv2d(pad(x, padding * 2), kernel.flip(0, 1)[None, None])
    return x.view(batch, channels, *x.shape[2:])[:, :, ::down, ::down]


def upsample_fir(image: Tensor, kernel: Tensor) -> Tensor:
    """Double the sides. Give a kernel of even length whose sum is 4 to keep brightness."""
    size = kernel.shape[-1]
    return upfirdn2d(image, kernel, up=2, padding=(size // 2, size // 2 - 1))


def downsample_fir(image: Tensor, kernel: Tensor) -> Tensor:
    """Halve the sides. The kernel has an even length."""
    size = kernel.shape[-1]
    return upfirdn2d(image, kernel, down=2, padding=((size - 1) // 2, size // 2 - 1))


def haar_filters() -> Tensor:
    """The four orthonormal 2 x 2 Haar filters `[4, 2, 2]`; (row, column): low low, high low, low high, high high."""
    low = torch.tensor([_HALF, _HALF])
    high = torch.tensor([-_HALF, _HALF])
    return torch.stack([torch.outer(row, column) for column in (low, high) for row in (low, high)])


def haar(image: Tensor, filters: Tensor) -> Tensor:
    """Haar transform: `[B, C, H, W]` -> `[B, 4C, H/2, W/2]`, channels grouped by filter, colours within.

    `filters` is `haar_filters()`, kept by the caller as a constant buffer. A true convolution: they are flipped.
    """
    if is_plain():
        return torch.cat([upfirdn2d(image, band, down=2) for band in filters], 1)
    channels = image.shape[1]
    bands = conv2d(image, _haar_weight(filters, channels), stride=2, groups=channels)
    return bands.unflatten(1, (channels, 4)).transpose(1, 2).flatten(1, 2)


def inverse_haar(bands: Tensor, filters: Tensor) -> Tensor:
    """The inverse of `haar`, which is its transpose: `[B, 4C, H, W]` -> `[B, C, 2H, 2W]`."""
    if is_plain():
        pairs = zip(bands.chunk(4, 1), filters.flip(1, 2), strict=True)  # the transpose turns the filters round
        return sum(upfirdn2d(band, filter, up=2, padding=(1, 0)) for band, filter in pairs)
    channels = bands.shape[1] // 4
    bands = bands.unflatten(1, (4, channels)).transpose(1, 2).flatten(1, 2)
    return conv_transpose2d(bands, _haar_weight(filters, channels), stride=2, groups=channels)


def _haar_weight(filters: Tensor, channels: int) -> Tensor:
    return filters.flip(1, 2).repeat(channels, 1, 1)[:, None]  # [4C, 1, 2, 2]
