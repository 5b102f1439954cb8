"""What the package registers with Zoo. Strings only: importing it costs nothing."""

from __future__ import annotations

from zoo_core import Paper, Plugin, Published, hookimpl

README, TABLE = "README of CompVis/taming-transformers", "arXiv 2012.09841, sampling on ImageNet"
PUBLISHED = (
    ("VQGAN and transformer", "FFHQ 256", "FID", "9.6", README),
    ("VQGAN and transformer", "CelebA-HQ 256", "FID", "10.2", README),
    ("VQGAN and transformer", "ADE20K 256, from labels", "FID", "35.5", README),
    ("VQGAN and transformer", "COCO-Stuff 256, from labels", "FID", "20.4", README),
    ("cin, top-k 250", "ImageNet 256, by class", "FID", "15.98", TABLE),
    ("cin, top-k 250", "ImageNet 256, by class", "IS", "78.6", TABLE),
    ("cin, top-k 600, best 5 of 100 kept", "ImageNet 256, by class", "FID", "5.20", TABLE),
    ("cin, top-k 600, best 5 of 100 kept", "ImageNet 256, by class", "IS", "280.3", TABLE),
    ("autoencoder f16, 1024 codes", "ImageNet 256, validation", "rFID", "7.94", README),
    ("autoencoder f16, 16384 codes", "ImageNet 256, validation", "rFID", "4.98", README),
)


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
            convert="zoo_vqgan.convert:official",
            widths={"generator.prior.dim": 16, "generator.z_channels": 8, "generator.multipliers": 1},
            published=tuple(Published(*row) for row in PUBLISHED),
        )
    )
