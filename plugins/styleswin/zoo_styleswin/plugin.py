"""What the package registers with Zoo. Strings only: importing it costs nothing."""

from __future__ import annotations

from zoo_core import Paper, Plugin, Published, Weights, hookimpl

RELEASED = "https://github.com/microsoft/StyleSwin"

FID = {
    "FFHQ 256": "2.81",
    "LSUN Church 256": "2.95",
    "CelebA-HQ 256": "3.25",
    "FFHQ 1024": "5.07",
    "CelebA-HQ 1024": "4.43",
}


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
            widths={"generator.channels": 8},
            published=tuple(
                Published("StyleSwin", data, "FID", value, "README of microsoft/StyleSwin")
                for data, value in FID.items()
            ),
            weights={
                name: Weights(RELEASED, "MIT", note="linked from the repository's README")
                for name in ("ffhq256", "church256", "celebahq256", "ffhq1024", "celebahq1024")
            },
        )
    )
