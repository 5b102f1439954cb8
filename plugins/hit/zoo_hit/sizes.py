"""How large each stage is: the published configurations, and what a recipe changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo_core.errors import UserError

FIRST = 8
"""Side of the first stage's map."""

Table = Mapping[int, int]
"""A value by side."""


@dataclass(frozen=True)
class Size:
    """One stage."""

    side: int
    """Of its map."""
    dim: int
    """Channels."""
    heads: int
    block: int
    """Side of the blocks of self-attention; 0: no self-attention, MLPs only."""
    depth: int
    """Self-attention blocks, or MLPs, after the cross-attention."""


def published(side: int, resolution: int) -> Size:
    """A stage of the published models of 128, 256 and 1024 pixels; others follow the same rule.

    Stages up to 64 pixels have self-attention, the last of a model never. ImageNet's, of 128 pixels, ends wider and
    deeper than the others.
    """
    imagenet = side == resolution == 128
    dims = {8: 512, 16: 512, 32: 256, 64: 128, 128: 128 if imagenet else 64, 256: 64}
    return Size(
        side=side,
        dim=dims.get(side, 32),
        heads={8: 16, 16: 8}.get(side, 4),
        block=0 if side > 64 or side == resolution else 4 if side <= 16 else 8,
        depth=2 if side <= 64 or imagenet else 1,
    )


def stage_sizes(
    resolution: int,
    channels: Table | None,
    heads: Table | None,
    blocks: Table | None,
    depths: Table | None,
    first: int = FIRST,
) -> list[Size]:
    """The stages from `first` pixels to `resolution`. Each table has the last word for the sides that it names; above
    the largest side of `channels` the width halves with each doubling, down to 8. Sides beyond the image do not matter,
    so that one recipe serves every resolution.

    Raises UserError for a resolution or a side that no stage can have, and for sizes that do not fit together.
    """
    if resolution < FIRST or resolution & (resolution - 1):
        raise UserError(f"resolution {resolution} must be a power of two and at least {FIRST}; set data.resolution so.")
    tables = {"channels": channels, "heads": heads, "blocks": blocks, "depths": depths}
    tables = {name: table or {} for name, table in tables.items()}
    for name, table in tables.items():
        least = 1 if name in ("channels", "heads") else 0
        for side, value in table.items():
            if side < FIRST or side & (side - 1) or value < least:
                raise UserError(
                    f"{name} gives side {side} the value {value}; sides are 8, 16, 32, .., values from {least} on."
                )
    sizes: list[Size] = []
    for side in (first << stage for stage in range((resolution // first).bit_length())):
        usual = published(side, resolution)
        dim = usual.dim
        if sizes and channels and side > max(channels):
            dim = max(8, sizes[-1].dim // 2)
        size = Size(
            side,
            tables["channels"].get(side, dim),
            tables["heads"].get(side, usual.heads),
            tables["blocks"].get(side, usual.block),
            tables["depths"].get(side, usual.depth),
        )
        _check(size, last=side == resolution)
        sizes.append(size)
    return sizes


def _check(size: Size, last: bool) -> None:
    if size.dim % size.heads:
        raise UserError(f"{size.heads} heads do not divide {size.dim} channels at {size.side} pixels; change one.")
    if size.dim % 4 and not last:
        raise UserError(f"channels at {size.side} pixels are {size.dim}; doubling the map needs a multiple of 4.")
    if size.block and (size.side % size.block or 2 * size.block > size.side):
        raise UserError(
            f"blocks of {size.block} do not fit a map of {size.side} pixels: they must divide it, at least in two."
        )
