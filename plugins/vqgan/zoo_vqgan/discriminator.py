"""The patch discriminator (Isola et al., arXiv 1611.07004, appendix 6.1.2), with batch or activation normalisation."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo_core import agreement, interfaces
from zoo_core.errors import UserError


class ActNorm(nn.Module):
    """`scale * (x + loc)` for each channel; the first training pass sets both so that its output is normalised.

    Kingma and Dhariwal, arXiv 1807.03039, section 3.1. Several processes normalise by the statistics of all their
    images; of several micro-batches the first one's count.
    """

    initialized: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._asked = False
        """Whether a training pass has read `initialized`, for which a GPU must wait."""
        self.loc = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> the same."""
        if self.training:
            if not self._asked and not self.initialized:
                self._initialize(x)
            self._asked = True
            self.initialized.fill_(1)  # in each pass, as the trainer sets buffers back between micro-batches
        return self.scale * (x + self.loc)

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        over, x = (0, 2, 3), x.float()
        num = agreement.processes() * x.numel() // x.shape[1]
        mean = agreement.mean(x.mean(over, keepdim=True))
        variance = agreement.mean((x - mean).square().mean(over, keepdim=True)) * num / (num - 1)
        self.loc.copy_(-mean)
        self.scale.copy_(1 / (variance.sqrt() + 1e-6))

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        self._asked = False


class PatchDiscriminator(interfaces.Discriminator):
    """A map of logits, one for each patch: `[B, 3, H, W]` -> `[B, 1, h, w]`.

    4x4 convolutions, padding 1: `layers` of stride 2 (widths from `channels`, doubling, at most 8 times `channels`),
    one of stride 1, and the logits'. Labels are not looked at.

    Weights of convolutions ~ N(0, 0.02), those of batch norm ~ N(1, 0.02) with bias 0, the rest as torch has it.
    Raises UserError when an image of `resolution` leaves no patch.
    """

    def __init__(
        self,
        *,
        resolution: int,
        num_classes: int = 0,
        channels: int = 64,
        layers: int = 3,
        norm: Literal["batch", "activation"] = "batch",
    ) -> None:
        super().__init__()
        self.resolution = resolution
        _check_patches(resolution, channels, layers)
        widths = [channels * min(2**index, 8) for index in range(layers + 1)]
        main: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2, True)]
        for index in range(1, layers + 1):
            stride = 2 if index < layers else 1
            bias = norm == "activation"  # batch norm takes the mean away again
            main.append(nn.Conv2d(widths[index - 1], widths[index], 4, stride=stride, padding=1, bias=bias))
            main.append(ActNorm(widths[index]) if norm == "activation" else nn.BatchNorm2d(widths[index]))
            main.append(nn.LeakyReLU(0.2, True))
        main.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.main = nn.Sequential(*main)
        self.apply(_initialize)

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """Judge."""
        return self.main(image)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _check_patches(resolution: int, channels: int, layers: int) -> None:
    if layers < 1 or channels < 1:
        raise UserError("the discriminator needs at least one layer and one channel.")
    side = resolution
    for _ in range(layers):
        side //= 2
    if side < 3:  # two convolutions of stride 1 take one row each
        least = 3 * 2**layers
        raise UserError(f"{layers} layers need images of at least {least} pixels, not {resolution}; take fewer.")
