"""Neighbourhood attention gives the numbers of the official operator: its neighbours, scores, output and gradients."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from goldens import Case, drawn
from parity import note, peak_error
from torch import Tensor

from zoo_stylenat.neighborhood import _neighbours, neighborhood_attention, neighborhood_weights

pytestmark = pytest.mark.parity

MODULE, TOLERANCE = "stylenat: neighbourhood attention", 1e-5


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("stylenat/na2d_ops")


def inputs(sizes: dict[str, int]) -> dict[str, Tensor]:
    """q, k, v and the output's gradient `go` as `[B, H, W, h, D]`, and the bias, of one of the case's calls."""
    number, kernel = sizes["i"], sizes["kernel"]
    shape = tuple(sizes[name] for name in ("B", "heads", "H", "W", "head_dim"))
    maps = {name: drawn(f"na2d:{number}:{name}", shape).permute(0, 2, 3, 1, 4) for name in ("q", "k", "v", "go")}
    return maps | {"bias": drawn(f"na2d:{number}:rpb", (sizes["heads"], 2 * kernel - 1, 2 * kernel - 1))}


@pytest.mark.parametrize("backend", ["plain", "tiles", "fused", "stream"])
def test_output_and_gradients_are_the_official_ones(case: Case, backend: str) -> None:
    for sizes in case.meta["cases"]:
        given = inputs(sizes)
        leaves = [given[name].requires_grad_() for name in ("q", "k", "v", "bias")]
        kernel, dilation = sizes["kernel"], sizes["dilation"]
        out = neighborhood_attention(*leaves, kernel=kernel, dilation=dilation, scale=1.0, backend=backend)
        gradients = torch.autograd.grad((out * given["go"]).sum(), leaves)
        names = ("out", "grad_q", "grad_k", "grad_v", "grad_rpb")
        for name, value in zip(names, (out, *gradients), strict=True):
            value = value if name == "grad_rpb" else value.permute(0, 3, 1, 2, 4)
            quantity = "output" if name == "out" else "gradients of q, k, v and bias"
            name = f"{sizes['i']}/{name}"
            error = peak_error(case.stored(name, value), case.data[name])
            note(MODULE, f"na2d_ops, {backend}", quantity, error, TOLERANCE)


def test_neighbours_and_their_scores_are_the_official_ones(case: Case) -> None:
    for sizes in case.meta["cases"]:
        number, kernel, dilation = (sizes[name] for name in ("i", "kernel", "dilation"))
        height, width, heads = sizes["H"], sizes["W"], sizes["heads"]
        neighbours, _ = tables = _neighbours(height, kernel, dilation, torch.device("cpu"))
        for name, table in zip(("rows", "rpb_rows"), tables, strict=True):
            assert np.array_equal(table, case.data[f"{number}/{name}"]), f"case {number}, {name}"
        columns, _ = _neighbours(width, kernel, dilation, torch.device("cpu"))

        given, queries = inputs(sizes), torch.tensor(list(product(range(height), range(width))))
        unscaled = given["q"] * sizes["head_dim"] ** 0.5  # the golden's scores are not scaled
        weights = neighborhood_weights(unscaled, given["k"], given["bias"], queries, kernel=kernel, dilation=dilation)
        near = neighbours[queries[:, 0], :, None] * width + columns[queries[:, 1], None, :]  # [Q, kernel, kernel]
        near = near.flatten(1).expand(sizes["B"], heads, -1, -1)
        scores = weights.flatten(3).gather(3, near).log().unflatten(2, (height, width))
        # A softmax forgets a constant of each query, so the scores stored for a query are compared by their own mean.
        step = int(case.data.get(f"{number}/attn_logits#step", 1))
        query = np.arange(scores.numel())[::step] // kernel**2
        ours = relative_to_mean(case.stored(f"{number}/attn_logits", scores), query)
        theirs = relative_to_mean(case.data[f"{number}/attn_logits"], query)
        note(MODULE, "na2d_ops", "scores of the neighbours", peak_error(ours, theirs), TOLERANCE)


def relative_to_mean(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The values, each less the mean of its group."""
    values = values.reshape(-1).astype(np.float64)
    return values - (np.bincount(group, values) / np.maximum(np.bincount(group), 1))[group]
