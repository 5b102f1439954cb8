"""The launchers make their environment once, mend it when it was left half-made, and pass everything on."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import environment  # noqa: E402
import launcher  # noqa: E402


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for name, folder in (("zoo-core", "."), ("zoo-orchid", "plugins/orchid")):
        (root / folder).mkdir(parents=True)
        (root / folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    (root / "tools").mkdir()
    for file in launcher.lock_files(root):
        file.write_text("one==1\n")
    return root


class Recorder:
    """Stands for pip: notes what it is asked to do, and fails when told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail_at = ""
        self.says: list[str] = []
        self.seconds = 0.0

    def __call__(self, folder: Path, queue: int) -> Recorder:
        return self

    def install(self, what: str, *arguments: object, watch: environment.Watch = environment._ignore, **_: str) -> None:
        self.calls.append(what)
        time.sleep(self.seconds)
        for line in self.says:
            watch(line)
        if self.fail_at and self.fail_at in what:
            raise launcher.SetUpError(f"{what} failed")

    def run(self, doing: str, *arguments: object) -> None:
        self.calls.append(" ".join(map(str, arguments)))


LOCK, NATTEN, CHECKOUT = "the packages of tools/lock.txt", "NATTEN", "this checkout's packages"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()

    def make(folder: Path, owned: bool, queue: environment.Queue) -> None:
        recorder.calls.append("make")
        python = launcher.python_of(folder)
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch(mode=0o755)

    monkeypatch.setattr(environment, "Pip", recorder)
    monkeypatch.setattr(environment, "_make", make)
    monkeypatch.setattr(environment.signal, "signal", lambda *_: None)
    return recorder


def steps(pip: Recorder, root: Path, folder: Path) -> list[str]:
    """What one launch does."""
    pip.calls.clear()
    want = launcher.wanted(root)
    if not launcher.is_ready(folder, want):
        environment.set_up(root, folder, want)
        assert launcher.is_ready(folder, want)
    return list(pip.calls)


def test_a_change_repeats_the_stage_it_concerns_and_no_other(pip: Recorder, checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    assert steps(pip, checkout, folder) == ["make", LOCK, NATTEN, CHECKOUT]
    assert steps(pip, checkout, folder) == []
    (checkout / "plugins" / "orchid" / "pyproject.toml").write_text('[project]\nname = "zoo-orchid"\nversion = "2"\n')
    assert steps(pip, checkout, folder) == [CHECKOUT]
    launcher.lock_files(checkout)[0].write_text("one==2\n")
    assert steps(pip, checkout, folder) == [LOCK, NATTEN, CHECKOUT]
    launcher.python_of(folder).unlink()
    assert steps(pip, checkout, folder) == ["make", LOCK, NATTEN, CHECKOUT]


def test_another_clone_of_the_same_lock_only_installs_itself(pip: Recorder, checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    steps(pip, checkout, folder)
    moved = checkout.rename(tmp_path / "moved")
    assert steps(pip, moved, folder) == [CHECKOUT]


def test_a_plugin_that_is_gone_is_uninstalled(pip: Recorder, checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    steps(pip, checkout, folder)
    (checkout / "plugins" / "orchid" / "pyproject.toml").unlink()
    launcher.lock_files(checkout)[0].write_text("one==2\n")
    assert steps(pip, checkout, folder) == [LOCK, NATTEN, "uninstall --yes zoo-orchid", CHECKOUT]


def test_another_python_makes_the_environment_anew(pip: Recorder, checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    steps(pip, checkout, folder)
    stamp = launcher.read_stamp(folder) | {"python": "3.10"}
    (folder / launcher.STAMP).write_text(json.dumps(stamp))
    assert steps(pip, checkout, folder) == ["make", LOCK, NATTEN, CHECKOUT]


@pytest.mark.parametrize("stamp", ["", "{", "[]", "null"])
def test_a_stamp_that_cannot_be_read_vouches_for_nothing(
    pip: Recorder, checkout: Path, tmp_path: Path, stamp: str
) -> None:
    folder = tmp_path / "venv"
    steps(pip, checkout, folder)
    (folder / launcher.STAMP).write_text(stamp)
    assert steps(pip, checkout, folder) == ["make", LOCK, NATTEN, CHECKOUT]


def test_a_first_set_up_that_failed_starts_over(pip: Recorder, checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    pip.fail_at = LOCK
    with pytest.raises(launcher.SetUpError):
        steps(pip, checkout, folder)
    pip.fail_at = ""
    assert steps(pip, checkout, folder) == ["make", LOCK, NATTEN, CHECKOUT]


@pytest.mark.parametrize(
    ("says", "mends_with"),
    [
        (["Collecting one==2\n"], [LOCK, NATTEN, CHECKOUT]),
        (["Collecting one==2\n", "Installing collected packages: one\n"], ["make", LOCK, NATTEN, CHECKOUT]),
    ],
    ids=["before anything changed: the old one is kept", "half-way through: made anew"],
)
def test_a_changed_lock_that_failed(
    pip: Recorder, checkout: Path, tmp_path: Path, says: list[str], mends_with: list[str]
) -> None:
    folder = tmp_path / "venv"
    steps(pip, checkout, folder)
    launcher.lock_files(checkout)[0].write_text("one==2\n")
    pip.fail_at, pip.says = LOCK, says
    with pytest.raises(launcher.SetUpError):
        steps(pip, checkout, folder)
    pip.fail_at = ""
    assert steps(pip, checkout, folder) == mends_with


def test_a_checkout_that_failed_to_install_is_swept_and_installed_again(
    pip: Recorder, checkout: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "venv"
    pip.fail_at = CHECKOUT
    with pytest.raises(launcher.SetUpError):
        steps(pip, checkout, folder)
    packages = folder / "lib" / "python3" / "site-packages"
    (packages / "zoo_core-1.0.0.dist-info").mkdir(parents=True)  # with no record, pip could not uninstall it
    (packages / "zoo_strangers-1.0.0.dist-info").mkdir()
    pip.fail_at = ""
    assert steps(pip, checkout, folder) == [CHECKOUT]
    assert [left.name for left in packages.iterdir()] == ["zoo_strangers-1.0.0.dist-info"]


def test_natten_is_done_without_when_it_does_not_build(
    pip: Recorder, checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pip.fail_at = NATTEN
    assert steps(pip, checkout, tmp_path / "venv") == ["make", LOCK, NATTEN, CHECKOUT]
    assert "NATTEN did not build; going on without it" in capsys.readouterr().err


def test_of_two_calls_at_once_one_sets_up_and_the_other_waits(
    pip: Recorder, checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pip.seconds = 0.3
    arguments = (checkout, tmp_path / "venv", launcher.wanted(checkout))
    threads = [threading.Thread(target=environment.set_up, args=arguments) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pip.calls == ["make", LOCK, NATTEN, CHECKOUT]
    assert capsys.readouterr().err.count("another call is setting up") == 1
    assert launcher.is_ready(*arguments[1:])


def test_a_folder_that_is_no_environment_is_refused_and_left_alone(
    pip: Recorder, checkout: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(launcher.SetUpError, match="not a virtual environment"):
        environment.set_up(checkout, tmp_path, launcher.wanted(checkout))
    assert sorted(tmp_path.iterdir()) == before and pip.calls == []


def test_an_environment_that_someone_made_is_never_emptied(checkout: Path, tmp_path: Path) -> None:
    for name in ("pyvenv.cfg", "keep.txt"):
        (tmp_path / name).touch()
    with environment._queue(tmp_path) as queue:
        assert not queue.own()
        with pytest.raises(launcher.SetUpError, match="no working Python"):
            environment._make(tmp_path, False, queue)
    assert (tmp_path / "keep.txt").exists()


def test_the_end_of_what_pip_said_is_shown_when_it_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = "import sys; [print('line', i) for i in range(40)]; print('Requirement already satisfied'); sys.exit(1)"
    monkeypatch.setattr(environment, "_pip_of", lambda folder: [sys.executable, "-c", program])
    with open(tmp_path / "queue", "w") as queue, pytest.raises(launcher.SetUpError) as caught:
        environment.Pip(tmp_path, queue.fileno()).install("things")
    assert "installing things failed" in str(caught.value)
    assert caught.value.output[-1] == "line 39" and len(caught.value.output) < 20


@pytest.mark.parametrize("name", ["zoo", "test"])
def test_an_old_python_gets_a_sentence(name: str) -> None:
    source = (ROOT / "tools" / name).read_text(encoding="ascii")
    ast.parse(source, feature_version=(3, 4))  # or it would get a SyntaxError instead
    program = f"import sys; sys.version_info = (3, 10, 0, 'final', 0); exec(compile({source!r}, {name!r}, 'exec'))"
    run = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1 and "Python 3.11" in run.stderr


@pytest.fixture
def ready(tmp_path: Path) -> dict[str, str]:
    """Variables that name an environment which is ready, and whose Python prints how it was called."""
    python = launcher.python_of(tmp_path)
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$PYTHONPATH" "$OMP_NUM_THREADS" "$@"\nexit 7\n')
    python.chmod(0o755)
    (tmp_path / launcher.STAMP).write_text(json.dumps(launcher.wanted(ROOT)))
    kept = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "PYTHONPATH")}
    return kept | {"ZOO_VENV": str(tmp_path), "PYTHONPATH": "/theirs"}


def test_zoo_passes_everything_on_and_runs_the_code_of_its_own_clone(ready: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "tools" / "zoo", "train", "--set", "a=b c", "--help"]
    run = subprocess.run(command, env=ready, cwd=tmp_path, capture_output=True, text=True)
    folder, path, threads, *arguments = run.stdout.splitlines()
    assert arguments == ["-m", "zoo_core", "train", "--set", "a=b c", "--help"]
    assert folder == str(tmp_path), "a relative --data is the caller's"
    assert path.split(":") == [*map(str, launcher.code_folders(ROOT)), "/theirs"]
    assert (threads, run.returncode, run.stderr) == ("", 7, "")


def test_test_runs_pytest_in_the_checkout_from_anywhere(ready: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "tools" / "test", "-k", "golden"]
    run = subprocess.run(command, env=ready, cwd=tmp_path, capture_output=True, text=True)
    folder, _, threads, *arguments = run.stdout.splitlines()
    assert (folder, threads) == (str(ROOT), "1")
    assert arguments == ["-m", "pytest", "-n", "2", "-k", "golden"]
    inside = subprocess.run(command, env=ready, cwd=ROOT / "tests", capture_output=True, text=True)
    assert inside.stdout.splitlines()[0] == str(ROOT / "tests")


def test_test_isolated_hands_over_to_its_own_program(ready: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "tools" / "test", "--isolated", "sagan", "-k", "golden"]
    run = subprocess.run(command, env=ready, cwd=tmp_path, capture_output=True, text=True)
    folder, _, threads, *arguments = run.stdout.splitlines()
    assert (folder, threads) == (str(ROOT), "1")
    assert arguments == [str(ROOT / "tools" / "isolated.py"), "sagan", "-k", "golden"]
