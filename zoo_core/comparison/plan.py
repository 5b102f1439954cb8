"""A comparison before it runs: every contender's recipe under one budget, checked as a whole, and its list of jobs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_core import parts
from zoo_core import recipe as recipes
from zoo_core.comparison import budget as budgets
from zoo_core.comparison import contenders, tracks
from zoo_core.comparison.contenders import Entry
from zoo_core.comparison.matching import match, parameters
from zoo_core.comparison.results import Budget, Track
from zoo_core.data import ImageSet
from zoo_core.errors import UserError
from zoo_core.plain_yaml import parse_yaml, read_text
from zoo_core.recipe import Evaluate, Recipe
from zoo_core.runs import LOCK, write_text
from zoo_core.schema import build, coerce

FILE = "plan.json"
RUNS = "runs"
RECIPES = "recipes"
CURVE_POINTS = 4

Stages = Callable[[Recipe], Sequence[str]]
"""The names of the stages that a recipe trains in."""
Price = Mapping[str, float]
"""What one real image costs in each stage, by stage."""
Prices = Callable[[Recipe, str], Price]
"""(recipe, "flops" or "seconds") -> its price."""


@dataclass(frozen=True)
class Request:
    """What the user asked for; all defaults are here."""

    entries: dict[str, Entry]
    data: str = ""
    track: Track = "common"
    budget: Budget = field(default_factory=lambda: Budget("images", 30_000.0))
    seeds: int = 3
    generation_seeds: int = 3
    num: int = 2_000
    batch: int = 0
    match: str = ""
    """`params` or `params=N`: scale widths until the generators have as many parameters as the first, or N."""
    metrics: tuple[str, ...] = ("fid", "kid", "prc")
    extractor: str = "random-conv"
    set: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("seeds", "generation_seeds", "num"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1.")


@dataclass(frozen=True)
class Plan:
    """A request with everything decided. The same request makes the same plan, if it is given the prices that were
    paid before: a clock never shows the same twice."""

    request: Request
    recipes: dict[str, Recipe]
    """By contender, with train.seed 0."""
    images: dict[str, int]
    """By contender: real images over all stages."""
    data: dict[str, Any]
    """As `ImageSet.describe` has it."""
    remarks: list[str]
    prices: dict[str, Price] = field(default_factory=dict)
    """By contender, in the budget's unit; of a budget of images none."""

    @property
    def train_seeds(self) -> range:
        """From 0, so that more seeds later go on with those that are there."""
        return range(self.request.seeds)


def decide(
    request: Request, images: ImageSet, stages: Stages, prices: Prices, known: Mapping[str, Price] | None = None
) -> Plan:
    """Make every contender's recipe. Contenders in `known` are not priced again. Raises one UserError that lists all
    that is wrong."""
    problems: list[str] = []
    found: dict[str, Recipe] = {}
    shared = shared_settings(request)

    def trying(name: str, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except UserError as error:
            problems.append(f"{name}: {error}")
            return None

    for name, entry in request.entries.items():
        resolved = trying(name, lambda entry=entry: contenders.resolve(entry, shared))
        if resolved is not None:
            found[name] = resolved
    problems += _unlike(found, images, request.track)
    if request.track == "swap" and len(found) > 1:
        problems += tracks.odd_ones({name: parts.complete(recipe) for name, recipe in found.items()})
    levelled, remarks = tracks.level(found, request.track, request.batch)
    decided, amounts, paid = {}, {}, {}
    target = trying("--match", lambda: _target(request.match, levelled)) or 0

    def one(recipe: Recipe, price: Price | None) -> tuple[Recipe, int, Price]:
        return _one(request, recipe, target, images, stages, prices if price is None else lambda *asked: price)

    for name, recipe in levelled.items():
        price = (known or {}).get(name)
        outcome = trying(name, lambda recipe=recipe, price=price: one(recipe, price))
        if outcome is not None:
            decided[name], amounts[name], paid[name] = outcome
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise UserError(f"nothing was trained, for this comparison cannot be made:{lines}")
    return Plan(request, decided, amounts, images.describe(), remarks, paid)


def _target(match: str, found: Mapping[str, Recipe]) -> int:
    """Parameters to scale to; 0: none."""
    if not match:
        return 0
    kind, _, number = match.partition("=")
    if kind != "params":
        raise UserError(f'there is params, or params=N, not "{match[:60]}".')
    if number:
        return coerce(number, int, "--match params")
    return parameters(next(iter(found.values()))) if found else 0


def _one(
    request: Request, recipe: Recipe, target: int, images: ImageSet, stages: Stages, prices: Prices
) -> tuple[Recipe, int, Price]:
    if recipe.data.labels:
        recipe = recipe.replace(data=dataclasses.replace(recipe.data, classes=tuple(images.classes)))
    recipe = recipe.replace(train=dataclasses.replace(recipe.train, seed=0, keep=1))
    names = stages(recipe)
    if target:
        recipe = match(recipe, target)
    kind = request.budget.kind
    price = prices(recipe, kind) if kind != "images" else {}
    total = budgets.images(request.budget, budgets.shares(recipe, names), price)
    recipe = budgets.spend(recipe, names, total)
    spent = {name: recipes.for_stage(recipe, name).train.images for name in names}
    return parts.complete(_watched(recipe, request, spent[names[-1]])), sum(spent.values()), price


def _watched(recipe: Recipe, request: Request, images: int) -> Recipe:
    """The recipe with figures measured on the way, for curves: at every quarter of the last stage, with the N that is
    reported and other seeds."""
    train = dataclasses.replace(
        recipe.train, sample_images=-(-images // CURVE_POINTS), checkpoint_images=-(-images // 4)
    )
    watched = Evaluate(num=request.num, extractor=request.extractor, metrics=request.metrics, during=True)
    return recipe.replace(train=train, evaluate=watched)


def _unlike(found: Mapping[str, Recipe], images: ImageSet, track: Track) -> list[str]:
    """What keeps the contenders from being compared."""
    problems = []
    sizes = {name: recipe.data.resolution for name, recipe in found.items()}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name} {size} px" for name, size in sizes.items())
        problems.append(f"the contenders have different resolutions ({said}); add --set data.resolution=32, say.")
    for name, recipe in found.items():
        labelled = recipe.data.labels and (track != "common" or all(other.data.labels for other in found.values()))
        if labelled and images.labels is None:
            problems.append(
                f"{name} is class-conditional and {images.name} has no class folders; add --set data.labels=false, "
                "or compare on labelled images."
            )
        if recipe.data.maps:
            problems.append(f"{name} draws from {recipe.data.maps} of each image, which nobody else is given.")
    return problems


def fingerprint(plan: Plan) -> str:
    """What must be equal for a folder to go on with the plan: everything but the number of seeds."""
    return _hash(_content(plan))


def folder_name(request: Request, images: ImageSet) -> str:
    """A folder's name for each different request, whatever a clock says of its prices."""
    found = {}
    for contender, entry in request.entries.items():
        with suppress(UserError):  # `decide` says it
            found[contender] = recipes.to_dict(contenders.resolve(entry, shared_settings(request)))
    asked = {"request": _asked(request), "recipes": found, "data": images.describe()}
    return "-".join(["compare", *request.entries])[:80] + f"-{_hash(asked)[:8]}"


def shared_settings(request: Request) -> list[tuple[str, Any]]:
    """What is set in all recipes alike."""
    source = [("data.source", request.data)] if request.data else []
    return [*source, *request.set.items()]


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _content(plan: Plan) -> dict[str, Any]:
    written = {name: recipes.to_dict(recipe) for name, recipe in plan.recipes.items()}
    return {"request": _asked(plan.request), "recipes": written, "images": plan.images, "data": plan.data}


def _asked(request: Request) -> dict[str, Any]:
    """The request without its entries, as recipes say it all, and without seeds, to which more may be added."""
    asked = dataclasses.asdict(request)
    for free in ("seeds", "entries"):
        asked.pop(free)
    return asked


def check_folder(plan: Plan, folder: Path) -> None:
    """Raise UserError unless the folder is new, empty, or holds this plan."""
    path = folder / FILE
    if path.exists():
        before = _kept(path)
        if before.get("fingerprint") != fingerprint(plan):
            raise UserError(
                f"{folder} holds another comparison (its {FILE} differs); name another folder with --out, or repeat "
                "the first command."
            )
    elif folder.exists() and (not folder.is_dir() or any(entry.name != LOCK for entry in folder.iterdir())):
        raise UserError(f"{folder} exists and is no comparison; name another folder with --out.")


def keep(plan: Plan, folder: Path) -> None:
    """Write the plan and its recipes into a folder that was checked."""
    (folder / RECIPES).mkdir(parents=True, exist_ok=True)
    for name, recipe in plan.recipes.items():
        write_text(folder / RECIPES / f"{name}.yaml", recipes.to_yaml(recipe))
    content = {"fingerprint": fingerprint(plan), "remarks": plan.remarks, "prices": plan.prices, **_content(plan)}
    content["request"]["seeds"] = plan.request.seeds
    write_text(folder / FILE, json.dumps(content, indent=1))


def _kept(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); name another folder with --out.") from None
    return content if isinstance(content, dict) else {}


def known_prices(folder: Path, budget: Budget) -> dict[str, Price]:
    """What a folder's plan paid for the same budget; nothing where there is none."""
    if not (folder / FILE).exists():
        return {}
    content = _kept(folder / FILE)
    try:
        same = content["request"]["budget"] == dataclasses.asdict(budget)
        return coerce(content["prices"], dict[str, dict[str, float]], "prices") if same else {}
    except (KeyError, TypeError, UserError):
        return {}


def load(folder: Path) -> Plan:
    """The plan that a folder keeps, without its entries. Raises UserError when there is none."""
    if not (folder / FILE).exists():
        raise UserError(f"{folder} is no comparison: it has no {FILE}.")
    content = _kept(folder / FILE)
    try:
        request = build(Request, {**content["request"], "entries": {}}, "the plan")
        found = {
            name: recipes.check(parse_yaml(read_text(folder / RECIPES / f"{name}.yaml"), name), name)
            for name in content["recipes"]
        }
        paid = known_prices(folder, request.budget)
        return Plan(request, found, dict(content["images"]), dict(content["data"]), list(content["remarks"]), paid)
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / FILE} is damaged ({error}); name another folder with --out.") from None


@dataclass(frozen=True)
class Job:
    """One training: a line for any queue."""

    contender: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    """Of `zoo`."""

    def line(self, zoo: str = "zoo") -> str:
        """As a shell command."""
        return f"{zoo} {shlex.join(self.arguments)}"


def jobs(plan: Plan, folder: Path) -> list[Job]:
    """Every training, seed by seed, so that a comparison that is stopped has whole seeds."""
    return [
        Job(name, seed, run_folder(folder, name, seed), _arguments(plan.recipes[name], folder, name, seed))
        for seed in plan.train_seeds
        for name in plan.recipes
    ]


def run_folder(folder: Path, name: str, seed: int) -> Path:
    """Where a training's run is."""
    return folder / RUNS / f"{name}-seed-{seed}"


def _arguments(recipe: Recipe, folder: Path, name: str, seed: int) -> tuple[str, ...]:
    file, out = folder / RECIPES / f"{name}.yaml", run_folder(folder, name, seed)
    settings = ("--set", f"train.seed={seed}")
    source = ("--data", recipe.data.source) if recipe.data.source else ()
    return ("train", "--plugin", recipe.plugin, "--recipe", str(file), *source, *settings, "--out", str(out))
