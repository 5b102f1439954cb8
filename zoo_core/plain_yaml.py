"""Read YAML that a stranger may have written: plain values only, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from zoo_core.errors import UserError

MAX_BYTES = 1_000_000


def read_text(path: Path) -> str:
    """The text of a recipe file. Raises UserError when it cannot be one."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read the recipe {path}: {error.strerror}.") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{path} is too large for a recipe.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8.") from None


def parse_yaml(text: str, place: str) -> Any:
    """Plain values. Raises UserError that names `place` and the line.

    No tags, so that nothing is run; no aliases, so that nothing grows without bound; no key twice, so that nothing is
    dropped in silence.
    """
    try:
        return yaml.load(text, Loader=_Plain)
    except RecursionError:
        raise UserError(f"{place} is nested too deeply.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that is none
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{place} is not valid YAML{where}: {problem}.") from None


class _Plain(yaml.SafeLoader):
    """YAML without aliases, tags and repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise ComposerError(None, None, "aliases are not allowed, write the value out", event.start_mark)
        if event.tag:
            raise ComposerError(None, None, f"the tag {event.tag} is not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ConstructorError(None, None, f'"{key.value}" is there twice', key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)
