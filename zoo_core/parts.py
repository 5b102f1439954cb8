"""A recipe's named parts -> built objects, with every option checked against the component's own signature first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from zoo_core import catalog
from zoo_core.errors import UserError
from zoo_core.interfaces import PIXELS, Discriminator, Generator, Loss
from zoo_core.recipe import Part, Recipe, plain
from zoo_core.rng import seed_of
from zoo_core.schema import Option, check_keys, coerce, join, options_of

GIVEN = ("resolution", "num_classes")
"""Arguments that the core passes to networks; a recipe sets them in `data`."""
NESTED = ("attention", "decoder")
"""Options that name a component. The host builds it where it stands, so it is given a function."""


@dataclass(frozen=True)
class Parts:
    """What a plugin's stages are built from."""

    generator: Generator
    discriminator: Discriminator | None = None
    loss: Callable[..., Loss] | None = None
    """Called with those options of the loss section that are the loss's own."""
    loss_options: Mapping[str, Any] = field(default_factory=dict)


def build(recipe: Recipe) -> Parts:
    """Build a recipe's networks on torch's default device, each from an initial seed of its own.

    Raises UserError for an unknown component, an unknown option or a value that the component refuses.
    """
    discriminator = build_network("discriminator", recipe) if recipe.discriminator is not None else None
    loss, loss_options = None, {}
    if recipe.loss is not None:
        loss = factory("loss", recipe.loss.name, recipe.plugin)
        loss_options = dict(recipe.loss.options)
    return Parts(build_network("generator", recipe), discriminator, loss, loss_options)


def outline(recipe: Recipe) -> Parts:
    """The same networks on `meta`: names and shapes, no memory."""
    with torch.device("meta"):
        return build(recipe)


def factory(kind: str, name: str, home: str) -> Callable[..., Any]:
    """The class or function behind a component's name."""
    component = catalog.find(kind, name, home)
    return catalog.resolve(component.reference, f"{component.plugin}'s {kind} {component.name}")


def complete(recipe: Recipe) -> Recipe:
    """The recipe with every option of its networks written out, defaults included, so that a run keeps them."""
    changes = {}
    for kind in ("generator", "discriminator"):
        part = recipe.part(kind)
        if part is not None:
            known = options_of(factory(kind, part.name, recipe.plugin))
            options = {**_defaults(known), **checked(_with_sections(kind, part, known, recipe), known, kind)}
            changes[kind] = Part(part.name, plain(_completed(options, _home(part, recipe), kind)))
    changes["sections"] = {name: part for name, part in recipe.sections.items() if name not in NESTED}
    return recipe.replace(**changes)


def nested_factory(kind: str, part: Mapping[str, Any], home: str, place: str = "") -> Callable[[Any], Any]:
    """`{name: core/full, qkv_bias: false}` -> a function of the place where it stands, its options checked at once."""
    make, options, owner = _component(kind, part, home, place or kind)
    options = _with_factories(options, owner, place or kind)
    return lambda standing: make(standing, **options)


def _with_factories(options: Mapping[str, Any], home: str, place: str) -> dict[str, Any]:
    """The options with functions for the components that they name, and those that these name in turn."""
    return {
        name: nested_factory(name, value, home, f"{place}.{name}") if name in NESTED and value is not None else value
        for name, value in options.items()
    }


def _completed(options: Mapping[str, Any], home: str, place: str) -> dict[str, Any]:
    """The options with the defaults of the components that they name, and of those that these name in turn."""
    found = dict(options)
    for name in NESTED:
        if found.get(name) is not None:
            make, own, owner = _component(name, found[name], home, f"{place}.{name}")
            own = {**_defaults(options_of(make)), **own}
            found[name] = {"name": found[name]["name"], **_completed(own, owner, f"{place}.{name}")}
    return found


def _component(
    kind: str, part: Mapping[str, Any], home: str, place: str
) -> tuple[Callable[..., Any], dict[str, Any], str]:
    """What builds the component, its options, and the plugin that brings it."""
    if not isinstance(part, Mapping) or "name" not in part:
        raise UserError(f"{place} needs a name, as in {{name: {'full' if kind == 'attention' else 'PLUGIN/NAME'}}}.")
    name = coerce(part["name"], str, join(place, "name"))
    make = factory(kind, name, home)
    given = {key: value for key, value in part.items() if key != "name"}
    return make, checked(given, options_of(make), place), catalog.find(kind, name, home).plugin


def checked(values: Mapping[str, Any], known: Mapping[str, Option], place: str) -> dict[str, Any]:
    """Options of a component, coerced to its annotations. Nested components stay as they were written."""
    for name in values:
        if name in GIVEN:
            raise UserError(f"{join(place, name)} is not an option: it follows from the data section.")
    check_keys(values, [name for name in known if name not in GIVEN], place)
    for option in known.values():
        if option.required and option.name not in values and option.name not in GIVEN:
            raise UserError(f"{join(place, option.name)} is missing.")
    return {
        name: value if name in NESTED else coerce(value, known[name].kind, join(place, name))
        for name, value in values.items()
    }


def build_network(kind: str, recipe: Recipe) -> Any:
    """The recipe's generator or discriminator alone, as `build` has it."""
    part = recipe.part(kind)
    make = factory(kind, part.name, recipe.plugin)
    known = options_of(make)
    options = checked(_with_sections(kind, part, known, recipe), known, kind)
    options = _with_factories(options, _home(part, recipe), kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(recipe.train.seed, "init", kind))
        try:
            network = make(resolution=recipe.data.resolution, num_classes=recipe.data.condition, **options)
        except (UserError, NotImplementedError):  # the latter: it cannot be built without memory
            raise
        except (ValueError, ArithmeticError, LookupError, RuntimeError, StopIteration, TypeError) as error:
            if torch.empty(0).is_meta and not isinstance(error, ValueError):  # it may only need memory to be built
                raise
            reason = " ".join(str(error).split()) or type(error).__name__  # it refuses a value, its own way
            raise UserError(f"the {kind} {part.name} cannot be built with these options: {reason}.") from error
    if kind == "generator":
        network.pixels = PIXELS[recipe.data.pixels]
    return network


def _with_sections(kind: str, part: Part, known: Mapping[str, Option], recipe: Recipe) -> dict[str, Any]:
    """A network's options, and for the generator what the recipe says of its nested components in sections."""
    own = dict(part.options)
    for name in NESTED:
        if own.get(name) is not None and name not in known:
            raise UserError(f"the {kind} {part.name} has no {name} to exchange; leave {kind}.{name} out.")
        section = recipe.sections.get(name) if kind == "generator" else None
        if section is not None:
            if name not in known or own.get(name) is not None:
                why = f"has no {name}" if name not in known else f"names its {name} itself, in generator.{name}"
                raise UserError(f"the section {name} fits nothing: the generator {part.name} {why}.")
            own[name] = {"name": section.name, **section.options}
    return own


def _home(part: Part, recipe: Recipe) -> str:
    """Where the bare name of a component of this network is looked for first: the plugin that brings the network."""
    return part.name.split("/")[0] if "/" in part.name else recipe.plugin


def _defaults(known: Mapping[str, Option]) -> dict[str, Any]:
    plain = {name: option.default for name, option in known.items() if not option.required and name not in GIVEN}
    return {name: value for name, value in plain.items() if value is not None}
