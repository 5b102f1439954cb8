"""The source keeps its style."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_ruff_finds_nothing() -> None:
    pytest.importorskip("ruff", reason="ruff is not installed; `pip install zoo-core[test]` brings it")
    run = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--output-format", "concise", ROOT], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
