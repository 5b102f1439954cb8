"""SAGAN's generator: residual blocks that double the grid, with one attention layer among them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo_core.errors import UserError
from zoo_core.formulation import is_plain
from zoo_core.interfaces import AttentionFactory, LatentGenerator
from zoo_sagan.attention import attention_block, place_attention
from zoo_sagan.norm import Norms, norms
from zoo_sagan.spectral import Layers

START = 4
"""Side of the first grid."""

WIDTHS = {
    32: (4, 4, 4, 4),
    64: (16, 8, 4, 2, 1),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
"""Image side -> channels of the 4x4 grid and after each block, in units of `channels`. 128 is the official network;
the others are PyTorch-StudioGAN's."""


class GeneratorBlock(nn.Module):
    """Doubles the grid: norm, ReLU, up, conv 3x3, norm, ReLU, conv 3x3, beside up and conv 1x1 of the raw input."""

    def __init__(self, inputs: int, outputs: int, num_classes: int, norm: Norms, layers: Layers) -> None:
        super().__init__()
        self.norm1 = norm.block(inputs, num_classes, layers)
        self.conv1 = layers.conv(inputs, outputs, 3)
        self.norm2 = norm.block(outputs, num_classes, layers)
        self.conv2 = layers.conv(outputs, outputs, 3)
        self.shortcut = layers.conv(inputs, outputs, 1)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        """`[B, inputs, H, W]` -> `[B, outputs, 2H, 2W]`."""
        h = F.relu(self.norm1(x, label))
        h = self.conv1(_double(h)) if is_plain() else self.conv1.doubled(h)
        h = self.conv2(F.relu(self.norm2(h, label)))
        # The official code repeats pixels before its 1x1 convolution; after it is the same at a quarter of the work.
        return h + (self.shortcut(_double(x)) if is_plain() else _double(self.shortcut(x)))


class Generator(LatentGenerator):
    """z [B, latent_dim] and a label -> images [B, 3, H, W] in (-1, 1), by tanh.

    Every convolution and linear layer is spectrally normalised; the label enters through the batch norms only.

    Options: `resolution` 32, 64, 128, 256 or 512; `num_classes`, 0 for plain batch norms;
    `attention`, None for this paper's; `attention_resolution`, the side of the grid that it works on (0: none;
    the image's side or more: half of it); `attention_heads`, offered to a foreign attention (0: about one per 32
    channels); `latent_dim`; `channels`, the width of the last block;
    `norm`, "tables" (official), "tables-torch" (the same with torch's default decay and epsilon) or "projected"
    (StudioGAN); `norm_decay`, of the moving statistics, 0 for the published ones, of which the official 0.999 and
    0.9999 need runs of tens of thousands of steps;
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
        latent_dim: int = 128,
        channels: int = 64,
        norm: str = "tables",
        norm_decay: float = 0.0,
        spectral_norm: str = "official",
        spectral_epsilon: float = 1e-12,
        init: str = "xavier",
    ) -> None:
        super().__init__()
        if resolution not in WIDTHS:
            raise UserError(f"SAGAN draws images of {', '.join(map(str, WIDTHS))} px, not {resolution}")
        if channels < 1 or latent_dim < 1 or num_classes < 0:
            raise UserError("channels and latent_dim must be at least 1, num_classes at least 0")
        self.resolution = resolution
        self.num_classes = num_classes
        self.latent_dim = latent_dim
        layers = Layers(spectral_norm, init, spectral_epsilon)
        family = norms(norm, norm_decay)
        widths = [channels * unit for unit in WIDTHS[resolution]]
        self.dense = layers.linear(latent_dim, START * START * widths[0])
        self.blocks = nn.ModuleList(
            GeneratorBlock(inputs, outputs, num_classes, family, layers)
            for inputs, outputs in zip(widths, widths[1:], strict=False)
        )
        sides = [START * 2 ** (index + 1) for index in range(len(self.blocks))]
        self.attention_after = place_attention(sides, resolution, attention_resolution)
        """Index of the block that attention follows; -1 without attention."""
        if self.attention_after >= 0:
            dim, side = widths[self.attention_after + 1], sides[self.attention_after]
            self.attention = attention_block(attention, dim, attention_heads, side, layers)
        self.norm = family.final(widths[-1])
        self.to_rgb = layers.conv(widths[-1], 3, 3)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """`z [B, latent_dim]`, `label [B]` int64 -> `[B, 3, H, W]` in (-1, 1).

        Raises UserError when a class-conditional generator gets no label, or an unconditional one gets any.
        """
        if (label is None) != (self.num_classes == 0):
            need = "needs a label for each z" if label is None else "is unconditional; it takes no label"
            raise UserError(f"this generator {need}")
        x = self.dense(z).view(len(z), START, START, -1).permute(0, 3, 1, 2)  # the dense layer's order is y, x, channel
        for index, block in enumerate(self.blocks):
            x = block(x, label)
            if index == self.attention_after:
                x = self.attention(x)
        return torch.tanh(self.to_rgb(F.relu(self.norm(x))))


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
