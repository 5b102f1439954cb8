"""Hydra neighbourhood attention: each group of heads sees its own kernel and dilation (the paper's section 3).

Parameters are named as in the official checkpoints: `qkv`, `proj`, `rpb.0`, `rpb.1`, ... (`rpb` alone where the
attention is full). Shapes: B batch, H W grid, C channels, N heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoo_core.attention import check_heads
from zoo_core.errors import UserError
from zoo_core.formulation import is_plain
from zoo_core.interfaces import Attention, Site
from zoo_stylenat.neighborhood import neighborhood_attention, neighborhood_weights
from zoo_styleswin.blocks import plain_linear


def hydra(
    site: Site,
    *,
    kernel: int | tuple[int, ...] = 7,
    dilations: Mapping[int, tuple[int, ...]] | None = None,
    qkv_bias: bool = True,
    second_order: bool = False,
) -> Attention:
    """The attention of a level: full with a bias below the kernel's size, else Hydra neighbourhood attention.

    `kernel`: side of the neighbourhood; a list gives one to each group of heads. `dilations`: by resolution, a list of
    one for each group of heads. Where it names none, the rule is the paper's for FFHQ: 1, and the side divided by
    kernel + 1 (at kernel 7, 8 px: 1; 16 px: 1, 2; 32 px: 1, 4; and so on); a site of one head takes 1 alone.
    `qkv_bias`: whether the qkv layer has a bias. `second_order`: build for a second derivative, at some cost in memory.

    Raises UserError when kernel times dilation exceeds the site's resolution, or the groups do not fit the heads.
    """
    kernels = (kernel,) if isinstance(kernel, int) else tuple(kernel)
    if not kernels:
        raise UserError("hydra's kernel list is empty; give at least one kernel.")
    if site.resolution < max(kernels):
        return FullBiasAttention(site, qkv_bias=qkv_bias, second_order=second_order)
    table = {int(resolution): tuple(values) for resolution, values in (dilations or {}).items()}
    if site.resolution in table:
        chosen = table[site.resolution]
    else:
        largest = site.resolution // (max(kernels) + 1)
        chosen = (1, largest) if largest > 1 and site.heads > 1 else (1,)
    return HydraAttention(site, kernels=kernels, dilations=chosen, qkv_bias=qkv_bias, second_order=second_order)


def partition(heads: int, groups: int) -> tuple[int, ...]:
    """Heads of each group, in order; what is left over goes to the last groups: 16 in 3 are 5, 5, 6."""
    share, over = divmod(heads, groups)
    return (share,) * (groups - over) + (share + 1,) * over


class _Projected(Attention):
    """What both kinds share: the layers before and after the mixing, and the choice of backend."""

    def __init__(self, site: Site, qkv_bias: bool, second_order: bool) -> None:
        super().__init__()
        self.heads, self.head_dim = site.heads, check_heads(site)
        self.second_order = second_order
        self.backend = "tiles" if second_order else "auto"
        self.qkv = plain_linear(site.dim, 3 * site.dim, qkv_bias)
        self.proj = plain_linear(site.dim, site.dim)

    def _project(self, x: Tensor) -> Tensor:
        """Features are [q | k | v], each its heads one after another: `[B, H, W, C]` -> `[B, H, W, 3, N, D]`."""
        return self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim))

    def _mix(self, qkv: Tensor, bias: Tensor, kernel: int, dilation: int) -> Tensor:
        """`[B, H, W, 3, N, D]` -> `[B, H, W, N, D]`."""
        q, k, v = qkv.unbind(3)
        backend = "plain" if is_plain() else self.backend
        return neighborhood_attention(q, k, v, bias, kernel=kernel, dilation=dilation, backend=backend)

    def _look(self, queries: Tensor, qkv: Tensor, bias: Tensor, kernel: int, dilation: int) -> Tensor:
        """`[B, H, W, 3, N, D]` -> `[B, N, Q, H, W]`."""
        q, k, _ = qkv.unbind(3)
        return neighborhood_weights(q, k, bias, queries, kernel=kernel, dilation=dilation)


class HydraAttention(_Projected):
    """Neighbourhood attention with a kernel and a dilation for each contiguous group of heads.

    `kernels` and `dilations` have one entry a group; of two lists, one with a single entry is repeated. Each group has
    its own learned bias `rpb.j [group's heads, 2k-1, 2k-1]`.

    Raises UserError when the lists differ in length, a group would have no head, a kernel is even or 1, or kernel times
    dilation exceeds the site's resolution.
    """

    def __init__(
        self,
        site: Site,
        *,
        kernels: tuple[int, ...] = (7,),
        dilations: tuple[int, ...] = (1,),
        qkv_bias: bool = True,
        second_order: bool = False,
    ) -> None:
        super().__init__(site, qkv_bias, second_order)
        self.kernels, self.dilations = _check_groups(site, tuple(kernels), tuple(dilations))
        self.groups = partition(site.heads, len(self.kernels))
        self.rpb = nn.ParameterList(
            nn.init.trunc_normal_(torch.empty(heads, 2 * kernel - 1, 2 * kernel - 1), std=0.02)
            for heads, kernel in zip(self.groups, self.kernels, strict=True)
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`[B, H, W, C]` -> `[B, H, W, C]`; `context` is not used."""
        groups = zip(self._project(x).split(self.groups, dim=4), self.rpb, self.kernels, self.dilations, strict=True)
        return self.proj(torch.cat([self._mix(*group) for group in groups], dim=3).flatten(3))

    def weights(self, x: Tensor, queries: Tensor, context: Tensor | None = None) -> Tensor:
        """`[B, N, Q, H, W]`, zero outside a query's neighbourhood; `context` is not used."""
        groups = zip(self._project(x).split(self.groups, dim=4), self.rpb, self.kernels, self.dilations, strict=True)
        return torch.cat([self._look(queries, *group) for group in groups], dim=1)

    def extra_repr(self) -> str:
        return f"heads={self.groups}, kernels={self.kernels}, dilations={self.dilations}"


class FullBiasAttention(_Projected):
    """Full attention of a small map with a bias by the key's position minus the query's.

    The official models' 4 x 4 level: `rpb [N, 2r-1, 2r-1]` for a map of side r. A window of the whole map is full
    attention, so the neighbourhood operator serves here too.
    """

    def __init__(self, site: Site, *, qkv_bias: bool = True, second_order: bool = False) -> None:
        super().__init__(site, qkv_bias, second_order)
        self.resolution = site.resolution
        side = 2 * site.resolution - 1
        self.rpb = nn.Parameter(nn.init.trunc_normal_(torch.empty(site.heads, side, side), std=0.02))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`[B, r, r, C]` -> `[B, r, r, C]`; `context` is not used."""
        if x.shape[1:3] != (self.resolution, self.resolution):
            raise UserError(f"this attention was built for {self.resolution} px; it cannot mix {list(x.shape[1:3])}.")
        qkv = self._project(x)
        mixed = self._plain(qkv) if is_plain() else self._mix(qkv, self.rpb, self.resolution, 1)
        return self.proj(mixed.flatten(3))

    def weights(self, x: Tensor, queries: Tensor, context: Tensor | None = None) -> Tensor:
        """`[B, N, Q, r, r]`; `context` is not used."""
        return self._look(queries, self._project(x), self.rpb, self.resolution, 1)

    def _plain(self, qkv: Tensor) -> Tensor:
        """The textbook form: `[B, r, r, 3, N, D]` -> `[B, r, r, N, D]`."""
        q, k, v = qkv.flatten(1, 2).permute(2, 0, 3, 1, 4)  # [B, N, L, D]
        side = torch.arange(self.resolution, device=qkv.device)
        offset = side - side[:, None] + self.resolution - 1  # [query, key]: the key's position minus the query's
        bias = self.rpb[:, offset[:, None, :, None], offset[None, :, None, :]].flatten(3).flatten(1, 2)  # [N, L, L]
        weights = ((q * self.head_dim**-0.5) @ k.transpose(-2, -1) + bias).softmax(-1)
        return (weights @ v).transpose(1, 2).unflatten(1, (self.resolution, self.resolution))


def _check_groups(
    site: Site, kernels: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Repeat a list of one entry; refuse what cannot be built."""
    where = f"hydra in attention layer {site.layer} at {site.resolution} px"
    groups = max(len(kernels), len(dilations))
    kernels, dilations = (part * groups if len(part) == 1 else part for part in (kernels, dilations))
    if not kernels or len(kernels) != len(dilations):
        raise UserError(f"{where}: {len(kernels)} kernels and {len(dilations)} dilations; give one of each to a group.")
    if groups > site.heads:
        raise UserError(f"{where}: {groups} groups for {site.heads} heads; give fewer dilations at {site.resolution}.")
    for kernel, dilation in zip(kernels, dilations, strict=True):
        if kernel < 3 or kernel % 2 == 0 or dilation < 1:
            raise UserError(f"{where}: kernel {kernel} with dilation {dilation}; kernels are odd and above 1.")
        if kernel * dilation > site.resolution:
            raise UserError(
                f"{where}: kernel {kernel} with dilation {dilation} spans {kernel * dilation} px, more than the map; "
                f"set dilations to at most {site.resolution // kernel} at {site.resolution}."
            )
    return kernels, dilations
