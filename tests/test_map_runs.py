"""A run whose generator draws from label maps, through every command that a user types."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fakes
import map_toys
import numpy as np
import pytest
import torch
import toys
from calls import Answer, call
from map_toys import PALETTE, write_pairs
from PIL import Image

from zoo_core import plugins, sampling
from zoo_core.data import open_for
from zoo_core.errors import UserError
from zoo_core.given_maps import colour
from zoo_core.runs import load

RECIPE = """
plugin: painting
generator: {name: painter}
data: {resolution: 16, maps: labels, mirror: true}
train:
  images: 640
  batch: 8
  optimizers: {generator: {lr: 0.1}}
evaluate: {num: 16}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the plugin, its recipe, pictures with maps, and a run of them."""
    folder = tmp_path_factory.mktemp("painting")
    fields = 'generators={"painter": "map_toys:Painter"}, stages="map_toys:build"'
    fakes.plugin(folder / "site", "painting", fields=fields)
    (folder / "painting.yaml").write_text(RECIPE)
    write_pairs(folder / "pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "site"))
        plugins.installed.cache_clear()
        assert train(folder, "--data", "pairs").code == 0
        yield folder
    plugins.installed.cache_clear()


def train(home: Path, *arguments: str, out: str = "run") -> Answer:
    return call(home, ["train", "--plugin", "painting", "--recipe", "painting.yaml", "--out", out, *arguments])


def sample(home: Path, *arguments: str) -> Answer:
    return call(home, ["sample", "run", "--num", "3", "--out", "drawn", *arguments])


def drawn(home: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(home / f"drawn/{i:06}.png")) for i in range(3)])


def painted(labels: np.ndarray) -> np.ndarray:
    return PALETTE[labels].astype(int)


def is_close(picture: np.ndarray, labels: np.ndarray) -> bool:
    """Whether the picture has each label's own colour: that was learnt from images and maps that stayed together."""
    return np.abs(picture.astype(int) - painted(labels)).max() <= 4


def test_the_colours_of_labels_are_learnt_and_a_grid_shows_each_map_beside_its_image(home: Path) -> None:
    run = load(home / "run", "cpu")
    maps = open_for(run.recipe.data).maps_in_turn("labels")(range(2))
    last = sorted((home / "run/samples").glob("*.png"))[-1]
    grid = np.asarray(Image.open(last))
    assert grid.shape == ((8 * 17 - 1) * 4, (8 * 17 - 1) * 4, 3)
    cells = [grid[::4, ::4][:16, 17 * i : 17 * i + 16] for i in range(4)]
    for map, shown, image in zip(maps, cells[::2], cells[1::2], strict=True):
        assert np.array_equal(shown, colour(map[None])[0].permute(1, 2, 0).numpy())
        assert is_close(image, map[0].numpy())


def test_training_with_maps_resumes_to_the_bit(home: Path) -> None:
    settings = ("--data", "pairs", "--set", "train.checkpoint_images=320", "--set", "evaluate.num=0")
    assert train(home, *settings, out="whole").code == 0
    assert train(home, *settings, "--set", "train.images=320", out="halves").code == 0
    answer = train(home, *settings, out="halves")
    assert answer.code == 0 and "Resuming from step 40" in answer.out
    last = "checkpoints/step-80"
    toys.assert_same(toys.saved(home / "halves" / last), toys.saved(home / "whole" / last))


def test_sampling_uses_the_run_s_own_maps_in_turn(home: Path) -> None:
    assert sample(home).code == 0
    maps = open_for(load(home / "run", "cpu").recipe.data).maps_in_turn("labels")(range(3))
    for picture, map in zip(drawn(home), maps, strict=True):
        assert is_close(picture, map[0].numpy())


def test_sampling_uses_the_maps_that_are_named(home: Path) -> None:
    assert sample(home, "--maps", "pairs/labels").code == 0
    for i, picture in enumerate(drawn(home)):
        assert is_close(picture, map_toys.labels_of(i, (16, 16)))
    assert sample(home, "--maps", "pairs/labels/05.png").code == 0
    for picture in drawn(home):
        assert is_close(picture, map_toys.labels_of(5, (16, 16)))
    large = write_pairs(home / "wide", 3, (24, 16)) / "labels"
    assert sample(home, "--size", "16x24", "--maps", str(large)).code == 0
    for i, picture in enumerate(drawn(home)):
        assert is_close(picture, map_toys.labels_of(i, (24, 16)))


def test_an_image_is_the_same_in_every_batch(home: Path) -> None:
    run = load(home / "run", "cpu")
    maps = open_for(run.recipe.data).maps_in_turn("labels")
    whole = torch.cat(list(sampling.draw(run.generator, 5, 0, maps=maps)))
    assert torch.equal(torch.cat(list(sampling.draw(run.generator, 5, 0, maps=maps, batch=2))), whole)
    assert torch.equal(torch.cat(list(sampling.draw(run.generator, 2, 0, maps=maps, first=3))), whole[3:])
    with pytest.raises(UserError, match="from a map of labels, and none are given"):
        list(sampling.draw(run.generator, 1, 0))


def test_measuring_draws_from_the_data_s_maps(home: Path) -> None:
    measured = call(home, ["evaluate", "run", "--num", "16", "--extractor", "random-conv", "--json"])
    assert measured.code == 0 and '"maps": "labels"' in measured.out
    assert ":train" in measured.out  # the images are known for those of the run
    assert (home / "run/evaluation.json").exists()


def test_maps_that_nothing_looks_at_are_refused(home: Path) -> None:
    command = ["train", "--plugin", "sagan", "--data", "pairs", "--out", "new", "--set", "data.labels=false"]
    answer = call(home, [*command, "--set", "data.maps=labels"])
    assert answer.code == 2 and "nothing in this recipe looks at maps; leave data.maps out" in answer.err
    assert not (home / "new").exists()


def test_mistakes_with_maps_end_in_a_sentence(home: Path) -> None:
    write_pairs(home / "large", 2, (24, 16))
    (home / "plain").mkdir(exist_ok=True)
    toys.write_pictures(home / "plain/animals", 2)
    spoilt = write_pairs(home / "spoilt", 4)
    Image.new("L", (8, 8)).save(spoilt / "labels/02.png")
    for answer, message in [
        (train(home, out="new"), "the built-in drawings have no maps of labels"),
        (train(home, "--data", "plain", out="new"), 'has no folder "images" and no folder "labels"'),
        (train(home, "--data", "spoilt", out="new"), "its map labels/02.png: 8x8, but the image is 16x16"),
        (train(home, "--data", "pairs", "--set", "data.maps=", out="new"), "set data.maps=labels"),
        (sample(home, "--maps", "large/labels/00.png"), "00.png is 16x24 (height x width), but the images to be drawn"),
        (sample(home, "--maps", "pairs/images/00.png"), "a picture in colour (RGB)"),
        (sample(home, "--maps", "gone"), "there is no gone"),
        (sample(home, "--size", "16x24"), "name some of 16x24 pixels with --maps"),
        (sample(home, "--size", "16x24", "--maps", "pairs/labels"), "00.png is 16x16 (height x width), but the images"),
        (call(home, ["evaluate", "run", "--data", "plain", "--extractor", "random-conv"]), 'no folder "images"'),
    ]:
        assert answer.code == 2, answer
        assert message in answer.err.replace("\n", " ")
        assert "Traceback" not in answer.err
    assert not (home / "new").exists()
