"""Set up the environment that tools/launcher.py starts in. Standard library only.

One call sets up at a time; others wait for it. Whatever stops a set-up half-way, the stamp does not vouch for what it
left, and the next call mends it: a virtual environment whose installation stopped is emptied and made anew.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher import STAMP, SetUpError, is_ready, lock_files, plugin_projects, python_of, read_stamp

OWN = "zoo-set-up.lock"
"""The file that callers queue on. In an environment that a launcher made it says so, and only such a one is emptied."""
OWNED = "tools/zoo made this environment and may empty it.\n"
UNFINISHED = "unfinished"


def set_up(root: Path, folder: Path, want: dict[str, str]) -> None:
    """Make `folder` the environment that `want` describes. Raises SetUpError or OSError when it cannot be."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that pip is stopped too
    with _queue(folder) as queue:
        if is_ready(folder, want):  # another call has done it meanwhile
            return
        start = time.monotonic()
        owned = queue.own()
        stamp = read_stamp(folder)
        if stamp.get("python") != want["python"] or not os.access(python_of(folder), os.X_OK):
            stamp = {}
            _make(folder, owned, queue)
        pip = Pip(folder, queue.number)
        if stamp.get("lock") != want["lock"]:
            _install_lock(root, folder, pip)
            stamp |= {"python": want["python"], "lock": want["lock"]}
        _write_stamp(folder, stamp | {"checkout": UNFINISHED})
        packages = _install_checkout(root, folder, pip, stamp)
        _write_stamp(folder, stamp | {"checkout": want["checkout"], "packages": packages})
        _say(f"ready after {time.monotonic() - start:.0f} s")


def _make(folder: Path, owned: bool, queue: Queue) -> None:
    """Leave an empty virtual environment in `folder`; one that no launcher made is taken as it is."""
    if not owned:
        if not os.access(python_of(folder), os.X_OK):
            raise SetUpError(f"{folder} has no working Python; remove it, or let ZOO_VENV name another folder.")
        return
    if not _has("venv") or not (_has("ensurepip") or _has("pip")):
        raise SetUpError(
            f"{sys.executable} has no venv module, or neither ensurepip nor pip; "
            "install them (on Debian or Ubuntu: apt install python3-venv)."
        )
    _say(f"making the environment {folder}; torch makes it gigabytes and minutes, once")
    for entry in folder.iterdir():
        if entry.name != OWN:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    without = [] if _has("ensurepip") else ["--without-pip"]
    made = subprocess.run(
        [sys.executable, "-I", "-m", "venv", *without, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=(queue.number,),
    )
    if made.returncode:
        raise SetUpError(f"the virtual environment {folder} could not be made.", made.stdout.splitlines())


def _install_lock(root: Path, folder: Path, pip: Pip) -> None:
    """Install the locked versions, over older ones if there are any, then NATTEN if it builds."""
    lock, natten = lock_files(root)
    count = sum(1 for line in lock.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
    _say(f"installing the {count} packages of tools/lock.txt")

    def watch(line: str) -> None:
        # Until pip gets here it has only resolved and downloaded: an older environment is still whole.
        if line.startswith("Installing collected packages"):
            (folder / STAMP).unlink(missing_ok=True)

    pip.install("the packages of tools/lock.txt", "--requirement", lock, watch=watch)
    (folder / STAMP).unlink(missing_ok=True)
    _say("building NATTEN")
    options = ["--force-reinstall", "--no-deps", "--no-build-isolation"]
    hidden = {}
    if "NATTEN_CUDA_ARCH" in os.environ:
        options.append("--no-cache-dir")  # pip may have kept a build without the kernels
    else:
        hidden["CUDA_VISIBLE_DEVICES"] = ""  # or it compiles for the GPU it sees, for an hour
    try:
        pip.install("NATTEN", "--requirement", natten, *options, **hidden)
    except SetUpError:
        _say("NATTEN did not build; going on without it, as it serves on CUDA only")


def _install_checkout(root: Path, folder: Path, pip: Pip, stamp: dict[str, object]) -> list[str]:
    """Install this checkout's distributions editable and remove those that another left; returns their names."""
    projects = [root / "pyproject.toml", *plugin_projects(root)]
    names = [tomllib.loads(file.read_text(encoding="utf-8"))["project"]["name"] for file in projects]
    before = [str(name) for name in stamp.get("packages", [])]
    if stamp.get("checkout") == UNFINISHED:
        _sweep(folder, {*names, *before})
    if stale := sorted({*before} - {*names}):
        _say("removing " + ", ".join(stale))
        pip.run("removing old packages", "uninstall", "--yes", *stale)
    _say("installing " + ", ".join(names))
    editable = [part for file in projects for part in ("--editable", file.parent)]
    pip.install("this checkout's packages", "--no-deps", "--no-build-isolation", *editable)
    return names


def _sweep(folder: Path, names: set[str]) -> None:
    """Remove what a stopped installation left of these distributions: pip cannot uninstall one without its record."""
    for name in names:
        stem = name.replace("-", "_")
        for left in [*folder.glob(f"lib/python*/site-packages/{stem}-*.dist-info")]:
            shutil.rmtree(left)


Watch = Callable[[str], None]


def _ignore(line: str) -> None:
    """Watch nothing."""


class Pip:
    """The pip that fills one environment. `queue` is kept open in it, so an orphaned pip still holds the queue."""

    def __init__(self, folder: Path, queue: int) -> None:
        command = _pip_of(folder)
        if command is None:
            raise SetUpError(f"{folder} has no pip and neither has {sys.executable}; install pip in one of them.")
        self._command, self._queue = command, queue

    def install(self, what: str, *arguments: str | Path, watch: Watch = _ignore, **variables: str) -> None:
        """`pip install`; raises SetUpError when it fails."""
        self.run(f"installing {what}", "install", *arguments, watch=watch, **variables)

    def run(self, doing: str, *arguments: str | Path, watch: Watch = _ignore, **variables: str) -> None:
        """Run pip, `watch` each line of its output, and raise SetUpError with the last of it when it fails."""
        tail: deque[str] = deque(maxlen=15)
        with subprocess.Popen(
            [*self._command, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_clean() | variables,
            pass_fds=(self._queue,),
        ) as process:
            try:
                for line in process.stdout or ():
                    if not line.startswith("Requirement already satisfied"):
                        tail.append(line.rstrip())
                    watch(line)
                    _show(line.strip())
            except BaseException as stop:
                _stop(process, interrupted=isinstance(stop, KeyboardInterrupt))
                raise
        _show("")
        if process.returncode:
            raise SetUpError(f"{doing} failed, as pip says above; the same command tries again.", tail)


def _stop(process: subprocess.Popen[str], interrupted: bool) -> None:
    """Let pip remove its temporary gigabytes and end; end it if it does not. A Ctrl-C has reached it already."""
    if not interrupted:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.terminate()


def _pip_of(folder: Path) -> list[str] | None:
    """How to run pip for the environment; this Python's own pip serves where ensurepip is missing."""
    python = python_of(folder)
    if _has("ensurepip") or any(folder.glob("lib/python*/site-packages/pip")):
        return [str(python), "-I", "-m", "pip"]
    return [sys.executable, "-I", "-m", "pip", "--python", str(python)] if _has("pip") else None


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _clean() -> dict[str, str]:
    """The environment variables for pip, without those that would send packages elsewhere or hide its output."""
    unwanted = {"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_QUIET", "PIP_NO_DEPS", "PIP_REQUIREMENT"}
    return {key: value for key, value in os.environ.items() if key not in unwanted} | {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }


class Queue:
    """The file that callers queue on, while this one holds it."""

    def __init__(self, path: Path, number: int) -> None:
        self._path, self.number = path, number

    def own(self) -> bool:
        """Whether a launcher made the environment, so that it may be emptied. A new one becomes such."""
        if any(entry.name != OWN for entry in self._path.parent.iterdir()):
            return self._path.read_text(encoding="utf-8") == OWNED
        self._path.write_text(OWNED, encoding="utf-8")
        return True


@contextmanager
def _queue(folder: Path) -> Iterator[Queue]:
    """Wait for the other callers of this environment. Raises SetUpError when `folder` is not one."""
    try:
        import fcntl
    except ModuleNotFoundError:
        raise SetUpError("tools/zoo needs Linux or macOS; elsewhere pip install the packages and type `zoo`.") from None

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / OWN
    strange = any(entry.name != OWN for entry in folder.iterdir())
    if strange and not path.exists() and not (folder / "pyvenv.cfg").exists():
        raise SetUpError(f"{folder} is not a virtual environment; let ZOO_VENV name an empty or a new folder.")
    with open(path, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"another call is setting up {folder}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield Queue(path, file.fileno())


def _write_stamp(folder: Path, stamp: dict[str, object]) -> None:
    """Replace the stamp at once, so that no reader sees half of one."""
    fresh = folder / (STAMP + ".tmp")
    fresh.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    os.replace(fresh, folder / STAMP)


def _say(text: str) -> None:
    print(f"Zoo: {text}", file=sys.stderr, flush=True)


def _show(line: str) -> None:
    """What pip is doing, on a line that the next one overwrites; nothing unless a person is watching."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r\033[K" + line[:width], end="", file=sys.stderr, flush=True)
