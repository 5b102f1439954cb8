"""Images are prepared once, whatever the disk and other processes do."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import drafts, opened, save, shade

from zoo_core import cache, images, sources
from zoo_core.errors import UserError

pytest_plugins = ["picture_fixtures"]
pytestmark = pytest.mark.usefixtures("store")
_fork = multiprocessing.get_context("fork")


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
