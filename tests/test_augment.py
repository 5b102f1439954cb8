"""Augmentation: each step moves what it says, by draws that belong to the image alone."""

from __future__ import annotations

import pytest
import torch

from zoo_core.augment import augment, brightness, check_policy, contrast, cutout, flip, saturation, translation
from zoo_core.errors import UserError
from zoo_core.rng import Rng

EVERY = ("flip", "translation", "color", "cutout")


def images(num: int = 4, side: int = 16) -> torch.Tensor:
    return torch.randn(num, 3, side, side, generator=torch.Generator().manual_seed(0)) + 10  # no pixel is zero


def rng(num: int, seed: int = 0) -> Rng:
    return Rng.of(seed, rows=range(num))


def test_flip_mirrors_only_the_chosen_images() -> None:
    image = images(2)
    out = flip(image, torch.tensor([True, False]))
    assert torch.equal(out[0, :, :, 0], image[0, :, :, -1])
    assert torch.equal(out[1], image[1])


def test_translation_moves_each_image_by_its_own_shift_and_fills_with_zero() -> None:
    image = images(2)
    out = translation(image, torch.tensor([[2, 0], [-1, 3]]))
    assert torch.equal(out[0, :, :-2], image[0, :, 2:])
    assert not out[0, :, -2:].any()
    assert torch.equal(out[1, :, 1:, :-3], image[1, :, :-1, 3:])
    assert not out[1, :, 0].any()
    assert not out[1, :, :, -3:].any()


def test_colour_steps_move_about_their_means() -> None:
    image = images(2)
    amount = torch.tensor([0.5, -0.25])
    torch.testing.assert_close(brightness(image, amount) - image, amount.view(2, 1, 1, 1).expand_as(image))
    grey = saturation(image, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(grey[0], image[0].mean(0, keepdim=True).expand(3, -1, -1))
    torch.testing.assert_close(grey[1], image[1])
    flat = contrast(image, torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(flat[0], image[0].mean().expand(3, 16, 16))
    torch.testing.assert_close(flat[1].std(), image[1].std() * 2)
    torch.testing.assert_close(flat[1].mean(), image[1].mean())


@pytest.mark.parametrize(
    ("centre", "rows", "columns"),
    [((8, 8), range(4, 12), range(4, 12)), ((0, 16), range(4), range(12, 16)), ((16, 2), range(12, 16), range(6))],
)
def test_cutout_zeroes_a_square_that_shrinks_at_the_border(centre: tuple, rows: range, columns: range) -> None:
    out = cutout(images(1), torch.tensor([centre]), 8)[0, 0] == 0
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[rows.start : rows.stop, columns.start : columns.stop] = True
    assert torch.equal(out, expected)


def test_an_odd_cutout_is_centred() -> None:
    out = cutout(images(1, 9), torch.tensor([[4, 4]]), 5)[0, 0] == 0
    assert out.sum() == 25
    assert out[2:7, 2:7].all()


def test_an_image_is_augmented_alike_in_any_batch() -> None:
    image = images(4)
    whole = augment(image, rng(4), EVERY)
    for row in range(4):
        alone = augment(image[row : row + 1], Rng.of(0, rows=range(row, row + 1)), EVERY)
        torch.testing.assert_close(alone[0], whole[row])
    assert not torch.equal(whole, augment(image, rng(4, seed=1), EVERY))


def test_the_policy_is_followed_in_order() -> None:
    image = images(8)
    # Brightness before the cutout leaves zeros; after it, none.
    assert (augment(image, rng(8), ("brightness", "cutout")) == 0).any()
    assert not (augment(image, rng(8), ("cutout", "brightness")) == 0).any()
    assert check_policy(("color", "cutout")) == ("brightness", "saturation", "contrast", "cutout")
    assert torch.equal(augment(image, rng(8), ()), image)


def test_draws_cover_their_ranges() -> None:
    num, side = 400, 16
    ramp = torch.arange(1.0, side + 1).view(1, 1, side, 1).expand(num, 3, side, side)
    moved = augment(ramp, rng(num), ("translation",))[:, 0, 8].amax(1) - 9  # a column within the image keeps its value
    assert set(moved.tolist()) == {-2.0, -1.0, 0.0, 1.0, 2.0}
    flat = torch.ones(num, 3, side, side)
    lighter = augment(flat, rng(num), ("brightness",))[:, 0, 0, 0] - 1
    assert -0.5 <= lighter.min() < -0.45
    assert 0.45 < lighter.max() <= 0.5
    holes = (augment(flat, rng(num), ("cutout",)) == 0)[:, 0].sum((1, 2))
    assert holes.min() == 16  # a corner
    assert holes.max() == 64  # the whole square
    mirrored = augment(torch.arange(16.0).expand(num, 3, side, side), rng(num), ("flip",))[:, 0, 0, 0] == 15
    assert 0.4 < mirrored.float().mean() < 0.6


def test_the_whole_policy_passes_gradients_on() -> None:
    image = images(2).requires_grad_(True)
    augment(image, rng(2), EVERY).square().sum().backward()
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


def test_an_unknown_step_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match='"translation"'):
        augment(images(), rng(4), ("translaton",))
    with pytest.raises(ValueError, match="3 rows"):
        augment(images(4), rng(3), ("flip",))
