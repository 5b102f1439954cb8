"""How each animal of the built-in data set looks: ears and face by kind, one body for all.

All lengths are in units of 1/32 of the picture, x measured from the mid-line (see `drawn_shapes`). Fixed places, which
`structure` reads: ears above `EARS`' lower edge, feet inside `FEET`, spots on the headband, buttons on the shirt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zoo_core.drawn_shapes import Canvas, Shape, band, both, disc, ellipse, outline, polygon, segment, tilted

PAIR_COLOURS = np.array(
    [[226, 48, 52], [250, 196, 20], [44, 170, 70], [28, 190, 218], [44, 84, 222], [226, 66, 190]], dtype=np.uint8
)
"""What ears and feet share: red, yellow, green, cyan, blue, magenta."""
FUR_COLOURS = np.array(
    [[246, 234, 212], [224, 176, 124], [170, 118, 84], [160, 168, 180], [230, 172, 164], [156, 182, 146]],
    dtype=np.uint8,
)
"""Cream, tan, brown, grey, rose, sage."""
OUTFIT_COLOURS = np.array([[54, 74, 132], [112, 56, 110], [36, 100, 90], [142, 64, 54]], dtype=np.uint8)
"""Headband and shirt, all dark: navy, plum, pine, brick."""
BACKGROUND_COLOURS = np.array(
    [[198, 226, 246], [204, 238, 214], [255, 222, 200], [253, 243, 198], [226, 214, 246], [250, 212, 224]],
    dtype=np.uint8,
)
"""Sky, mint, peach, lemon, lilac, pink."""
WHITE, INK, PINK, BEAK = (
    np.array([colour], dtype=np.float32) for colour in ([255, 252, 244], [44, 36, 48], [240, 142, 150], [246, 158, 44])
)

EARS = (1.0, 0.0, 14.0, 7.0)
"""Window (left, top, right, bottom) of the right half that holds the ears, of every kind."""
FEET = (1.0, 28.0, 8.0, 32.0)
"""Window of the right half that holds the foot."""
SPOT_Y, SPOT_X = 9.0, (0.0, 4.0)
"""Height of the spots on the headband; the middle one, and the outer one with its mirror image."""
BUTTON_Y = (21.0, 24.0, 27.0)
"""Heights of the buttons on the mid-line."""
DOT_RADIUS = 1.25


@dataclass(frozen=True)
class Look:
    """What the drawing of n images of one kind needs: colours `[n, 3]` float32, factors near 1 `[n]`."""

    pair: np.ndarray
    fur: np.ndarray
    outfit: np.ndarray
    background: np.ndarray
    count: np.ndarray
    ear_size: np.ndarray
    eye_size: np.ndarray
    head_width: np.ndarray
    body_width: np.ndarray

    @property
    def light(self) -> np.ndarray:
        """A paler fur, for muzzle, cheek and belly `[n, 3]`."""
        return self.fur + np.float32(0.6) * (WHITE - self.fur)

    @property
    def shade(self) -> np.ndarray:
        """A darker fur, for lines inside it `[n, 3]`."""
        return self.fur * np.float32(0.72)


Painter = Callable[[Canvas, Look], None]
_HEAD_Y = 12.4


def _eyes(canvas: Canvas, look: Look, x: float = 3.6, y: float = 13.2) -> None:
    """A dark eye with a glint."""
    window = (x - 2, y - 2.5, x + 2, y + 2.5)
    canvas.paint(ellipse(x, y, 1.15 * look.eye_size, 1.45 * look.eye_size), INK, window)
    canvas.paint(disc(x + 0.3, y - 0.55, 0.5), WHITE, window)


def _head(canvas: Canvas, look: Look, width: float, height: float = 6.8) -> Shape:
    head = ellipse(0, _HEAD_Y, width * look.head_width, height)
    canvas.paint(head, look.fur, (0, 5, 12, 20))
    return head


def _cat_ears(canvas: Canvas, look: Look) -> None:
    tip = 7 - 6.2 * look.ear_size
    canvas.paint(polygon((7.6, tip), (9.2, 11.0), (1.6, 7.6)), look.pair, (1, 0, 11, 11))


def _cat_face(canvas: Canvas, look: Look) -> None:
    canvas.paint(polygon((0, 16.6), (-1.3, 15.1), (1.3, 15.1), rounding=0.3), PINK, (0, 14, 3, 18))
    canvas.paint(both(outline(disc(1.2, 16.6, 1.2), 0.6), band(16.7, 19)), INK, (0, 16, 3, 19))
    for y0, y1 in ((15.6, 14.9), (16.8, 17.0)):
        canvas.paint(segment(6.0, y0, 10.6, y1, 0.3), INK, (5, 14, 12, 18))


def _bear_ears(canvas: Canvas, look: Look) -> None:
    canvas.paint(disc(6.4, 5.2, 3.4 * look.ear_size), look.pair, (2, 1, 11, 10))


def _bear_face(canvas: Canvas, look: Look) -> None:
    canvas.paint(ellipse(0, 16.2, 3.4, 2.5), look.light, (0, 13, 5, 20))
    canvas.paint(ellipse(0, 15.2, 1.5, 1.0), INK, (0, 14, 3, 17))
    canvas.paint(segment(0, 15.2, 0, 17.2, 0.3), INK, (0, 15, 2, 18))


def _rabbit_ears(canvas: Canvas, look: Look) -> None:
    canvas.paint(tilted(ellipse(0, 0, 2.3, 4.6 * look.ear_size), 4.2, 4.9, 0.25, -1), look.pair, (0, 0, 9, 10))


def _rabbit_face(canvas: Canvas, look: Look) -> None:
    canvas.paint(ellipse(5.8, 16.2, 1.5, 1.1), PINK, (4, 14, 8, 18))
    canvas.paint(ellipse(0, 15.4, 0.9, 0.7), PINK, (0, 14, 2, 17))
    canvas.paint(polygon((-1.1, 16.5), (1.1, 16.5), (1.0, 18.4), (-1.0, 18.4), rounding=0.3), WHITE, (0, 16, 2, 19))


def _owl_ears(canvas: Canvas, look: Look) -> None:
    tip = 7.4 - 4.8 * look.ear_size
    canvas.paint(polygon((10.8, tip), (8.4, 10.5), (1.6, 6.2), rounding=0.8), look.pair, (1, 0, 12, 12))


def _owl_face(canvas: Canvas, look: Look) -> None:
    canvas.paint(disc(3.5, 14.2, 3.1), WHITE, (0, 11, 7, 18))
    canvas.paint(disc(3.1, 14.2, 1.5 * look.eye_size), INK, (1, 12, 6, 17))
    canvas.paint(disc(3.6, 13.6, 0.55), WHITE, (2, 12, 5, 15))
    canvas.paint(polygon((-1.3, 15.2), (1.3, 15.2), (0, 18.0), rounding=0.3), BEAK, (0, 15, 2, 19))


def _frog_ears(canvas: Canvas, look: Look) -> None:
    canvas.paint(disc(5.8, 4.6, 3.9 * look.ear_size), look.pair, (1, 0, 11, 10))


def _frog_face(canvas: Canvas, look: Look) -> None:
    canvas.paint(disc(5.8, 4.4, 1.75 * look.eye_size), WHITE, (3, 2, 9, 7))
    canvas.paint(disc(5.6, 4.6, 1.0), INK, (3, 2, 9, 7))
    canvas.paint(both(outline(ellipse(0, 12.6, 7.0, 4.2), 0.8), band(14.2, 18)), INK, (0, 14, 8, 18))
    canvas.paint(disc(0.9, 13.2, 0.4), look.shade, (0, 12, 2, 15))


def _fox_ears(canvas: Canvas, look: Look) -> None:
    tip = 7.4 - 6.6 * look.ear_size
    canvas.paint(polygon((9.4, tip), (10.6, 10.6), (2.6, 8.2)), look.pair, (2, 0, 13, 12))


def _fox_face(canvas: Canvas, look: Look) -> None:
    cheek = both(tilted(ellipse(0, 0, 3.2, 5.6), 5.6, 17.0, 1, -0.8), ellipse(0, _HEAD_Y, 9.4 * look.head_width, 6.8))
    canvas.paint(cheek, WHITE, (0, 12, 11, 20))
    _eyes(canvas, look, x=4.0)
    canvas.paint(polygon((0, 18.4), (-1.7, 16.2), (1.7, 16.2), rounding=0.8), INK, (0, 15, 3, 19))


def _mouse_ears(canvas: Canvas, look: Look) -> None:
    canvas.paint(disc(8.6, 5.6, 4.8 * look.ear_size), look.pair, (3, 0, 15, 12))


def _mouse_face(canvas: Canvas, look: Look) -> None:
    canvas.paint(ellipse(0, 16.0, 1.4, 1.2), PINK, (0, 14, 3, 18))
    canvas.paint(segment(0, 17.4, 0, 18.2, 0.35), INK, (0, 16, 2, 19))


def _pig_ears(canvas: Canvas, look: Look) -> None:
    canvas.paint(tilted(ellipse(0, 0, 2.4, 4.2 * look.ear_size), 7.6, 5.0, 1, 0.25), look.pair, (2, 1, 14, 10))


def _pig_face(canvas: Canvas, look: Look) -> None:
    canvas.paint(ellipse(0, 16.2, 3.4, 2.3), PINK, (0, 13, 5, 19))
    canvas.paint(ellipse(1.3, 16.2, 0.6, 0.95), INK, (0, 14, 3, 18))


@dataclass(frozen=True)
class Animal:
    """One kind: what to paint behind the head, on it, and how wide it is."""

    ears: Painter
    face: Painter
    head_width: float
    own_eyes: bool = False


ANIMALS: dict[str, Animal] = {
    "cat": Animal(_cat_ears, _cat_face, 8.8),
    "bear": Animal(_bear_ears, _bear_face, 8.6),
    "rabbit": Animal(_rabbit_ears, _rabbit_face, 8.2),
    "owl": Animal(_owl_ears, _owl_face, 8.4, own_eyes=True),
    "frog": Animal(_frog_ears, _frog_face, 9.8, own_eyes=True),
    "fox": Animal(_fox_ears, _fox_face, 9.4, own_eyes=True),
    "mouse": Animal(_mouse_ears, _mouse_face, 7.8),
    "pig": Animal(_pig_ears, _pig_face, 9.0),
}
"""In the order of the labels."""


def paint_animal(name: str, canvas: Canvas, look: Look) -> None:
    """Paint the animal `name` n times, from the back to the front."""
    animal = ANIMALS[name]
    canvas.paint(ellipse(0, 30.4, 10, 1.6), look.background * np.float32(0.86), (0, 28, 11, 32))
    animal.ears(canvas, look)
    canvas.paint(segment(5.0, 21.0, 7.6, 24.2, 1.7), look.outfit, (3, 18, 10, 27))
    canvas.paint(disc(7.9, 24.9, 1.6), look.fur, (6, 23, 10, 27))
    canvas.paint(ellipse(0, 23.6, 6.0 * look.body_width, 6.2), look.outfit, (0, 17, 8, 31))
    canvas.paint(ellipse(4.5, 29.4, 3.0, 1.9), look.pair, (1, 27, 8, 32))
    head = _head(canvas, look, animal.head_width)
    canvas.paint(both(head, band(SPOT_Y - 2, SPOT_Y + 2)), look.outfit, (0, 6, 12, 12))
    animal.face(canvas, look)
    if not animal.own_eyes:
        _eyes(canvas, look)
    _dots(canvas, look)


def _dots(canvas: Canvas, look: Look) -> None:
    """Spots and buttons: one in the middle, two outside, or all three."""
    middle = np.where(look.count == 2, -9, DOT_RADIUS)
    outer = np.where(look.count == 1, -9, DOT_RADIUS)
    for x, y, radius in (
        (SPOT_X[0], SPOT_Y, middle),
        (SPOT_X[1], SPOT_Y, outer),
        (0.0, BUTTON_Y[0], outer),
        (0.0, BUTTON_Y[1], middle),
        (0.0, BUTTON_Y[2], outer),
    ):
        canvas.paint(disc(x, y, radius), WHITE, (x - 2, y - 2, x + 2, y + 2))
