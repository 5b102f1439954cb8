"""The weights that window attention shows are those that its output is made of."""

from __future__ import annotations

import pytest
import torch

from zoo_core.interfaces import Site
from zoo_styleswin.attention import WindowAttention


@pytest.mark.parametrize(("resolution", "window"), [(4, 8), (8, 8), (8, 4), (6, 2), (32, 16)])
def test_weights_times_values_through_the_projection_are_the_output(resolution: int, window: int) -> None:
    torch.manual_seed(0)
    module = WindowAttention(Site(8, 4, resolution), window=window, full_resolution=4).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
        x = torch.randn(2, resolution, resolution, 8, dtype=torch.float64)
        side = torch.arange(resolution)
        weights = module.weights(x, torch.cartesian_prod(side, side))  # [B, N, Q, H, W]
        values = module.qkv(x).unflatten(-1, (3, 4, 2))[..., 2, :, :]  # [B, H, W, N, D]
        mixed = torch.einsum("bnqyx,byxnd->bqnd", weights, values).reshape(x.shape)
        torch.testing.assert_close(module.proj(mixed), module(x), rtol=1e-5, atol=1e-5)


def test_weights_are_zero_outside_the_window_and_across_the_edge() -> None:
    torch.manual_seed(0)
    module = WindowAttention(Site(8, 2, 16), window=4, full_resolution=4)
    (plain,), (shifted,) = module.weights(torch.randn(1, 16, 16, 8), torch.tensor([[5, 1]]))[0]
    assert nonzero(plain) == (4, 7, 0, 3)
    assert nonzero(shifted) == (2, 5, 0, 1)  # its window lies half across the left edge


def nonzero(weights: torch.Tensor) -> tuple[int, int, int, int]:
    """First and last row, first and last column above rounding."""
    rows, columns = (weights > 1e-6).nonzero().unbind(1)
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())
