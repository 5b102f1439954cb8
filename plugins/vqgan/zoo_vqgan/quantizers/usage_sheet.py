"""A picture of how often each code was used: a falling curve, and a map of the table.

Drawn with Pillow, which Zoo has anyway, rather than matplotlib, which it would need for this alone.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zoo_vqgan.quantizers.usage import Usage

SIZE = (760, 388)
PLOT = (64, 76, 404, 332)
"""Borders of the curve: left, upper, right, lower."""
MAP = (452, 76)
"""The map's upper left corner."""
SIDE = 256
"""Of the map in pixels, at most."""
INK, FAINT, RULE, CURVE, DEAD = (25, 25, 30), (105, 105, 115), (222, 222, 228), (32, 84, 160), (214, 60, 48)
PALE, DARK = np.array([222, 232, 246]), np.array([12, 36, 92])


def usage_sheet(usage: Usage, num_images: int) -> np.ndarray:
    """`[h, w, 3]` uint8. Both parts have logarithmic scales; codes that were never used are red in the map."""
    counts = usage.counts.cpu().numpy()
    used = np.sort(counts[counts > 0])[::-1]
    sheet = Image.new("RGB", SIZE, (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    title = f"Use of the {len(counts):,} codes over the last {num_images:,} images"
    pen.text((16, 10), title, INK, _font(15))
    if not len(used):
        return np.asarray(sheet)
    dead = len(counts) - len(used)
    summary = f"in use {len(used):,} ({usage.share:.1%}), dead {dead:,}, perplexity {usage.perplexity:,.1f}"
    pen.text((16, 32), summary, FAINT, _font(13))
    top = 10 ** math.ceil(math.log10(max(int(used[0]), 10)))
    _curve(pen, used, counts.mean(), len(counts), top)
    _table(sheet, pen, counts, top)
    return np.asarray(sheet)


def _curve(pen: ImageDraw.ImageDraw, used: np.ndarray, even: float, num: int, top: int) -> None:
    """Counts, the largest first, from 1 to `top`; `even` is what each would have if all were used alike."""
    left, upper, right, lower = PLOT

    def place(rank: float, value: float) -> tuple[float, float]:
        share = math.log(max(value, 1.0)) / math.log(top)
        return left + (right - left) * rank / num, lower - (lower - upper) * share

    for power in range(round(math.log10(top)) + 1):
        y = place(0, 10**power)[1]
        pen.line((left, y, right, y), RULE)
        pen.text((left - 6, y), f"{10**power:,}", FAINT, _font(11), anchor="rm")
    for quarter in range(5):
        x = place(num * quarter / 4, 1)[0]
        pen.line((x, lower, x, lower + 4), FAINT)
        pen.text((x, lower + 6), f"{num * quarter // 4:,}", FAINT, _font(11), anchor="ma")
    y = place(0, even)[1]
    pen.line((left, y, right, y), FAINT)
    pen.text((right, y - 2), f"all alike: {even:,.4g}", FAINT, _font(11), anchor="rb")
    steps = [place(rank + edge, value) for rank, value in enumerate(used.tolist()) for edge in (0, 1)]
    pen.line(steps, CURVE, 2)
    pen.text(((left + right) / 2, lower + 24), "codes, the most used first", INK, _font(12), anchor="ma")
    pen.text((left, upper - 3), "times used", INK, _font(12), anchor="lb")


def _table(sheet: Image.Image, pen: ImageDraw.ImageDraw, counts: np.ndarray, top: int) -> None:
    """A cell for each code, in the table's order, row by row; below, what the colours mean."""
    columns = math.ceil(math.sqrt(len(counts)))
    rows = math.ceil(len(counts) / columns)
    cell = max(1, SIDE // columns)
    shares = np.log(np.maximum(counts, 1)) / math.log(top)
    cells = np.full((rows * columns, 3), 255, np.uint8)
    cells[: len(counts)] = np.where(counts[:, None] > 0, _colour(shares), DEAD)
    picture = cells.reshape(rows, columns, 3).repeat(cell, 0).repeat(cell, 1)
    sheet.paste(Image.fromarray(picture), MAP)
    pen.text((MAP[0], MAP[1] - 3), f"each code in its place, {columns} a row", INK, _font(12), anchor="lb")
    left, y = MAP[0], PLOT[3] + 12
    ramp = np.broadcast_to(_colour(np.linspace(0, 1, 120)), (12, 120, 3))
    sheet.paste(Image.fromarray(np.ascontiguousarray(ramp)), (left + 14, y))
    pen.text((left, y + 6), "1", FAINT, _font(11), anchor="lm")
    pen.text((left + 140, y + 6), f"{top:,}", FAINT, _font(11), anchor="lm")
    pen.rectangle((left + 204, y, left + 216, y + 12), DEAD)
    pen.text((left + 222, y + 6), "never", FAINT, _font(11), anchor="lm")


def _colour(shares: np.ndarray) -> np.ndarray:
    """Shares `[N]` in [0, 1] -> uint8 `[N, 3]`."""
    return (PALE + shares[:, None] * (DARK - PALE)).round().astype(np.uint8)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
