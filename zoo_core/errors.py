"""The one error that a user's mistake raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class UserError(ValueError):
    """A mistake that the user can mend: one or two sentences that name the thing and the remedy.

    The command line prints the message and exits with code 2; from Python it is an ordinary `ValueError`.
    """


def did_you_mean(word: str, known: Iterable[str], shown: Mapping[str, str] | None = None) -> str:
    """Return `; did you mean "x"?` for the nearest of `known`, or a list of them when nothing is near.

    `shown` gives a longer form in which a name is printed.
    """
    shown = {name: name for name in known} | dict(shown or {})
    near = difflib.get_close_matches(word, sorted(shown), n=1, cutoff=0.6)
    if near:
        return f'; did you mean "{shown[near[0]]}"?'
    return f"; there is {', '.join(sorted(shown.values()))}." if shown else "; there is none."
