"""The shared layers do what their docstrings say, against plain loops and torch's own modules."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from zoo_core.layers import (
    EqualConv2d,
    EqualLinear,
    SpectralConv2d,
    SpectralLinear,
    minibatch_stddev,
    pixel_norm,
    scaled_leaky_relu,
    sinusoid_table,
)
from zoo_core.resample import (
    downsample_fir,
    fir_kernel,
    haar,
    haar_filters,
    inverse_haar,
    upfirdn2d,
    upsample_fir,
)


def upfirdn2d_by_loops(image: Tensor, kernel: Tensor, up: int, down: int, padding: tuple[int, int]) -> Tensor:
    """The definition: stuff with zeros, pad or crop, convolve, keep every `down`-th."""
    batch, channels, height, width = image.shape
    stuffed = image.new_zeros(batch, channels, height * up, width * up)
    stuffed[:, :, ::up, ::up] = image
    before, after = padding
    size = [side + before + after for side in stuffed.shape[2:]]
    padded = image.new_zeros(batch, channels, *size)
    for i in range(size[0]):
        for j in range(size[1]):
            if 0 <= i - before < stuffed.shape[2] and 0 <= j - before < stuffed.shape[3]:
                padded[:, :, i, j] = stuffed[:, :, i - before, j - before]
    rows = range(0, size[0] - kernel.shape[0] + 1, down)
    columns = range(0, size[1] - kernel.shape[1] + 1, down)
    flipped = kernel.flip(0, 1)

    def one(i: int, j: int) -> Tensor:
        return (padded[:, :, i : i + kernel.shape[0], j : j + kernel.shape[1]] * flipped).sum((2, 3))

    return torch.stack([torch.stack([one(i, j) for j in columns], -1) for i in rows], -2)


@pytest.mark.parametrize("up", [1, 2, 3])
@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("padding", [(0, 0), (2, 1), (1, 3), (-1, 2), (-2, -1), (5, 4)])
def test_upfirdn2d_equals_its_definition(up: int, down: int, padding: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 8, 9, dtype=torch.float64, generator=generator)
    kernel = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    expected = upfirdn2d_by_loops(image, kernel, up, down, padding)
    assert expected.shape[2] == (8 * up + sum(padding) - 4) // down + 1
    torch.testing.assert_close(upfirdn2d(image, kernel, up, down, padding), expected)


@pytest.mark.parametrize(("up", "down", "padding"), [(1, 2, (1, 1)), (2, 1, (2, 1)), (2, 2, (-1, 2))])
def test_upfirdn2d_can_be_differentiated_twice(up: int, down: int, padding: tuple[int, int]) -> None:
    image = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    kernel = fir_kernel().double()

    def squared(image: Tensor) -> Tensor:  # otherwise the second derivative is zero, and the check says nothing
        return upfirdn2d(image, kernel, up, down, padding).square()

    assert gradcheck(squared, image)
    assert gradgradcheck(squared, image)


def test_fir_resampling_keeps_a_flat_image_away_from_the_border() -> None:
    flat = torch.full((1, 2, 8, 8), 0.7)
    larger, smaller = upsample_fir(flat, fir_kernel(gain=4)), downsample_fir(flat, fir_kernel())
    assert larger.shape == (1, 2, 16, 16)
    assert smaller.shape == (1, 2, 4, 4)
    torch.testing.assert_close(larger[:, :, 2:-2, 2:-2], flat[:, :, :1, :1].expand(1, 2, 12, 12))
    torch.testing.assert_close(smaller[:, :, 1:-1, 1:-1], flat[:, :, :2, :2])


def test_inverse_haar_undoes_haar() -> None:
    image = torch.randn(2, 3, 8, 12)
    bands = haar(image, haar_filters())
    assert bands.shape == (2, 12, 4, 6)
    torch.testing.assert_close(inverse_haar(bands, haar_filters()), image)
    torch.testing.assert_close(bands.square().sum(), image.square().sum())  # orthonormal


def test_haar_of_a_flat_image_has_only_the_low_band_in_colour_order() -> None:
    image = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    bands = haar(image, haar_filters())
    torch.testing.assert_close(bands[0, :3, 0, 0], torch.tensor([2.0, 4.0, 6.0]))
    torch.testing.assert_close(bands[0, 3:], torch.zeros(9, 2, 2))


def test_equalised_layers_scale_their_weights_at_run_time() -> None:
    x = torch.randn(5, 7)
    layer = EqualLinear(7, 3, lr_multiplier=0.01)
    nn.init.normal_(layer.bias)
    expected = x @ (layer.weight * 0.01 / math.sqrt(7)).t() + layer.bias * 0.01
    torch.testing.assert_close(layer(x), expected)
    layer.activate = True
    torch.testing.assert_close(layer(x), nn.functional.leaky_relu(expected, 0.2) * math.sqrt(2))

    image = torch.randn(2, 4, 6, 6)
    conv = EqualConv2d(4, 5, 3, padding=1)
    expected = nn.functional.conv2d(image, conv.weight / math.sqrt(4 * 9), conv.bias, padding=1)
    torch.testing.assert_close(conv(image), expected)


def test_equalised_weights_start_with_the_stated_deviation() -> None:
    torch.manual_seed(0)
    assert EqualLinear(300, 300, lr_multiplier=0.01).weight.std().item() == pytest.approx(100, rel=0.02)
    conv = EqualConv2d(64, 64, 3)
    assert conv.weight.std().item() == pytest.approx(1, rel=0.02)
    assert not conv.bias.any()


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_spectral_norm_follows_the_trajectory_of_torch(kind: str) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 3) if kind == "conv" else nn.Linear(5, 6)
    ours = SpectralConv2d(4, 6, 3) if kind == "conv" else SpectralLinear(5, 6)
    x = torch.randn(2, 4, 8, 8) if kind == "conv" else torch.randn(2, 5)
    theirs = nn.utils.spectral_norm(plain)
    state = theirs.state_dict()
    names = {"weight": "weight_orig", "bias": "bias", "norm.u": "weight_u", "norm.v": "weight_v"}
    ours.load_state_dict({mine: state[other].clone() for mine, other in names.items()})
    for training in (True, True, False, True):
        ours.train(training)
        theirs.train(training)
        torch.testing.assert_close(ours(x), theirs(x))
        torch.testing.assert_close(ours.norm.u, theirs.weight_u)
        torch.testing.assert_close(ours.norm.v, theirs.weight_v)
    (ours(x) + ours(x) * 2).sum().backward()  # two passes before one backward, as real and fake
    (theirs(x) + theirs(x) * 2).sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight_orig.grad)


def test_spectral_norm_survives_a_deep_copy_and_autocast() -> None:
    torch.manual_seed(0)
    layer = SpectralConv2d(4, 6, 3)
    reference = copy.deepcopy(layer)
    x = torch.randn(1, 4, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).sum().backward()
    reference(x)
    assert torch.equal(layer.norm.u, reference.norm.u)  # iterated in float32
    twin = copy.deepcopy(layer)
    assert torch.equal(twin.eval()(x), layer.eval()(x))


@pytest.mark.parametrize(("batch", "group", "size"), [(8, 4, 4), (4, 4, 4), (6, 4, 3), (2, 4, 2), (1, 4, 1), (5, 4, 1)])
def test_minibatch_stddev_compares_strided_groups(batch: int, group: int, size: int) -> None:
    x = torch.randn(batch, 3, 2, 2)
    out = minibatch_stddev(x, group)
    assert torch.equal(out[:, :3], x)
    stride = batch // size
    for sample in range(batch):
        members = x[sample % stride :: stride]
        assert len(members) == size
        expected = (members.var(0, unbiased=False) + 1e-8).sqrt().mean()
        torch.testing.assert_close(out[sample, 3], expected.expand(2, 2))


def test_pixel_norm_gives_unit_mean_square() -> None:
    x = torch.randn(4, 16) * 7
    torch.testing.assert_close(pixel_norm(x).square().mean(-1), torch.ones(4))
    assert pixel_norm(torch.zeros(1, 4)).isfinite().all()


def test_scaled_leaky_relu_adds_the_bias_on_the_channel_axis() -> None:
    x, bias = torch.randn(2, 3, 4, 4), torch.randn(3)
    expected = nn.functional.leaky_relu(x + bias.view(1, 3, 1, 1), 0.2) * math.sqrt(2)
    torch.testing.assert_close(scaled_leaky_relu(x, bias), expected)
    torch.testing.assert_close(scaled_leaky_relu(x[:, :, 0, 0], bias), expected[:, :, 0, 0])
    double = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(lambda x: scaled_leaky_relu(x.square() - 0.3), double)


def test_sinusoids_start_at_position_one_and_reach_both_ends_of_the_scale() -> None:
    table = sinusoid_table(6, 8).double()
    for row, position in enumerate(range(1, 7)):
        frequencies = [10000 ** (-step / 3) for step in range(4)]
        expected = [math.sin(position * f) for f in frequencies] + [math.cos(position * f) for f in frequencies]
        torch.testing.assert_close(table[row], torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)
