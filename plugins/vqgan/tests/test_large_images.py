"""Images larger than what the prior sees: random crops in training, windows in sampling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from vqgan_toys import SIDE, batch, generator, maps, stages, step

from zoo_core.errors import UserError
from zoo_core.interfaces import Work
from zoo_core.program import Batch
from zoo_core.rng import Rng
from zoo_vqgan.conditions import Coordinates, raster
from zoo_vqgan.cropping import corners
from zoo_vqgan.filtering import chooser
from zoo_vqgan.generator import Generator
from zoo_vqgan.options import PriorOptions, QuantizerOptions
from zoo_vqgan.prior_sampling import sample_codes
from zoo_vqgan.prior_stage import codes_and_condition
from zoo_vqgan.window import Windows

CROPS: dict[str, Any] = {"prior": {"side": 4}}
"""A prior of 4 x 4 codes, 8 px, on pictures of 8 x 8 codes, 16 px."""

LARGE = (24, 32)
"""Height and width of a large image."""


def rng(num: int = 2) -> Rng:
    return Rng.of("draw", rows=range(num))


def encoded(made: Generator) -> list[Tensor]:
    """What the autoencoder is given from now on."""
    seen: list[Tensor] = []
    made.autoencoder.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    return seen


# -- crops


def test_crops_start_at_any_pixel_and_belong_to_their_images() -> None:
    places = corners(Rng.of("crops", rows=range(400)), (10, 6), 4)
    assert {top for top, _ in places} == set(range(7)) and {left for _, left in places} == set(range(3))
    assert corners(Rng.of("crops", rows=range(5, 7)), (10, 6), 4) == places[5:7]
    assert corners(Rng.of("crops", rows=range(3)), (4, 4), 4) == [(0, 0)] * 3


def test_coordinates_of_a_crop_are_those_of_its_place_in_the_whole_picture() -> None:
    """The images are rasters themselves, so that what the encoder sees tells where the crop lay."""
    made = generator("coordinates", **CROPS)
    seen = encoded(made)
    given = Batch(raster(SIDE, SIDE).expand(6, 3, -1, -1), None, Rng.of("crops", rows=range(6)))
    codes, condition = codes_and_condition(made, given)
    assert codes.shape == condition.shape == (6, 4, 4) and seen[0].shape == (6, 3, 8, 8)
    assert len(seen[0][:, 0, 0, 0].unique()) > 3
    assert torch.equal(condition, Coordinates(20, 2)(seen[0][:, :1], 6))


@pytest.mark.parametrize("kind", ["labels", "depth"])
def test_maps_are_cropped_with_their_images(kind: str) -> None:
    made = generator(kind, **CROPS)
    shown = maps(kind, 6)
    prepared = made.condition.prepare(shown)
    seen = encoded(made)
    given = Batch(prepared.expand(-1, 3, -1, -1).float(), None, Rng.of("crops", rows=range(6)), shown)
    _, condition = codes_and_condition(made, given)
    cropped = seen[0][:, :1].to(prepared.dtype)
    assert cropped.shape == (6, 1, 8, 8)
    assert torch.equal(condition, made.condition.map_codes(cropped))


def test_a_prior_of_the_whole_map_sees_the_whole_image() -> None:
    made = generator()
    given = batch()
    codes, condition = codes_and_condition(made, given)
    assert torch.equal(codes, made.autoencoder.codes(given.image)) and condition.tolist() == [[0], [0]]


@pytest.mark.parametrize("kind", ["none", "coordinates", "labels", "depth"])
def test_a_prior_that_sees_crops_trains_and_draws_whole_images(kind: str) -> None:
    made, found = stages(kind, **CROPS)
    step(found["prior"], batch(kind))
    assert made.eval().sample(2, None, rng(), maps=maps(kind, 2)).shape == (2, 3, SIDE, SIDE)
    assert made.prior.gpt.block_size == (16 if kind == "none" else 32)


# -- windows


@pytest.mark.parametrize("kind", ["none", "coordinates", "labels", "depth"])
def test_a_large_image_is_what_the_windows_draw(kind: str) -> None:
    made = generator(kind, **CROPS)
    shown = maps(kind, 2, *LARGE)
    ours = made.sample(2, None, rng(), maps=shown, size=LARGE, temperature=0.9, top_k=12)
    if kind == "coordinates":
        condition = Coordinates(20, 2)(raster(*LARGE).expand(2, -1, -1, -1), 2)
    elif shown is None:
        condition = torch.zeros(2, 1, dtype=torch.int64)
    else:
        condition = made.condition.map_codes(made.condition.prepare(shown))
    windows = Windows(made.prior.gpt, condition, 12, 16, side=4)
    codes = windows.sample(chooser(rng().fork("codes")), made._filter(0.9, 12, None))
    assert len(codes.unique()) > 4
    assert torch.equal(ours, made.finish(made.autoencoder.decode_codes(codes)))
    assert ours.shape == (2, 3, *LARGE)


def test_a_class_conditions_every_window() -> None:
    """The official code has no such windows; the rule is that of the `ext_win` goldens."""
    torch.manual_seed(0)
    shape = {"channels": 32, "multipliers": (1, 2), "blocks": 1, "attention_resolutions": (), "z_channels": 32}
    prior = PriorOptions(layers=1, heads=2, dim=16)
    quantizer = QuantizerOptions(num_codes=24, embed_dim=8)
    made = Generator(resolution=8, num_classes=3, **shape, quantizer=quantizer, prior=prior).eval()
    torch.nn.init.normal_(made.prior.gpt.tok_emb.weight)
    label = torch.tensor([0, 2])
    ours = made.sample(2, label, rng(), size=(8, 16))
    codes = Windows(made.prior.gpt, label[:, None], 4, 8, side=4).sample(chooser(rng().fork("codes")), made.filtering)
    assert torch.equal(ours, made.finish(made.autoencoder.decode_codes(codes)))


def test_a_grid_as_large_as_the_priors_is_drawn_without_windows() -> None:
    made = generator("coordinates", **CROPS)
    condition = Coordinates(20, 2)(raster(8, 8).expand(2, -1, -1, -1), 2)
    codes = sample_codes(made.prior.gpt, condition.flatten(1), 16, chooser(rng().fork("codes")), made.filtering)
    expected = made.finish(made.autoencoder.decode_codes(codes.view(2, 4, 4)))
    assert torch.equal(made.sample(2, None, rng(), size=(8, 8)), expected)


@pytest.mark.parametrize(("size", "codes"), [(None, 64), ((8, 8), 16), (LARGE, 192)])
def test_progress_counts_every_images_codes(size: tuple[int, int] | None, codes: int) -> None:
    made = generator(**CROPS)
    assert made.work(size) == Work(codes, "codes")
    told: list[int] = []
    made.sample(3, None, rng(3), size=size, progress=told.append)
    assert told == [3] * codes


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        (CROPS, (25, 32), "multiples of 2, the side of a code's area; 25x32 is not"),
        (CROPS, (24, 6), "24x6 pixels are 12x3 codes, fewer than the 4x4 of the prior's window.*at least 8"),
        (CROPS, (0, 8), "0x4 codes"),
        (CROPS, (-8, 8), "-4x4 codes"),
        ({"prior": {"order": "spiral_in"}}, (24, 32), 'row by row; this prior\'s order is "spiral_in"'),
        ({"prior": {"side": 5}}, (20, 20), "must be even; this prior's is 5 codes"),
    ],
)
def test_a_size_that_cannot_be_drawn_is_a_sentence(
    changes: dict[str, Any], size: tuple[int, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        made = generator(spread=False, **changes)
        made.sample(1, None, rng(1), size=size)


def test_another_order_still_draws_its_own_size() -> None:
    made = generator(prior={"order": "spiral_in"})
    assert torch.equal(made.sample(1, None, rng(1)), made.sample(1, None, rng(1), size=(SIDE, SIDE)))
