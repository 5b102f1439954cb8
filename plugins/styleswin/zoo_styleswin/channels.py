"""How wide the two networks are at each resolution."""

from __future__ import annotations

from collections.abc import Mapping

from zoo_core.errors import UserError


def channel_table(
    resolution: int, channel_multiplier: float, max_channels: int, override: Mapping[int, int] | None
) -> dict[int, int]:
    """Channels at 4, 8, .. `resolution`: 512 up to 32 pixels, then `16384 * channel_multiplier / side`; at most
    `max_channels`. `override` has the last word for the sides it names; above the largest of them the width halves with
    each doubling, down to 8, and sides beyond the image do not matter. So one table serves every resolution.
    Raises UserError for a side that no network has, and for a width below 1.
    """
    sides = [4 << level for level in range(resolution.bit_length() - 2)]
    table = {side: min(max_channels, 512 if side <= 32 else int(16384 * channel_multiplier / side)) for side in sides}
    if not override:
        return table
    for side, width in override.items():
        if side < 4 or side & (side - 1) or width < 1:
            raise UserError(f"channels gives side {side} the width {width}; sides are 4, 8, 16, .., widths from 1 on.")
    largest = max(override)
    for side in sides:
        table[side] = override.get(side, table[side])
        if side > largest:
            table[side] = max(8, table[side // 2] // 2)
    return table


def num_heads(dim: int, min_heads: int) -> int:
    """Heads of a layer: `max(dim // 32, min_heads)`, as published for widths that are powers of two; for others the
    largest even number below that divides the channels, but never fewer than `min_heads`."""
    most = max(dim // 32, min_heads)
    return next((n for n in range(most, min_heads, -1) if n % 2 == 0 and dim % n == 0), min_heads)


def check_resolution(resolution: int, least: int) -> None:
    """Raise UserError unless `resolution` is a power of two and at least `least`."""
    if resolution < least or resolution & (resolution - 1):
        raise UserError(f"resolution {resolution} must be a power of two and at least {least}; set data.resolution so.")


def check_unconditional(num_classes: int) -> None:
    """Raise UserError for labelled use: these networks take no label."""
    if num_classes:
        raise UserError(
            "StyleSwin's networks are unconditional and take no labels; "
            "set data.labels=false, or choose a class-conditional plugin such as sagan."
        )


def check_positive(**options: float) -> None:
    """Raise UserError for an option that is not above 0."""
    for name, value in options.items():
        if value <= 0:
            raise UserError(f"{name} must be above 0, not {value}.")
