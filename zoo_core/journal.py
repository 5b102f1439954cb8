"""What a run says while it trains: metrics.jsonl, optional trackers, and a progress bar for people."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from zoo_core.errors import UserError
from zoo_core.files import parse_json, replacing

Progress = Callable[[int, dict[str, float]], None]


class Journal:
    """Only the main process writes; the others' calls do nothing.

    Where a run has several stages, each names itself in its lines. Raises UserError when the disk refuses.
    """

    def __init__(self, path: Path, accelerator: Accelerator, *, stage: str = "", trackers: bool = False) -> None:
        self._path = path
        self._accelerator = accelerator
        self._stage = stage
        self._trackers = trackers
        self._main = accelerator.is_main_process
        self._mark = (0, time.monotonic())

    def rewind(self, step: int) -> None:
        """Drop what this stage wrote after `step`, which a resumed run writes again, and lines that are not whole."""
        if not self._main or not self._path.exists():
            return
        with replacing(self._path) as temporary:
            lines = self._path.read_text(errors="replace").splitlines()
            temporary.write_text("".join(f"{line}\n" for line in lines if self._keeps(line, step)))

    def log(self, step: int, images: int, numbers: dict[str, float]) -> None:
        """One line of metrics.jsonl; `images_per_second` is since the line before."""
        before, then = self._mark
        self._mark = (images, time.monotonic())
        rate = (images - before) / max(self._mark[1] - then, 1e-9) if before else math.nan
        line = {"step": step, "images": images, **numbers}
        if rate == rate:
            line["images_per_second"] = rate
        self._write(line)
        if self._trackers:
            self._accelerator.log(numbers, step=images)

    def event(self, name: str, **details: Any) -> None:
        """A line that is not a measurement of a step: started, resumed, diverged, evaluated."""
        self._write({"event": name, **details})

    @contextmanager
    def progress(self, total: int, done: int) -> Iterator[Progress]:
        """A bar on a terminal; nothing elsewhere."""
        if not self._main or not sys.stderr.isatty():
            yield lambda images, numbers: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=total, completed=done, rate="", losses="")
            rate = _Rate()

            def show(images: int, numbers: dict[str, float]) -> None:
                losses = " ".join(f"{name} {numbers[name]:.3f}" for name in numbers if _is_loss(name))
                bar.update(task, completed=images, rate=f"{rate(images):.1f}/s", losses=losses)

            yield show

    def _write(self, line: dict[str, Any]) -> None:
        if not self._main:
            return
        try:
            with self._path.open("a") as file:
                file.write(json.dumps({"stage": self._stage, **line} if self._stage else line) + "\n")
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write {self._path} ({reason}); free some space and repeat the command.") from None

    def _keeps(self, line: str, step: int) -> bool:
        try:
            written = parse_json(line)
            return written.get("stage", "") != self._stage or written.get("step", 0) <= step
        except (ValueError, AttributeError, TypeError):
            return False


class _Rate:
    """Images per second, smoothed over some steps."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._value = 0.0

    def __call__(self, images: int) -> float:
        now = time.monotonic()
        if self._last:
            rate = (images - self._last[0]) / max(now - self._last[1], 1e-9)
            self._value = rate if not self._value else 0.9 * self._value + 0.1 * rate
        self._last = (images, now)
        return self._value


def _is_loss(name: str) -> bool:
    return "/" not in name and name != "seconds" and not name.startswith("logits")
