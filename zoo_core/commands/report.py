"""`zoo report`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import click


@click.command("report")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--no-cost", is_flag=True, help="Do not count parameters, FLOPs and throughput: it takes a minute or so.")
@click.option(
    "--no-measure",
    is_flag=True,
    help="Neither measure spoilt images nor look for training images near to samples.",
)
@click.option("--data", help="Where the runs' images are now, a folder or a zip. [default: where the runs had them]")
@click.option(
    "--out", type=click.Path(path_type=Path), default="report.html", show_default=True, help="The page; JSON beside it."
)
def command(runs: tuple[Path, ...], no_cost: bool, no_measure: bool, data: str | None, out: Path) -> None:
    """Make the page of `zoo compare` from runs that are there: those of one recipe are one contender.

    Shown are the figures that all have: those of the end of training, and of `zoo evaluate`. The page says where
    runs differ in what a common track would make equal; their recipes are on it.
    """
    if not runs:
        raise click.UsageError("Name at least one run folder.")
    from zoo_core import session
    from zoo_core.comparison import existing, page, plan, results
    from zoo_core.errors import UserError
    from zoo_core.runs import write_text

    out = Path(os.path.expanduser(out))
    file = out / page.FILE if os.path.isdir(out) else out
    if file.suffix != ".html":
        raise UserError(f"--out names the page, such as {page.FILE}, not {out}.")
    if os.path.exists(file.parent / plan.FILE):
        raise UserError(f"{file.parent} holds a comparison with a report of its own; name another place with --out.")
    numbers = file.with_suffix(Path(results.FILE).suffix)
    there = next((path for path in (numbers, file) if os.path.exists(path)), None)
    if there and not results.is_report(numbers):
        raise UserError(f"{there} is there and no report; name another page with --out.")
    if data and no_measure:
        raise click.UsageError("--data is for what --no-measure leaves out; leave one of them out.")
    request = existing.Request(
        folders=[Path(os.path.expanduser(folder)) for folder in dict.fromkeys(runs)],
        page=file,
        command=f"zoo {shlex.join(sys.argv[1:])}",
        source=os.path.expanduser(data or ""),
        count_cost=not no_cost,
        look=not no_measure,
    )
    found = existing.compare(request, session.build_stages, click.echo)
    write_text(numbers, results.to_json(found))
    page.write(found, file.parent, file.name)
    for line in page.summary(found):
        click.echo(line)
    click.echo(f"{file} has it all; {numbers.name} beside it has the numbers.")
