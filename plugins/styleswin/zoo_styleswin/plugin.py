"""What the package registers with Zoo. Strings only: importing it costs nothing."""

from __future__ import annotations

from zoo_core import Paper, Plugin, Weights, hookimpl

RELEASED = "https://github.com/microsoft/StyleSwin"


@hookimpl
def zoo_plugin(register) -> None:
    register(
        Plugin(
            name="styleswin",
            summary="Style-modulated window attention, half of the heads shifted; wavelet discriminator.",
            paper=Paper(
                "StyleSwin: Transformer-based GAN for High-resolution Image Generation", "2112.10762", "CVPR 2022"
            ),
            generators={"styleswin": "zoo_styleswin.generator:Generator"},
            discriminators={"styleswin": "zoo_styleswin.discriminator:Discriminator"},
            attentions={"windows": "zoo_styleswin.attention:WindowAttention"},
            stages="zoo_styleswin.stages:build",
            recipes="zoo_styleswin.recipes",
            convert="zoo_styleswin.convert:official",
            weights={
                name: Weights(RELEASED, "MIT", note="linked from the repository's README")
                for name in ("ffhq256", "church256", "celebahq256", "ffhq1024", "celebahq1024")
            },
        )
    )
