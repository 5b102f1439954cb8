"""`zoo bench`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from zoo_core.recipe import Recipe

MIB = 2**20


@click.command("bench")
@click.option("--plugin", required=True, help="The paper to measure; see `zoo list`.")
@click.option("--recipe", default="", help="A recipe by name, or a YAML file. [default: the plugin's own]")
@click.option("--batch", type=click.IntRange(1), help="Images at a time. [default: the recipe's]")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Any value of the recipe; repeatable.")
@click.option("--precision", type=click.Choice(("fp32", "bf16")), help="[default: the recipe's]")
@click.option("--against", type=click.Choice(("plain",)), help="Also measure the plain formulation, in turns.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Rounds after the warm-up.")
@click.option(
    "--clock",
    type=click.Choice(("wall", "cpu")),
    default="wall",
    show_default=True,
    help="cpu: processor time of this process, for a machine that others use too.",
)
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Also write the figures here.")
def command(
    plugin: str,
    recipe: str,
    batch: int | None,
    settings: tuple[str, ...],
    precision: str | None,
    against: str | None,
    repeats: int,
    clock: str,
    file: Path | None,
) -> None:
    """Speed, memory and operations of sampling and of each phase of a training step, on noise.

    Medians over the rounds, with their range. Nothing is trained or kept.
    """
    from zoo_core import catalog
    from zoo_core import recipe as recipes

    changes: list[tuple[str, Any]] = [recipes.parse_set(text) for text in settings]
    changes += [("train.batch", batch)] if batch else []
    changes += [("train.precision", precision)] if precision else []
    wanted = _fitted(recipes.load(plugin, recipe, changes))
    report = _measure(wanted, ("fast", against) if against else ("fast",), repeats, clock)
    report = {"plugin": plugin, "recipe": recipe or catalog.plugin(plugin).recipe, "set": list(settings), **report}
    if file:
        _write(file, report)
    _show(report)


def _fitted(wanted: Recipe) -> Recipe:
    """The recipe without micro-batches where the whole batch is no larger than one."""
    train = wanted.train
    micro = train.micro_batch if train.micro_batch < train.batch else 0
    return wanted.replace(train=dataclasses.replace(train, micro_batch=micro))


def _measure(wanted: Recipe, formulations: tuple[str, ...], repeats: int, clock: str) -> dict[str, Any]:
    from tempfile import TemporaryDirectory

    import torch

    from zoo_core import bench, bench_memory, session
    from zoo_core.progress import counting

    bench.noise(wanted)  # refuses before anything is built
    session.rehearse(wanted)
    memory = {name: bench_memory.peaks(wanted, session.build_stages, name) for name in formulations}
    with TemporaryDirectory() as folder:
        workload = bench.Workload(wanted, session.build_stages, Path(folder))
        total = (repeats + 1) * (1 + len(workload.step))
        with counting("measuring", total) as advance:
            rows = bench.measure(workload, formulations, repeats=repeats, clock=clock, advance=advance)
        device = workload.accelerator.device
    on_cuda = device.type == "cuda"
    return {
        "resolution": wanted.data.resolution,
        "batch": wanted.train.batch,
        "precision": wanted.train.precision,
        "device": torch.cuda.get_device_name(device) if on_cuda else device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "clock": clock,
        "repeats": repeats,
        "rows": [row.summary(wanted.train.batch) for row in rows],
        "peak_memory_bytes": memory,
    }


def _write(file: Path, report: dict[str, Any]) -> None:
    import json

    from zoo_core.files import replacing

    with replacing(file) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    formulations = list(report["peak_memory_bytes"])
    clock = "wall clock" if report["clock"] == "wall" else "processor time"
    table = Table(
        title=f"{report['plugin']} {report['recipe']}: {report['resolution']} px, batch {report['batch']}, "
        f"{report['precision']}, {report['device']}, {report['threads']} threads; {clock}, {report['repeats']} rounds",
        title_justify="left",
    )
    table.add_column("")
    for name in formulations:
        for heading in ("ms", "images/s", "GFLOP/image"):
            table.add_column(f"{name}\n{heading}", justify="right")
    if len(formulations) > 1:
        table.add_column("plain / fast", justify="right")
    for row in report["rows"]:
        label = f"{row['name']} (every {row['every']})" if row["every"] > 1 else row["name"]
        cells = [label]
        for name in formulations:
            found = row[name]
            rate = f"{found['images_per_second']:.3g}"
            cells += [_range(found["ms"], "{:.0f}"), rate, f"{found['gflop_per_image']:.1f}"]
        if len(formulations) > 1:
            cells.append(_range(row["plain_over_fast"], "{:.2f}"))
        table.add_row(*cells, end_section=row["name"] == "sampling" or row is report["rows"][-2])
    for what in ("sampling", "step"):
        amounts = [report["peak_memory_bytes"][name][what] for name in formulations]
        cells = [cell for amount in amounts for cell in (f"{amount / MIB:.0f} MiB", "", "")]
        if len(formulations) > 1:
            cells.append(f"{amounts[1] / max(amounts[0], 1):.2f}")
        table.add_row(f"peak memory, {what}", *cells)
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)


def _range(spread: dict[str, float], form: str) -> str:
    middle, least, most = (form.format(spread[name]) for name in ("median", "min", "max"))
    return f"{middle} ({least}..{most})"
