"""What the package registers with Zoo. Strings only: importing it costs nothing."""

from __future__ import annotations

from zoo_core import Paper, Plugin, hookimpl


@hookimpl
def zoo_plugin(register) -> None:
    register(
        Plugin(
            name="vqgan",
            summary="An autoencoder of discrete codes, judged patch by patch, and a transformer that draws the codes.",
            paper=Paper("Taming Transformers for High-Resolution Image Synthesis", "2012.09841", "CVPR 2021"),
            generators={"vqgan": "zoo_vqgan.generator:Generator"},
            discriminators={"patch": "zoo_vqgan.discriminator:PatchDiscriminator"},
            attentions={"spatial": "zoo_vqgan.blocks:SpatialAttention"},
            decoders={"convolutional": "zoo_vqgan.decoder:ConvolutionalDecoder"},
            losses={"hinge": "zoo_vqgan.stage1_loss:Hinge", "vanilla": "zoo_vqgan.stage1_loss:Vanilla"},
            stages="zoo_vqgan.stages:build",
            recipes="zoo_vqgan.recipes",
            sections=("decoder",),
        )
    )
