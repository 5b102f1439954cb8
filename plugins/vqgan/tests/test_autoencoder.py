"""The autoencoder: sizes, shapes, and parts that can be swapped."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from zoo_core.attention import FullAttention
from zoo_core.errors import UserError
from zoo_core.formulation import plain
from zoo_core.interfaces import Attention, Decoder, Latent, Site
from zoo_core.rng import Rng
from zoo_vqgan.autoencoder import AutoEncoder
from zoo_vqgan.blocks import Down, SpatialAttention
from zoo_vqgan.decoder import ConvolutionalDecoder
from zoo_vqgan.encoder import Encoder
from zoo_vqgan.quantizers.gumbel import GumbelQuantizer
from zoo_vqgan.quantizers.nearest import NearestQuantizer

F16 = {"resolution": 256}
F8 = {"resolution": 256, "multipliers": (1, 1, 2, 4), "attention_resolutions": (32,)}


def full_size(quantizer: type[nn.Module], num_codes: int, channels: int = 3, **options: object) -> AutoEncoder:
    """A published configuration, on `meta`."""
    with torch.device("meta"):
        encoder = Encoder(in_channels=channels, **options)
        side = options.pop("resolution")
        latent = Latent(256, side // encoder.factor, side, channels)
        decoder = ConvolutionalDecoder(latent, **options)
        vectors = quantizer(num_codes=num_codes, dim=256)
        return AutoEncoder(encoder=encoder, quantizer=vectors, decoder=decoder, z_channels=256, embed_dim=256)


def tiny(**parts: nn.Module) -> AutoEncoder:
    options = {"channels": 32, "multipliers": (1, 2), "blocks": 1, "attention_resolutions": ()}
    built = {
        "encoder": Encoder(resolution=16, z_channels=8, **options),
        "decoder": ConvolutionalDecoder(Latent(8, 8, 16), **options),
        "quantizer": NearestQuantizer(num_codes=11, dim=4),
    }
    return AutoEncoder(**{**built, **parts}, z_channels=8, embed_dim=4)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("num_codes, total", [(1024, 72_141_699), (16384, 76_073_859)])
def test_published_f16_models_have_the_official_number_of_parameters(num_codes: int, total: int) -> None:
    network = full_size(NearestQuantizer, num_codes, **F16)
    assert count(network) == total
    assert not list(network.buffers())
    assert len(network.state_dict()) == 398 - 33 - 22  # the checkpoint's, without LPIPS and discriminator
    assert count(full_size(NearestQuantizer, num_codes, resolution=64)) == total - 72_141_699 + 68_201_859


def test_the_published_f16_model_has_the_official_shapes() -> None:
    state = full_size(NearestQuantizer, 1024, **F16).state_dict()
    shapes = {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "encoder.down.2.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "encoder.conv_out.weight": (256, 512, 3, 3),
        "decoder.conv_in.weight": (512, 256, 3, 3),
        "decoder.conv_out.weight": (3, 128, 3, 3),
        "quantize.embedding.weight": (1024, 256),
        "quant_conv.weight": (256, 256, 1, 1),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    attention = {key.split(".mixer")[0] for key in state if ".mixer" in key}
    inside = {f"encoder.down.4.attn.{i}" for i in range(2)} | {f"decoder.up.4.attn.{i}" for i in range(3)}
    assert attention == inside | {"encoder.mid.attn_1", "decoder.mid.attn_1"}


def test_the_gumbel_and_segmentation_models_have_the_published_layout() -> None:
    gumbel = full_size(GumbelQuantizer, 8192, **F8)
    state = gumbel.state_dict()
    shapes = {"proj.weight": (8192, 256, 1, 1), "proj.bias": (8192,), "embed.weight": (8192, 256)}
    assert {key: tuple(state[f"quantize.{key}"].shape) for key in shapes} == shapes
    assert len(gumbel.encoder.down) == 4 and gumbel.encoder.factor == 8
    assert list(gumbel.encoder.down[2].attn) == [] and len(gumbel.encoder.down[3].attn) == 2
    labels = full_size(NearestQuantizer, 1024, 182, **F16)
    assert count(labels) == 72_141_699 + 179 * (2 * 9 * 128 + 1)  # first and last convolution, the latter's bias


def test_any_size_that_the_factor_divides_is_encoded_and_others_end_in_a_sentence() -> None:
    network = tiny()
    reconstruction, quantized = network(torch.randn(2, 3, 12, 20))
    assert reconstruction.shape == (2, 3, 12, 20)
    assert quantized.codes.shape == (2, 6, 10) and quantized.z_q.shape == (2, 4, 6, 10)
    with pytest.raises(UserError, match="multiples of 2; 20x13"):
        network(torch.randn(1, 3, 13, 20))
    with pytest.raises(UserError, match="3 channels, not of 1"):
        network(torch.randn(1, 1, 12, 20))


@torch.no_grad()
def test_codes_decode_to_the_reconstruction() -> None:
    network, image = tiny().eval(), torch.randn(2, 3, 16, 16)
    reconstruction, quantized = network(image)
    assert torch.equal(network.codes(image), quantized.codes)
    assert torch.allclose(network.decode(quantized.z_q), reconstruction)
    assert torch.allclose(network.decode_codes(quantized.codes), reconstruction, atol=1e-5)


def test_draws_of_an_image_do_not_depend_on_the_batch() -> None:
    network, image = tiny(quantizer=GumbelQuantizer(num_codes=11, dim=4)), torch.randn(3, 3, 16, 16)
    together = network.codes(image, Rng.of("test", rows=range(3)))
    assert torch.equal(network.codes(image[1:2], Rng.of("test", rows=range(1, 2))), together[1:2])


def test_another_decoder_serves() -> None:
    class Painter(Decoder):
        def __init__(self) -> None:
            super().__init__()
            self.paint = nn.Linear(8, 12)

        @property
        def last_weight(self) -> nn.Parameter:
            return self.paint.weight

        def forward(self, z: Tensor) -> Tensor:
            return nn.functional.pixel_shuffle(self.paint(z.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 2)

    network = tiny(decoder=Painter())
    reconstruction, _ = network(torch.randn(2, 3, 16, 16))
    assert reconstruction.shape == (2, 3, 16, 16) and network.last_weight is network.decoder.paint.weight


def test_another_attention_serves_and_learns_where_it_stands() -> None:
    sites: list[Site] = []

    def attention(site: Site) -> Attention:
        sites.append(site)
        return FullAttention(site)

    options = {"channels": 32, "multipliers": (1, 2), "blocks": 1, "attention_resolutions": (8,)}
    encoder = Encoder(resolution=16, z_channels=8, attention=attention, attention_heads=4, **options)
    assert sites == [Site(64, 4, 8, 0), Site(64, 4, 8, 1)]
    assert encoder(torch.randn(1, 3, 16, 16)).shape == (1, 8, 8, 8)
    with pytest.raises(UserError, match="attention_heads=5"):
        Encoder(resolution=16, attention=attention, attention_heads=5, **options)


def test_both_formulations_of_attention_agree_and_its_weights_are_those_it_uses() -> None:
    attention, x = SpatialAttention(Site(dim=8, heads=1, resolution=6)), torch.randn(2, 5, 6, 8)
    with plain():
        by_definition = attention(x)
    assert torch.allclose(attention(x), by_definition, atol=1e-5)
    queries = torch.tensor([[4, 5], [0, 2]])
    weights = attention.weights(x, queries)
    assert weights.shape == (2, 1, 2, 5, 6)
    assert torch.allclose(weights.sum((3, 4)), torch.ones(2, 1, 2))
    mixed = attention.proj_out(torch.einsum("bnqhw,bhwc->bqc", weights, attention.v(x)))
    assert torch.allclose(mixed, by_definition[:, queries[:, 0], queries[:, 1]], atol=1e-5)
    with pytest.raises(UserError, match="context"):
        SpatialAttention(Site(dim=8, heads=1, resolution=6, context_dim=4))


def test_halving_pads_below_and_to_the_right() -> None:
    down = Down(1)
    nn.init.ones_(down.conv.weight)
    nn.init.zeros_(down.conv.bias)
    assert down(torch.ones(1, 1, 4, 4)).flatten().tolist() == [9, 6, 6, 4]


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"channels": 40}, "multiple of 32"),
        ({"resolution": 12}, "a multiple of 8; 12 is not"),
        ({"multipliers": ()}, "not empty"),
        ({"blocks": 0}, "at least 1"),
    ],
)
def test_widths_and_sizes_that_do_not_fit_end_in_a_sentence(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Encoder(**{"resolution": 32, "channels": 32, "multipliers": (1, 1, 1, 1), **options})


def test_a_decoder_whose_levels_do_not_reach_the_image_ends_in_a_sentence() -> None:
    with pytest.raises(UserError, match="lead from 16 to 32, but the latent map is 8 wide"):
        ConvolutionalDecoder(Latent(8, 8, 32), channels=32, multipliers=(1, 1))
