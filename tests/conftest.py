"""Shared by all tests: a cache of the test run's own, one thread, and `zoo` as a user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: tests share the cores

Zoo = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", autouse=True)
def zoo_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One ZOO_CACHE for the whole test run, shared by the workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "zoo-cache"
    before = os.environ.get("ZOO_CACHE")
    os.environ["ZOO_CACHE"] = str(folder)
    yield folder
    os.environ.pop("ZOO_CACHE")
    if before is not None:
        os.environ["ZOO_CACHE"] = before


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    """Run `zoo ARGUMENTS` in an empty folder and a process of its own; asserts nothing."""
    return lambda *arguments, **variables: run_zoo(tmp_path, *arguments, **variables)


def run_zoo(folder: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m zoo_core ARGUMENTS` in `folder`; `variables` are added to the environment."""
    command = [sys.executable, "-m", "zoo_core", *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
