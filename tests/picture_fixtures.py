"""A folder of small pictures and an empty cache; a test file asks for them by `pytest_plugins`."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import COLOURS, save, shade


@pytest.fixture
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
