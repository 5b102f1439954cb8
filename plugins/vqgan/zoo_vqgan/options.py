"""What a recipe may say of the networks: plain data with the published values as defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from zoo_core.errors import UserError
from zoo_vqgan.schedule import warm_up_cosine


@dataclass(frozen=True)
class QuantizerOptions:
    """The codes and how vectors become codes."""

    kind: Literal["nearest", "ema", "gumbel"] = "nearest"
    num_codes: int = 1024
    embed_dim: int = 256
    beta: float = 0.25
    legacy: bool = True
    """Nearest: beta on the codebook's term, as all published models have it; false: on the encoder's, as in Eq. 4."""
    decay: float = 0.99
    """EMA: of the table."""
    kl_weight: float = 1e-8
    """Gumbel: weight of the divergence from an even distribution."""
    temperature: float = 1.0
    """Gumbel: of the relaxed draws."""
    temperature_end: float = 1e-6
    """Gumbel: where it ends, if it falls."""
    temperature_images: int = 0
    """Gumbel: after so many images it has fallen to its end, along a cosine; 0 keeps it."""
    temperature_start: float = 1.0
    """Gumbel: where it begins, if it warms up."""
    temperature_warm_up_images: int = 0
    """Gumbel: in so many images it comes from its start to `temperature`, along a line, before it falls."""
    usage_images: int = 4_096
    """Over how many recent images the use of the codes is told."""
    restart_images: int = 0
    """Every so many images, from `usage_images` on, codes that none of the last `usage_images` used restart at vectors
    of the encoder; 0, as officially, never. Not with Gumbel or a remap."""
    remap: str = ""
    """A `.npy` file of the codes that are in use, in whose numbers the prior then counts; see `quantizers.remap`. A run
    keeps its full path."""
    unknown: int | str = "random"
    """With a remap: what a code that is not in use becomes: "random", "extra", or a number."""

    def __post_init__(self) -> None:
        if self.remap:  # so that the run can be used from any folder
            object.__setattr__(self, "remap", os.path.abspath(os.path.expanduser(self.remap)))
        if self.num_codes < 2 or self.embed_dim < 1:
            raise UserError("generator.quantizer needs num_codes of at least 2 and embed_dim of at least 1.")
        for name in ("beta", "kl_weight", "temperature_images"):
            if getattr(self, name) < 0:
                raise UserError(f"generator.quantizer.{name} cannot be negative; it is {getattr(self, name)}.")
        if not 0 <= self.decay < 1:
            raise UserError(f"generator.quantizer.decay must be at least 0 and below 1, not {self.decay}.")
        if min(self.temperature, self.temperature_start, self.temperature_end) <= 0:
            raise UserError("generator.quantizer: temperatures must be above 0.")
        if not 0 <= self.temperature_warm_up_images < max(self.temperature_images, 1):
            raise UserError("generator.quantizer: temperature_warm_up_images must be less than temperature_images.")
        if self.usage_images < 1 or self.restart_images < 0:
            raise UserError("generator.quantizer needs usage_images of at least 1 and no negative restart_images.")
        if self.restart_images and (self.kind == "gumbel" or self.remap):
            why = "a remap has few codes on purpose" if self.remap else "gumbel's vectors are none of the encoder's"
            raise UserError(f"generator.quantizer.restart_images must be 0: {why}.")

    def temperature_at(self, images: int) -> float:
        """Gumbel's temperature after so many images."""
        if not self.temperature_images:
            return self.temperature
        return warm_up_cosine(
            images,
            warm_up=self.temperature_warm_up_images,
            start=self.temperature_start,
            peak=self.temperature,
            end=self.temperature_end,
            total=self.temperature_images,
        )


@dataclass(frozen=True)
class ConditionOptions:
    """What the prior is shown of an image before it draws it. Of class labels `data.labels` decides, with kind none."""

    kind: Literal["none", "coordinates", "labels", "depth"] = "none"
    """coordinates: where in its picture a window lies; labels and depth: the codes that a second autoencoder, of the
    shape of the first, gives to a map of these."""
    num_codes: int = 0
    """Different tokens, of the coordinates or of the second autoencoder; 0 is as many as the first autoencoder's."""
    num_labels: int = 0
    """Labels: how many there are, unlabelled included (published: S-FLCKR 182, COCO 183, ADE20K 151)."""
    unlabelled: int = 0
    """Labels: the value in the files that stands for none. It becomes 0 and all others one more, as with COCO's 255;
    0 takes the values as they are."""
    downsample: int = 0
    """Side in pixels to which the map (of coordinates, too) is shrunk first; 0 leaves it (official
    `downsample_cond_size`, there -1)."""

    def __post_init__(self) -> None:
        if self.num_codes < 0 or self.num_codes == 1:
            raise UserError(
                "generator.condition.num_codes must be at least 2, or 0 for as many as the first autoencoder's."
            )
        if min(self.num_labels, self.unlabelled, self.downsample) < 0:
            raise UserError("generator.condition: num_labels, unlabelled and downsample cannot be negative.")
        if (self.kind == "labels") != (self.num_labels > 0):
            raise UserError("generator.condition: num_labels belongs to the kind labels, and that needs it.")
        if self.unlabelled and self.kind != "labels":
            raise UserError("generator.condition: unlabelled belongs to the kind labels.")
        if self.downsample and self.kind == "none":
            raise UserError("generator.condition: downsample needs a condition to shrink; kind is none.")


@dataclass(frozen=True)
class PriorOptions:
    """The transformer over the codes; the published size of faces and scenes."""

    layers: int = 24
    heads: int = 16
    dim: int = 1024
    dropout: float = 0.0
    kept: float = 1.0
    """Share of the codes that are read unchanged in training (official `pkeep`)."""
    order: str = "identity"
    """In which order the codes are read and drawn; see `zoo_vqgan.permuters`."""
    side: int = 0
    """Side in codes of the square that it sees at a time; a larger map is trained on in random crops, and drawn
    through windows. 0 is the whole map."""
    block_size: int = 0
    """Most tokens of a sequence. 0 is as published: the codes and the condition's tokens, where it has more than one
    (one takes the place of the last code, which is never read)."""
    start_token: int = 0
    """Unconditional: the token before the first code."""
    temperature: float = 1.0
    top_k: int = 0
    """Codes that a draw chooses from; 0 is all."""
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.dim) < 1:
            raise UserError("generator.prior needs layers, heads and dim of at least 1.")
        if min(self.side, self.block_size, self.start_token) < 0:
            raise UserError("generator.prior: side, block_size and start_token cannot be negative.")
