#!/usr/bin/env python3
"""Write tools/lock.txt from the environment that runs this: the exact version of everything in it but the project.

    .venv/bin/python -m pip install --upgrade NAME
    .venv/bin/python tools/relock.py

NATTEN is left out: it has a lock of its own, tools/lock-natten.txt, because it builds against the installed torch.
"""

from __future__ import annotations

import re
from importlib.metadata import distributions
from pathlib import Path

HEADER = """\
# The exact versions that tools/zoo and tools/test install. Made by tools/relock.py; to renew one of them:
#     .venv/bin/python -m pip install --upgrade NAME && .venv/bin/python tools/relock.py
# torch and torchvision are a pair of matching releases. NATTEN is in lock-natten.txt.
"""
LEFT_OUT = re.compile(r"pip|natten|zoo-.*")
LINUX_ONLY = re.compile(r"nvidia-.*|cuda-.*|triton")  # what torch asks for on Linux alone
LINUX = '; sys_platform == "linux"'


def lock(versions: dict[str, str]) -> str:
    """The lock's text for distributions given as name -> version."""
    lines = {
        re.sub(r"[-_.]+", "-", name).lower(): version.partition("+")[0]  # +cpu and +cu130 are not on the registry
        for name, version in versions.items()
    }
    return HEADER + "".join(
        f"{name}=={version}{LINUX if LINUX_ONLY.fullmatch(name) else ''}\n"
        for name, version in sorted(lines.items())
        if not LEFT_OUT.fullmatch(name)
    )


if __name__ == "__main__":
    text = lock({found.metadata["Name"]: found.version for found in distributions()})
    Path(__file__).with_name("lock.txt").write_text(text, encoding="utf-8")
