"""Progress bars for work that is counted; silent when nobody watches, but for a rate that was asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]
"""Told how much more is done."""


@contextmanager
def counting(what: str, total: int, unit: str = "") -> Iterator[Advance]:
    """Yield `advance(count)`; draws a bar on stderr when it is a terminal.

    With a `unit` ("tokens") the bar has their rate, and a line says it when all is done, on a terminal or not.
    """
    done, start = 0, time.perf_counter()
    with _bar(what, total, unit) if sys.stderr.isatty() else _nothing() as show:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            show(count)

        yield advance
    if unit:
        seconds = time.perf_counter() - start
        print(f"{done:,} {unit} in {seconds:,.1f} s, {done / seconds:,.0f} {unit}/s", file=sys.stderr)


@contextmanager
def _nothing() -> Iterator[Advance]:
    yield lambda count: None


@contextmanager
def _bar(what: str, total: int, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, rate="")

        def show(count: int) -> None:
            speed = bar.tasks[0].speed if unit else None  # None until there are two points in time
            bar.update(task, advance=count, rate=f"{speed:,.0f} {unit}/s" if speed else "")

        yield show
