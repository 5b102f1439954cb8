"""What the package registers with Zoo. Strings only: importing it costs nothing."""

from __future__ import annotations

from zoo_core import Paper, Plugin, Published, hookimpl

ABSTRACT, LISTED, MAXVIT = "abstract of arXiv 2106.07631", "listed by paperswithcode", "Table 6 of MaxViT"
PUBLISHED = (
    ("HiT", "ImageNet 128, unconditional", "FID", "30.83", ABSTRACT),
    ("HiT", "ImageNet 128, unconditional", "IS", "21.64", MAXVIT),
    ("HiT-S", "FFHQ 256", "FID", "3.06", LISTED),
    ("HiT-B", "FFHQ 256", "FID", "2.95", ABSTRACT),
    ("HiT-L", "FFHQ 256", "FID", "2.58", LISTED),
    ("HiT-B", "FFHQ 1024", "FID", "6.37", LISTED),
    ("HiT-B", "CelebA-HQ 256", "FID", "3.39", LISTED),
    ("HiT-B", "CelebA-HQ 1024", "FID", "8.83", LISTED),
)


@hookimpl
def zoo_plugin(register) -> None:
    register(
        Plugin(
            name="hit",
            summary="Blocked and dilated self-attention at low resolutions, cross-attention to latent tokens at all.",
            paper=Paper("Improved Transformer for High-Resolution GANs", "2106.07631", "NeurIPS 2021"),
            generators={"hit": "zoo_hit.generator:Generator"},
            discriminators={"hit": "zoo_hit.discriminator:Discriminator"},
            decoders={"hit": "zoo_hit.latent_decoder:LatentDecoder"},
            attentions={"multi-axis": "zoo_hit.attention:MultiAxisAttention"},
            stages="zoo_hit.stages:build",
            recipes="zoo_hit.recipes",
            convert="zoo_hit.convert:official",
            widths={"generator.channels": 8},
            published=tuple(Published(*row) for row in PUBLISHED),
        )
    )
