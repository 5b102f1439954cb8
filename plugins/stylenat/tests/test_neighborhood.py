"""The operator against a slow float64 reference, written from the definition; what it promises and refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import zoo_stylenat.neighborhood_stream as stream_module
from zoo_core.errors import UserError
from zoo_stylenat.neighborhood import neighborhood_attention

BACKENDS = ("plain", "tiles", "fused", "stream", "auto")

# height, width, kernel, dilation
SHAPES = [
    (7, 7, 7, 1),  # the kernel is the map
    (8, 8, 7, 1),
    (14, 16, 7, 2),
    (15, 17, 7, 2),  # the dilation does not divide the sides
    (10, 11, 3, 3),
    (9, 37, 7, 1),  # several tiles a row, the last one short
    (5, 57, 3, 1),  # its last tile reaches further beyond the map than a window
    (18, 26, 3, 1),  # several tiles a column too
    (36, 8, 3, 2),
    (21, 23, 5, 4),
]


def neighbours(i: int, size: int, kernel: int, dilation: int) -> list[tuple[int, int]]:
    """(position, row of the bias) of the keys of query i on one axis."""
    member, rank = i % dilation, i // dilation
    count = len(range(member, size, dilation))
    first = min(max(rank - kernel // 2, 0), count - kernel)
    return [(member + dilation * (first + a), first + a - rank + kernel - 1) for a in range(kernel)]


def reference(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel: int, dilation: int, scale: float) -> Tensor:
    """One query at a time."""
    rows = []
    for y in range(q.shape[1]):
        for x in range(q.shape[2]):
            near_y = neighbours(y, q.shape[1], kernel, dilation)
            near_x = neighbours(x, q.shape[2], kernel, dilation)
            keys = torch.stack([k[:, j, i] for j, _ in near_y for i, _ in near_x], dim=-1)  # [B, h, D, k * k]
            values = torch.stack([v[:, j, i] for j, _ in near_y for i, _ in near_x], dim=-1)
            scores = scale * (q[:, y, x, :, :, None] * keys).sum(2)
            if bias is not None:
                scores = scores + torch.stack([bias[:, j, i] for _, j in near_y for _, i in near_x], dim=-1)
            rows.append((scores.softmax(-1)[:, :, None] * values).sum(-1))
    return torch.stack(rows, dim=1).unflatten(1, q.shape[1:3])


def draw(height: int, width: int, kernel: int, heads: int = 3, dim: int = 4, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(height * 100 + width)
    shapes = [(batch, height, width, heads, dim)] * 3 + [(heads, 2 * kernel - 1, 2 * kernel - 1)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


@pytest.mark.parametrize(
    ("shape", "with_bias"),
    [(shape, True) for shape in SHAPES] + [(shape, False) for shape in SHAPES[3:5]],
    ids=str,
)
def test_every_backend_equals_the_definition_with_its_gradients(
    shape: tuple[int, int, int, int], with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    height, width, kernel, dilation = shape
    q, k, v, bias = draw(height, width, kernel)
    inputs = [q, k, v, bias] if with_bias else [q, k, v]
    bias = bias if with_bias else None
    want = reference(q, k, v, bias, kernel, dilation, 0.3)
    direction = torch.randn(want.shape, generator=torch.Generator().manual_seed(1), dtype=want.dtype)
    want_grads = torch.autograd.grad((want * direction).sum(), inputs)
    runs = [(backend, stream_module.CHUNK_BYTES) for backend in BACKENDS] + [("stream", 1 << 13), ("stream", 1)]
    for backend, chunk in runs:
        monkeypatch.setattr(stream_module, "CHUNK_BYTES", chunk)
        out = neighborhood_attention(q, k, v, bias, kernel=kernel, dilation=dilation, scale=0.3, backend=backend)
        grads = torch.autograd.grad((out * direction).sum(), inputs)
        for got, expected in zip((out, *grads), (want, *want_grads), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11, msg=lambda m, b=backend: f"{b}: {m}")


def test_a_kernel_of_the_whole_square_map_is_full_attention_with_a_relative_bias() -> None:
    q, k, v, bias = draw(4, 4, 4)
    scores = torch.einsum("byxhd,bjihd->bhyxji", q, k) * 0.5
    offset = torch.arange(4)[None, :] - torch.arange(4)[:, None] + 3  # [query, key]: key minus query
    scores = scores + bias[:, offset[:, None, :, None], offset[None, :, None, :]]
    want = torch.einsum("bhyxs,bshd->byxhd", scores.flatten(4).softmax(-1), v.flatten(1, 2))
    for backend in BACKENDS:
        torch.testing.assert_close(neighborhood_attention(q, k, v, bias, kernel=4, backend=backend), want)


@pytest.mark.parametrize("shape", [(6, 5, 3, 1), (6, 7, 3, 2), (12, 4, 3, 1)], ids=str)
@pytest.mark.parametrize("backend", ["tiles", "plain"])
def test_any_order_backends_can_be_differentiated_twice(shape: tuple[int, int, int, int], backend: str) -> None:
    height, width, kernel, dilation = shape
    inputs = draw(height, width, kernel, heads=1, dim=2, batch=1)

    def operator(*x: Tensor) -> Tensor:
        return neighborhood_attention(*x, kernel=kernel, dilation=dilation, backend=backend)

    assert torch.autograd.gradgradcheck(operator, inputs, fast_mode=True)


def test_stream_refuses_a_second_derivative() -> None:
    inputs = draw(8, 8, 3)
    out = neighborhood_attention(*inputs, kernel=3, backend="stream")
    (grad,) = torch.autograd.grad(out.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_stream_keeps_only_its_inputs_for_backward() -> None:
    inputs = [x.detach().float().requires_grad_() for x in draw(32, 32, 7)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        neighborhood_attention(*inputs, kernel=7, dilation=2, backend="stream")
    assert sum(kept) <= sum(x.numel() for x in inputs)


@pytest.mark.parametrize("backend", ["stream", "tiles"])
def test_gradients_are_the_same_to_the_bit_each_time(backend: str) -> None:
    inputs = [x.detach().float().requires_grad_() for x in draw(24, 32, 7)]

    def gradients() -> tuple[Tensor, ...]:
        out = neighborhood_attention(*inputs, kernel=7, dilation=2, backend=backend)
        return torch.autograd.grad(out.square().sum(), inputs)

    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients(), strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_answers_in_bfloat16_near_the_exact_value(backend: str) -> None:
    inputs = draw(16, 16, 7)
    want = neighborhood_attention(*inputs, kernel=7, backend="plain")
    half = [x.detach().bfloat16() for x in inputs[:3]] + [inputs[3].detach().float()]
    with torch.autocast("cpu", torch.bfloat16):
        out = neighborhood_attention(*half, kernel=7, backend=backend)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), want, rtol=0.05, atol=0.05)


def test_the_meta_device_gives_shapes() -> None:
    q = torch.empty(2, 16, 24, 3, 4, device="meta")
    for backend in BACKENDS:
        assert neighborhood_attention(q, q, q, kernel=5, dilation=2, backend=backend).shape == q.shape


@pytest.mark.parametrize("dilation", [1, 2])
def test_natten_agrees_without_a_bias(dilation: int) -> None:
    natten = pytest.importorskip("natten", reason="natten is an optional extra")
    q, k, v = (x.detach().float() for x in draw(16, 20, 7, dim=8)[:3])
    want = natten.na2d(q, k, v, kernel_size=7, dilation=dilation, scale=0.4, backend="flex-fna")
    out = neighborhood_attention(q, k, v, kernel=7, dilation=dilation, scale=0.4)
    torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": 6}, "odd"),
        ({"kernel": 1}, "odd"),
        ({"dilation": 3}, "does not fit a map of 16 x 18"),
        ({"dilation": 0}, "at least 1"),
        ({"backend": "tile"}, 'did you mean "tiles"'),
        ({"backend": "natten"}, "CUDA"),
        ({"bias": torch.zeros(2, 13, 13)}, r"must have shape \[3, 13, 13\]"),
        ({"k": torch.zeros(2, 16, 18, 1, 4)}, "one shape"),
    ],
    ids=str,
)
def test_mistakes_are_refused_with_a_sentence(change: dict, message: str) -> None:
    arguments = {name: torch.zeros(2, 16, 18, 3, 4) for name in "qkv"} | {"kernel": 7} | change
    with pytest.raises(UserError, match=message):
        neighborhood_attention(**arguments)
