"""StyleNAT's generator: StyleSwin's, with Hydra neighbourhood attention (the paper's section 3)."""

from __future__ import annotations

from zoo_stylenat.attention import hydra
from zoo_styleswin.generator import Generator as StyleGenerator


class Generator(StyleGenerator):
    """`z [B, style_dim]` -> `[B, 3, H, W]`. Options are StyleSwin's; `attention` is by default `hydra` with kernel 7
    and the paper's FFHQ dilations: 1 up to 8 px, then 1 and an eighth of the map's side.
    """

    default_attention = staticmethod(hydra)
