"""Another component in a recipe's place: what `--attention`, `--discriminator` and `--loss` write into it. No torch."""

from __future__ import annotations

from typing import Any

from zoo_core import catalog
from zoo_core import recipe as recipes

PLACES = {
    "attention": "generator.attention",
    "discriminator": "discriminator",
    "decoder": "generator.decoder",
    "loss": "loss",
}
"""Kinds of component that hosts exchange, and where a recipe names each."""


def change(kind: str, name: str, host: str, recipe: str) -> tuple[str, dict[str, Any]]:
    """`(path, part)` to lay over the `recipe` (a name, "" for the default) of the plugin `host`.

    A component of another plugin comes with the options that its own plugin's recipe of the same name gives it, so that
    a small host gets a small discriminator. A loss comes bare: its host says how much of what. Raises UserError for a
    component that there is none of.
    """
    component = catalog.find(kind, name, host)
    options: dict[str, Any] = {}
    if kind != "loss" and component.plugin != host:
        options = _at_home(kind, component, recipe or catalog.plugin(host).recipe)
    return PLACES[kind], {"name": name, **options}


def _at_home(kind: str, component: catalog.Component, recipe: str) -> dict[str, Any]:
    """What its own plugin's recipe of this name says of a component; nothing where there is none, or it has another."""
    if recipe not in recipes.names(component.plugin):
        return {}
    part: Any = recipes.to_dict(recipes.load(component.plugin, recipe))
    for key in PLACES[kind].split("."):
        part = (part or {}).get(key)
    if not part or catalog.find(kind, part["name"], component.plugin) != component:
        return {}
    return {name: value for name, value in part.items() if name != "name"}
