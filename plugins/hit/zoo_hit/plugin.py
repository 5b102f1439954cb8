"""What the package registers with Zoo. Strings only: importing it costs nothing."""

from __future__ import annotations

from zoo_core import Paper, Plugin, hookimpl


@hookimpl
def zoo_plugin(register) -> None:
    register(
        Plugin(
            name="hit",
            summary="Blocked and dilated self-attention at low resolutions, cross-attention to latent tokens at all.",
            paper=Paper("Improved Transformer for High-Resolution GANs", "2106.07631", "NeurIPS 2021"),
            generators={"hit": "zoo_hit.generator:Generator"},
            discriminators={"hit": "zoo_hit.discriminator:Discriminator"},
            attentions={"multi-axis": "zoo_hit.attention:MultiAxisAttention"},
            stages="zoo_hit.stages:build",
            recipes="zoo_hit.recipes",
            convert="zoo_hit.convert:official",
        )
    )
