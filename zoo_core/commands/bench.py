"""`zoo bench`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core.errors import UserError

if TYPE_CHECKING:
    from zoo_core.recipe import Recipe

MIB = 2**20


@click.command("bench")
@click.option("--plugin", required=True, help="The paper to measure; see `zoo list`.")
@click.option("--recipe", default="", help="A recipe by name, or a YAML file. [default: the plugin's own]")
@click.option("--batch", type=click.IntRange(1), help="Images at a time, in all stages. [default: the recipe's]")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Any value of the recipe; repeatable.")
@click.option("--precision", type=click.Choice(("fp32", "bf16")), help="[default: the recipe's]")
@click.option("--against", type=click.Choice(("plain",)), help="Also measure the plain formulation, in turns.")
@click.option(
    "--against-set",
    "others",
    multiple=True,
    metavar="PATH=VALUE",
    help="A value that only the recipe of --against has; repeatable.",
)
@click.option("--size", default="", metavar="HxW", help="Also sample images of this size, of a generator that can.")
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
    others: tuple[str, ...],
    size: str,
    repeats: int,
    clock: str,
    file: Path | None,
) -> None:
    """Speed, memory and operations of sampling and of each phase of every stage's training step, on noise.

    Medians over the rounds, with their range. Nothing is trained or kept.
    """
    from zoo_core import catalog
    from zoo_core import recipe as recipes
    from zoo_core.sampling import parse_size

    def wanted(*texts: str) -> Recipe:
        changes: list[tuple[str, Any]] = [recipes.parse_set(text) for text in texts]
        changes += [("train.batch", batch)] if batch else []
        changes += [("train.precision", precision)] if precision else []
        return _fitted(recipes.load(plugin, recipe, changes), batch)

    if others and not against:
        raise UserError("--against-set says how the recipe of --against differs; add --against plain.")
    chosen = {"fast": wanted(*settings)}
    if against:
        chosen[against] = wanted(*settings, *others)
    report = _measure(chosen, parse_size(size), repeats, clock)
    said = {"recipe": recipe or catalog.plugin(plugin).recipe, "set": list(settings), "against_set": list(others)}
    report = {"plugin": plugin, **said, **report}
    if file:
        _write(file, report)
    _show(report)


def _fitted(wanted: Recipe, batch: int | None) -> Recipe:
    """The recipe with this batch in every stage (None: the recipe's own), without micro-batches where the whole batch
    is no larger than one."""
    from zoo_core.recipe import for_stage

    stages = {}
    for name, own in wanted.train.stages.items():
        own = {**own, **({"batch": batch} if batch and "batch" in own else {})}
        train = dataclasses.replace(wanted.train, stages={**wanted.train.stages, name: own})
        stages[name] = {**own, "micro_batch": _micro(for_stage(wanted.replace(train=train), name))}
    return wanted.replace(train=dataclasses.replace(wanted.train, micro_batch=_micro(wanted), stages=stages))


def _micro(wanted: Recipe) -> int:
    return wanted.train.micro_batch if wanted.train.micro_batch < wanted.train.batch else 0


def _measure(chosen: dict[str, Recipe], size: tuple[int, int] | None, repeats: int, clock: str) -> dict[str, Any]:
    """`chosen`: a recipe for each formulation."""
    from tempfile import TemporaryDirectory

    import torch

    from zoo_core import bench, bench_memory, session
    from zoo_core.progress import counting

    fast = chosen["fast"]
    for wanted in chosen.values():
        bench.noise(wanted)  # refuses before anything is built
        session.rehearse(wanted)
    if len({wanted.train.precision for wanted in chosen.values()}) > 1:
        raise UserError("both recipes are measured in one precision; leave train.precision out of --against-set.")
    with TemporaryDirectory() as folder:
        built: list[tuple[Recipe, bench.Workload]] = []
        for wanted in chosen.values():
            if not built or built[0][0] != wanted:  # one workload serves two formulations of one recipe
                built.append((wanted, bench.Workload(wanted, session.build_stages, Path(folder), size)))
        workloads = {name: next(made for wanted, made in built if wanted == chosen[name]) for name in chosen}
        bench.pairs(workloads)  # refuses before anything is measured
        memory = {name: bench_memory.peaks(chosen[name], session.build_stages, name) for name in chosen}
        with counting("measuring", (repeats + 1) * len(workloads["fast"].tasks)) as advance:
            rows = bench.measure(workloads, repeats=repeats, clock=clock, advance=advance)
        device = workloads["fast"].accelerator.device
    on_cuda = device.type == "cuda"
    return {
        "resolution": fast.data.resolution,
        "batch": fast.train.batch,
        "precision": fast.train.precision,
        "device": torch.cuda.get_device_name(device) if on_cuda else device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "clock": clock,
        "repeats": repeats,
        "rows": [row.summary() for row in rows],
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
        title=f"{report['plugin']} {report['recipe']}: {report['resolution']} px, "
        f"{report['precision']}, {report['device']}, {report['threads']} threads; {clock}, {report['repeats']} rounds",
        title_justify="left",
    )
    units = [row["unit"] for row in report["rows"] if "unit" in row][:1]
    table.add_column("", no_wrap=True)
    table.add_column("batch", justify="right")
    for name in formulations:
        for heading in ("ms", "images/s", *(f"{unit}/s" for unit in units), "GFLOP/image"):
            table.add_column(f"{name}\n{heading}", justify="right")
    if len(formulations) > 1:
        table.add_column("plain / fast", justify="right")
    rows = report["rows"]
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        cells = [_label(row), str(row["batch"])]
        for name in formulations:
            found = row[name]
            cells += [_range(found["ms"], "{:.0f}"), _rate(found["images_per_second"])]
            cells += [_rate(found["steps_per_second"]) if "unit" in row else "" for _ in units]
            cells.append(f"{found['gflop_per_image']:.1f}")
        if len(formulations) > 1:
            cells.append(_range(row["plain_over_fast"], "{:.2f}"))
        ends = after is None or (row["every"], row["stage"]) != (after["every"], after["stage"])
        table.add_row(*cells, end_section=ends or after["name"] == "whole step")
    for what in report["peak_memory_bytes"]["fast"]:
        amounts = [report["peak_memory_bytes"][name][what] for name in formulations]
        empty = [""] * (2 + len(units))
        cells = [cell for amount in amounts for cell in (f"{amount / MIB:.0f} MiB", *empty)]
        if len(formulations) > 1:
            cells.append(f"{amounts[1] / max(amounts[0], 1):.2f}")
        table.add_row(f"peak memory, {what}", "", *cells)
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def _rate(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _range(spread: dict[str, float], form: str) -> str:
    middle, least, most = (form.format(spread[name]) for name in ("median", "min", "max"))
    return f"{middle} ({least}..{most})"


def _label(row: dict[str, Any]) -> str:
    name = f"{row['stage']}: {row['name']}" if row["stage"] else row["name"]
    return f"{name} (every {row['every']})" if row["every"] > 1 else name
