"""VQGAN as one generator: the transformer draws codes, the autoencoder's decoder draws the image (Esser et al.)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from zoo_core.errors import UserError
from zoo_core.interfaces import AttentionFactory, DecoderFactory, Reconstructing, Reconstruction, Work
from zoo_core.interfaces import Generator as Base
from zoo_core.rng import Rng
from zoo_vqgan.autoencoder import AutoEncoder
from zoo_vqgan.conditions import Codes, Condition, Coordinates, Label, Unconditional
from zoo_vqgan.filtering import Filter, chooser
from zoo_vqgan.map_autoencoder import DepthAutoEncoder, LabelAutoEncoder, MapAutoEncoder
from zoo_vqgan.options import ConditionOptions, PriorOptions, QuantizerOptions
from zoo_vqgan.permuters import Permuter
from zoo_vqgan.prior import Prior
from zoo_vqgan.prior_sampling import evaluating, sample_codes
from zoo_vqgan.shape import Shape, build_gpt
from zoo_vqgan.window import Windows

REPLACED_AT_RANDOM = (
    "The use of tokens is left out: the remap replaces unknown codes by random ones, which would count as used; "
    "generator.quantizer.unknown=extra counts them as one."
)


class Generator(Base, Reconstructing):
    """A prior of codes, and the autoencoder that the codes are of.

    Two networks that two stages train, `autoencoder` and `prior`; a third, `condition`, where the prior is shown maps
    of labels or depth. Options: `channels`, `multipliers`, `blocks`, `attention_resolutions`, `z_channels`, `dropout`
    of encoder and decoder (their widths are multiples of 32); `attention` and `decoder`, None for the paper's own;
    `attention_heads`; `quantizer`, `condition` and `prior`, see `zoo_vqgan.options`. The second autoencoder has the
    shape and the quantizer of the first, with codes and channels of its own, and always the paper's decoder.
    The defaults are the published f16 model. Raises UserError for an option out of range.
    """

    reconstructs_with = ("autoencoder",)

    def __init__(
        self,
        *,
        resolution: int = 256,
        num_classes: int = 0,
        attention: AttentionFactory | None = None,
        attention_heads: int = 0,
        decoder: DecoderFactory | None = None,
        channels: int = 128,
        multipliers: tuple[int, ...] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        attention_resolutions: tuple[int, ...] = (16,),
        z_channels: int = 256,
        dropout: float = 0.0,
        quantizer: QuantizerOptions = QuantizerOptions(),  # noqa: B008 - frozen
        condition: ConditionOptions = ConditionOptions(),  # noqa: B008 - frozen
        prior: PriorOptions = PriorOptions(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.resolution, self.num_classes = resolution, num_classes
        self.quantizer = quantizer
        shape = Shape(
            resolution=resolution,
            channels=channels,
            multipliers=multipliers,
            blocks=blocks,
            attention_resolutions=attention_resolutions,
            z_channels=z_channels,
            dropout=dropout,
            attention=attention,
            attention_heads=attention_heads,
        )
        self.factor = shape.factor
        """Pixels on the side of a code's area."""
        self.side = prior.side or shape.side
        """Of the square of codes that the prior sees at a time."""
        self._check(shape, condition, prior)

        self.autoencoder = AutoEncoder(**shape.parts(quantizer, decoder=decoder))
        vocabulary = self.autoencoder.quantize.vocabulary
        condition = dataclasses.replace(condition, num_codes=condition.num_codes or vocabulary)
        self.condition = _map_autoencoder(shape, quantizer, condition)
        self.map_kind = condition.kind if self.condition is not None else ""
        self.conditioner = self._conditioner(condition, prior)
        """Makes the condition's tokens."""
        self.conditioner.check_vocabulary(vocabulary)

        length = (condition.downsample // self.factor or self.side) ** 2 if self.conditioner.spatial else 1
        gpt = build_gpt(prior, vocabulary=vocabulary, num_codes=self.side**2, condition_length=length)
        order = Permuter(prior.order, self.side, self.side)
        self.prior = Prior(gpt, order, condition_length=length, kept=prior.kept)
        self.filtering = Filter(prior.temperature, prior.top_k, prior.top_p)
        self.grid()  # refuses what could be trained, but not draw an image

    def networks(self) -> Mapping[str, nn.Module]:
        """The two or three networks, each of a stage, in the order of the stages."""
        found = {"autoencoder": self.autoencoder, "condition": self.condition, "prior": self.prior}
        return {name: network for name, network in found.items() if network is not None}

    def work(self, size: tuple[int, int] | None = None) -> Work:
        """Codes, drawn one after the other. Raises UserError for a size that cannot be drawn."""
        rows, columns = self.grid(size)
        return Work(rows * columns, "codes")

    def grid(self, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Rows and columns of codes of an image of `size`, (height, width); None is the resolution.

        Raises UserError for a size that cannot be drawn.
        """
        height, width = size or (self.resolution, self.resolution)
        if height % self.factor or width % self.factor:
            raise UserError(
                f"height and width of an image must be multiples of {self.factor}, the side of a code's area; "
                f"{height}x{width} is not."
            )
        grid = height // self.factor, width // self.factor
        if grid == (self.side, self.side):
            return grid
        if min(grid) < self.side:
            least = self.side * self.factor
            raise UserError(
                f"{height}x{width} pixels are {grid[0]}x{grid[1]} codes, fewer than the {self.side}x{self.side} of the "
                f"prior's window; height and width must be at least {least}."
            )
        window = f"other sizes than {self.side * self.factor} px are drawn through windows"
        if self.prior.permuter.order != "identity":
            raise UserError(f'{window}, row by row; this prior\'s order is "{self.prior.permuter.order}".')
        if self.side % 2:
            raise UserError(f"{window}, whose side must be even; this prior's is {self.side} codes.")
        if self.conditioner.spatial and self.conditioner.side:
            raise UserError(f"{window}, and generator.condition.downsample leaves those no condition of their own.")
        return grid

    def tokens(self, value: Tensor | None, num: int) -> Tensor:
        """What `conditioner.value` gave, perhaps cropped, as tokens: `[num, M]` or `[num, h, w]`, on the prior's
        device."""
        return self.conditioner(value, num).to(self.prior.gpt.pos_emb.device)

    @torch.no_grad()
    def sample(
        self,
        num: int,
        label: Tensor | None = None,
        rng: Rng | None = None,
        *,
        maps: Tensor | None = None,
        size: tuple[int, int] | None = None,
        progress: Callable[[int], None] | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Tensor:
        """Draw codes one after the other, then decode them: `[num, 3, H, W]` in [-1, 1].

        A grid of codes that is larger than what the prior sees is drawn through windows. Maps are of the size of the
        images. A knob left out is the recipe's. Raises UserError for a size or maps that do not fit.
        """
        label, rng = self.complete(num, label, rng)
        rows, columns = self.grid(size)
        if maps is not None:
            if not self.map_kind:
                raise UserError("this generator draws without maps; leave them out.")
            maps = maps.to(self.prior.gpt.pos_emb.device)
        value = self.conditioner.value(num, (rows * self.factor, columns * self.factor), label, maps)
        codes = self._draw(
            self.tokens(value, num), rows, columns, rng, self._filter(temperature, top_k, top_p), progress
        )
        return self.finish(self.autoencoder.decode_codes(codes))

    @torch.no_grad()
    def reconstruct(self, image: Tensor, rng: Rng | None = None) -> Reconstruction:
        """Encode and decode `image [B, 3, H, W]` in [-1, 1], of any size that the autoencoder takes."""
        with evaluating(self.autoencoder):
            drawn, quantized = self.autoencoder(self.pixels.encode((image + 1) / 2), rng)
        options = self.quantizer
        if options.remap and options.unknown == "random" and options.kind != "gumbel":  # Gumbel knows the used only
            return Reconstruction(self.finish(drawn), note=REPLACED_AT_RANDOM)
        return Reconstruction(self.finish(drawn), quantized.codes, self.autoencoder.quantize.vocabulary)

    def _draw(
        self,
        tokens: Tensor,
        rows: int,
        columns: int,
        rng: Rng,
        filtering: Filter,
        progress: Callable[[int], None] | None,
    ) -> Tensor:
        """Codes `[num, rows, columns]` in raster order."""
        num, choose = len(tokens), chooser(rng.fork("codes"))
        told = (lambda done: progress(num)) if progress else None
        if (rows, columns) != (self.side, self.side):
            windows = Windows(self.prior.gpt, tokens, rows, columns, side=self.side)
            return windows.sample(choose, filtering, progress=told)
        codes = sample_codes(self.prior.gpt, tokens.flatten(1), rows * columns, choose, filtering, progress=told)
        return self.prior.permuter.inverse(codes).unflatten(1, (rows, columns))

    def _filter(self, temperature: float | None, top_k: int | None, top_p: float | None) -> Filter:
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        return dataclasses.replace(
            self.filtering, **{name: value for name, value in given.items() if value is not None}
        )

    def _conditioner(self, condition: ConditionOptions, prior: PriorOptions) -> Condition:
        if self.condition is not None:
            return Codes(self._map_codes, condition.num_codes, condition.downsample, self.condition.prepare)
        if condition.kind == "coordinates":
            return Coordinates(condition.num_codes, self.factor, condition.downsample)
        return Label(self.num_classes) if self.num_classes else Unconditional(prior.start_token)

    def _map_codes(self, prepared: Tensor) -> Tensor:
        with evaluating(self.condition):
            return self.condition.map_codes(prepared)

    def _check(self, shape: Shape, condition: ConditionOptions, prior: PriorOptions) -> None:
        if condition.kind != "none" and self.num_classes:
            raise UserError(
                f"the prior takes one condition: generator.condition.kind={condition.kind} or, with data.labels, the "
                "class; not both."
            )
        if condition.downsample % self.factor:
            raise UserError(
                f"generator.condition.downsample must be a multiple of {self.factor}, the side of a code's area, "
                f"not {condition.downsample}."
            )
        if self.side > shape.side:
            raise UserError(f"generator.prior.side={self.side} is more than the {shape.side} codes of the whole map.")


def _map_autoencoder(shape: Shape, quantizer: QuantizerOptions, condition: ConditionOptions) -> MapAutoEncoder | None:
    own = dataclasses.replace(quantizer, num_codes=condition.num_codes, remap="")
    if condition.kind == "labels":
        parts = shape.parts(own, channels=condition.num_labels)
        return LabelAutoEncoder(num_labels=condition.num_labels, unlabelled=condition.unlabelled, **parts)
    if condition.kind == "depth":
        return DepthAutoEncoder(**shape.parts(own, channels=1))
    return None
