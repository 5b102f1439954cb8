"""The built-in data set: what it promises about its pictures."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from zoo_core import drawn, drawn_shapes
from zoo_core.drawn_animals import DOT_RADIUS, PAIR_COLOURS, SPOT_X, SPOT_Y
from zoo_core.errors import UserError

REGRESSION = {
    16: "73f36f5262651636dc87734ed9b2e542c69617c647e1ee231a8ef08e2225817c",
    32: "8805f193fb5a8074547c806f07caedee0b7a0a488c4007e99432c955aad9913d",
    128: "285e1a7e785b9f50d400f6598916a5d75077c3389fef9867294ac2af3b5151d8",
}
"""sha256 of images 0..63 of version 1. Who changes the pictures raises `drawn.VERSION` and puts the new values here."""


def sha256(images: np.ndarray) -> str:
    return hashlib.sha256(images.tobytes()).hexdigest()


def test_the_set_has_twenty_thousand_different_pictures_of_at_least_eight_kinds():
    assert drawn.NUM >= 20_000 and len(drawn.NAMES) >= 8
    images = drawn.draw(np.arange(drawn.NUM), 32)
    assert images.dtype == np.uint8 and images.shape == (drawn.NUM, 32, 32, 3)
    assert len({image.tobytes() for image in images}) == drawn.NUM


@pytest.mark.parametrize("resolution", [16, 32, 128])
def test_pictures_are_those_of_this_version_on_every_machine(resolution):
    assert drawn.VERSION == 1
    assert sha256(drawn.draw(np.arange(64), resolution)) == REGRESSION[resolution]


def test_a_picture_depends_on_its_number_alone():
    order = np.array([7, 3, 19_999, 3, 40])
    together = drawn.draw(order, 32)
    for index, image in zip(order, together, strict=True):
        np.testing.assert_array_equal(drawn.draw(np.array([index]), 32)[0], image)
    assert drawn.draw(np.array([], dtype=np.int64), 32).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("resolution", drawn.RESOLUTIONS)
def test_every_picture_equals_its_mirror_image(resolution):
    images = drawn.draw(np.arange(16), resolution)
    np.testing.assert_array_equal(images, images[:, :, ::-1])


@pytest.mark.parametrize("resolution", [16, 64, 128, 256])
def test_the_design_is_the_same_at_every_resolution(resolution):
    indices = np.arange(32)

    def averaged(side: int) -> np.ndarray:
        block = side // 16
        return drawn.draw(indices, side).reshape(32, 16, block, 16, block, 3).mean(axis=(2, 4))

    same = np.abs(averaged(resolution) - averaged(32)).mean(axis=(1, 2, 3))
    other = np.abs(averaged(resolution) - np.roll(averaged(32), len(drawn.NAMES), axis=0)).mean(axis=(1, 2, 3))
    assert same.max() < 1.5 < 10 < other.min()


def test_attributes_say_what_is_drawn():
    indices = np.arange(400)
    known, images = drawn.attributes(indices), drawn.draw(indices, 128)
    np.testing.assert_array_equal(known.label, indices % len(drawn.NAMES))
    foot = images[:, int(29.6 * 4), 64 + int(4.5 * 4)]
    np.testing.assert_array_equal(foot, PAIR_COLOURS[known.pair])

    def bright(x: float, y: float) -> np.ndarray:
        return images[:, int(y * 4), 64 + int(x * 4)].min(axis=1) > 240

    middle, outer = bright(SPOT_X[0], SPOT_Y), bright(SPOT_X[1] + DOT_RADIUS / 2, SPOT_Y)
    np.testing.assert_array_equal(middle + 2 * outer.astype(int), known.count)


def test_attributes_are_uniform_and_independent():
    known = drawn.attributes(np.arange(drawn.NUM))
    fields = {
        name: (getattr(known, name) - getattr(known, name).min())
        for name in ("label", "pair", "fur", "outfit", "background", "count")
    }
    for first, a in fields.items():
        for second, b in fields.items():
            if first < second:
                table = np.zeros((a.max() + 1, b.max() + 1))
                np.add.at(table, (a, b), 1)
                expected = drawn.NUM / table.size
                # A chi-squared variable of `size` degrees of freedom: mean `size`, standard deviation sqrt(2 size).
                statistic = ((table - expected) ** 2 / expected).sum()
                assert statistic < table.size + 5 * np.sqrt(2 * table.size), (first, second)


def test_no_window_cuts_a_shape_off(monkeypatch):
    indices = np.arange(200)
    windowed = drawn.draw(indices, 64)
    paint = drawn_shapes.Canvas.paint
    monkeypatch.setattr(
        drawn_shapes.Canvas, "paint", lambda self, shape, colour, window: paint(self, shape, colour, (0, 0, 16, 32))
    )
    np.testing.assert_array_equal(drawn.draw(indices, 64), windowed)


@pytest.mark.parametrize("resolution", [0, 8, 24, 31, 33, 512, -32])
def test_another_resolution_is_refused_with_the_ones_there_are(resolution):
    with pytest.raises(UserError, match=rf"{resolution}; choose one of 16, 32, 64, 128, 256"):
        drawn.draw(np.arange(2), resolution)


def test_a_negative_number_is_refused():
    with pytest.raises(UserError, match="no image -1"):
        drawn.draw(np.array([3, -1]), 32)
