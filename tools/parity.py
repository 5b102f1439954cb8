#!/usr/bin/env python3
"""Run the tests that compare with golden numbers and write what they found to docs/parity.md.

    ZOO_GOLDENS=FOLDER .venv/bin/python tools/parity.py [--check]

With --check nothing is written: the exit code says whether the page has the run's rows and none above its tolerance.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import parity_table  # noqa: E402

PAGE = ROOT / "docs" / "parity.md"

HEAD = """# Parity with the official code

Made by `tools/parity.py` from a run of the tests that compare with golden numbers: arrays that the papers' official
code computed, with weights that follow a rule from each tensor's name and shape. Do not edit it.

An error is the largest difference from the golden array, relative to the largest magnitude in it; norms, losses and
other single figures are relative to themselves. In brackets: how many arrays or figures were compared, of which the
largest error stands here. The tolerance is the one that the test asserts: at most 1e-4 for activations and images and
1e-3 for gradients and R1, and what a footnote says where the goldens do not allow that.

"""


def main() -> int:
    """Write the page, or check it; 1 where a test fails, a row is missing or the page is not the run's."""
    goldens = os.environ.get("ZOO_GOLDENS")
    if not goldens or sys.argv[1:] not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    rows, unread, passed = run(Path(goldens))
    titles = {row.paper: f"Golden numbers: {fingerprint(Path(goldens) / row.paper)}." for row in rows}
    page = HEAD + versions() + "\n\n" + parity_table.tables(rows, titles)
    lacking = parity_table.missing(rows) + unread
    if lacking:
        page += "\n## Without a row\n\n" + "".join(f"- {name}\n" for name in lacking)
    if sys.argv[1:]:
        return 0 if check(page) and passed else 1
    PAGE.write_text(page, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(rows)} rows, {len(lacking)} modules, cases or arrays without one")
    return 0 if passed and not lacking else 1


def run(goldens: Path) -> tuple[list[parity_table.Row], list[str], bool]:
    """The rows of a run of the tests, the golden arrays that none reads, and whether they passed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.touch()
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-m", "parity"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ZOO_PARITY_ROWS": str(file)}
        passed = subprocess.run(command, cwd=ROOT, env=environment).returncode == 0
        return parity_table.read(file), parity_table.unread(file, goldens), passed


def check(page: str) -> bool:
    """Whether the page in the repository has the rows of this one and none above its tolerance; says what differs."""
    theirs = parity_table.parse(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else []
    names, wanted = (keys(rows) for rows in (theirs, parity_table.parse(page)))
    above = keys(row for row in theirs if row.error > row.tolerance)
    for what, found in (
        ("missing", wanted - names),
        ("no longer noted", names - wanted),
        ("above its tolerance", above),
    ):
        for name in sorted(found):
            print(f"{what}: {', '.join(name)}")
    return names == wanted and not above


def keys(rows: Iterable[parity_table.Row]) -> set[tuple[str, ...]]:
    """What identifies the rows."""
    return {(row.paper, row.module, row.configuration, row.quantity) for row in rows}


def versions() -> str:
    """What the run was made with."""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "numpy"))
    return f"Run with Python {platform.python_version()}, {packages}, on {platform.machine()}, one thread."


def fingerprint(folder: Path) -> str:
    """The number of files of a folder, and the start of the SHA-256 of their names and contents."""
    digest, files = hashlib.sha256(), sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return f"{len(files)} files, SHA-256 {digest.hexdigest()[:16]}"


if __name__ == "__main__":
    sys.exit(main())
