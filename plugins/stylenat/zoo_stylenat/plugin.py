"""What the package registers with Zoo. Strings only: importing it costs nothing."""

from __future__ import annotations

from zoo_core import Paper, Plugin, Weights, hookimpl


@hookimpl
def zoo_plugin(register) -> None:
    register(
        Plugin(
            name="stylenat",
            summary="StyleSwin's skeleton with neighbourhood attention, a dilation for each group of heads.",
            paper=Paper("StyleNAT: Giving Each Head a New Perspective", "2211.05770"),
            generators={"stylenat": "zoo_stylenat.generator:Generator"},
            attentions={"hydra": "zoo_stylenat.attention:hydra"},
            stages="zoo_stylenat.stages:build",
            recipes="zoo_stylenat.recipes",
            convert="zoo_stylenat.convert:official",
            weights={
                name: Weights("https://github.com/SHI-Labs/StyleNAT", "MIT", note="linked from the repository's README")
                for name in ("ffhq256", "ffhq1024")
            },
        )
    )
