"""The second autoencoder: its codes of a map, of labels or of depth, condition the prior (section 3.3).

Maps are `[B, 1, H, W]`, as `Batch.maps` has them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, one_hot

from zoo_core.errors import UserError
from zoo_core.given_maps import colour
from zoo_vqgan.autoencoder import AutoEncoder, LabelColours
from zoo_vqgan.conditions import stretch
from zoo_vqgan.stage1_loss import AutoEncoderLoss, segmentation_loss


class MapAutoEncoder(AutoEncoder, ABC):
    """Maps <-> maps of codes."""

    @abstractmethod
    def prepare(self, maps: Tensor) -> Tensor:
        """What has to see whole maps, before they may be cropped; the same shape. Raises UserError for a bad map."""

    @abstractmethod
    def channels(self, prepared: Tensor) -> Tensor:
        """What the encoder is given, `[B, channels, H, W]`."""

    @abstractmethod
    def loss(self, drawn: Tensor, given: Tensor, quantizer_loss: Tensor, quantizer_weight: float) -> AutoEncoderLoss:
        """Of what was `drawn` of the channels `given`."""

    @abstractmethod
    def colours(self, channels: Tensor) -> Tensor:
        """A picture of channels, given or drawn: `[B, 3, H, W]` in [-1, 1]."""

    def map_codes(self, prepared: Tensor) -> Tensor:
        """`[B, 1, H, W]` -> `[B, h, w]` int64."""
        return self.codes(self.channels(prepared))


class LabelAutoEncoder(MapAutoEncoder):
    """Of label maps, one channel for each label; draws the labels' logits.

    `unlabelled`: this value becomes label 0, all others one more; 0 leaves the values as they are.
    """

    def __init__(self, *, num_labels: int, unlabelled: int = 0, **parts: Any) -> None:
        super().__init__(**parts)
        self.num_labels, self.unlabelled = num_labels, unlabelled
        self.palette = LabelColours(num_labels)

    def prepare(self, maps: Tensor) -> Tensor:
        """Labels 0 to `num_labels - 1`."""
        if maps.is_floating_point():
            raise UserError(f"a label map has whole numbers, not {maps.dtype}.")
        labels = maps.long()
        if self.unlabelled:
            labels = torch.where(labels == self.unlabelled, 0, labels + 1)
        wrong = maps[(maps < 0) | (labels >= self.num_labels)]
        if len(wrong):
            last = self.num_labels - 1 - bool(self.unlabelled)
            raise UserError(
                f"a label map has the value {int(wrong[0])}, but generator.condition.num_labels={self.num_labels} "
                f"stands for 0 to {last}" + (f" and {self.unlabelled}, unlabelled." if self.unlabelled else ".")
            )
        return labels

    def channels(self, prepared: Tensor) -> Tensor:
        """One-hot."""
        return one_hot(prepared[:, 0], self.num_labels).permute(0, 3, 1, 2).float()

    def loss(self, drawn: Tensor, given: Tensor, quantizer_loss: Tensor, quantizer_weight: float) -> AutoEncoderLoss:
        """Cross-entropy of each label for itself: the official loss."""
        return segmentation_loss(drawn, given, quantizer_loss, quantizer_weight)

    def colours(self, channels: Tensor) -> Tensor:
        """Each pixel's most probable label, in the colour that its value in the files has in other grids."""
        labels = channels.argmax(1, keepdim=True)
        if self.unlabelled:
            labels = torch.where(labels == 0, self.unlabelled, labels - 1)
        return colour(labels).float() / 127.5 - 1


class DepthAutoEncoder(MapAutoEncoder):
    """Of depth maps, one channel, each map stretched to [-1, 1]."""

    def prepare(self, maps: Tensor) -> Tensor:
        """Stretched."""
        return stretch(maps.float())

    def channels(self, prepared: Tensor) -> Tensor:
        """The map itself."""
        return prepared

    def loss(self, drawn: Tensor, given: Tensor, quantizer_loss: Tensor, quantizer_weight: float) -> AutoEncoderLoss:
        """Mean absolute error. NOT the paper's: it trains a VQGAN on depth maps, with LPIPS and a discriminator."""
        absolute = l1_loss(drawn, given)
        total = absolute + quantizer_weight * quantizer_loss
        terms = {"total": total, "absolute": absolute, "quantizer": quantizer_loss}
        return AutoEncoderLoss(total, {name: value.detach() for name, value in terms.items()})

    def colours(self, channels: Tensor) -> Tensor:
        """Grey."""
        return channels.clamp(-1, 1).expand(-1, 3, -1, -1)
