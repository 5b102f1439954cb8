"""The structure metric: right on real pictures, chance on shuffled ones, smooth in between."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zoo_core import drawn
from zoo_core.drawn_animals import PAIR_COLOURS
from zoo_core.errors import UserError
from zoo_core.structure import UNREADABLE, read_counts, read_pair, report, shuffle_halves, structure

NUM = 1200


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    return drawn.draw(np.arange(NUM), 32)


def blurred(images: np.ndarray) -> np.ndarray:
    """Blur with the binomial kernel 1 2 1 (standard deviation 0.7 pixels), both ways."""
    images = images.astype(float)
    for axis in (1, 2):
        images = (np.roll(images, 1, axis) + 2 * images + np.roll(images, -1, axis)) / 4
    return images


def noisy(images: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, images.shape)
    return np.clip(np.round(images + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
def test_what_is_read_is_what_was_drawn(resolution):
    indices = np.arange(1000, 1000 + NUM * 32 // resolution)
    images, known = drawn.draw(indices, resolution), drawn.attributes(indices)
    for read in read_pair(images):
        assert np.mean(read == known.pair) >= 0.995
    for read in read_counts(images):
        assert np.mean(read == known.count) >= 0.995


def test_real_pictures_are_consistent_and_shuffled_ones_are_at_chance(real):
    figures = report(real, real)
    assert figures["symmetry_error"]["real"] == 0
    assert figures["pair_agreement"]["real"] >= 0.98
    assert figures["count_agreement"]["real"] >= 0.95
    assert figures["symmetry_error"]["real_shuffled"] == pytest.approx(1, abs=0.05)
    # Three standard deviations of a rate among 1,200.
    for name, chance in (("pair_agreement", 1 / len(PAIR_COLOURS)), ("count_agreement", 1 / drawn.NUM_COUNTS)):
        spread = 3 * math.sqrt(chance * (1 - chance) / NUM)
        assert figures[name]["real_shuffled"] == pytest.approx(chance, abs=spread)
    for column in figures.values():
        assert column["images"] == column["real"] and column["images_shuffled"] == column["real_shuffled"]


def test_noise_and_blur_cost_little(real):
    for images in (noisy(real, 8), noisy(blurred(real), 0), noisy(blurred(real), 8)):
        figures = structure(images)
        assert figures["pair_agreement"] >= 0.98
        assert figures["count_agreement"] >= 0.95
    assert structure(noisy(blurred(real), 0))["symmetry_error"] == 0
    errors = [structure(noisy(real, sigma))["symmetry_error"] for sigma in (4, 8, 16)]
    assert 0 < errors[0] < errors[1] < errors[2] < 0.5


def test_agreement_falls_in_proportion_to_the_broken_pictures(real):
    broken = shuffle_halves(real, seed=1).top_bottom
    mixed = np.concatenate([real[: NUM // 2], broken[NUM // 2 :]])
    assert structure(mixed)["pair_agreement"] == pytest.approx((1 + 1 / 6) / 2, abs=0.05)
    assert structure(mixed)["count_agreement"] == pytest.approx((1 + 1 / 3) / 2, abs=0.05)


def test_what_shows_no_animal_is_unreadable_and_counts_as_disagreement():
    noise = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    grey = np.full((4, 32, 32, 3), 128, dtype=np.uint8)
    for images in (noise, grey):
        figures = structure(images)
        assert figures["pair_agreement"] == figures["pair_readable"] == 0
        assert figures["count_agreement"] == 0 and figures["count_readable"] < 0.05
    assert structure(noise)["symmetry_error"] == pytest.approx(1, abs=0.02)


def test_a_generator_of_one_picture_is_told_by_its_own_shuffled_column(real):
    figures = report(np.repeat(real[:1], 8, axis=0), real)
    assert figures["pair_agreement"]["images"] == figures["pair_agreement"]["images_shuffled"] == 1


def test_counts_are_not_made_up_where_they_cannot_be_read():
    images = drawn.draw(np.arange(NUM), 16)
    figures = structure(images)
    assert math.isnan(figures["count_agreement"]) and math.isnan(figures["count_readable"])
    assert (read_counts(images)[0] == UNREADABLE).all()
    assert figures["symmetry_error"] == 0 and figures["pair_agreement"] >= 0.98


def test_shuffling_joins_the_halves_of_two_different_pictures(real):
    shuffled = shuffle_halves(real, seed=3)
    np.testing.assert_array_equal(shuffled.top_bottom[:, :16], real[:, :16])
    np.testing.assert_array_equal(shuffled.left_right[:, :, :16], real[:, :, :16])
    bottoms = {image[16:].tobytes() for image in shuffled.top_bottom}
    assert bottoms == {image[16:].tobytes() for image in real}
    assert not (shuffled.top_bottom[:, 16:] == real[:, 16:]).all(axis=(1, 2, 3)).any()
    np.testing.assert_array_equal(shuffle_halves(real, seed=3).top_bottom, shuffled.top_bottom)
    assert (shuffle_halves(real, seed=4).top_bottom != shuffled.top_bottom).any()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((4, 32, 32, 3), dtype=np.float32),
        np.zeros((4, 3, 32, 32), dtype=np.uint8),
        np.zeros((4, 32, 16, 3), dtype=np.uint8),
        np.zeros((4, 24, 24, 3), dtype=np.uint8),
        np.zeros((1, 32, 32, 3), dtype=np.uint8),
        np.zeros((32, 32, 3), dtype=np.uint8),
    ],
)
def test_other_arrays_are_refused_by_shape_and_type(images):
    with pytest.raises(UserError, match="structure needs at least two uint8 pictures"):
        structure(images)
