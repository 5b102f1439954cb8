"""What a recipe may say of the two networks: plain data with the published values as defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoo_core.errors import UserError


@dataclass(frozen=True)
class QuantizerOptions:
    """The codes and how vectors become codes."""

    kind: Literal["nearest", "ema", "gumbel"] = "nearest"
    num_codes: int = 1024
    embed_dim: int = 256
    beta: float = 0.25
    legacy: bool = True
    """Nearest: beta on the codebook's term, as all published models have it; false: on the encoder's, as in Eq. 4."""
    decay: float = 0.99
    """EMA: of the table."""
    kl_weight: float = 1e-8
    """Gumbel: weight of the divergence from an even distribution."""
    temperature: float = 1.0
    """Gumbel: of the relaxed draws."""

    def __post_init__(self) -> None:
        if self.num_codes < 2 or self.embed_dim < 1:
            raise UserError("generator.quantizer needs num_codes of at least 2 and embed_dim of at least 1.")


@dataclass(frozen=True)
class PriorOptions:
    """The transformer over the codes; the published size of faces and scenes."""

    layers: int = 24
    heads: int = 16
    dim: int = 1024
    dropout: float = 0.0
    kept: float = 1.0
    """Share of the codes that are read unchanged in training (official `pkeep`)."""
    order: str = "identity"
    """In which order the codes are read and drawn; see `zoo_vqgan.permuters`."""
    start_token: int = 0
    """Unconditional: the token before the first code."""
    temperature: float = 1.0
    top_k: int = 0
    """Codes that a draw chooses from; 0 is all."""
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.dim) < 1:
            raise UserError("generator.prior needs layers, heads and dim of at least 1.")
