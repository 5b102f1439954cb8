"""A switch between the fast formulation of the operators and the plain one, their textbook definition.

Both compute the same numbers. The plain one is there to be compared with (`zoo bench --against plain`) and to be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_plain = False


def is_plain() -> bool:
    """Whether an operator that has both formulations shall use the plain one."""
    return _plain


@contextmanager
def plain() -> Iterator[None]:
    """Use the plain formulation of every operator that has one. Backward passes of what ran within are plain too."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before
