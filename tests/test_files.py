"""Files that a stranger may have written: whatever is in them, nothing but a sentence comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toys
from calls import call

from zoo_core import checkpoint, evaluation, runs
from zoo_core.comparison import conduct, execute, measure, neighbours, results, sheets
from zoo_core.comparison.assemble import Spent
from zoo_core.errors import UserError
from zoo_core.files import MAX_DEPTH, parse_json, read_json
from zoo_core.journal import Journal


def nested(depth: int) -> str:
    """A mapping with lists in lists."""
    return '{"images": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


DEEP = (MAX_DEPTH + 1, 600, 100_000)
"""A little too deep, too deep for whoever goes through it in Python, and too deep for the parser."""


def test_json_is_read_or_a_value_error(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for whole in (nested(MAX_DEPTH), "[]", "3", '{"ä": [{}, [[null]]]}'):
        file.write_text(whole, encoding="utf-8")
        assert read_json(file) == parse_json(whole) == json.loads(whole)
    for broken in (*map(nested, DEEP), "", "{", "1" * 5000, "\0"):
        with pytest.raises(ValueError):
            parse_json(broken)
    file.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError):
        read_json(file)
    with pytest.raises(OSError):
        read_json(tmp_path)


def refused(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def outcome(folder: Path) -> str:
        with pytest.raises(UserError, match="deep|not JSON"):
            read(folder)
        return "refused"

    return outcome


def rewound(folder: Path) -> str:
    Journal(folder / "metrics.jsonl", toys.accelerator()).rewind(10)
    return (folder / "metrics.jsonl").read_text()


READERS: dict[str, tuple[str, Callable[[Path], Any], Any]] = {
    "a run's manifest": ("manifest.json", runs.read_manifest, {}),
    "what a run was trained on": ("manifest.json", lambda at: evaluation.reference_name(toys.images(), at)[:4], "toy-"),
    "a run's figures": ("evaluation.json", refused(evaluation.read), "refused"),
    "a checkpoint": ("manifest.json", refused(checkpoint.open_checkpoint), "refused"),
    "a report": ("report.json", refused(lambda at: results.read(at / "report.json")), "refused"),
    "whether a training diverged": ("metrics.jsonl", execute._diverged, ""),
    "what a training took": ("metrics.jsonl", lambda at: Spent.read(at, {}, ["main"]).seconds, 0),
    "a journal that is gone on with": ("metrics.jsonl", rewound, ""),
    "a run's last grid": ("metrics.jsonl", sheets.newest, None),
    "costs": ("x.json", lambda at: conduct._kept(at / "x.json", conduct.Priced), None),
    "what real images score": ("x.json", lambda at: conduct._kept(at / "x.json", conduct.Real), None),
    "a training's measurements": ("x.json", lambda at: measure._kept(at / "x.json", {}), {}),
    "neighbours": ("x.json", lambda at: neighbours._kept(at / "x.json", {}), None),
}


@pytest.mark.parametrize("depth", DEEP)
@pytest.mark.parametrize("what", READERS)
def test_json_that_is_nested_too_deeply_is_damaged_like_any_other(tmp_path: Path, what: str, depth: int) -> None:
    name, read, wanted = READERS[what]
    (tmp_path / name).write_text(nested(depth))
    assert read(tmp_path) == wanted


@pytest.mark.parametrize("command", ["report", "sample", "evaluate", "show"])
@pytest.mark.parametrize("path", ["x" * 5000, "x/" * 2500], ids=["one name", "many names"])
def test_a_path_that_is_too_long_is_no_run(tmp_path: Path, command: str, path: str) -> None:
    answer = call(tmp_path, [command, path])
    assert answer.code == 2 and answer.err.startswith("Error: ") and answer.err.count("\n") == 1


def test_a_report_cannot_be_written_to_a_path_that_is_too_long(tmp_path: Path) -> None:
    assert call(tmp_path, ["report", "nowhere", "--out", "x" * 5000 + ".html"]).code == 2
