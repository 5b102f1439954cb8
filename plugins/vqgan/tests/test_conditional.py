"""A prior that is conditioned on coordinates, labels or depth: options, training, sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from vqgan_toys import CONDITIONS, SIDE, SMALL, batch, generator, maps, stages, step, wanted

from zoo_core import parts
from zoo_core.errors import UserError
from zoo_core.interfaces import PIXELS
from zoo_core.rng import Rng
from zoo_vqgan.conditions import raster
from zoo_vqgan.generator import Generator
from zoo_vqgan.options import ConditionOptions, PriorOptions, QuantizerOptions

MAPPED = ("labels", "depth")


def rng(num: int = 2) -> Rng:
    return Rng.of("draw", rows=range(num))


@pytest.mark.parametrize("kind", CONDITIONS)
@pytest.mark.parametrize("order", ["identity", "spiral_out"])
def test_every_stage_of_every_condition_trains_and_the_whole_draws(kind: str, order: str) -> None:
    made, found = stages(kind, prior={"order": order, "kept": 0.8})
    assert list(found) == ["autoencoder", *(["condition"] if kind in MAPPED else []), "prior"]
    assert list(made.networks()) == list(found)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    for name, stage in found.items():
        terms = step(stage, batch(kind))
        assert all(torch.isfinite(value) for value in terms.values()), terms
        moved = {key.split(".")[0] for key, value in made.state_dict().items() if not torch.equal(value, before[key])}
        assert moved == {name}
        before = {key: value.clone() for key, value in made.state_dict().items()}
    image = made.eval().sample(2, None, rng(), maps=maps(kind, 2))
    assert image.shape == (2, 3, SIDE, SIDE)
    again = made.sample(1, None, rng(1), maps=None if maps(kind, 1) is None else maps(kind, 2)[:1])
    assert torch.allclose(again, image[:1], atol=1e-5)


@pytest.mark.parametrize("kind", MAPPED)
def test_what_is_drawn_depends_on_the_map(kind: str) -> None:
    made = generator(kind)
    first = made.sample(2, None, rng(), maps=maps(kind, 2))
    assert not torch.equal(first, made.sample(2, None, rng(), maps=maps(kind, 2).flip(3)))


def test_the_published_models_have_their_sizes() -> None:
    """Spec 4.4: parameters and blocks of faces and depth, and of ImageNet's classes."""
    with torch.device("meta"):
        depth = Generator(condition=ConditionOptions("depth"))
        scenes = Generator(condition=ConditionOptions("labels", num_labels=183, unlabelled=255))
        faces = Generator(condition=ConditionOptions("coordinates"))
        big = PriorOptions(layers=48, heads=24, dim=1536)
        classes = Generator(num_classes=1000, quantizer=QuantizerOptions(num_codes=16384), prior=big)

    def size(made: Generator) -> tuple[int, int]:
        return sum(parameter.numel() for parameter in made.prior.parameters()), made.prior.gpt.block_size

    assert size(depth) == size(scenes) == size(faces) == (304_932_864, 512)
    assert size(classes) == (1_410_640_896, 256)
    assert depth.condition.encoder.conv_in.weight.shape == (128, 1, 3, 3)
    assert scenes.condition.decoder.conv_out.weight.shape == (183, 128, 3, 3)
    assert scenes.condition.palette.colorize.shape == (3, 183, 1, 1)
    assert [made.map_kind for made in (depth, scenes, faces, classes)] == ["depth", "labels", "", ""]


def test_coordinates_of_a_whole_picture_are_its_raster() -> None:
    made = generator("coordinates")
    value = made.conditioner.value(2, (SIDE, SIDE), None, None)
    rows = torch.arange(8).repeat_interleave(8)
    columns = torch.arange(8).repeat(8)
    mean = ((2 * rows + 0.5) * SIDE + 2 * columns + 0.5) / SIDE**2  # of the four pixels of an area
    expected = (mean * 20).round().long().clamp(max=19).view(8, 8)
    assert torch.equal(made.tokens(value, 2), expected.expand(2, 8, 8))


def test_depth_is_stretched_by_the_whole_map_before_it_is_cropped() -> None:
    """As the official data do, so that a crop keeps its place between near and far."""
    made = generator("depth", prior={"side": 4})
    value = made.conditioner.value(2, (SIDE, SIDE), None, maps("depth", 2))
    assert torch.allclose(value.amin((1, 2, 3)), -torch.ones(2)) and torch.allclose(
        value.amax((1, 2, 3)), torch.ones(2)
    )


def test_the_value_of_unlabelled_pixels_becomes_0_and_others_are_shifted() -> None:
    condition = CONDITIONS["labels"] | {"unlabelled": 255}
    network = generator("labels", condition=condition).condition
    given = torch.tensor([0, 3, 255, 1]).view(1, 1, 2, 2)
    assert network.prepare(given).flatten().tolist() == [1, 4, 0, 2]
    with pytest.raises(UserError, match="the value 4, but generator.condition.num_labels=5 stands for 0 to 3 and 255"):
        network.prepare(given + 1)


def test_a_condition_that_is_shrunk_first_is_a_shorter_one() -> None:
    made = generator("labels", condition=CONDITIONS["labels"] | {"downsample": 8})
    value = made.conditioner.value(2, (SIDE, SIDE), None, maps("labels", 2))
    assert made.tokens(value, 2).shape == (2, 4, 4) and made.prior.gpt.block_size == 64 + 16
    assert made.sample(2, None, rng(), maps=maps("labels", 2)).shape == (2, 3, SIDE, SIDE)
    with pytest.raises(UserError, match="downsample leaves those no condition"):
        made.sample(2, None, rng(), maps=maps("labels", 2, 32, 32), size=(32, 32))


def test_the_second_autoencoder_is_read_in_evaluation_mode_without_gradients() -> None:
    """A table of moving averages would go on moving."""
    made, found = stages("labels", quantizer={"num_codes": 24, "embed_dim": 8, "kind": "ema"})
    tables = made.autoencoder.quantize.embedding.clone(), made.condition.quantize.embedding.clone()
    step(found["prior"], batch("labels"))
    assert torch.equal(made.condition.quantize.embedding, tables[1]) and made.condition.training
    assert torch.equal(made.autoencoder.quantize.embedding, tables[0]) and made.autoencoder.training
    assert all(parameter.grad is None for parameter in made.condition.parameters())


@pytest.mark.parametrize("unknown", ["extra", 3])
def test_a_remap_makes_the_priors_vocabulary_smaller(tmp_path: Path, unknown: Any) -> None:
    np.save(tmp_path / "used.npy", np.array([3, 5, 8, 13, 21]))
    quantizer = SMALL["quantizer"] | {"remap": str(tmp_path / "used.npy"), "unknown": unknown}
    made, found = stages(quantizer=quantizer)
    assert made.prior.gpt.vocabulary == (6 if unknown == "extra" else 5)
    step(found["prior"], batch())
    assert made.eval().sample(2, None, rng()).shape == (2, 3, SIDE, SIDE)
    assert "autoencoder.quantize.remap.used" in made.state_dict()


def test_a_remaps_file_is_kept_with_its_full_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert QuantizerOptions(remap="used.npy").remap == str(tmp_path / "used.npy")


@pytest.mark.parametrize("kind", ["ema", "gumbel", "nearest"])
def test_reconstructing_is_encoding_and_decoding(kind: str) -> None:
    made = generator(spread=False, quantizer={"num_codes": 24, "embed_dim": 8, "kind": kind}).train()
    assert set(made.reconstructs_with) <= set(made.networks())
    image = batch().image
    found = made.reconstruct(image, rng())
    assert found.tokens.shape == (2, 8, 8) and found.vocabulary == 24 and made.training
    expected = made.autoencoder.eval().decode_codes(found.tokens)
    assert torch.allclose(found.image, expected.clamp(-1, 1), atol=1e-5)
    assert made.reconstruct(torch.zeros(1, 3, 8, 32)).image.shape == (1, 3, 8, 32)


def test_reconstructions_are_in_the_common_pixel_space() -> None:
    made = generator()
    plain = made.reconstruct(batch().image).image
    made.pixels = PIXELS["imagenet"]
    seen: list[Tensor] = []
    made.autoencoder.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    other = made.reconstruct(batch().image).image
    assert torch.allclose(PIXELS["imagenet"].decode(seen[0]), (batch().image + 1) / 2, atol=1e-6)
    assert other.shape == plain.shape and not torch.allclose(other, plain)


@pytest.mark.parametrize("condition", [{"kind": "coordinates"}, {"kind": "labels", "num_labels": 5}, {"kind": "depth"}])
def test_a_condition_has_as_many_codes_as_the_first_autoencoder(condition: dict[str, Any]) -> None:
    made = generator("none", condition=condition)
    assert made.conditioner.vocabulary == made.autoencoder.quantize.vocabulary == 24
    assert made.condition is None or made.condition.quantize.num_codes == 24


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("none", {"condition": {"kind": "labels"}}, "num_labels belongs to the kind labels, and that needs it"),
        ("none", {"condition": {"kind": "depth", "num_labels": 3}}, "num_labels belongs to the kind labels"),
        ("none", {"condition": {"kind": "depth", "unlabelled": 3}}, "unlabelled belongs to the kind labels"),
        ("none", {"condition": {"kind": "depth", "num_codes": 1}}, "num_codes must be at least 2"),
        ("none", {"condition": {"downsample": 4}}, "kind is none"),
        ("none", {"condition": {"kind": "words"}}, "is not one of none, coordinates, labels, depth"),
        ("none", {"condition": {"kind": "depth", "num_codes": 25}}, "25 different tokens.*vocabulary only 24"),
        ("coordinates", {"condition": {"kind": "coordinates", "downsample": 5}}, "must be a multiple of 2"),
        ("none", {"prior": {"side": 9}}, "more than the 8 codes of the whole map"),
        ("none", {"prior": {"side": -1}}, "cannot be negative"),
        ("none", {"prior": {"start_token": -1}}, "cannot be negative"),
        ("none", {"quantizer": {"decay": 1.0}}, "decay must be at least 0 and below 1"),
        ("none", {"z_channels": 0}, "z_channels must be at least 1"),
        ("none", {"prior": {"side": 4, "order": "spiral_in"}}, 'order is "spiral_in"'),
        ("none", {"prior": {"side": 3}}, "must be even; this prior's is 3"),
        ("labels", {"prior": {"block_size": 100}}, "the transformer's has 100"),
        ("none", {"quantizer": {"remap": "nowhere.npy"}}, "cannot be read from .*nowhere.npy"),
    ],
)
def test_options_that_do_not_fit_are_a_sentence(kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parts.build(wanted(kind, **changes))


@pytest.mark.parametrize(
    "name",
    [
        *("perceptual_weight", "quantizer_weight", "adversarial_weight"),
        *("adversarial_start_images", "delta", "limit"),
    ],
)
def test_a_negative_number_in_the_loss_is_a_sentence(name: str) -> None:
    with pytest.raises(UserError, match=f"loss.{name} cannot be negative; it is -1"):
        stages(loss={name: -1})


def test_classes_and_another_condition_exclude_each_other() -> None:
    with pytest.raises(UserError, match="takes one condition.*kind=coordinates.*not both"):
        Generator(num_classes=3, condition=ConditionOptions("coordinates"))


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("labels", {}, "give it one for each image"),
        ("depth", {"maps": maps("depth", 3)}, "2 images of 16x16 .height x width. need maps of that size"),
        ("labels", {"maps": maps("labels", 2, 16, 32)}, r"these have \[2, 1, 16, 32\]"),
        ("labels", {"maps": maps("labels", 2), "size": (32, 16)}, "2 images of 32x16"),
        (
            "labels",
            {"maps": maps("labels", 2) + 1},
            "the value 5, but generator.condition.num_labels=5 stands for 0 to 4",
        ),
        ("labels", {"maps": maps("labels", 2) - 1}, "the value -1"),
        ("labels", {"maps": maps("depth", 2)}, "a label map has whole numbers"),
        ("none", {"maps": maps("depth", 2)}, "draws without maps"),
    ],
)
def test_maps_that_do_not_fit_are_a_sentence(kind: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        generator(kind).sample(2, None, rng(), **given)


def test_coordinates_are_no_map() -> None:
    assert generator("coordinates").map_kind == ""
    assert torch.equal(raster(2, 2).flatten(), torch.tensor([0.0, 0.25, 0.5, 0.75]))
