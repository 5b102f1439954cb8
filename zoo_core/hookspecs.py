"""The one hook. A plugin package implements it in the module that its `zoo` entry point names."""

from __future__ import annotations

from collections.abc import Callable

import pluggy

from zoo_core.spec import Plugin

PROJECT = "zoo"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(historic=True)
def zoo_plugin(register: Callable[[Plugin], None]) -> None:
    """Call `register(Plugin(...))` once, with the name of your entry point.

    The hook runs when the entry points are scanned, so the module that holds it must not import torch:
    name components by reference instead. More arguments may be offered by later versions.
    """
