"""What a plugin says of itself: frozen data, strings only, so that reading it costs nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

KINDS = ("generator", "discriminator", "attention", "decoder", "loss")
"""The kinds of component that a plugin can bring."""


@dataclass(frozen=True)
class Paper:
    """The paper behind a plugin."""

    title: str
    arxiv: str = ""
    venue: str = ""

    def __post_init__(self) -> None:
        _check_strings(self, "title", "arxiv", "venue")


@dataclass(frozen=True)
class Weights:
    """Where an official checkpoint is to be found; `zoo import` reads it in."""

    url: str
    license: str
    sha256: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        _check_strings(self, "url", "license", "sha256", "note")


@dataclass(frozen=True)
class Published:
    """A number that the paper, or its repository, prints: measured their way, so shown apart from ours."""

    model: str
    data: str
    """With the resolution, such as "FFHQ 256"."""
    figure: str
    value: str
    source: str

    def __post_init__(self) -> None:
        _check_strings(self, "model", "data", "figure", "value", "source")


@dataclass(frozen=True)
class Plugin:
    """One paper, as data. References are `module:attribute` and are resolved only when used.

    Raises ValueError when a field is of another type, or a name or a reference is not well formed.
    """

    name: str
    """Also the name of the entry point that brings it."""
    summary: str = ""
    paper: Paper | None = None
    generators: Mapping[str, str] = field(default_factory=dict)
    discriminators: Mapping[str, str] = field(default_factory=dict)
    attentions: Mapping[str, str] = field(default_factory=dict)
    decoders: Mapping[str, str] = field(default_factory=dict)
    losses: Mapping[str, str] = field(default_factory=dict)
    stages: str = ""
    """`(recipe, parts) -> list[Stage]`: how this paper trains. Empty for a plugin of components only."""
    recipes: str = ""
    """A package of YAML files."""
    recipe: str = "tiny"
    """The recipe that `zoo train --plugin NAME` uses when none is named."""
    sections: tuple[str, ...] = ()
    """Names of further top-level parts that this plugin's recipes may have."""
    convert: str = ""
    """`(content, recipe) -> Imported`: an official checkpoint in our names, see `zoo_core.official`."""
    weights: Mapping[str, Weights] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    """Options of the generator that are widths (`generator.channels`) -> what they must be multiples of: what is scaled
    to give contenders equal numbers of parameters, all together and then, to fill a gap, one by one in this order. A
    table that a generator derives, it keeps under the option's name (`self.channels`)."""
    published: tuple[Published, ...] = ()

    def __post_init__(self) -> None:
        _check_strings(self, "name", "summary", "stages", "recipes", "recipe", "convert")
        if not NAME.fullmatch(self.name):
            raise ValueError(f"plugin name {self.name!r} must be lower-case letters, digits, - and _")
        if self.paper is not None and not isinstance(self.paper, Paper):
            raise ValueError(f"paper must be a Paper or None, not {self.paper!r}")
        if not isinstance(self.sections, tuple) or not all(isinstance(name, str) for name in self.sections):
            raise ValueError(f"sections must be a tuple of strings, not {self.sections!r}")
        for kind in KINDS:
            table = self.components(kind)
            _check_table(_FIELD[kind], table)
            for name, reference in table.items():
                if not NAME.fullmatch(name):
                    raise ValueError(f"{kind} name {name!r} must be lower-case letters, digits, - and _")
                _check_reference(f"{kind} {name!r}", reference)
            object.__setattr__(self, _FIELD[kind], MappingProxyType(dict(table)))
        _check_table("weights", self.weights)
        for name, weights in self.weights.items():
            if not isinstance(weights, Weights):
                raise ValueError(f"weights {name!r} must be a Weights, not {weights!r}")
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
        _check_table("widths", self.widths)
        if not all(isinstance(multiple, int) and multiple > 0 for multiple in self.widths.values()):
            raise ValueError(f"widths must have whole numbers above 0, not {self.widths!r}")
        object.__setattr__(self, "widths", MappingProxyType(dict(self.widths)))
        if not isinstance(self.published, tuple) or not all(isinstance(row, Published) for row in self.published):
            raise ValueError(f"published must be a tuple of Published, not {self.published!r}")
        for label in ("stages", "convert"):
            if getattr(self, label):
                _check_reference(label, getattr(self, label))

    def components(self, kind: str) -> Mapping[str, str]:
        """Name -> reference of this plugin's components of one kind."""
        return getattr(self, _FIELD[kind])


_FIELD = {kind: f"{kind}s" for kind in KINDS} | {"loss": "losses"}


def _check_strings(owner: object, *fields: str) -> None:
    for name in fields:
        if not isinstance(getattr(owner, name), str):
            raise ValueError(f"{type(owner).__name__}.{name} must be a string, not {getattr(owner, name)!r}")


def _check_table(what: str, table: object) -> None:
    if not isinstance(table, Mapping) or not all(isinstance(name, str) for name in table):
        raise ValueError(f"{what} must be a mapping with names for keys, not {table!r}")


def _check_reference(what: str, reference: str) -> None:
    if not isinstance(reference, str) or not REFERENCE.fullmatch(reference):
        raise ValueError(f"{what} must be a reference like 'package.module:Name', not {reference!r}")
