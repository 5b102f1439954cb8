"""A map stays with its image, pixel by pixel, from the file to the network; bad ones are named, none does harm."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import struct
import zlib
from pathlib import Path

import map_toys
import numpy as np
import pytest
import torch
import toys
from map_toys import PALETTE, write_pairs
from pictures import opened, pack
from PIL import Image
from test_images import encoded, noise, raw_png

from zoo_core import cache, maps, sources
from zoo_core.errors import UserError
from zoo_core.given_maps import colour, from_files
from zoo_core.images import Refused

pytest_plugins = ["picture_fixtures"]
pytestmark = pytest.mark.usefixtures("store")


# One map


def label_png(labels: np.ndarray, palette: bool = False) -> bytes:
    image = Image.fromarray(labels)
    if palette:
        image = image.convert("P")  # the same indices
        image.putpalette(PALETTE.tobytes())
    return encoded(image)


@pytest.mark.parametrize("palette", [False, True], ids=["grey", "palette"])
def test_labels_are_picked_and_never_blended(palette: bool) -> None:
    labels = np.random.default_rng(0).choice([0, 3, 200], (45, 61)).astype(np.uint8)
    found = maps.decode(label_png(labels, palette), "labels")
    assert np.array_equal(found.values, labels)
    for side in (8, 32, 100):
        assert set(np.unique(found.square(side, "center"))) == {0, 3, 200}
    assert np.array_equal(found.square(45, "center"), labels[:, 8:53])


def test_labels_of_sixteen_bits_and_few_colours_are_read_as_they_are() -> None:
    many = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    assert np.array_equal(maps.decode(encoded(Image.fromarray(many)), "labels").values, many)
    few = Image.fromarray((np.arange(64, dtype=np.uint8) % 4).reshape(8, 8)).convert("P")
    few.putpalette(PALETTE[:4].tobytes())
    data = encoded(few, bits=2)
    assert data[24] == 2  # the header's bit depth
    assert np.array_equal(maps.decode(data, "labels").values, np.asarray(few))


@pytest.mark.parametrize(
    ("kind", "dtype"), [("PNG", np.uint8), ("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", "<f4")]
)
def test_depth_keeps_its_units_and_is_averaged(kind: str, dtype: str) -> None:
    depth = np.tile(np.arange(32, dtype=dtype) * 8, (24, 1))
    found = maps.decode(encoded(Image.fromarray(depth), kind), "depth")
    assert found.values.dtype == np.float32 and np.array_equal(found.values, depth)
    small = found.square(8, "none")
    middle = small[:, 1:-1]  # the filter reaches over the edge of the others
    assert np.allclose(middle, (np.arange(8) * 32 + 12)[1:-1]), "the mean of four columns of a ramp"


def test_depth_in_the_bytes_of_a_picture_is_picked() -> None:
    depth = np.random.default_rng(0).normal(size=(20, 20)).astype("<f4") * 1000
    found = maps.decode(encoded(Image.fromarray(depth[..., None].view(np.uint8))), "depth")
    assert np.array_equal(found.values, depth)
    assert np.isin(found.square(7, "center"), depth).all()


def grey(mode: str = "L", value: float = 0, side: int = 32) -> Image.Image:
    return Image.new(mode, (side, side), value)


def two_bits() -> bytes:
    """A grey PNG that Pillow reads, stretched to 0..255, but does not write."""
    data = raw_png(32, 32, 2, bytes(32 * 9))
    header = data[12:25] + b"\0" + data[26:29]  # colour type 0
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


BAD = {
    "colour": ("labels", encoded(noise()), r"a picture in colour \(RGB\)"),
    "sixteen bits of colour": ("labels", raw_png(32, 32, 16, bytes(32 * (1 + 32 * 6))), "a picture in colour"),
    "transparency": ("labels", encoded(grey("LA", (0, 9))), r"a picture in colour \(LA\)"),
    "lossy": ("labels", encoded(grey(), "JPEG"), "JPEG; maps of labels are PNG"),
    "one bit": ("labels", encoded(grey("1")), "less than 8 bits"),
    "two bits": ("labels", two_bits(), "less than 8 bits"),
    "float labels": ("labels", encoded(grey("F"), "TIFF"), "TIFF; maps of labels"),
    "empty": ("labels", b"", "empty file"),
    "text": ("labels", b"no picture" * 50, "not an image"),
    "truncated": ("labels", encoded(noise().convert("L"))[:400], "truncated"),
    "thin": ("labels", encoded(Image.new("L", (7, 40))), "under 8 pixels"),
    "bomb": ("labels", raw_png(30_000, 30_000, 8, b""), "more than 64 million pixels"),
    "pages": ("depth", encoded(grey(), "TIFF", save_all=True, append_images=[grey(value=1)]), "more than one page"),
    "colour as depth": ("depth", encoded(noise()), r"a picture in colour \(RGB\)"),
    "opaque colour as depth": ("depth", encoded(noise().convert("RGBA")), r"a picture in colour \(RGBA\)"),
    "palette as depth": ("depth", encoded(grey("P")), "a picture in colour"),
    "not a number": ("depth", encoded(grey("F", float("nan")), "TIFF"), "not finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_map_is_refused_with_its_reason(case: str) -> None:
    kind, data, reason = BAD[case]
    with pytest.raises(Refused, match=reason):
        maps.decode(data, kind)


# A source of pairs


def aligned(found, resolution: int) -> None:
    assert found.maps.shape == (len(found), resolution, resolution)
    assert np.array_equal(found.images, PALETTE[found.maps])


@pytest.mark.parametrize("crop", ["center", "none"])
@pytest.mark.parametrize("size", [(16, 16), (45, 30), (31, 52)])
@pytest.mark.parametrize("resolution", [8, 32])
def test_maps_get_the_geometry_of_their_images(
    tmp_path: Path, crop: str, size: tuple[int, int], resolution: int
) -> None:
    source = write_pairs(tmp_path / "pairs", 3, size, num_labels=200)
    found = opened(source, resolution, filter="nearest", crop=crop, maps="labels")
    aligned(found, resolution)
    assert found.labels is None and not found.classes


def test_a_camera_s_orientation_turns_the_image_before_it_meets_its_map(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs", 2, (24, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn it by 90 degrees clockwise"
    upright = Image.open(source / "images/00.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(source / "images/00.png", exif=exif)
    aligned(opened(source, 8, filter="nearest", maps="labels"), 8)


def test_folders_below_the_images_are_classes_where_all_lie_in_one(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs", 6, classes=("cat", "dog"))
    found = opened(source, 16, maps="labels")
    assert found.classes == ("cat", "dog") and found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    aligned(found, 16)
    for kind in ("images", "labels"):
        (source / kind / "cat/00.png").rename(source / kind / "00.png")
    assert opened(source, 16, maps="labels").labels is None
    assert opened(write_pairs(tmp_path / "one", 2, classes=("street",)), 16, maps="labels").labels is None


def test_a_zip_and_its_folder_agree(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs", 4)
    first = opened(source, 8, maps="labels")
    for top in ("", "data/set/", "images/"):
        second = opened(pack(source, tmp_path / "x.zip", top), 8, maps="labels")
        assert (second.key, second.content) == (first.key, first.content)
        assert np.array_equal(second.maps, first.maps)


def test_maps_are_read_once_and_change_nothing_for_a_source_opened_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_pairs(tmp_path / "pairs", 4)
    plain, paired = opened(source, 8), opened(source, 8, maps="labels")
    assert plain.maps is None and len(plain) == 8 and "maps" not in plain.describe()
    assert len({plain.key, paired.key}) == len({plain.content, paired.content}) == 2
    monkeypatch.setattr(sources.Folder, "read", lambda *_: pytest.fail("read"))
    again = opened(source, 8, maps="labels")
    assert isinstance(again.maps, np.memmap) and np.array_equal(again.maps, paired.maps)
    assert again.describe() == paired.describe() and again.describe()["maps"] == "labels"
    assert opened(source, 8).describe() == plain.describe()


def test_a_form_without_maps_has_the_key_that_it_had_before_there_were_any() -> None:
    form = cache.Form(12, "lanczos", "center")
    assert form.key() == {"resolution": 12, "filter": "lanczos", "crop": "center"}
    assert form.key() != dataclasses.replace(form, maps="labels").key()


def test_a_changed_map_is_seen(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs", 4)
    first = opened(source, 16, maps="labels")
    shutil.copy(source / "labels/01.png", source / "labels/00.png")
    second = opened(source, 16, maps="labels")
    assert second.content != first.content
    assert np.array_equal(second.maps[0], first.maps[1])


def test_depth_maps_are_kept_as_floats(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs", 3)
    (source / "labels").rename(source / "depth")
    for i in range(3):
        Image.fromarray(np.full((16, 16), 1000.5 + i, "<f4")).save(source / f"depth/{i:02}.tif")
        (source / f"depth/{i:02}.png").unlink()
    found = opened(source, 8, maps="depth")
    (value,) = found.take_maps(np.array([2])).unique()
    assert value == 1002.5 and value.dtype == torch.float32


# Bad pairs


def drop_map(source: Path) -> None:
    (source / "labels/03.png").unlink()


def drop_image(source: Path) -> None:
    (source / "images/03.png").unlink()


def resize_map(source: Path) -> None:
    Image.new("L", (16, 12)).save(source / "labels/03.png")


def colour_map(source: Path) -> None:
    shutil.copy(source / "images/03.png", source / "labels/03.png")


def damage_image(source: Path) -> None:
    (source / "images/03.png").write_bytes(b"")


def damage_map(source: Path) -> None:
    (source / "labels/03.png").write_bytes(b"text")


def link_map(source: Path) -> None:
    (source / "labels/03.png").unlink()
    (source / "labels/03.png").symlink_to("nowhere.png")


PAIRS = [
    (drop_map, "images/03.png", "no map labels/03.png"),
    (drop_image, "labels/03.png", "no image images/03.*"),
    (resize_map, "images/03.png", "its map labels/03.png: 16x12, but the image is 16x16"),
    (colour_map, "images/03.png", "its map labels/03.png: a picture in colour (RGB); a map has one channel"),
    (damage_image, "images/03.png", "empty file"),
    (damage_map, "images/03.png", "its map labels/03.png: not an image, or its header is damaged"),
    (link_map, "images/03.png", "its map labels/03.png: broken link"),
]


@pytest.mark.parametrize(("spoil", "file", "reason"), PAIRS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_pair_is_named_and_left_out(
    tmp_path: Path, spoil, file: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_pairs(tmp_path / "pairs", 30)
    spoil(source)
    found = opened(source, 16, maps="labels")
    assert found.rejected == ((file, reason),)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == [f"{file} is left out: {reason}"]
    assert len(found) == 29
    aligned(found, 16)
    left = write_pairs(tmp_path / "few", 4)
    spoil(left)
    with pytest.raises(UserError, match="more than 5 %") as error:
        opened(left, 16, maps="labels")
    assert f"{file} ({reason})" in str(error.value)


def test_files_of_one_name_are_not_guessed_between(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs", 60)
    shutil.copy(source / "images/03.png", source / "images/03.jpg")
    found = opened(source, 16, maps="labels")
    several = "one of several files of this name"
    assert found.rejected == tuple((file, several) for file in ("images/03.jpg", "images/03.png", "labels/03.png"))


def test_a_source_of_another_layout_is_told_the_one_wanted(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs", 4)
    layout = r"images/a/b\.jpg and labels/a/b\.png"
    with pytest.raises(UserError, match=r'has no folder "depth"; .* images/a/b\.jpg and depth/a/b\.png'):
        opened(source, 16, maps="depth")
    with pytest.raises(UserError, match=rf'has no folder "images" and no folder "labels"; .*{layout}'):
        opened(source / "images", 16, maps="labels")
    shutil.move(source / "labels", source / "images/labels")
    with pytest.raises(UserError, match=rf"different places; .*{layout}"):
        opened(source, 16, maps="labels")
    with pytest.raises(UserError, match="built-in drawings have no maps of depth; .* two folders, images and depth"):
        opened(None, 32, maps="depth")
    with pytest.raises(UserError, match='no maps "label".*did you mean "labels"'):
        opened(source, 16, maps="label")
    split = write_pairs(tmp_path / "split", 4, classes=("train", "val"))
    with pytest.raises(UserError, match="split into train and val, .*a folder of images and labels for each"):
        opened(split, 16, maps="labels")


# What networks are given


def test_maps_go_through_mirroring_epochs_and_micro_batches_with_their_images(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs", 7, (8, 8))
    found = opened(source, 8, filter="nearest", maps="labels")
    recipe = toys.recipe(micro_batch=2)
    trainer = toys.trainer(tmp_path / "run", recipe)
    trainer.images = found
    phase = trainer.stage.phases[0]
    turned, seen = set(), []
    for trainer.step in range(6):  # three epochs and a bit
        for index in range(2):
            batch = trainer._load(phase, index)
            assert batch.maps.dtype == torch.int64 and batch.maps.shape == (2, 1, 8, 8)
            unit = (batch.image + 1) / 2 * 255
            assert torch.equal(unit.round().permute(0, 2, 3, 1).byte(), torch.tensor(PALETTE)[batch.maps[:, 0]])
            numbers = found.numbers(trainer.step * 4 + index * 2, 2, recipe.train.seed)
            for ours, stored in zip(batch.maps, found.take_maps(numbers), strict=True):
                turned.add(torch.equal(ours, stored))
                assert torch.equal(ours, stored) or torch.equal(ours, stored.flip(-1))
            seen += numbers.tolist()
    assert turned == {True, False}
    assert sorted(seen[:7]) == list(range(7))


def test_a_set_without_maps_gives_none(tmp_path: Path) -> None:
    trainer = toys.trainer(tmp_path / "run", toys.recipe())
    assert trainer._load(trainer.stage.phases[0], 0).maps is None
    assert toys.images().maps_in_turn("") is None
    with pytest.raises(UserError, match="draws from maps of depth, and toy was opened without any"):
        toys.images().maps_in_turn("depth")


def test_maps_in_turn_depend_on_the_row_alone_and_go_round(tmp_path: Path) -> None:
    found = opened(write_pairs(tmp_path / "pairs", 5), 16, maps="labels")
    of = found.maps_in_turn("labels")
    once = of(range(5))
    assert {tuple(each.flatten().tolist()) for each in once} == {tuple(each.ravel().tolist()) for each in found.maps}
    assert torch.equal(of(range(3, 12)), torch.cat([once, once, once])[3:12])


# Maps named by hand, and their colours


def test_maps_named_by_hand_are_used_in_turn_in_order_of_their_names(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 3) / "labels"
    expected = torch.stack([torch.tensor(map_toys.labels_of(i % 3, (16, 16)))[None] for i in range(1, 5)]).long()
    for source in (folder, pack(folder, tmp_path / "x.zip")):
        assert torch.equal(from_files(source, "labels", (16, 16))(range(1, 5)), expected)
    (one,) = from_files(folder / "02.png", "labels", (16, 16))(range(9, 10))
    assert torch.equal(one, expected[1])


def test_a_map_named_by_hand_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 2, (24, 16))
    for path, kind, message in [
        (folder / "labels", "labels", r"the map 00\.png is 16x24 \(height x width\), but .* drawn are 16x16"),
        (folder / "images/01.png", "labels", r"the map 01\.png cannot be used: a picture in colour \(RGB\)"),
        (folder / "gone.png", "labels", r"there is no .*gone\.png"),
    ]:
        with pytest.raises(UserError, match=message):
            from_files(path, kind, (16, 16))(range(1))


def test_colours_tell_labels_and_depths_apart() -> None:
    labels = torch.arange(256).view(1, 1, 16, 16)
    found = colour(labels)
    assert found.shape == (1, 3, 16, 16) and found.dtype == torch.uint8
    assert len(found.flatten(2).unique(dim=2)[0].T) == 256
    assert found[0, :, 0, 0].tolist() == [0, 0, 0] and found[0, :, 0, 1].tolist() == [128, 0, 0]
    depth = colour(torch.tensor([5.0, 6.0, 7.0, 7.0]).view(1, 1, 2, 2).repeat(2, 1, 1, 1))
    assert depth.unique().tolist() == [0, 128, 255] and torch.equal(depth[:, 0], depth[:, 2])
    assert colour(torch.full((1, 1, 2, 2), 3.0)).unique().tolist() == [0]
