"""Zoo: attention-based image generators as plugins. The light names that a plugin author imports; torch is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.errors import UserError
from zoo_core.hookspecs import hookimpl
from zoo_core.spec import Paper, Plugin, Published, Weights

if TYPE_CHECKING:
    from zoo_core.runs import Run

__version__ = "1.0.0"
__all__ = ["Paper", "Plugin", "Published", "UserError", "Weights", "__version__", "hookimpl", "load"]


def load(run: str) -> Run:
    """Open a run folder or a checkpoint folder: `load("runs/x").generator` has averaged weights, in eval mode."""
    from zoo_core.runs import load

    return load(run)
