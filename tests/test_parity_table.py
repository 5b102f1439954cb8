"""docs/parity.md has a row for every module of the papers' specs, and none above its tolerance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import parity
import parity_table
import pytest
from parity_table import Row

PAGE = Path(__file__).resolve().parent.parent / "docs" / "parity.md"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return parity_table.parse(PAGE.read_text(encoding="utf-8"))


def test_no_row_is_above_its_tolerance(rows: list[Row]) -> None:
    assert [row for row in rows if not row.error <= row.tolerance] == []


def test_a_tolerance_above_those_of_all_has_its_reason(rows: list[Row]) -> None:
    assert [row for row in rows if row.tolerance > 1e-3 and not row.why.startswith("[^")] == []


def test_every_module_and_golden_case_has_a_row(rows: list[Row]) -> None:
    assert parity_table.missing(rows) == []


@pytest.mark.parametrize("paper", parity_table.CONFIGURATIONS)
def test_the_listed_cases_are_those_at_hand(paper: str) -> None:
    folder = parity.golden(paper)
    cases = {path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".npz"}
    assert cases == {*parity_table.CONFIGURATIONS[paper]}


def test_what_is_noted_comes_back_from_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_PARITY_ROWS", str(tmp_path / "rows"))
    parity.note("orchid: petals", "small", "activations", 2e-6, 1e-4)
    parity.note("orchid: petals", "small", "activations", 3e-6, 1e-4, count=2)
    parity.note("orchid: root", "small", "step", 2e-2, 5e-2, why="Signs are random.")
    with pytest.raises(AssertionError, match="orchid: root, small, step"):
        parity.note("orchid: root", "small", "step", 6e-2, 5e-2, why="Signs are random.")
    rows = parity_table.read(tmp_path / "rows")
    assert rows == [
        Row("orchid", "petals", "small", "activations", 3e-6, 1e-4, 3),
        Row("orchid", "root", "small", "step", 6e-2, 5e-2, 2, "Signs are random."),
    ]
    page = parity_table.tables(rows, {})
    assert "[^1]: Signs are random." in page
    petals, root = parity_table.parse(page)
    assert petals == replace(rows[0], quantity="activations (3)", count=1)
    assert (root.error, root.tolerance, root.why) == (6e-2, 5e-2, "[^1]")


def test_arrays_that_no_test_reads_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_PARITY_ROWS", str(tmp_path / "rows"))
    monkeypatch.setattr(parity_table, "LEFT_OUT", {"orchid/small/seed:*": "It is not sown."})
    (tmp_path / "orchid").mkdir()
    arrays = ("petals", "root__sub", "root__shape", "leaf__sub", "leaf__stats", "seed:1", "seed:2")
    np.savez(tmp_path / "orchid" / "small.npz", **dict.fromkeys(arrays, np.zeros(1)))
    parity.read("orchid/small", "petals")
    parity.read("orchid/small", "root")
    parity.note("orchid: petals", "small", "activations", 0.0, 1e-4)
    assert parity_table.unread(tmp_path / "rows", tmp_path) == ["orchid/small/leaf"]
    page = parity_table.tables(parity_table.read(tmp_path / "rows"), {})
    assert "- `small/seed:*`: It is not sown." in page and len(parity_table.parse(page)) == 1


def test_an_error_that_is_no_number_is_above_every_tolerance() -> None:
    with pytest.raises(AssertionError):
        parity.note("orchid: root", "small", "step", float("nan"), 1.0)
