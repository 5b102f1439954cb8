"""SAGAN's projection discriminator: residual blocks that halve the grid, with one attention layer among them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional as F

from zoo_core.errors import UserError
from zoo_core.formulation import is_plain
from zoo_core.interfaces import AttentionFactory
from zoo_core.interfaces import Discriminator as Base
from zoo_sagan.attention import attention_block, place_attention
from zoo_sagan.spectral import Layers, hold_u

WIDTHS = {
    32: (2, 2, 2, 2),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
    512: (1, 1, 2, 4, 8, 8, 16, 16),
}
"""Image side -> channels after each block, in units of `channels`. 128 is the official network; the others are
PyTorch-StudioGAN's."""

HALVINGS = {32: 2, 64: 4, 128: 5, 256: 6, 512: 7}
"""Image side -> how many of the blocks, from the first on, halve the grid."""


class DiscriminatorBlock(nn.Module):
    """ReLU, conv 3x3, ReLU, conv 3x3 beside a shortcut of the raw input; `halve` averages 2x2 pixels of both.

    The `first` block, which sees the image, has no ReLU in front. A block that keeps grid and width has an
    identity as its shortcut, any other a 1x1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, first: bool, halve: bool, layers: Layers) -> None:
        super().__init__()
        self.first = first
        self.halve = halve
        self.conv1 = layers.conv(inputs, outputs, 3)
        self.conv2 = layers.conv(outputs, outputs, 3)
        self.shortcut = layers.conv(inputs, outputs, 1) if halve or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` -> `[B, outputs, H, W]`, or half the side."""
        h = F.relu(self.conv1(x if self.first else F.relu(x)))
        if not self.halve:
            return self.conv2(h) + self.shortcut(x)
        if not is_plain():
            return self.conv2.halved(h) + self.shortcut(F.avg_pool2d(x, 2))
        # The official code averages before the 1x1 convolution in its first block and after it in the others; both
        # give the same numbers, and before is a quarter of the work.
        shortcut = self.shortcut(F.avg_pool2d(x, 2)) if self.first else F.avg_pool2d(self.shortcut(x), 2)
        return F.avg_pool2d(self.conv2(h), 2) + shortcut


class Discriminator(Base):
    """Images [B, 3, H, W] and labels -> logits [B, 1]: a linear layer of the sum-pooled features, plus their inner
    product with the label's embedding (Miyato and Koyama, arXiv 1802.05637).

    Options: `resolution` 32, 64, 128, 256 or 512; `num_classes`, 0 for no label term;
    `attention`, None for this paper's; `attention_resolution`, the side of the grid that it works on (0: none;
    the image's side or more: half of it); `attention_heads`, offered to a foreign attention (0: about one per 32
    channels); `channels`, the width of the first block (half of it at 32 px);
    `spectral_norm`, "official", "torch" or "none" (see `zoo_sagan.spectral`); `spectral_epsilon`;
    `init`, "xavier" (official) or "orthogonal" (StudioGAN). Raises UserError for an option out of range.
    """

    def __init__(
        self,
        *,
        resolution: int = 128,
        num_classes: int = 0,
        attention: AttentionFactory | None = None,
        attention_resolution: int = 32,
        attention_heads: int = 0,
        channels: int = 64,
        spectral_norm: str = "official",
        spectral_epsilon: float = 1e-12,
        init: str = "xavier",
    ) -> None:
        super().__init__()
        if resolution not in WIDTHS:
            raise UserError(f"SAGAN judges images of {', '.join(map(str, WIDTHS))} px, not {resolution}")
        if channels < 1 or num_classes < 0:
            raise UserError("channels must be at least 1, num_classes at least 0")
        self.resolution = resolution
        self.num_classes = num_classes
        layers = Layers(spectral_norm, init, spectral_epsilon)
        widths = [3, *(channels * unit for unit in WIDTHS[resolution])]
        halvings = HALVINGS[resolution]
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(inputs, outputs, first=index == 0, halve=index < halvings, layers=layers)
            for index, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False))
        )
        sides = [resolution >> min(index + 1, halvings) for index in range(len(self.blocks))]
        self.attention_after = place_attention(sides, resolution, attention_resolution)
        """Index of the block that attention follows; -1 without attention."""
        if self.attention_after >= 0:
            dim, side = widths[self.attention_after + 1], sides[self.attention_after]
            self.attention = attention_block(attention, dim, attention_heads, side, layers)
        self.linear = layers.linear(widths[-1], 1)
        if num_classes > 0:
            self.embedding = layers.embedding(num_classes, widths[-1])

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """`image [B, 3, H, W]`, `label [B]` int64 -> `[B, 1]`.

        Raises UserError when a class-conditional discriminator gets no label, or an unconditional one gets any.
        """
        if (label is None) != (self.num_classes == 0):
            need = "needs a label for each image" if label is None else "is unconditional; it takes no label"
            raise UserError(f"this discriminator {need}")
        x = image
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == self.attention_after:
                x = self.attention(x)
        h_BC = F.relu(x).sum(dim=(2, 3))  # a sum, not a mean
        logit = self.linear(h_BC)
        if label is not None:
            logit = logit + (h_BC * self.embedding(label)).sum(dim=1, keepdim=True)
        return logit

    @contextmanager
    def on_fakes(self) -> Iterator[None]:
        """Hold u of the official spectral norms: passes inside compute an iteration from it and store nothing.

        The official graph moves the discriminator's u on real images only, and leaves open whether the pass on fakes
        reads u before or after that. For the same normalised weights in both passes, run the fakes before the reals.
        With `spectral_norm="torch"` every training pass moves u, as torch does, and this has no effect.
        """
        with hold_u(self):
            yield
