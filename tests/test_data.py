"""Folders, zips and drawings become one cached array, whatever the files, the disk and other processes do."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo_core import cache, data, images, ingest, sources
from zoo_core.data import ImageSet, open_images
from zoo_core.errors import UserError

COLOURS = {"blue": (0, 0, 255), "green": (0, 200, 0), "red": (255, 0, 0)}
ORDER_7_3 = [20, 17, 8, 3, 16, 9]
_fork = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the folder that its images lie in."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten 12-pixel pictures of each of three classes; the class is the colour, the brightness the number."""
    top = tmp_path / "pictures"
    for name in COLOURS:
        (top / name / "deeper").mkdir(parents=True)
        for i in range(10):
            save(top / name / ("deeper" if i % 2 else "") / f"{i}.png", shade(name, i))
    return top


def shade(name: str, i: int) -> tuple[int, ...]:
    return tuple(round(value * (1 - i / 20)) for value in COLOURS[name])


def save(path: Path, colour: tuple[int, ...], side: int = 12) -> None:
    Image.new("RGB", (side, side), colour).save(path)


def pack(folder: Path, path: Path, top: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, top + str(file.relative_to(folder)))
    return path


def opened(source: Path | str | None, resolution: int = 12, **options) -> ImageSet:
    return open_images(source and str(source), resolution, progress=False, **options)


def drafts(store: Path) -> list[Path]:
    return list(store.glob("tmp-*"))


def in_children(work: Callable[[], object], num: int = 1, timeout: float = 30) -> list[int]:
    """Run `work` in processes that begin together; return their exit codes."""
    barrier = _fork.Barrier(num)

    def run() -> None:
        barrier.wait(timeout)
        work()

    children = [_fork.Process(target=run) for _ in range(num)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout)
    return [child.exitcode for child in children]


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


# Bad files


def test_a_bad_file_is_named_once_and_left_out(folder: Path, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "red" / "0.png").write_text("no picture")
    found = opened(folder)
    assert found.rejected == (("red/0.png", "not an image, or its header is damaged"),)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "red/0.png is left out: not an image, or its header is damaged"
    ]
    assert len(found.images) == len(found.labels) == 29
    assert (found.images[20] == np.array(shade("red", 2), dtype=np.uint8)).all()
    caplog.clear()
    assert opened(folder).rejected == found.rejected
    assert not caplog.records


def test_of_many_bad_files_twenty_are_named_and_all_are_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(480):
        save(tmp_path / f"{i}.png", (i % 256, 0, 0), 8)
    for i in range(24):
        (tmp_path / f"bad\n\x1b[31m{i:02}.png").touch()
    found = opened(tmp_path, 8)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 21
    assert messages[0] == r"bad\n\x1b[31m00.png is left out: empty file"
    assert messages[20].startswith("and 4 more; all are listed in ")
    listed = json.loads(Path(messages[20].removeprefix("and 4 more; all are listed in ")).read_text())["rejected"]
    assert tuple(map(tuple, listed)) == found.rejected
    assert len(listed) == 24


def test_over_five_per_cent_bad_is_an_error_that_leaves_nothing(folder: Path, store: Path) -> None:
    (folder / "red" / "0.png").write_bytes(b"")
    (folder / "red" / "2.png").write_bytes(b"GIF89a")
    with pytest.raises(UserError, match=r"2 of 30 images .* more than 5 %: red/0.png \(empty file\), red/2.png \("):
        opened(folder)
    assert sorted(path.name for path in store.iterdir()) == ["locks"]


def test_small_images_are_enlarged_with_one_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened(folder, 16)
    assert [record.getMessage() for record in caplog.records] == [
        "30 of 30 images are under 16 pixels and are enlarged"
    ]


def test_links_in_a_circle_and_files_that_are_none_do_not_hang(folder: Path) -> None:
    (folder / "red" / "loop").symlink_to(folder)
    (folder / "red" / "deeper" / "loop").symlink_to(folder / "red")
    expected = opened(folder).content
    assert len(opened(folder)) == 30
    (folder / "green" / "nothing.png").symlink_to(folder / "gone")
    assert opened(folder).rejected == (("green/nothing.png", "broken link"),)
    (folder / "green" / "nothing.png").unlink()
    os.mkfifo(folder / "red" / "pipe.png")
    found = opened(folder)
    assert found.rejected == (("red/pipe.png", "not a regular file"),)
    (folder / "red" / "pipe.png").unlink()
    (folder / "red" / "self.png").symlink_to("self.png")
    assert len(opened(folder).rejected) == 1
    (folder / "red" / "self.png").unlink()
    assert opened(folder).content == expected


def test_linked_folders_are_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    for name in COLOURS:
        (tmp_path / "links" / name).symlink_to(folder / name)
    assert opened(tmp_path / "links").key == opened(folder).key


# Zips


def patched(path: Path, name: str, **fields: int) -> None:
    """Falsify one entry of a zip's directory (APPNOTE 4.3.12)."""
    offsets = {"flags": (8, "<H"), "method": (10, "<H"), "size": (24, "<I")}
    content = bytearray(path.read_bytes())
    at = content.rindex(name.encode()) - 46
    assert content[at : at + 4] == b"PK\x01\x02"
    for field, value in fields.items():
        struct.pack_into(offsets[field][1], content, at + offsets[field][0], value)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"flags": 1}, "encrypted"),
        ({"method": zipfile.ZIP_BZIP2}, "other than deflate"),
        ({"size": 300 * 2**20}, "300 MiB, more than 256"),
        ({"size": 20}, "damaged inside the zip"),
        ({"size": 10_000}, "truncated inside the zip"),
    ],
)
def test_a_bad_member_of_a_zip_is_left_out(folder: Path, tmp_path: Path, fields: dict[str, int], reason: str) -> None:
    path = pack(folder, tmp_path / "x.zip")
    patched(path, "red/0.png", **fields)
    found = opened(path)
    assert len(found) == 29
    assert [name for name, _ in found.rejected] == ["red/0.png"]
    assert reason in found.rejected[0][1]


def test_a_bomb_is_not_unfolded_past_its_declared_size(folder: Path, tmp_path: Path) -> None:
    path = pack(folder, tmp_path / "x.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("red/bomb.png", bytes(50 * 2**20))
    patched(path, "red/bomb.png", size=1000)
    source = sources.open_source(path)
    (bomb,) = (entry for entry in source.entries if entry.name == "red/bomb.png")
    tracemalloc.start()
    with pytest.raises(images.Refused):
        source.read(bomb)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_names_in_a_zip_reach_no_file(folder: Path, tmp_path: Path) -> None:
    path = pack(folder, tmp_path / "x.zip")
    before = sorted(tmp_path.rglob("*"))
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../../outside.png", "/absolute.png", "..\\back.png"):
            archive.writestr("red/" + name, (folder / "red" / "0.png").read_bytes())
    found = opened(path)
    assert found.classes == ("blue", "green", "red")
    shutil.rmtree(tmp_path / "cache")
    assert sorted(tmp_path.rglob("*")) == before


# Mistakes


def test_mistakes_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.bin").write_bytes(b"x")
    (tmp_path / "broken.zip").write_bytes(pack(folder, tmp_path / "x.zip").read_bytes()[:2000])
    for source, options, message in [
        (tmp_path / "gone", {}, "there is no .*gone"),
        (tmp_path / "empty", {}, "holds no images"),
        (tmp_path / "file.bin", {}, "neither a folder nor a zip"),
        (tmp_path / "broken.zip", {}, "broken.zip is damaged"),
        (folder, {"filter": "lanzcos"}, 'did you mean "lanczos"'),
        (folder, {"crop": "centre"}, 'did you mean "center"'),
        (folder, {"resolution": 0}, "at least 1"),
    ]:
        with pytest.raises(UserError, match=message):
            opened(source, **options)


def test_unclear_classes_are_an_error(folder: Path, tmp_path: Path) -> None:
    save(folder / "cover.png", (0, 0, 0))
    with pytest.raises(UserError, match=r"cover.png.* beside folders of images \(blue, 3 in all\)"):
        opened(folder)
    for name in ("train", "test"):
        shutil.copytree(folder / "red" / "deeper", tmp_path / "split" / name / "red")
    with pytest.raises(UserError, match="split into test and train"):
        opened(tmp_path / "split")
    assert len(opened(tmp_path / "split" / "train")) == 5


# The cache


def test_a_second_run_reads_no_image_and_writes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(folder)
    monkeypatch.setattr(images, "decode", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(sources.Folder, "read", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(cache, "build", lambda *_: pytest.fail("built"))
    second = opened(folder)
    assert np.array_equal(first.images, second.images)
    assert second.describe() == first.describe()
    assert isinstance(second.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        second.images[0] = 0


def test_a_changed_file_is_seen(folder: Path) -> None:
    first = opened(folder)
    path = folder / "red" / "0.png"
    path.write_bytes(path.read_bytes())
    os.utime(path)
    assert opened(folder).key == first.key  # other times, the same content
    save(path, (1, 2, 3))
    second = opened(folder)
    assert second.content != first.content
    assert second.images[20, 0, 0].tolist() == [1, 2, 3]
    path.rename(folder / "blue" / "new.png")
    third = opened(folder)
    assert third.content not in (first.content, second.content)
    assert np.bincount(third.labels).tolist() == [11, 10, 9]


def test_processes_that_start_together_build_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments):
        with open(tmp_path / "decoded", "ab") as file:
            file.write(b".")
        time.sleep(0.01)
        return decode(*arguments)

    decode = images.decode
    monkeypatch.setattr(images, "decode", slow)
    assert in_children(lambda: opened(folder), num=3) == [0, 0, 0]
    assert (tmp_path / "decoded").stat().st_size == 30
    monkeypatch.setattr(images, "decode", lambda *_: pytest.fail("decoded"))
    assert len(opened(folder)) == 30


def test_a_killed_build_is_not_taken_for_a_cache(folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed_in_the_middle(*arguments):
        count.append(1)
        if len(count) > 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(*arguments)

    decode, count = images.decode, []
    with monkeypatch.context() as patch:
        patch.setattr(images, "decode", killed_in_the_middle)
        assert in_children(lambda: opened(folder, 16)) == [-signal.SIGKILL]
        (left,) = drafts(store)
        assert in_children(lambda: opened(folder)) == [-signal.SIGKILL]
        (left_now,) = drafts(store)
        assert left_now != left  # the second build swept what the first left
    assert cache.lookup(sources.open_source(folder).fingerprint(), cache.Form(12, "lanczos", "center")) is None
    found = opened(folder)
    assert len(found) == 30
    assert not drafts(store)
    assert (found.images[20] == np.array(shade("red", 0), dtype=np.uint8)).all()


def test_another_s_build_under_way_is_not_swept(folder: Path, store: Path) -> None:
    started, finish = _fork.Event(), _fork.Event()

    def fill(writer: cache.Writer) -> cache.Filled:
        writer.append(np.zeros((1, 8, 8, 3), dtype=np.uint8))
        started.set()
        assert finish.wait(30)
        return cache.Filled("c" * 64, None)

    form = cache.Form(8, "none", "none")
    other = _fork.Process(target=lambda: cache.build("f" * 64, form, fill, 1))
    other.start()
    assert started.wait(30)
    opened(folder)
    assert len(drafts(store)) == 1
    finish.set()
    other.join(30)
    assert other.exitcode == 0
    assert cache.lookup("f" * 64, form).images.shape == (1, 8, 8, 3)


def test_an_interrupted_build_leaves_nothing(folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(folder)
    assert not drafts(store)


def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        with pytest.raises(UserError, match="cannot be used .*set ZOO_CACHE to a folder with room"):
            opened(folder, 64)

    assert in_children(work) == [0]
    assert not drafts(store)
    free = shutil.disk_usage(folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(UserError, match="GiB are needed"):
        opened(folder)
    assert not drafts(store)


def test_a_cache_that_cannot_be_written_is_a_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=rf"{tmp_path}/file cannot be used .*set ZOO_CACHE"):
        opened(folder)


@pytest.mark.parametrize("damage", ["truncated", "no meta", "text"])
def test_a_damaged_entry_is_built_again(
    folder: Path, store: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    expected = np.array(opened(folder).images)
    entry = store / opened(folder).key
    if damage == "truncated":
        os.truncate(entry / "images.npy", 5000)
    elif damage == "no meta":
        (entry / "meta.json").unlink()
    else:
        (entry / "meta.json").write_text("{")
    assert np.array_equal(opened(folder).images, expected)
    assert "damaged" in caplog.text
    assert not drafts(store)


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    monkeypatch.setenv("ZOO_CACHE", "/here")
    assert cache.root() == Path("/here")
    monkeypatch.delenv("ZOO_CACHE")
    assert cache.root() == Path("/elsewhere/zoo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.root() == Path.home() / ".cache" / "zoo"


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
