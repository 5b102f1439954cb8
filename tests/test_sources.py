"""Bad files, hostile zips and unclear folders: each is named, none does harm."""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pictures import COLOURS, opened, pack, save, shade

from zoo_core import images, sources
from zoo_core.errors import UserError

pytest_plugins = ["picture_fixtures"]
pytestmark = pytest.mark.usefixtures("store")


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
