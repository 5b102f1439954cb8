"""The one error that a user's mistake raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can mend: one or two sentences that name the thing and the remedy.

    The command line prints the message and exits with code 2; from Python it is an ordinary `ValueError`.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the nearest of `known`, or a list of them when nothing is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; there is {', '.join(known)}." if known else "; there is none."
