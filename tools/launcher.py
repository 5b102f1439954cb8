"""Make the environment once, then run in it: what tools/zoo and tools/test share. Standard library only.

The environment is `.venv` in the checkout, or the folder that ZOO_VENV names; several clones may share one. A stamp,
written last, says what it was made from, so a call that finds nothing changed starts at once. Set-up has two stages:

    the lock        a virtual environment with the versions of tools/lock.txt, and NATTEN where it builds
    the checkout    zoo-core and plugins/*, editable

Every launch also puts this checkout first on PYTHONPATH, so the code that runs is that of the clone that was called
even if another clone has set up the shared environment since.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
STAMP = "zoo-stamp.json"


class SetUpError(Exception):
    """Set-up cannot go on: one sentence for the user, and the last lines of the program that failed."""

    def __init__(self, sentence: str, output: Iterable[str] = ()) -> None:
        super().__init__(sentence)
        self.output = tuple(output)


def main(arguments: list[str], *, in_checkout: bool = False) -> NoReturn:
    """Bring the environment up to date, then become its Python with `arguments`. Exits with 2 when that fails.

    With `in_checkout` it starts in the checkout unless the current folder is somewhere in it already.
    """
    folder = environment_folder()
    want = wanted(ROOT)
    if not is_ready(folder, want):
        import environment  # costs more to import than a ready environment takes to start

        try:
            environment.set_up(ROOT, folder, want)
        except SetUpError as error:
            for line in error.output:
                print("  " + line, file=sys.stderr)
            print(f"Zoo: {error}", file=sys.stderr)
            sys.exit(2)
        except OSError as error:
            print(f"Zoo: the environment {folder} cannot be set up: {error}.", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("\nZoo: set-up was interrupted; the same command takes it up again.", file=sys.stderr)
            sys.exit(130)
    if in_checkout and not Path.cwd().is_relative_to(ROOT):
        os.chdir(ROOT)
    python = str(python_of(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, code_folders(ROOT)), *_inherited_path()])
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(python, [python, *arguments])


def environment_folder() -> Path:
    """The folder that ZOO_VENV names, or `.venv` in the checkout."""
    named = os.environ.get("ZOO_VENV")
    return Path(os.path.expanduser(named)).absolute() if named else ROOT / ".venv"


def python_of(folder: Path) -> Path:
    """The environment's own Python."""
    return folder / "bin" / "python"


def code_folders(root: Path) -> list[Path]:
    """The folders that hold this checkout's packages: the checkout, then each plugin."""
    return [root, *(file.parent for file in plugin_projects(root))]


def plugin_projects(root: Path) -> list[Path]:
    """The pyproject.toml of each plugin of this checkout."""
    return sorted(root.glob("plugins/*/pyproject.toml"))


def lock_files(root: Path) -> list[Path]:
    """What is installed first, and what is installed after that because it builds against it."""
    return [root / "tools" / "lock.txt", root / "tools" / "lock-natten.txt"]


def wanted(root: Path) -> dict[str, str]:
    """What an environment for this checkout and this Python is made from; compared with the stamp, key by key."""
    projects = [root / "pyproject.toml", *plugin_projects(root)]
    return {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "lock": _digest(file.read_bytes() for file in lock_files(root)),
        "checkout": _digest([os.fsencode(root), *(file.read_bytes() for file in projects)]),
    }


def is_ready(folder: Path, want: dict[str, str]) -> bool:
    """Whether the environment was made from exactly this, to its end."""
    stamp = read_stamp(folder)
    return all(stamp.get(key) == value for key, value in want.items()) and os.access(python_of(folder), os.X_OK)


def read_stamp(folder: Path) -> dict[str, object]:
    """The stamp of an environment; {} when there is none or it cannot be read."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _digest(parts: Iterable[bytes]) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "big") + part)
    return sha.hexdigest()


def _inherited_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
