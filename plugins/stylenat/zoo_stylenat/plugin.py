"""What the package registers with Zoo. Strings only: importing it costs nothing."""

from __future__ import annotations

from zoo_core import Paper, Plugin, Published, Weights, hookimpl

FID = {"FFHQ 256": "2.046", "FFHQ 1024": "4.174", "LSUN Church 256": "3.400"}


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
            widths={"generator.channels": 8},
            published=tuple(
                Published("StyleNAT", data, "FID", value, "README of SHI-Labs/StyleNAT") for data, value in FID.items()
            ),
            weights={
                name: Weights("https://github.com/SHI-Labs/StyleNAT", "MIT", note="linked from the repository's README")
                for name in ("ffhq256", "ffhq1024")
            },
        )
    )
