"""Files that are written whole or not at all, and JSON that a stranger may have written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from zoo_core.errors import UserError

MAX_DEPTH = 100
"""Lists and mappings inside each other. Some hundreds would be a RecursionError for whoever goes through them."""


def read_json(path: Path) -> Any:
    """What a file of JSON holds. Raises OSError where it cannot be read, and ValueError where it is no JSON."""
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str) -> Any:
    """What a text of JSON says. Raises nothing but ValueError, for what is none or too deep."""
    too_deep = f"values inside each other, more than {MAX_DEPTH} deep"
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(too_deep) from None
    layer = [content]
    for _ in range(MAX_DEPTH):
        layer = [inner for outer in layer for inner in _within(outer)]
        if not layer:
            return content
    raise ValueError(too_deep)


def _within(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that takes the place of `path` when the block ends well, and is removed when it does not.

    Makes the folder. Raises UserError when the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path} ({reason}); free some space, or name another folder.") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
