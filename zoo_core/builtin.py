"""The core's own components, through the same hook that strangers use."""

from __future__ import annotations

from zoo_core.hookspecs import hookimpl
from zoo_core.spec import Plugin


@hookimpl
def zoo_plugin(register) -> None:
    register(
        Plugin(
            name="core",
            summary="Components that belong to no paper.",
            attentions={
                "full": "zoo_core.attention:FullAttention",
                "none": "zoo_core.attention:NoAttention",
            },
            losses={
                "hinge": "zoo_core.losses:Hinge",
                "logistic": "zoo_core.losses:Logistic",
            },
        )
    )
