"""Pictures inside the page: grids of samples that runs drew while they trained, and samples with their neighbours."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from zoo_core.comparison import telling
from zoo_core.comparison.results import Contender, Trained
from zoo_core.files import parse_json

LARGEST = 1100
"""Pixels of a side, beyond which a grid is made smaller."""


@dataclass(frozen=True)
class Sheet:
    """One contender's picture, or why there is none."""

    contender: str
    caption: str
    uri: str = ""
    """`data:image/png;base64,...`; empty where there is none."""
    width: int = 0
    height: int = 0


def sheets(contenders: list[Contender], folder: Path) -> list[Sheet]:
    """The newest grid of each contender's first training; `folder` is where the report lies."""
    return [_sheet(contender, folder) for contender in contenders]


def _sheet(contender: Contender, folder: Path) -> Sheet:
    if not contender.runs:
        return Sheet(contender.name, "no training")
    run = contender.runs[0]
    found = newest(folder / run.folder)
    if found is None:
        return Sheet(contender.name, f"no grid is kept of seed {run.seed}")
    stage, images, path = found
    return _shown(contender, path, _caption(run, stage, images), f"{path.name} is damaged")


def neighbours(contenders: list[Contender], folder: Path) -> list[Sheet]:
    """Samples of each contender with their nearest training images; nothing where nobody looked for them."""
    if not any(contender.neighbours for contender in contenders):
        return []
    return [_neighbours(contender, folder) for contender in contenders]


def _neighbours(contender: Contender, folder: Path) -> Sheet:
    found = contender.neighbours
    if not found:
        ended = any(run.state != "diverged" for run in contender.runs)
        return Sheet(contender.name, "could not be had" if ended else "no training ended")
    caption = f"ratio {telling.number(found.ratio, 2)}, training seed {found.train_seed}"
    return _shown(contender, folder / found.picture, caption, f"{caption}; the picture is missing or damaged")


def _shown(contender: Contender, path: Path, caption: str, otherwise: str) -> Sheet:
    """A picture under its caption, or no picture under another."""
    try:
        uri, width, height = _inside(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return Sheet(contender.name, otherwise)
    return Sheet(contender.name, caption, uri, width, height)


def newest(run: Path) -> tuple[str, int, Path] | None:
    """The last grid of a run's last stage, that stage's name, and how many images it had seen."""
    stage = _last_stage(run / "metrics.jsonl")
    start = f"{stage}-images-" if stage else "images-"
    try:
        names = [path for path in (run / "samples").iterdir() if path.name.startswith(start)]
    except OSError:
        return None
    counted = [(path.name.removeprefix(start).removesuffix(".png"), path) for path in names if path.suffix == ".png"]
    return max(((stage, int(number), path) for number, path in counted if number.isdecimal()), default=None)


def _last_stage(journal: Path) -> str:
    """What the journal's last line calls its stage; empty for a run of one."""
    try:
        lines = journal.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        try:
            return str(parse_json(line).get("stage", ""))
        except (ValueError, AttributeError):
            continue
    return ""


def _caption(run: Trained, stage: str, images: int) -> str:
    seen = f"{images:,} images" + (f" of {stage}" if stage else "")
    return ", ".join([f"seed {run.seed}", seen, *([] if run.state == "done" else [run.state])])


def _inside(path: Path) -> tuple[str, int, int]:
    """A PNG as a data URI with its size, decoded and written anew, so that nothing else travels with it."""
    with Image.open(path, formats=("PNG",)) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    file = BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", *picture.size
