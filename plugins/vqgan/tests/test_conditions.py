"""From what the user gives to condition tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo_core.errors import UserError
from zoo_vqgan.conditions import Codes, Condition, Coordinates, Label, Unconditional, raster, stretch


def test_a_label_is_one_token() -> None:
    assert Label(10)(torch.tensor([3, 9]), 2).tolist() == [[3], [9]]


def test_without_a_condition_every_sequence_starts_alike() -> None:
    condition = Unconditional(5)
    assert condition(None, 3).tolist() == [[5]] * 3 and condition.vocabulary == 6


def test_coordinates_count_the_areas_of_the_whole_picture() -> None:
    coordinates = Coordinates(64, 4)
    whole = coordinates(raster(16, 32), 1)
    assert whole.shape == (1, 4, 8) and bool((whole[0].diff(dim=0) > 0).all())
    crop = coordinates(raster(16, 32)[:, :, 4:12, 8:16], 1)
    assert torch.equal(crop, whole[:, 1:3, 2:4])


def test_coordinates_round_halves_to_even_and_stay_in_the_vocabulary() -> None:
    value = torch.tensor([0.5 / 8, 1.5 / 8, 2.5 / 8, 1.0, 1.5, -1.0]).view(1, 1, 1, 6)
    assert Coordinates(8, 1)(value, 1).tolist() == [[[0, 2, 2, 7, 7, 0]]]


def test_a_large_condition_can_be_shrunk_first() -> None:
    seen = []

    def encode(value: Tensor) -> Tensor:
        seen.append(value)
        return value[:, 0].long()

    value = torch.arange(64.0).view(1, 1, 8, 8).requires_grad_(True)
    tokens = Codes(encode, 64, side=4)(value, 1)
    assert torch.equal(tokens[0].float(), value[0, 0, ::2, ::2])
    assert not seen[0].detach().equal(value) and Codes(encode, 64)(value, 1).shape == (1, 8, 8)


def test_the_second_autoencoder_gets_no_gradient() -> None:
    weight = torch.ones((), requires_grad=True)
    tokens = Codes(lambda value: (value * weight)[:, 0], 4)(torch.zeros(1, 1, 2, 2), 1)
    assert not tokens.requires_grad


@pytest.mark.parametrize(
    ("condition", "value", "num", "message"),
    [
        (Label(10), None, 2, "give it a label for each image"),
        (Label(10), torch.tensor([1, 10]), 2, "label 10 is not one of 0 to 9"),
        (Label(10), torch.tensor([-1]), 1, "label -1 is not"),
        (Label(10), torch.tensor([0.5]), 1, "whole number"),
        (Label(10), torch.tensor([1]), 2, "2 images were asked for, but the condition has 1"),
        (Label(10), torch.tensor([[1]]), 1, "need 1 labels"),
        (Unconditional(), torch.tensor([1]), 1, "takes no condition"),
        (Coordinates(8, 4), torch.zeros(1, 1, 6, 8), 1, "sides that 4 divides"),
        (Coordinates(8, 4), torch.zeros(1, 3, 8, 8), 1, "one channel"),
        (Coordinates(8, 4), torch.zeros(1, 8, 8), 1, "shape"),
    ],
)
def test_a_value_that_does_not_fit_is_a_sentence(
    condition: Condition, value: Tensor | None, num: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        condition(value, num)


def test_a_condition_must_fit_into_the_transformers_vocabulary() -> None:
    Label(10).check_vocabulary(10)
    with pytest.raises(UserError, match="10 different tokens, the transformer's vocabulary only 9"):
        Label(10).check_vocabulary(9)


def test_a_depth_map_is_stretched_and_a_flat_one_is_finite() -> None:
    maps = stretch(torch.tensor([[[[3.0, 5.0], [4.0, 11.0]]], [[[2.0, 2.0], [2.0, 2.0]]]]))
    assert torch.allclose(maps[0, 0], torch.tensor([[-1.0, -0.5], [-0.75, 1.0]]))
    assert torch.equal(maps[1], torch.full((1, 2, 2), -1.0))
