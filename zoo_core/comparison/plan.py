"""A comparison before it runs: every contender's recipe under one budget, checked as a whole, and its list of jobs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_core import recipe as recipes
from zoo_core.comparison import contenders
from zoo_core.comparison.contenders import Entry
from zoo_core.comparison.results import Budget, Track
from zoo_core.data import ImageSet
from zoo_core.errors import UserError
from zoo_core.files import read_json
from zoo_core.plain_yaml import parse_yaml, read_text
from zoo_core.recipe import Recipe
from zoo_core.runs import LOCK, write_text
from zoo_core.schema import build, coerce

FILE = "plan.json"
RUNS = "runs"
RECIPES = "recipes"
CURVE_POINTS = 4

Price = Mapping[str, float]
"""What one real image costs in each stage, by stage."""


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
        for name, least in {"seeds": 1, "generation_seeds": 1, "num": 1, "batch": 0}.items():
            if getattr(self, name) < least:
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


def fingerprint(plan: Plan) -> str:
    """What must be equal for a folder to go on with the plan: everything but the number of seeds."""
    return _hash(_content(plan))


def folder_name(request: Request, images: ImageSet) -> str:
    """A folder's name for each different request, whatever a clock says of its prices."""
    found, _ = contenders.resolve_all(request.entries, shared_settings(request))
    written = {contender: recipes.to_dict(recipe) for contender, recipe in found.items()}
    asked = {"request": _asked(request), "recipes": written, "data": images.describe()}
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
    before = _kept(folder)
    if before is not None:
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


def _kept(folder: Path) -> dict[str, Any] | None:
    """What the folder's plan says; None where it has none."""
    path = folder / FILE
    try:
        if not path.exists():
            return None
        content = read_json(path)
    except OSError as error:
        raise UserError(f"cannot use the folder {folder} ({error.strerror}); name another with --out.") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}); name another folder with --out.") from None
    return content if isinstance(content, dict) else {}


def known_prices(folder: Path, budget: Budget) -> dict[str, Price]:
    """What a folder's plan paid for the same budget; nothing where there is none."""
    content = _kept(folder) or {}
    try:
        same = content["request"]["budget"] == dataclasses.asdict(budget)
        prices = coerce(content["prices"], dict[str, dict[str, float]], "prices") if same else {}
    except (KeyError, TypeError, UserError):
        return {}
    return {name: price for name, price in prices.items() if all(value > 0 for value in price.values())}


def load(folder: Path) -> Plan:
    """The plan that a folder keeps, without its entries. Raises UserError when there is none."""
    content = _kept(folder)
    if content is None:
        raise UserError(f"{folder} is no comparison: it has no {FILE}.")
    try:
        request = build(Request, {**content["request"], "entries": {}}, "the plan")
        names = [contenders.check_name(name) for name in content["recipes"]]
        found = {
            name: recipes.check(parse_yaml(read_text(folder / RECIPES / f"{name}.yaml"), name), name) for name in names
        }
        paid = known_prices(folder, request.budget)
        plan = Plan(request, found, dict(content["images"]), dict(content["data"]), list(content["remarks"]), paid)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / FILE} is damaged ({error}); name another folder with --out.") from None
    if not found or plan.images.keys() != found.keys():
        raise UserError(f"{folder / FILE} is damaged (its contenders); name another folder with --out.")
    return plan


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
