"""From a folder of images and label maps to images drawn from maps, through the commands that a user types.

The maps are made of the built-in drawings: a pixel's label says which of its colours are bright.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from calls import Answer, call
from PIL import Image
from vqgan_toys import wanted

from zoo_core import load, recipe
from zoo_core.data import open_images

NUM_LABELS = 8
SETTINGS = {"condition": {"kind": "labels", "num_labels": NUM_LABELS, "num_codes": 20}, "prior": {"side": 6}}


def labels_of(image: np.ndarray) -> np.ndarray:
    """`[H, W, 3]` uint8 -> labels `[H, W]` uint8, 0 to 7."""
    return ((image > 127) * np.array([1, 2, 4])).sum(-1).astype(np.uint8)


def write_pairs(folder: Path, num: int = 24) -> Path:
    """`images/N.png` and `labels/N.png` of so many drawings; returns `folder`."""
    drawings = open_images("drawn", 16, progress=False).images
    drawings = drawings[:: len(drawings) // num][:num]
    for number, image in enumerate(drawings):
        for kind, pixels in (("images", image), ("labels", labels_of(image))):
            path = folder / kind / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


def write_map(path: Path, labels: np.ndarray) -> str:
    Image.fromarray(labels.astype(np.uint8)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pairs, a recipe and a run of all three stages, two steps each."""
    folder = tmp_path_factory.mktemp("segmented")
    write_pairs(folder / "pairs")
    assert len(np.unique([np.asarray(Image.open(path)) for path in folder.glob("pairs/labels/*.png")])) > 4
    (folder / "segmented.yaml").write_text(recipe.to_yaml(wanted("labels", **SETTINGS)))
    answer = train(folder)
    assert answer.code == 0, answer.err
    return folder


def train(home: Path, *arguments: str, data: str = "pairs", out: str = "run") -> Answer:
    base = ["train", "--plugin", "vqgan", "--recipe", "segmented.yaml", "--data", data, "--out", out]
    return call(home, [*base, *arguments])


def sample(home: Path, *arguments: str) -> Answer:
    return call(home, ["sample", "run", "--num", "2", "--out", "drawn", *arguments])


def drawn(home: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(home / f"drawn/{number:06}.png")) for number in range(2)]


def test_three_stages_train_and_each_has_its_pictures(home: Path) -> None:
    for stage in ("autoencoder", "condition", "prior"):
        assert (home / "run/checkpoints" / stage).is_dir()
        assert len(list((home / "run/samples").glob(f"{stage}-images-*.png"))) == 2
    assert load(home / "run").generator.map_kind == "labels"


def test_images_are_drawn_from_the_runs_own_maps_and_from_others(home: Path) -> None:
    other = write_map(home / "other.png", np.full((16, 16), 3))
    for arguments in ((), ("--maps", "pairs/labels"), ("--maps", other)):
        assert sample(home, *arguments).code == 0
        assert [image.shape for image in drawn(home)] == [(16, 16, 3)] * 2


def test_attention_is_shown_of_an_image_drawn_from_a_map(home: Path) -> None:
    other = write_map(home / "attended.png", np.full((16, 16), 3))
    for arguments in ((), ("--maps", other)):
        answer = call(home, ["attend", "run", "--list", *arguments])
        assert answer.code == 0 and "autoencoder.decoder" in answer.out
    answer = call(home, ["attend", "run", "--maps", write_map(home / "small.png", np.zeros((8, 8)))])
    assert answer.code == 2 and "the map small.png is 8x8" in answer.err


def test_a_large_image_is_drawn_from_a_large_map(home: Path) -> None:
    labels = np.tile(labels_of(np.asarray(Image.open(home / "pairs/images/00.png"))), (2, 3))
    assert sample(home, "--size", "32x48", "--maps", write_map(home / "large.png", labels)).code == 0
    assert [image.shape for image in drawn(home)] == [(32, 48, 3)] * 2


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (np.zeros((16, 24)), (), "the map wrong.png is 16x24"),
        (np.full((16, 16), 8), (), "the value 8, but generator.condition.num_labels=8 stands for 0 to 7"),
        (np.zeros((25, 24)), ("--size", "25x24"), "multiples of 2"),
        (np.zeros((16, 10)), ("--size", "16x10"), "8x5 codes, fewer than the 6x6 of the prior's window"),
    ],
)
def test_a_map_or_a_size_that_does_not_fit_ends_in_a_sentence(
    home: Path, labels: np.ndarray, arguments: tuple[str, ...], message: str
) -> None:
    answer = sample(home, "--maps", write_map(home / "wrong.png", labels), *arguments)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err


def test_an_unknown_class_in_training_ends_in_a_sentence(home: Path) -> None:
    answer = train(home, "--set", "generator.condition.num_labels=3", out="few")
    assert answer.code == 2 and "num_labels=3 stands for 0 to 2" in answer.err
    assert not (home / "few").exists()  # before the first stage, which may take days


def test_a_map_of_another_size_than_its_image_is_named(home: Path) -> None:
    write_pairs(home / "uneven", num=8)
    write_map(home / "uneven/labels/03.png", np.zeros((16, 24)))
    answer = train(home, data="uneven", out="uneven-run")
    assert answer.code == 2 and "03.png" in answer.err


def test_a_recipe_without_maps_is_told_to_name_them(home: Path) -> None:
    answer = train(home, "--set", "data.maps=", out="none")
    assert answer.code == 2 and "data.maps=labels" in answer.err
