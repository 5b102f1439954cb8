"""Values typed by a person -> values of the type that a field declares; every mistake names its place."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from zoo_core.errors import UserError, did_you_mean

_SUFFIX = {"k": 10**3, "m": 10**6}
_LONGEST_NUMBER = 30
"""Characters of a whole number written as text."""


def coerce(value: Any, kind: Any, place: str) -> Any:
    """Convert `value` to the annotated type `kind`; raises UserError naming `place` when it cannot be."""
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(value, typing.get_args(kind), place)
    if origin is typing.Literal:
        choices = typing.get_args(kind)
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise UserError(f"{place}: {_shown(value)} is not one of {', '.join(map(str, choices))}.")
        return value
    if origin is tuple or kind is tuple:
        return _coerce_tuple(value, typing.get_args(kind), place)
    if origin is list:
        return list(_coerce_tuple(value, (*typing.get_args(kind), Ellipsis), place))
    if origin in (dict, Mapping):
        return _coerce_mapping(value, typing.get_args(kind), place)
    if dataclasses.is_dataclass(kind):
        return build(kind, value, place)
    if kind in _SCALARS:
        return _SCALARS[kind](value, place)
    raise UserError(f"{place} cannot be set in a recipe: there is no way to write a {kind}.")


def build(cls: type, values: Any, place: str) -> Any:
    """Build a dataclass from a mapping. Raises UserError on unknown keys, missing ones and wrong types."""
    if not isinstance(values, Mapping):
        raise UserError(f"{place} must be a mapping of names to values, not {_shown(values)}.")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    check_keys(values, fields, place)
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"{place}.{name} is missing.".lstrip("."))
    return cls(**{name: coerce(value, hints[name], join(place, name)) for name, value in values.items()})


def check_keys(values: Mapping[str, Any], known: typing.Collection[str], place: str) -> None:
    """Raise UserError for the first key that is not known, with the nearest spelling."""
    for key in values:
        if key not in known:
            raise UserError(f'unknown key "{join(place, key)}"{did_you_mean(str(key), known)}')


def join(place: str, key: object) -> str:
    """`train`, `batch` -> `train.batch`."""
    return f"{place}.{key}" if place else str(key)


@dataclasses.dataclass(frozen=True)
class Option:
    """One keyword-only argument of a component."""

    name: str
    kind: Any
    default: Any
    required: bool


def options_of(factory: Callable[..., Any]) -> dict[str, Option]:
    """The keyword-only arguments of a class or function: what a recipe may set.

    Raises UserError when its annotations name what is not imported at run time.
    """
    function = factory.__init__ if inspect.isclass(factory) else factory
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        where = f"{factory.__module__}.{factory.__qualname__}"
        raise UserError(f"the annotations of {where} cannot be read ({error}); its author must mend them.") from error
    return {
        name: Option(name, hints.get(name, Any), parameter.default, parameter.default is parameter.empty)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def _shown(value: Any) -> str:
    """A value as an error quotes it: a person's whole file may have landed in one place."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _coerce_union(value: Any, kinds: tuple[Any, ...], place: str) -> Any:
    if value is None:
        if types.NoneType in kinds:
            return None
        raise UserError(f"{place} must have a value.")
    refusal: UserError | None = None
    for kind in kinds:
        if kind is types.NoneType:
            continue
        try:
            return coerce(value, kind, place)
        except UserError as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def _coerce_tuple(value: Any, kinds: tuple[Any, ...], place: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise UserError(f"{place} must be a list, not {_shown(value)}.")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise UserError(f"{place} must be a list of {len(kinds)}, not of {len(value)}.")
    return tuple(coerce(item, kind, f"{place}[{i}]") for i, (item, kind) in enumerate(zip(value, kinds, strict=True)))


def _coerce_mapping(value: Any, kinds: tuple[Any, ...], place: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{place} must be a mapping, not {_shown(value)}.")
    key_kind, item_kind = kinds
    return {coerce(key, key_kind, place): coerce(item, item_kind, join(place, key)) for key, item in value.items()}


def _integer(value: Any, place: str) -> int:
    if isinstance(value, str):
        match = re.fullmatch(r"([-+]?[\d_]*\.?\d+(?:[eE]\+?\d{1,2})?)([kKmM])?", value.strip())
        if match and len(value) <= _LONGEST_NUMBER:
            number = float(match[1].replace("_", "")) * _SUFFIX.get((match[2] or "").lower(), 1)
            value = int(round(number)) if abs(number - round(number)) < 1e-6 else value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{place} must be a whole number, not {_shown(value)}.")
    if abs(value) >= 2**63:
        raise UserError(f"{place} must be a whole number below 2**63.")
    return value


def _float(value: Any, place: str) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)  # YAML reads 1e-4 as text
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{place} must be a number, not {_shown(value)}.") from None
    if not math.isfinite(number):
        raise UserError(f"{place} must be finite, not {_shown(value)}.")
    return number


def _boolean(value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{place} must be true or false, not {_shown(value)}.")
    return value


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place} must be text, not {_shown(value)}.")
    return value


_SCALARS: dict[Any, Callable[[Any, str], Any]] = {int: _integer, float: _float, bool: _boolean, str: _text}
