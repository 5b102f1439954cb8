"""The first stage against arrays that the official classes computed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch
import vqgan_goldens as goldens
from torch import Tensor, nn
from torch.nn.functional import conv2d, one_hot
from vqgan_goldens import GRADIENT, Golden

from zoo_core.formulation import plain
from zoo_core.interfaces import Latent, Loss
from zoo_core.lpips import LPIPS
from zoo_vqgan.autoencoder import AutoEncoder
from zoo_vqgan.convert import first_stage, official_name
from zoo_vqgan.decoder import ConvolutionalDecoder
from zoo_vqgan.discriminator import PatchDiscriminator
from zoo_vqgan.encoder import Encoder
from zoo_vqgan.quantizers import to_rows
from zoo_vqgan.quantizers.nearest import NearestQuantizer
from zoo_vqgan.stage1_loss import (
    Hinge,
    Judge,
    Vanilla,
    Weights,
    autoencoder_loss,
    discriminator_loss,
    segmentation_loss,
)

pytestmark = pytest.mark.parity

LPIPS_ERROR = 1e-6
"""Absolute: the rule's linear weights have both signs, so that distances are near 0."""

AUTOENCODER, LOSS, DISCRIMINATOR = "autoencoder", "losses of stage 1", "discriminator with batch norm"

PARTS = {"attn": "attention block", "block": "residual block", "downsample": "down-sampling", "upsample": "up-sampling"}
"""What the official name of a module has in it -> its row in the table; others belong to the encoder or the decoder."""


@pytest.fixture(params=["fast", "plain"])
def formulation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test in both formulations."""
    if request.param == "plain":
        with plain():
            yield "plain"
    else:
        yield "fast"


def small(*, labels: int = 3, num_codes: int = 64, z: int = 64, side: int = 64, **options: object) -> AutoEncoder:
    """The goldens' autoencoder; `options` are those of encoder and decoder."""
    options = {"channels": 32, "multipliers": (1, 2, 2), "blocks": 2, "attention_resolutions": (16,), **options}
    encoder = Encoder(resolution=side, in_channels=labels, z_channels=z, **options)
    decoder = ConvolutionalDecoder(Latent(z, side // encoder.factor, side, labels), **options)
    quantizer = NearestQuantizer(num_codes=num_codes, dim=32)
    return AutoEncoder(encoder=encoder, quantizer=quantizer, decoder=decoder, z_channels=z, embed_dim=32)


@cache
def perceptual(case: str, prefix: str) -> LPIPS:
    """LPIPS of the rule's weights."""
    found = goldens.weights(goldens.keys(case), prefix)
    vgg = {re.sub(r"net\.slice\d", "features", key): value for key, value in found.items() if key.startswith("net.")}
    return LPIPS(vgg, found)


def patches(inputs: int = 3, **options: object) -> PatchDiscriminator:
    """A discriminator, for images with conditions as further channels if `inputs` is more than 3."""
    network = PatchDiscriminator(resolution=64, **options)
    if inputs != 3:
        network.main[0] = nn.Conv2d(inputs, 64, 4, stride=2, padding=1)
    return network


def judge(keys: goldens.Keys, prefix: str = "", **options: object) -> PatchDiscriminator:
    """A discriminator of the rule's weights; only integer counters are not in them."""
    network = patches(**options)
    missed = network.load_state_dict(goldens.weights(keys, prefix), strict=False)
    assert not missed.unexpected_keys
    assert all(key.endswith(goldens.UNFILLED) for key in missed.missing_keys)
    return network


class Models:
    """The networks of vq_small."""

    def __init__(self) -> None:
        self.golden = Golden("vq_small")
        keys = goldens.keys("vq_small")
        self.autoencoder = small()
        self.autoencoder.load_state_dict(first_stage(goldens.weights(keys), self.autoencoder.state_dict()))
        self.lpips = perceptual("vq_small", "loss.perceptual_loss.")
        self.discriminator = judge(keys, "loss.discriminator.")
        self.x = self.golden.tensor("x")


@torch.no_grad()
def test_the_autoencoder_in_evaluation(formulation: str) -> None:
    models = Models()
    golden, autoencoder, x = models.golden, models.autoencoder.eval(), models.x
    taken: dict[str, Tensor] = {}
    names = {name: re.sub("(down|up)sample", "resample", name) for name in golden.names("act:")}
    for name, ours in names.items():
        autoencoder.get_submodule(ours.removeprefix("act:")).register_forward_hook(
            lambda module, arguments, output, key=name: taken.__setitem__(key, output)
        )
    reconstruction, quantized = autoencoder(x)
    assert len(names) == 12
    for name in names:
        row = next((row for part, row in PARTS.items() if part in name), name[len("act:") :].split(".")[0])
        golden.check(row, "activations", name, taken[name])
    golden.check("encoder", "latent maps", "enc_out", autoencoder.encoder(x))
    golden.check("convolutions around the quantizer", "latent maps", "prequant", autoencoder.latent(x))
    golden.equal(AUTOENCODER, "codes", "indices", quantized.codes)
    rows, vectors = to_rows(autoencoder.latent(x)).double(), autoencoder.quantize.codebook.double()
    nearest, second = torch.cdist(rows, vectors).square().topk(2, largest=False).values.unbind(1)
    margins = (second - nearest).view(2, 256)
    golden.check(AUTOENCODER, "margins of codes", "index_margin", margins)
    golden.check(AUTOENCODER, "margins of codes", "index_margin_min", margins.min(), absolute=True)
    golden.check(AUTOENCODER, "quantizer's loss", "qloss", quantized.loss)
    golden.check(AUTOENCODER, "quantized maps", "quant", quantized.z_q)
    golden.check(AUTOENCODER, "images", "recon", reconstruction)

    reconstruction, quantized = autoencoder(golden.tensor("x_nonsquare"))
    golden.equal(AUTOENCODER, "codes", "nonsquare_indices", quantized.codes)
    golden.check(AUTOENCODER, "quantizer's loss", "nonsquare_qloss", quantized.loss)
    golden.check(AUTOENCODER, "images", "nonsquare_recon", reconstruction)
    codes = golden.tensor("codes").view(1, 16, 24)
    golden.check(AUTOENCODER, "images of given codes", "decode_codes", autoencoder.decode_codes(codes))


@torch.no_grad()
def test_distances_and_logits_of_a_reconstruction() -> None:
    models = Models()
    golden, x = models.golden, models.x
    autoencoder, discriminator = models.autoencoder.eval(), models.discriminator.eval()
    reconstruction, _ = autoencoder(x)
    distances = {
        "lpips": models.lpips(x, reconstruction),
        "lpips_self_flip": models.lpips(x, x.flip(3)),
        "lpips_dropout_seed0": models.lpips(x, reconstruction, torch.Generator().manual_seed(0)),
    }
    for name, ours in distances.items():
        golden.check("LPIPS", "distances", name, ours, LPIPS_ERROR, absolute=True)
    real, fake = discriminator(x), discriminator(reconstruction)
    golden.check(DISCRIMINATOR, "logits", "disc_logits_real_eval", real)
    golden.check(DISCRIMINATOR, "logits", "disc_logits_fake_eval", fake)
    golden.check(LOSS, "discriminator's loss", "hinge", Hinge().discriminator(real, fake))
    golden.check(LOSS, "discriminator's loss", "vanilla", Vanilla().discriminator(real, fake))
    golden.check(DISCRIMINATOR, "logits", "disc_logits_real_trainmode", discriminator.train()(x))


def test_three_training_steps() -> None:
    models = Models()
    golden, x = models.golden, models.x
    autoencoder, discriminator = models.autoencoder.train(), models.discriminator.train()
    optimizers = [
        torch.optim.Adam(network.parameters(), lr=9e-6, betas=(0.5, 0.9)) for network in (autoencoder, discriminator)
    ]
    named = {official_name(name): parameter for name, parameter in autoencoder.named_parameters()}
    judged = {f"loss.discriminator.{key}": value for key, value in discriminator.named_parameters()}
    for step in range(3):
        reconstruction, quantized = autoencoder(x)
        factor = float(step >= 1)
        with nullcontext() if factor else plain():  # the fast formulation leaves out a weight that counts for nothing
            given = {"last_weight": autoencoder.last_weight, "judge": discriminator, "loss": Hinge(), "factor": factor}
            given |= {"distance": models.lpips, "weights": Weights(adversarial=0.8)}
            loss = autoencoder_loss(x, reconstruction, quantized.loss, **given)
        optimizers[0].zero_grad()
        loss.total.backward(inputs=list(autoencoder.parameters()))
        check_terms(golden, f"s{step}", loss.terms | {"factor": torch.tensor(factor)})
        check_gradients(golden, f"s{step}:G", named, AUTOENCODER)
        if step == 0:
            every = torch.stack([parameter.grad.norm() for parameter in autoencoder.parameters()]).norm()
            golden.check(AUTOENCODER, "gradients", "s0:G:gradnorm_total_autoencoder", every, GRADIENT)
            last, table = named["decoder.conv_out.weight"], named["quantize.embedding.weight"]
            golden.check(AUTOENCODER, "gradients", "s0:G:grad:decoder.conv_out.weight", last.grad, GRADIENT)
            golden.check(AUTOENCODER, "gradients", "s0:G:grad:quantize_or_quant_conv", table.grad, GRADIENT)
        optimizers[0].step()

        with torch.no_grad():
            reconstruction, _ = autoencoder(x)
        optimizers[1].zero_grad()
        check_discriminator_loss(golden, f"s{step}", discriminator, x, reconstruction, loss=Hinge(), factor=factor)
        check_gradients(golden, f"s{step}:D", judged, DISCRIMINATOR)
        optimizers[1].step()

    state = {f"loss.discriminator.{key}": value for key, value in discriminator.state_dict().items()}
    for name in golden.names("after:loss."):
        ours = state[name.removeprefix("after:")]
        if name.endswith("num_batches_tracked"):
            golden.equal(DISCRIMINATOR, "counters after three steps", name, ours)
        else:
            golden.check(DISCRIMINATOR, "state after three steps", name, ours, GRADIENT)
    with torch.no_grad():
        reconstruction, quantized = autoencoder.eval()(x)
    after = "state after three steps"
    golden.check(AUTOENCODER, after, "after:decoder.conv_out.weight", autoencoder.last_weight, GRADIENT)
    golden.check(AUTOENCODER, after, "after:recon", reconstruction, GRADIENT)
    golden.check(AUTOENCODER, after, "after:qloss", quantized.loss, GRADIENT)
    golden.all_checked("s")
    golden.all_checked("after:")


TERMS = {
    "aeloss": "total",
    "loss": "total",
    "train/total_loss": "total",
    "train/quant_loss": "quantizer",
    "train/nll_loss": "nll",
    "train/rec_loss": "nll",  # its mean is that of nll: the perceptual term is in it
    "train/p_loss": "perceptual",
    "train/d_weight": "adaptive_weight",
    "train/disc_factor": "factor",
    "train/g_loss": "adversarial",
}
"""Official names of what is logged -> ours."""


def check_terms(golden: Golden, prefix: str, terms: Mapping[str, Tensor]) -> None:
    """Every logged value; the adaptive weight is a ratio of gradients, the perceptual one may be about 0."""
    for theirs, ours in TERMS.items():
        name = f"{prefix}:{theirs}"
        if name not in golden.arrays:
            continue
        if ours == "perceptual":
            value = terms.get(ours, torch.zeros(()))
            golden.check(LOSS, "perceptual term", name, value, LPIPS_ERROR, absolute=True)
        else:
            tolerance = GRADIENT if ours == "adaptive_weight" else goldens.OUTPUT
            golden.check("adaptive weight" if tolerance == GRADIENT else LOSS, "terms", name, terms[ours], tolerance)


def check_gradients(golden: Golden, prefix: str, parameters: Mapping[str, nn.Parameter], module: str) -> None:
    names = golden.names(f"{prefix}:gradnorm:")
    assert names
    for name in names:
        parameter = parameters[name.removeprefix(f"{prefix}:gradnorm:")]
        golden.check(module, "gradients", name, parameter.grad.norm(), GRADIENT)


def check_discriminator_loss(
    golden: Golden, prefix: str, discriminator: Judge, real: Tensor, fake: Tensor, *, loss: Loss, factor: float
) -> None:
    """The loss and the logits of the discriminator's phase; leaves gradients."""
    logits_real, logits_fake = discriminator(real), discriminator(fake)
    total = discriminator_loss(logits_real, logits_fake, loss=loss, factor=factor)
    total.backward()
    names = [f"{prefix}:{name}" for name in ("dloss", "discloss", "train/disc_loss")]
    for name in [name for name in names if name in golden.arrays]:
        golden.check(LOSS, "discriminator's loss", name, total)
    golden.check(LOSS, "mean logits", f"{prefix}:train/logits_real", logits_real.mean())
    golden.check(LOSS, "mean logits", f"{prefix}:train/logits_fake", logits_fake.mean())


@dataclass(frozen=True)
class Variant:
    """One setting of loss_small."""

    start: int = 0
    factor: float = 1.0
    loss: Loss = field(default_factory=Hinge)
    weights: Weights = field(default_factory=Weights)
    perceptual: bool = True
    discriminator: dict[str, int] = field(default_factory=dict)


VARIANTS = {
    "hinge": Variant(),
    "vanilla_n2_w075": Variant(
        loss=Vanilla(), weights=Weights(perceptual=0.5, quantizer=2.0, adversarial=0.75), discriminator={"layers": 2}
    ),
    "factor05": Variant(factor=0.5, weights=Weights(adversarial=0.8)),
    "noperc": Variant(start=5, perceptual=False),
    "cond": Variant(discriminator={"inputs": 5}),
}


def test_the_composed_loss(formulation: str) -> None:
    golden = Golden("loss_small")
    x, features, condition = (golden.tensor(name) for name in ("x", "f", "cond"))
    weight = goldens.fill("loss_small.last", (3, 8, 3, 3))
    golden.equal(LOSS, "the rule's last weight", "w", weight)
    lpips = perceptual("loss_small", "perceptual_loss.")
    for name, variant in VARIANTS.items():
        discriminator = judge(discriminator_keys(**variant.discriminator), "discriminator.", **variant.discriminator)

        def judged(image: Tensor, judge: nn.Module = discriminator, conditional: bool = name == "cond") -> Tensor:
            return judge(torch.cat([image, condition], 1) if conditional else image)

        for step in (0, 5):
            prefix, last = f"{name}:gs{step}", weight.clone().requires_grad_()
            reconstruction = conv2d(features, last, padding=1)
            factor = variant.factor if step >= variant.start else 0.0
            given = {"last_weight": last, "judge": judged, "loss": variant.loss, "factor": factor}
            given |= {"distance": lpips if variant.perceptual else None, "weights": variant.weights}
            loss = autoencoder_loss(x, reconstruction, torch.tensor(0.37), **given)
            terms = loss.terms
            if factor == 0:  # the fast formulation leaves out a weight that counts for nothing
                with plain():
                    terms = autoencoder_loss(x, reconstruction, torch.tensor(0.37), **given).terms | terms
            loss.total.backward(inputs=[last])
            check_terms(golden, prefix, terms | {"factor": torch.tensor(factor)})
            golden.check(LOSS, "gradients", f"{prefix}:grad_w", last.grad, GRADIENT)
            pair = x, reconstruction.detach()
            check_discriminator_loss(golden, prefix, judged, *pair, loss=variant.loss, factor=factor)
    golden.all_checked(inputs=("x", "f", "cond"))


def discriminator_keys(**options: int) -> list[tuple[str, list[int]]]:
    """The keys of a variant's discriminator, which are the official ones; the file has only the conditional one's."""
    state = patches(**options).state_dict()
    return [(f"discriminator.{key}", list(value.shape)) for key, value in state.items()]


def test_the_autoencoder_of_label_maps() -> None:
    golden, keys = Golden("seg_small"), goldens.keys("seg_small")
    autoencoder = small(labels=12, num_codes=32, z=32, side=32, multipliers=(1, 2), blocks=2)
    state = first_stage(goldens.weights(keys), autoencoder.state_dict())
    del state["colorize"]  # see LabelColours
    autoencoder.load_state_dict(state)
    one_hot_labels = one_hot(golden.tensor("labels"), 12).permute(0, 3, 1, 2).float()
    reconstruction, quantized = autoencoder(one_hot_labels)
    loss = segmentation_loss(reconstruction, one_hot_labels, quantized.loss)
    loss.total.backward()
    module = "autoencoder of label maps"
    for name, ours in {"loss": "total", "bce": "cross_entropy", "qloss": "quantizer"}.items():
        golden.check(module, "terms", name, loss.terms[ours])
    golden.check(module, "logits", "recon", reconstruction)
    golden.equal(module, "codes", "indices", quantized.codes)
    named = {official_name(name): parameter for name, parameter in autoencoder.named_parameters()}
    for name in golden.names("gradnorm:"):
        golden.check(module, "gradients", name, named[name.removeprefix("gradnorm:")].grad.norm(), GRADIENT)
    golden.all_checked(inputs=["labels", "to_rgb"])
