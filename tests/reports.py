"""Runs on disk, and what `zoo report` makes of them: for its tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from calls import call
from PIL import Image

from zoo_core.comparison import results
from zoo_core.errors import UserError

SMALL = [
    *("--plugin", "sagan", "--data", "pics"),
    *("--set", "train.images=16", "--set", "train.batch=8", "--set", "train.log_images=8"),
    *("--set", "generator.channels=4", "--set", "discriminator.channels=4", "--set", "data.labels=false"),
    *("--set", "evaluate.num=8", "--set", "evaluate.extractor=random-conv", "--set", "evaluate.metrics=[fid]"),
]
FD = "fd@random-conv-v1:32px:N=8:train"


def train(top: Path) -> Path:
    """One run, `slow-seed-0`, on a few pictures."""
    for i in range(16):
        (top / "pics").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (15 * i, 250 - 15 * i, 90)).save(top / "pics" / f"{i}.png")
    found = call(top, ["train", *SMALL, "--out", "slow-seed-0"])
    assert found.code == 0, found.err
    return top


def two_contenders(trained: Path, folder: Path) -> Path:
    """Two contenders of three trainings, made from one: `slow` at about 50, and `fast` of another batch at about 20."""
    for name, level, batch in (("slow", 50.0, 8), ("fast", 20.0, 16)):
        for seed in range(3):
            run = folder / f"{name}-seed-{seed}"
            shutil.copytree(trained / "slow-seed-0", run)
            recipe(run, ("train", "seed"), seed)
            recipe(run, ("train", "batch"), batch)
            recipe(run, ("train", "images"), 2 * batch)
            measured(run, {seed: level + seed, seed + 10: level + seed + 0.5})
    return folder


def recipe(run: Path, where: tuple[str, str], value: Any) -> None:
    content = yaml.safe_load((run / "recipe.yaml").read_text())
    content[where[0]][where[1]] = value
    (run / "recipe.yaml").write_text(yaml.safe_dump(content))


def entry(value: float | None, step: int = 2, name: str = FD, **more: Any) -> dict[str, Any]:
    row = {"name": name, "value": value, "std": None, "note": ""}
    return {
        "step": step,
        "figures": [row],
        "floor": [{**row, "name": f"floor:{name}", "value": 1.5}],
        "structure": {},
    } | more


def measured(run: Path, values: dict[int, float | None], *more: dict[str, Any]) -> None:
    """The first as the end of training has it, the others as `zoo evaluate` adds them."""
    (_, first), *others = values.items()
    commands = [entry(value, seed=seed) for seed, value in others]
    (run / "evaluation.json").write_text(json.dumps({"end": entry(first), "commands": [*commands, *more]}))


def report(
    place: Path, *words: str, cost: bool = False, look: bool = False, out: str = "report"
) -> tuple[Any, results.Comparison | None]:
    """Of all runs there, if `words` name none."""
    if not words:
        words = tuple(sorted(path.name for path in place.iterdir() if path.is_dir()))
    off = [*([] if cost else ["--no-cost"]), *([] if look else ["--no-measure"])]
    found = call(place, ["report", *words, *off, *([] if out == "report" else ["--out", f"{out}.html"])])
    if found.code:
        return found, None
    content = json.loads((place / f"{out}.json").read_text())
    assert content["protocol"] == "existing runs"
    with pytest.raises(UserError, match="not a report of the protocol"):  # --verify must refuse it
        results.read(place / f"{out}.json")
    (place / "as-planned.json").write_text(json.dumps(content | {"protocol": results.PROTOCOL}))
    return found, results.read(place / "as-planned.json")
