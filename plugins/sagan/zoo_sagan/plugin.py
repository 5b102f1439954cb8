"""What the package registers with Zoo. Strings only: importing it costs nothing."""

from __future__ import annotations

from zoo_core import Paper, Plugin, Published, hookimpl

PAPER = "Table 2 of arXiv 1805.08318"


@hookimpl
def zoo_plugin(register) -> None:
    register(
        Plugin(
            name="sagan",
            summary="A convolutional class-conditional GAN with one attention layer over the whole map.",
            paper=Paper("Self-Attention Generative Adversarial Networks", "1805.08318", "ICML 2019"),
            generators={"sagan": "zoo_sagan.generator:Generator"},
            discriminators={"sagan": "zoo_sagan.discriminator:Discriminator"},
            attentions={"non_local": "zoo_sagan.attention:NonLocalAttention"},
            losses={"hinge": "zoo_core.losses:Hinge"},
            stages="zoo_sagan.stages:build",
            recipes="zoo_sagan.recipes",
            convert="zoo_sagan.convert:official",
            widths={"generator.channels": 1},
            published=tuple(
                Published("SAGAN", "ImageNet 128, by class", figure, value, PAPER)
                for figure, value in (("IS", "52.52"), ("FID", "18.65"), ("intra-FID", "83.7"))
            ),
        )
    )
