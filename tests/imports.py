"""`zoo import` in tests: a file in, a run or a refusal out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from calls import Answer, call

from zoo_core import runs, sampling
from zoo_core.runs import Run


def arguments(file: Path, plugin: str, recipe: str, settings: Mapping[str, object], *more: str) -> list[str]:
    """The command's words; `recipe` may be empty."""
    named = ["--recipe", recipe] if recipe else []
    changes = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    return ["import", "--plugin", plugin, *named, *changes, *more, str(file)]


def run(
    folder: Path, file: Path, plugin: str, recipe: str, settings: Mapping[str, object], *more: str
) -> tuple[Answer, Run]:
    """Import `file` into `folder/run`, which must work, and open it."""
    found = call(folder, arguments(file, plugin, recipe, settings, "--out", "run", *more))
    assert found.code == 0, found.err
    return found, runs.load(folder / "run", "cpu")


def refused(folder: Path, file: Path, plugin: str, recipe: str, settings: Mapping[str, object], *more: str) -> str:
    """Import `file`, which must end in a sentence and leave nothing; returns what it said."""
    before = sorted(folder.rglob("*"))
    found = call(folder, arguments(file, plugin, recipe, settings, *more))
    assert found.code == 2 and found.err.startswith("Error: "), (found.code, found.err)
    assert sorted(folder.rglob("*")) == before
    return found.err


def draws(opened: Run, folder: Path) -> None:
    """The run's generator draws what `zoo sample` writes."""
    found = call(folder, ["sample", "run", "--num", "2", "--seed", "3", "--out", "drawn"])
    assert found.code == 0, found.err
    from PIL import Image

    ours = torch.cat(list(sampling.draw(opened.generator, 2, 3)))
    for number, image in enumerate(ours):
        with Image.open(folder / "drawn" / f"{number:06d}.png") as stored:
            written = torch.frombuffer(bytearray(stored.tobytes()), dtype=torch.uint8).view(image.shape[1], -1, 3)
        assert torch.equal(image.permute(1, 2, 0), written)
