"""`zoo` as a user types it, in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from accelerate.state import AcceleratorState

from zoo_core import cli


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str


def call(folder: Path, arguments: Sequence[str]) -> Answer:
    """`zoo ARGUMENTS` in this process, which has torch already. An exception that would be a traceback gets out."""
    AcceleratorState._reset_state(reset_partial_state=True)
    out, err = io.StringIO(), io.StringIO()
    with chdir(folder), redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["zoo", *arguments]):
        try:
            cli.main()
        except SystemExit as exit:
            code = int(exit.code or 0)
    AcceleratorState._reset_state(reset_partial_state=True)
    return Answer(code, out.getvalue(), err.getvalue())
