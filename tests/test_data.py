"""A folder, a zip or the drawings become one labelled array, in an order that seed and epoch decide."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import COLOURS, drafts, opened, pack, shade

from zoo_core import data, images, ingest
from zoo_core.data import open_images
from zoo_core.errors import UserError

pytest_plugins = ["picture_fixtures"]
pytestmark = pytest.mark.usefixtures("store")
ORDER_7_3 = [20, 17, 8, 3, 16, 9]


# What is in the set


def test_subfolders_are_classes_and_labels_fit_the_images(folder: Path) -> None:
    found = opened(folder)
    assert found.classes == ("blue", "green", "red")
    assert found.name == "pictures"
    assert found.images.shape == (30, 12, 12, 3)
    seen = [
        (found.classes[label], tuple(image[0, 0].tolist()))
        for image, label in zip(found.images, found.labels, strict=True)
    ]
    assert sorted(seen) == sorted((name, shade(name, i)) for name in COLOURS for i in range(10))


def test_a_folder_without_subfolders_has_no_labels(folder: Path) -> None:
    for found in (opened(folder / "red" / "deeper"), opened(folder / "red" / "deeper", 16)):
        assert len(found) == 5
        assert found.labels is None
        assert found.classes == ()
        assert found.rows(0, 3, 0)[1] is None


def test_a_zip_equals_its_folder_and_its_single_top_folder_is_unwrapped(folder: Path, tmp_path: Path) -> None:
    direct = opened(folder)
    for top in ("", "top/", "one/two/"):
        path = pack(folder, tmp_path / f"{len(top)}.zip", top)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("__MACOSX/top/._0.png", b"rubbish")
            archive.writestr(top + ".hidden/0.png", b"rubbish")
            archive.writestr(top + "readme.txt", b"words")
        zipped = opened(path)
        assert zipped.content == direct.content
        assert zipped.key == direct.key
        assert np.array_equal(zipped.labels, direct.labels)
        assert zipped.classes == direct.classes


def test_describe_has_all_that_moves_a_figure(folder: Path) -> None:
    found = opened(folder, 16, filter="box", crop="none")
    described = found.describe()
    expected = {
        "content": found.content,
        "resolution": 16,
        "filter": "box",
        "crop": "none",
        "num": 30,
        "alpha": "white",
    }
    assert expected.items() <= described.items()
    assert json.loads(json.dumps(described)) == described
    others = [opened(folder, 8), opened(folder, 16), opened(folder, 16, filter="box"), opened(folder, 16, crop="none")]
    assert len({found.key, *(other.key for other in others)}) == 5


def test_the_built_in_set_goes_through_the_same_cache(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    from zoo_core import drawn

    monkeypatch.setattr(drawn, "NUM", 600)
    first = opened(None, 16)
    assert np.array_equal(first.images, drawn.draw(np.arange(600), 16))
    assert np.array_equal(first.labels, np.arange(600) % len(drawn.NAMES))
    assert (first.name, first.classes) == ("drawn", drawn.NAMES)
    monkeypatch.setattr(ingest, "draw", lambda *_: pytest.fail("drawn again"))
    for source in ("drawn", ""):
        assert opened(source, 16).key == first.key
    with pytest.raises(UserError, match="resolution 24"):
        opened(None, 24)
    assert not drafts(store)
    monkeypatch.undo()


# The order


def test_the_order_is_a_function_of_seed_and_epoch(folder: Path) -> None:
    found, again = opened(folder), opened(folder)
    orders = {(seed, epoch): found.order(seed, epoch) for seed in (0, 1) for epoch in range(3)}
    assert len({tuple(order) for order in orders.values()}) == 6
    for (seed, epoch), order in reversed(orders.items()):
        assert sorted(order) == list(range(30))
        assert np.array_equal(again.order(seed, epoch), order)
        assert np.array_equal(found.order(seed, epoch), order)


def test_the_order_is_the_same_for_ever(folder: Path) -> None:
    assert opened(folder).order(7, 3)[:6].tolist() == ORDER_7_3


def test_every_epoch_has_every_image_once_and_no_seam_loses_one(folder: Path) -> None:
    found = opened(folder)
    batches = [found.rows(start, 7, seed=5) for start in range(0, 90, 7)]
    images = torch.cat([images for images, _ in batches])[:90]
    labels = torch.cat([labels for _, labels in batches])[:90]
    assert images.dtype == torch.uint8 and images.shape == (90, 3, 12, 12)
    assert labels.dtype == torch.int64
    index = np.concatenate([found.order(5, epoch) for epoch in range(3)])
    assert torch.equal(images, torch.from_numpy(found.images[index]).permute(0, 3, 1, 2))
    assert torch.equal(labels, torch.from_numpy(found.labels[index]))
    whole, _ = found.rows(0, 90, seed=5)  # more than an epoch at once
    assert torch.equal(whole, images)


def test_halves_share_no_image(folder: Path) -> None:
    found = opened(folder)
    one, two = found.halves(0)
    assert len(one) == len(two) == 15
    assert set(one) | set(two) == set(range(30))
    assert np.array_equal(one, found.halves(0)[0])
    assert not np.array_equal(one, found.halves(1)[0])


def test_mirror_turns_only_the_named_images() -> None:
    batch = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4)
    turned = data.mirror(batch, torch.tensor([True, False]))
    assert torch.equal(turned[0, :, :, 0], batch[0, :, :, 3])
    assert torch.equal(turned[1], batch[1])


def test_a_bar_is_shown_on_a_terminal_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        terminal = False

        def isatty(self) -> bool:
            return self.terminal

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    open_images(folder, 8)
    assert screen.getvalue() == ""
    screen.terminal = True
    open_images(folder, 9, progress=False)
    assert screen.getvalue() == ""
    open_images(folder, 10)
    assert "reading images" in screen.getvalue()
    assert "30/30" in screen.getvalue()


def test_the_sample_pictures_open() -> None:
    path = os.environ.get("ZOO_SAMPLE_DATA")
    if not path:
        pytest.skip("ZOO_SAMPLE_DATA names no zip of labelled images")
    found = opened(path, 32)
    assert len(found) == len(found.labels) > 100
    assert len(found.classes) > 1
    assert not found.rejected
    with zipfile.ZipFile(path) as archive:
        members = sorted(name for name in archive.namelist() if name.endswith(".png"))
        pixels, _ = images.decode(archive.read(members[-1]), 32)
    assert np.array_equal(found.images[-1], pixels)
    assert members[-1].split("/")[-2] == found.classes[found.labels[-1]]
