"""What is made equal. `common`: batch, precision, augmentation, conditions. `paper`: nothing but budget and seeds.
`swap`: everything but one kind of component. Figures of two tracks never stand in one table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from zoo_core import recipe as recipes
from zoo_core.comparison.results import Track
from zoo_core.recipe import Recipe
from zoo_core.runs import flat
from zoo_core.settings import Part
from zoo_core.swapping import PLACES

BATCH = 16
"""Of the common track, where none is given."""
EVERYWHERE = ("micro_batch", "precision")
"""What no stage has for itself in the common track."""
AUGMENTATION = ("augment", "consistency_real", "consistency_fake")
"""Options of the loss section that show the discriminator altered images; see `adversarial.Terms`."""


def level(contenders: Mapping[str, Recipe], track: Track, batch: int) -> tuple[dict[str, Recipe], list[str]]:
    """The recipes as the track wants them, and a sentence for each thing that a reader would not expect.

    `batch`: of all stages in the common track, 0 for the usual one.
    """
    if track != "common":
        return dict(contenders), []
    labels = all(recipe.data.labels for recipe in contenders.values())
    remarks = []
    for name, recipe in contenders.items():
        if recipe.data.labels and not labels:
            remarks.append(f"{name} is class-conditional in its recipe; here no contender is told the class.")
        if recipe.data.mirror:
            remarks.append(f"{name} mirrors images in its recipe; in the common track nobody does.")
        if augmentation(recipe):
            remarks.append(f"{name} augments in its recipe ({', '.join(augmentation(recipe))}); here nobody does.")
    return {name: _common(recipe, labels, batch or BATCH) for name, recipe in contenders.items()}, remarks


def _common(recipe: Recipe, labels: bool, batch: int) -> Recipe:
    train = dataclasses.replace(
        recipe.train,
        images=max(recipe.train.images, batch),  # the budget says how many; a recipe holds a batch at least
        batch=batch,
        micro_batch=0,
        precision="fp32",
        stages={
            name: {**{key: value for key, value in own.items() if key not in EVERYWHERE}, "batch": batch}
            for name, own in recipe.train.stages.items()
        },
    )
    loss = recipe.loss
    if loss is not None:
        loss = Part(loss.name, {key: value for key, value in loss.options.items() if key not in AUGMENTATION})
    data = dataclasses.replace(recipe.data, labels=labels, mirror=False)
    return recipe.replace(train=train, data=data, loss=loss)


def augmentation(recipe: Recipe) -> list[str]:
    """The options of a recipe's loss that alter what the discriminator sees."""
    options = recipe.loss.options if recipe.loss else {}
    return [name for name in AUGMENTATION if options.get(name)]


def odd_ones(contenders: Mapping[str, Recipe]) -> list[str]:
    """In the swap track: a sentence for each contender that differs from the first in more than one component."""
    first, *others = contenders
    base = flat(recipes.to_dict(contenders[first]))
    complaints, kinds = [], set()
    for name in others:
        mine = flat(recipes.to_dict(contenders[name]))
        differing = {path for path in base.keys() | mine.keys() if base.get(path) != mine.get(path)}
        found = {kind for kind, place in PLACES.items() if any(_within(path, place) for path in differing)}
        rest = sorted(path for path in differing if not any(_within(path, place) for place in PLACES.values()))
        if rest:
            complaints.append(
                f"{name} differs from {first} in {rest[0]} too ({len(rest)} values in all), and the swap track allows "
                "one component only; take the common track, or make them equal."
            )
        kinds |= found
    if len(kinds) > 1:
        complaints.append(f"the contenders differ in {' and '.join(sorted(kinds))}; the swap track allows one of them.")
    return complaints


def _within(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}.")
