"""The interfaces that a paper fills in: Generator, Discriminator, Attention, Decoder, Loss.

Shapes: images `[B, 3, H, W]` float; labels `[B]` int64 or None; token grids `[B, H, W, C]`.
A part is built by keyword only, and its keyword-only arguments are its options:

    generator      factory(*, resolution: int, num_classes: int, **options)
    discriminator  factory(*, resolution: int, num_classes: int, **options)
    attention      factory(site, *, **options)
    decoder        factory(latent, *, **options)
    loss           factory(*, **options)

`num_classes` is 0 for unlabelled data. An option named `attention` is given as a function `Site -> Attention`, one
named `decoder` as a function `Latent -> Decoder` (None: the paper's own).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo_core.rng import Rng


@dataclass(frozen=True)
class Pixels:
    """An affine pixel space: `value = (unit - mean) / std`, `unit` in [0, 1], per colour channel.

    Training, `generator(z)` and `discriminator(image)` live in the recipe's space; `sample` answers in [-1, 1].
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def encode(self, unit: Tensor) -> Tensor:
        """[0, 1] -> this space."""
        return (unit - self._of(self.mean, unit)) / self._of(self.std, unit)

    def decode(self, image: Tensor) -> Tensor:
        """This space -> [0, 1], not clamped."""
        return image * self._of(self.std, image) + self._of(self.mean, image)

    @staticmethod
    def _of(values: tuple[float, float, float], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)


PIXELS = {
    "symmetric": Pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Pixel spaces by the name that a recipe gives in `data.pixels`."""


@dataclass(frozen=True)
class Site:
    """Where an attention module stands in its host."""

    dim: int
    """Channels of the tokens."""
    heads: int
    """Attention heads; divides `dim`."""
    resolution: int
    """Side of the square token grid."""
    layer: int = 0
    """Running number of the attention layer in its host; lets windows alternate."""
    context_dim: int | None = None
    """Channels of the `context` tokens that the host passes, None when it passes none."""


class Attention(nn.Module, ABC):
    """A token mixer. Owns qkv, mixing, positional bias and output projection; the host owns norm, residual and gain."""

    second_order: bool = True
    """Whether it can be differentiated twice; required inside a discriminator that takes R1."""

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`x [B, H, W, C]`, `context [B, L, context_dim]` -> `[B, H, W, C]`."""

    def weights(self, x: Tensor, queries: Tensor, context: Tensor | None = None) -> Tensor:
        """Where each head looks from some points, for pictures; optional.

        `queries [Q, 2]` int64: row and column on the grid of `x`. Answers `[B, N, Q, h, w]` over the grid of keys,
        which lies over the whole map (`h w` is `H W`, or less where keys are pooled), or `[B, N, Q, L]` over the
        `context` tokens. They are what `forward` weighs its values with: not negative, summing to 1 over the keys.
        Moves no running state. Raises NotImplementedError where a module has no such weights.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say where it looks")


AttentionFactory = Callable[[Site], Attention]


@dataclass(frozen=True)
class Latent:
    """Where a decoder stands: what it gets and what it must draw."""

    z_channels: int
    """Channels of the latent map."""
    side: int
    """Nominal side of the latent map; a decoder that can only draw one size draws from this one."""
    resolution: int
    """Nominal side of the image, a power of two times `side`."""
    out_channels: int = 3
    """Channels of the image; labels of a segmentation."""


class Decoder(nn.Module, ABC):
    """Draws images from latent maps: `[B, z_channels, h, w]` -> `[B, out_channels, H, W]`, not clamped."""

    last_weight: nn.Parameter
    """The weight of the last layer, where losses may compare their gradients. Everything that comes after it is run
    backward once more for that, so little should."""

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """Decode."""


DecoderFactory = Callable[[Latent], Decoder]


@dataclass(frozen=True)
class Work:
    """What drawing one image takes, for progress bars."""

    steps: int = 1
    unit: str = "images"
    """What a step makes."""


class Generator(nn.Module, ABC):
    """Anything that draws images."""

    resolution: int
    num_classes: int = 0
    pixels: Pixels = PIXELS["symmetric"]
    """The space that the network itself draws in; the recipe's `data.pixels`."""
    map_kind: str = ""
    """What it must be shown to draw an image: "labels" or "depth", a map of each pixel; "": nothing."""

    @abstractmethod
    def sample(self, num: int, label: Tensor | None = None, rng: Rng | None = None) -> Tensor:
        """Draw `num` images `[num, 3, H, W]` in [-1, 1]. A paper's knobs are keyword-only arguments of its own.

        Three of them the core knows: `maps [num, 1, H, W]`, as `Batch.maps` has them, of a generator with a
        `map_kind`; `size`, (height, width) in pixels, of one that draws other sizes than its resolution; `progress`,
        which is called with the number of `Work` steps done since it was called last, over all images.
        """

    def work(self, size: tuple[int, int] | None = None) -> Work:
        """What `sample` does for one image, of this size where `sample` has that knob."""
        return Work()

    def networks(self) -> Mapping[str, nn.Module]:
        """The networks that it consists of, by the names under which stages train and keep them."""
        return {"generator": self}

    def complete(self, num: int, label: Tensor | None, rng: Rng | None) -> tuple[Tensor | None, Rng]:
        """Fill in what the caller of `sample` left out: a fresh `rng`, and a uniform label where one is needed.

        Raises ValueError when a label is given to an unconditional generator, is out of range or of another shape.
        """
        device = next(self.parameters()).device
        rng = rng or Rng.fresh(num, device)
        if len(rng) != num:
            raise ValueError(f"the rng has {len(rng)} rows, {num} images were asked for")
        if self.num_classes == 0:
            if label is not None:
                raise ValueError("this generator is unconditional; it takes no label")
            return None, rng
        if label is None:
            label = rng.fork("label").integers(0, self.num_classes)
        label = torch.as_tensor(label, device=device)
        if label.shape != (num,) or bool((label < 0).any()) or bool((label >= self.num_classes).any()):
            raise ValueError(f"label must be {num} integers from 0 to {self.num_classes - 1}")
        return label, rng

    def finish(self, image: Tensor) -> Tensor:
        """The recipe's pixel space -> [-1, 1], clamped."""
        return (self.pixels.decode(image) * 2 - 1).clamp(-1, 1)


class LatentGenerator(Generator):
    """A generator of one latent vector: what the adversarial stage trains."""

    latent_dim: int

    @abstractmethod
    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """The paper's own forward: `z [B, latent_dim]` -> `[B, 3, H, W]` in the recipe's pixel space, not clamped."""

    def latent(self, rng: Rng) -> Tensor:
        """Draw `z [num, latent_dim]`, standard normal."""
        return rng.normal(self.latent_dim)

    @torch.no_grad()
    def sample(self, num: int, label: Tensor | None = None, rng: Rng | None = None) -> Tensor:
        """Draw z, run the forward, leave the recipe's pixel space, clamp."""
        label, rng = self.complete(num, label, rng)
        return self.finish(self(self.latent(rng), label))


@dataclass(frozen=True)
class Reconstruction:
    """Images that went through a bottleneck and came back."""

    image: Tensor
    """`[B, 3, H, W]` in [-1, 1]."""
    tokens: Tensor | None = None
    """`[B, ...]` int64: the tokens in the bottleneck, None where there are none."""
    vocabulary: int = 0
    """Tokens are below this number."""
    note: str = ""
    """A sentence for the report: why tokens are left out, say."""


class Reconstructing(ABC):
    """What a generator can do beside drawing, where part of it is an autoencoder; inherited beside `Generator`."""

    reconstructs_with: tuple[str, ...]
    """Those of its `networks()` that it needs for it."""

    @abstractmethod
    def reconstruct(self, image: Tensor, rng: Rng | None = None) -> Reconstruction:
        """Encode and decode `image [B, 3, H, W]` in [-1, 1]; `rng` has one row per image."""


class Discriminator(nn.Module, ABC):
    """Judges images in the recipe's pixel space."""

    resolution: int
    num_classes: int = 0
    """Of the labels that it looks at; 0 where it judges without, whatever the data have."""

    @abstractmethod
    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """`image [B, 3, H, W]` -> logits `[B, ...]`, high for real."""

    @contextmanager
    def on_fakes(self) -> Iterator[None]:
        """The stage wraps passes on generated images in this. A paper whose running state must not move there
        (spectral norm's u, say) holds it; by default every training pass moves it, as torch's modules do."""
        yield


class Loss(ABC):
    """An adversarial loss on logits; both return a scalar, the mean over the batch."""

    @abstractmethod
    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss."""

    @abstractmethod
    def generator(self, fake: Tensor) -> Tensor:
        """The generator's loss."""
