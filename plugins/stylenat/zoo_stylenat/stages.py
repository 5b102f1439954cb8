"""How StyleNAT trains: as StyleSwin, but its generator's Adam is not corrected."""

from __future__ import annotations

from zoo_core.parts import Parts
from zoo_core.program import Stage
from zoo_core.recipe import Recipe
from zoo_styleswin.stages import style_stage


def build(recipe: Recipe, parts: Parts) -> list[Stage]:
    """The one stage of the paper."""
    return [style_stage(recipe, parts, generator_interval=0)]
