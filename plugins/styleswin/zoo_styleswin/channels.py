"""How wide the two networks are at each resolution."""

from __future__ import annotations

from collections.abc import Mapping

from zoo_core.errors import UserError


def channel_table(
    resolution: int, channel_multiplier: float, max_channels: int, override: Mapping[int, int] | None
) -> dict[int, int]:
    """Channels at 4, 8, .. `resolution`: 512 up to 32 pixels, then `16384 * channel_multiplier / side`; at most
    `max_channels`; `override` has the last word. Raises UserError for a side that the network does not have."""
    sides = [4 << level for level in range(resolution.bit_length() - 2)]
    table = {side: min(max_channels, 512 if side <= 32 else int(16384 * channel_multiplier / side)) for side in sides}
    for side, width in (override or {}).items():
        if side not in table:
            raise UserError(
                f"channels names side {side}, but a network of {resolution} pixels has the sides "
                f"{', '.join(map(str, sides))}; remove or mend that entry."
            )
        table[side] = width
    return table


def check_resolution(resolution: int, least: int) -> None:
    """Raise UserError unless `resolution` is a power of two and at least `least`."""
    if resolution < least or resolution & (resolution - 1):
        raise UserError(f"resolution {resolution} must be a power of two and at least {least}; set data.resolution so.")


def check_unconditional(num_classes: int) -> None:
    """Raise UserError for labelled use: these networks take no label."""
    if num_classes:
        raise UserError(
            f"StyleSwin's networks are unconditional and cannot use {num_classes} classes; "
            "set data.labels=false, or choose a class-conditional plugin such as sagan."
        )
