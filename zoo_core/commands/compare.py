"""`zoo compare`."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from zoo_core.comparison.deciding import Decider
    from zoo_core.comparison.plan import Plan, Request
    from zoo_core.data import ImageSet

DEFAULTS = {"budget": "images=30k", "track": "common", "seeds": 3, "generation_seeds": 3, "num": 2_000}


@click.command("compare")
@click.argument("contenders", nargs=-1)
@click.option("--data", default="", help="A folder or a zip of images. [default: drawn]")
@click.option(
    "--budget", default="", help="images=200k, flops=5e15 or hours=2, for each contender. [default: images=30k]"
)
@click.option("--seeds", type=click.IntRange(1), help="Trainings of each contender, paired by seed. [default: 3]")
@click.option("--generation-seeds", type=click.IntRange(1), help="Sets of samples of each training. [default: 3]")
@click.option("--track", type=click.Choice(("common", "paper", "swap")), help="What is made equal. [default: common]")
@click.option("--batch", type=click.IntRange(1), help="Of all contenders, in the common track. [default: 16]")
@click.option("--match", default="", help="params, or params=N: scale widths to the first's parameters, or N, to 5 %.")
@click.option("--num", type=click.IntRange(8), help="Samples of each figure. [default: 2000]")
@click.option("--metric", "metrics", multiple=True, help="fid, kid, prc, isc; repeatable. [default: fid, kid and prc]")
@click.option("--extractor", default="", help="What the metrics look through. [default: random-conv]")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Any value of all recipes; repeatable.")
@click.option(
    "--launcher", default="", help='Starts each training elsewhere: "accelerate launch ...", "srun {command}".'
)
@click.option("--dry-run", is_flag=True, help="Write the plan and print the trainings, a line each; train nothing.")
@click.option("--verify", type=click.Path(path_type=Path), help="A report.json to check and measure again in part.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The comparison's folder. [default: runs/compare-NAMES-...]"
)
def command(contenders: tuple[str, ...], verify: Path | None, **options: Any) -> int:
    """Train contenders under one budget with paired seeds, and say who is better, by how much, and how surely.

    A contender is a plugin, plugin:recipe, a recipe file, or NAME= and any of these; one YAML file that lists
    contenders is a whole plan. The same command again goes on where it was stopped.

    \b
      zoo compare PLUGIN PLUGIN:RECIPE --budget images=30k --seeds 3
      zoo compare PLUGIN mine=my-recipe.yaml --data photos.zip --budget hours=2
    """
    if verify:
        if contenders:
            raise click.UsageError("--verify takes a report and no contenders.")
        from zoo_core import session
        from zoo_core.comparison import verifying

        verifying.verify(verify, session.build_stages, click.echo)
        click.echo("The report holds.")
        return 0
    if not contenders:
        raise click.UsageError("Name at least one contender; see `zoo list`.")
    return _compare(contenders, options)


def _compare(names: tuple[str, ...], options: dict[str, Any]) -> int:
    from zoo_core import runs, session
    from zoo_core.comparison import execute, page, plan, results
    from zoo_core.comparison.conduct import Course

    request = _request(names, options)
    images, problems = _ready(request)
    folder = Path(os.path.expanduser(options["out"] or Path("runs") / plan.folder_name(request, images)))
    decided = _decider(request, images, folder).plan(problems)
    jobs = plan.jobs(decided, folder)
    execute.check_launcher(jobs[0], options["launcher"])
    plan.check_folder(decided, folder)
    with runs.held(folder):
        plan.check_folder(decided, folder)  # it may have become another's meanwhile
        plan.keep(decided, folder)
        if options["dry_run"]:
            for job in jobs:
                click.echo(job.line(os.environ.get("ZOO_COMMAND", "zoo")))
            return 0
        click.echo(_about(decided, folder))
        course = Course(decided, folder, images, session.build_stages, click.echo)
        said = f"zoo {shlex.join(sys.argv[1:])}"
        try:
            found = course.run(options["launcher"], said)
        except execute.Interrupted:
            click.echo(f"Stopped and saved. To go on, repeat the command:\n  {said}")
            return 130
        runs.write_text(folder / results.FILE, results.to_json(found))
        page.write(found, folder)
    for line in page.summary(found):
        click.echo(line)
    click.echo(f"{folder / page.FILE} has it all; {results.FILE} beside it has the numbers.")
    return 0


def _request(names: tuple[str, ...], options: dict[str, Any]) -> Request:
    """What the command line says over what a plan file says over the defaults."""
    from zoo_core import recipe as recipes
    from zoo_core.comparison import budget, contenders, plan
    from zoo_core.errors import UserError

    written: dict[str, Any] = {}
    if len(names) == 1 and contenders.is_plan_file(names[0]):
        file = contenders.read_plan_file(Path(os.path.expanduser(names[0])))
        written = {field.name: getattr(file, field.name) for field in dataclasses.fields(file)}
        entries = written.pop("contenders")
    else:
        entries = {}
        for text in names:
            name, entry = contenders.parse(text)
            if name in entries:
                raise UserError(f'two contenders are called "{name}"; name one of them, as in other={text}.')
            entries[name] = entry
    shared = {**written.pop("set", {}), **dict(recipes.parse_set(text) for text in options["settings"])}
    given = {key: options[key] for key in (*DEFAULTS, "data", "batch", "match", "metrics", "extractor") if options[key]}
    merged = {**DEFAULTS, **{key: value for key, value in written.items() if value}, **given}
    merged["budget"] = budget.parse(str(merged["budget"]))
    if merged["track"] not in ("common", "paper", "swap"):
        raise UserError(f'there is no track "{merged["track"]}"; there is common, paper, swap.')
    if merged.get("data"):
        merged["data"] = os.path.realpath(os.path.expanduser(merged["data"]))
    return plan.Request(entries=entries, set=shared, **merged)


def _ready(request: Request) -> tuple[ImageSet, list[str]]:
    """The images, in the smallest size that a contender wants, and what is wrong with how they are to be measured.

    Raises UserError for images that cannot be had, with all else that can be said without them.
    """
    from zoo_core.comparison import contenders, deciding, measure, plan
    from zoo_core.data import open_images
    from zoo_core.errors import UserError
    from zoo_core.extractors import open_extractor

    found, refusals = contenders.resolve_all(request.entries, plan.shared_settings(request))
    images, unmeasured = None, []
    try:
        if found:
            data = min((recipe.data for recipe in found.values()), key=lambda each: each.resolution)
            images = open_images(data.source or None, data.resolution, filter=data.filter, crop=data.crop)
    except UserError as error:
        refusals.append(f"--data: {error}")
    try:
        extractor = open_extractor(request.extractor)
        if images:
            measure.check(measure.Asked(request.num, request.metrics, extractor, images))
    except UserError as error:
        unmeasured.append(str(error))
    if images is None:
        deciding.refuse([*refusals, *unmeasured])
    return images, unmeasured


def _decider(request: Request, images: ImageSet, folder: Path) -> Decider:
    from zoo_core import parts, session
    from zoo_core.comparison import plan
    from zoo_core.comparison.cost import Bill
    from zoo_core.comparison.deciding import Decider
    from zoo_core.recipe import Recipe

    def stages(recipe: Recipe) -> list[str]:
        return [stage.name for stage in session.build_stages(recipe, parts.outline(recipe))]

    def prices(recipe: Recipe, kind: str) -> dict[str, float]:
        return Bill(recipe, session.build_stages, stages(recipe)).prices(kind)

    return Decider(request, images, stages, prices, plan.known_prices(folder, request.budget))


def _about(decided: Plan, folder: Path) -> str:
    request = decided.request
    trainings = len(decided.recipes) * request.seeds
    return (
        f"Comparing {', '.join(decided.recipes)} in {folder}: {request.track} track, {request.budget} each, "
        f"{request.seeds} seeds, {trainings} trainings on {decided.data['name']}."
    )
