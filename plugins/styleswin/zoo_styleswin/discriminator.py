"""The wavelet discriminator: convolutions on features, Haar coefficients of the image fed in at every scale (3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo_core import interfaces
from zoo_core.errors import UserError
from zoo_core.formulation import is_plain
from zoo_core.layers import (
    EqualConv2d,
    EqualLinear,
    SpectralConv2d,
    SpectralLinear,
    minibatch_stddev,
    scaled_leaky_relu,
)
from zoo_core.resample import downsample_fir, fir_kernel, haar, haar_filters, inverse_haar, upfirdn2d
from zoo_styleswin.channels import channel_table, check_positive, check_resolution


class Conv(nn.Module):
    """A convolution, then bias and scaled leaky ReLU; with stride 2 nothing is padded."""

    def __init__(self, inputs: int, outputs: int, size: int, *, stride: int = 1, spectral: bool) -> None:
        super().__init__()
        layer = SpectralConv2d if spectral else EqualConv2d
        self.conv = layer(inputs, outputs, size, stride=stride, padding=size // 2 if stride == 1 else 0, bias=False)
        # Not the convolution's own bias: that is summed in another order, which turns a few of the leaky ReLUs that
        # stand at zero, and so moves the gradients away from the original's.
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return scaled_leaky_relu(self.conv(x), self.bias)


class Scale(nn.Module):
    """One scale: two convolutions, the second after a blur and with stride 2; `[B, C, H, W]` -> `[B, C', H/2, W/2]`."""

    kernel: Tensor

    def __init__(self, inputs: int, outputs: int, spectral: bool) -> None:
        super().__init__()
        self.same = Conv(inputs, inputs, 3, spectral=spectral)
        self.halve = Conv(inputs, outputs, 3, stride=2, spectral=spectral)
        self.register_buffer("kernel", fir_kernel(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.halve(upfirdn2d(self.same(x), self.kernel, padding=(2, 2)))


class Discriminator(interfaces.Discriminator):
    """StyleSwin's discriminator: `[B, 3, H, W]` -> logits `[B, 1]`.

    resolution: side of the image, a power of two from 16. num_classes: not used, it judges without labels.
    channel_multiplier, max_channels, channels: width, see `channel_table`. spectral_norm: normalised weights (every
    published run); otherwise equalised ones. stddev_group: size of the groups of the minibatch standard deviation;
    where it does not divide the batch, the largest divisor of the batch below it is used.
    Twice differentiable. Raises UserError for sizes that do not fit.
    """

    filters: Tensor
    kernel: Tensor

    def __init__(
        self,
        *,
        resolution: int,
        num_classes: int = 0,
        channel_multiplier: float = 2,
        max_channels: int = 512,
        channels: dict[int, int] | None = None,
        spectral_norm: bool = True,
        stddev_group: int = 4,
    ) -> None:
        super().__init__()
        check_resolution(resolution, least=16)
        check_positive(channel_multiplier=channel_multiplier, max_channels=max_channels, stddev_group=stddev_group)
        self.resolution = resolution
        self.stddev_group = stddev_group
        width = channel_table(resolution, channel_multiplier, max_channels, channels)
        sides = [resolution >> step for step in range(1, resolution.bit_length() - 2)]  # of the features: S/2 .. 4
        # As in the original, the first scale has the width of S although its features are at S/2.
        dims = [width[resolution], *(width[side] for side in sides[1:])]
        self.from_wavelet = nn.ModuleList(Conv(12, dim, 1, spectral=spectral_norm) for dim in dims)
        self.scales = nn.ModuleList(Scale(*pair, spectral_norm) for pair in zip(dims, dims[1:], strict=False))
        self.last = Conv(dims[-1] + 1, dims[-1], 3, spectral=spectral_norm)
        if spectral_norm:
            self.hidden = SpectralHidden(dims[-1] * 16, width[4])
            self.logit = SpectralLinear(width[4], 1)
        else:
            self.hidden = EqualLinear(dims[-1] * 16, width[4], activate=True)
            self.logit = EqualLinear(width[4], 1)
        self.register_buffer("filters", haar_filters(), persistent=False)
        self.register_buffer("kernel", fir_kernel(), persistent=False)

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        if label is not None:
            raise UserError("this discriminator is unconditional; it takes no label.")
        bands = haar(image, self.filters)  # [B, 12, S/2, S/2]
        x = self.from_wavelet[0](bands)
        for scale, from_wavelet in zip(self.scales, self.from_wavelet[1:], strict=True):
            # The paper halves the inverse transform of the coefficients; Haar being orthonormal, that is the image.
            image = downsample_fir(inverse_haar(bands, self.filters) if is_plain() else image, self.kernel)
            bands = haar(image, self.filters)
            x = scale(x) + from_wavelet(bands)
        x = self.last(minibatch_stddev(x, self.stddev_group))
        return self.logit(self.hidden(x.flatten(1)))


class SpectralHidden(nn.Module):
    """The hidden layer of the head under spectral norm: it has two biases in a row, as in the original."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = SpectralLinear(inputs, outputs)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return scaled_leaky_relu(self.linear(x), self.bias)
