"""HiT as another model's decoder: sizes that follow the latent map, the last layer, what it refuses."""

from __future__ import annotations

import pytest
import torch

from zoo_core.errors import UserError
from zoo_core.interfaces import Latent
from zoo_hit.latent_decoder import LatentDecoder

NARROW = {"channels": {8: 32, 16: 16}, "heads": {8: 2, 16: 2}, "depths": {8: 1, 16: 1}}


def narrow(**options: object) -> LatentDecoder:
    torch.manual_seed(0)
    return LatentDecoder(Latent(6, 8, 16), **NARROW | options)


@pytest.mark.parametrize(
    ("latent", "widths"),
    [
        (Latent(256, 16, 256), [512, 256, 128, 64, 64]),  # the published ones
        (Latent(64, 8, 32), [128, 128, 64]),
        (Latent(4, 8, 16), [32, 32]),
    ],
)
def test_stages_lead_from_the_map_to_the_image_in_widths_that_follow_its_channels(
    latent: Latent, widths: list[int]
) -> None:
    with torch.device("meta"):
        decoder = LatentDecoder(latent)
        image = decoder(torch.empty(2, latent.z_channels, latent.side, latent.side))
    assert image.shape == (2, 3, latent.resolution, latent.resolution)
    assert [stage.position.shape[-1] for stage in decoder.decoder.stages] == widths


def test_every_pixel_of_the_map_reaches_the_whole_image_through_the_cross_attention() -> None:
    decoder = narrow(blocks={8: 0})  # so nothing else mixes pixels
    z = torch.randn(1, 6, 8, 8, requires_grad=True)
    torch.nn.init.normal_(decoder.decoder.stages[1].cross.attention.output.weight)
    (slope,) = torch.autograd.grad(decoder(z)[0, :, -1, -1].sum(), z)
    assert (slope.abs().amax(1) > 0).all()


def test_the_last_weight_is_that_of_the_layer_after_which_only_colours_are_added() -> None:
    decoder = narrow(blocks={8: 0})
    torch.manual_seed(1)
    z = torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        before = decoder(z)
        tokens = {}
        last = decoder.decoder.stages[-1].to_rgb
        handle = last.norm.register_forward_hook(lambda module, given, out: tokens.update(seen=out))
        decoder.last_weight.add_(1)
        moved = decoder(z) - before
        handle.remove()
    expected = tokens["seen"].sum(-1)[:, None].expand_as(moved)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("norm", "alone"), [("layer", True), ("batch", False)])
def test_with_layer_norm_an_image_does_not_depend_on_its_batch(norm: str, alone: bool) -> None:
    decoder, z = narrow(norm=norm).train(), torch.randn(3, 6, 8, 8)
    assert torch.allclose(decoder(z)[:1], decoder(z[:1]), atol=1e-5) is alone


@pytest.mark.parametrize(
    ("latent", "options", "sentence"),
    [
        (Latent(64, 8, 32, out_channels=1), {}, "3 channels, not of 1"),
        (Latent(64, 4, 32), {}, "begins at a map of 8, 16, 32, .. pixels, not of 4"),
        (Latent(64, 24, 96), {}, "not of 24"),
        (Latent(64, 8, 32), {"heads": {8: 3}}, "3 heads do not divide 128 channels at 8 pixels"),
        (Latent(64, 8, 32), {"channels": {5: 32}}, "channels gives side 5"),
    ],
)
def test_what_it_cannot_draw_is_a_sentence(latent: Latent, options: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        LatentDecoder(latent, **options)


def test_a_map_of_another_size_is_a_sentence() -> None:
    with pytest.raises(UserError, match="maps of 8x8 only, not of 16x8"):
        narrow()(torch.zeros(1, 6, 8, 16))
