"""What the package registers with Zoo. Strings only: importing it costs nothing."""

from __future__ import annotations

from zoo_core import Paper, Plugin, hookimpl


@hookimpl
def zoo_plugin(register) -> None:
    register(
        Plugin(
            name="vqgan",
            summary="Parts of it so far: the patch discriminator and the autoencoder's attention.",
            paper=Paper("Taming Transformers for High-Resolution Image Synthesis", "2012.09841", "CVPR 2021"),
            discriminators={"patch": "zoo_vqgan.discriminator:PatchDiscriminator"},
            attentions={"spatial": "zoo_vqgan.blocks:SpatialAttention"},
        )
    )
