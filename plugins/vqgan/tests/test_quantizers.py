"""Quantizers: what they answer, what moves them, and how close they are to the official classes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import vqgan_goldens as goldens
from torch import Tensor
from vqgan_goldens import GRADIENT, Golden

from zoo_core.errors import UserError
from zoo_core.formulation import plain
from zoo_core.rng import Rng
from zoo_vqgan.quantizers import Quantized, Quantizer, nearest
from zoo_vqgan.quantizers.ema import MovingAverageQuantizer
from zoo_vqgan.quantizers.gumbel import GumbelQuantizer, gumbel_noise
from zoo_vqgan.quantizers.nearest import NearestQuantizer, nearest_codes
from zoo_vqgan.quantizers.remap import Remap
from zoo_vqgan.quantizers.usage import Usage, count, restart_dead

NEAREST = "quantizer by nearest neighbour"
ROWS = {"v2_fixed": f"{NEAREST}, beta as in the paper", "v1": f"{NEAREST}, version 1"}
"""Rows of the table for the cases that have one of their own."""
GUMBEL, AVERAGES, REMAPPED = "quantizer of Gumbel", "quantizer by moving averages", "remapped codes"


def rng(batch: int = 2) -> Rng:
    return Rng.of("test", rows=range(batch))


def built(official: str, quantizer: Quantizer) -> Quantizer:
    """A quantizer of the goldens' weights."""
    state = goldens.weights(goldens.keys("quantizers")[official])
    quantizer.load_state_dict(state, strict=quantizer.remap is None)
    return quantizer


def objective(quantized: Quantized, loss_weight: float = 1.0) -> Tensor:
    """The scalar whose gradients the goldens hold."""
    up = goldens.image("vqgan/quant/up", (2, 16, 8, 6))
    return loss_weight * quantized.loss + 0.01 * (quantized.z_q * up).sum()


def inputs(golden: Golden) -> Tensor:
    z = 0.6 * goldens.image("vqgan/quant/z", (2, 16, 8, 6))
    assert torch.allclose(z, golden.tensor("z"), atol=1e-7)
    return z.requires_grad_()


def check(golden: Golden, row: str, case: str, quantized: Quantized) -> None:
    golden.check(row, "quantized maps", f"{case}:zq", quantized.z_q)
    golden.check(row, "losses", f"{case}:loss", quantized.loss)
    golden.equal(row, "codes", f"{case}:indices", quantized.codes)
    assert quantized.codes.shape == (2, 8, 6)


@pytest.fixture(params=["fast", "chunked", "plain"])
def formulation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the test in each way to find the nearest code."""
    if request.param == "chunked":
        monkeypatch.setattr(nearest, "CHUNK_ELEMENTS", 100)
    if request.param == "plain":
        with plain():
            yield
    else:
        yield


@pytest.mark.parity
@pytest.mark.usefixtures("formulation")
@pytest.mark.parametrize("case, legacy", [("v2_legacy", True), ("v2_fixed", False), ("v1", True), ("v2_sane", True)])
def test_the_nearest_quantizer_is_the_official_one(case: str, legacy: bool) -> None:
    golden = Golden("quantizers")
    quantizer = built("VectorQuantizer2", NearestQuantizer(num_codes=48, dim=16, legacy=legacy))
    z, row = inputs(golden), ROWS.get(case, NEAREST)
    quantized = quantizer(z)
    objective(quantized).backward()
    check(golden, row, case, quantized)
    golden.check(row, "gradients", f"{case}:grad_z", z.grad, GRADIENT)
    golden.check(row, "gradients", f"{case}:grad_emb", quantizer.codebook.grad, GRADIENT)
    if case == "v1":
        perplexity = Usage(count(quantized.codes, 48)).perplexity
        golden.check(row, "perplexity", "v1:perplexity", torch.tensor(perplexity))
    golden.all_checked(f"{case}:")


@pytest.mark.parity
@pytest.mark.parametrize("case, unknown", [("remap_extra", "extra"), ("remap_int", None)])
def test_remapping_is_the_official_one(case: str, unknown: str | None) -> None:
    golden = Golden("quantizers")
    used = golden.tensor("remap_used")
    if unknown is None:
        plainly = built("VectorQuantizer2", NearestQuantizer(num_codes=48, dim=16))(inputs(golden)).codes.flatten()
        outside = ~torch.isin(plainly, used)
        (fixed,) = golden.tensor("remap_int:indices").flatten()[outside].unique().tolist()
        unknown = fixed
    remap = Remap(used, 48, unknown)
    quantizer = built("VectorQuantizer2", NearestQuantizer(num_codes=48, dim=16, remap=remap))
    codes = quantizer(inputs(golden)).codes
    golden.equal(REMAPPED, "codes", f"{case}:indices", codes)
    golden.equal(REMAPPED, "codes", f"{case}:re_embed", torch.tensor(quantizer.vocabulary))
    golden.equal(REMAPPED, "codes", f"{case}:unmapped", remap.to_all(codes))
    golden.check(REMAPPED, "entries", f"{case}:entry", quantizer.entry(codes))
    golden.all_checked(f"{case}:")


@pytest.mark.parity
@pytest.mark.parametrize("case", ["gumbel_hard", "gumbel_soft"])
def test_the_gumbel_quantizer_is_the_official_one(case: str) -> None:
    golden = Golden("quantizers")
    quantizer = GumbelQuantizer(num_codes=48, dim=16, temperature=0.9, hard=case == "gumbel_hard")
    built("GumbelQuantize", quantizer).train()
    z = inputs(golden)
    logits = quantizer.logits(z)
    quantized = quantizer.choose(logits, golden.tensor("gumbel_noise"))
    objective(quantized, 100.0).backward()
    check(golden, GUMBEL, case, quantized)
    golden.check(GUMBEL, "logits", f"{case}:logits", logits)
    golden.check(GUMBEL, "gradients", f"{case}:grad_z", z.grad, GRADIENT)
    golden.check(GUMBEL, "gradients", f"{case}:grad_emb", quantizer.embed.weight.grad, GRADIENT)
    golden.check(GUMBEL, "gradients", f"{case}:grad_proj", quantizer.proj.weight.grad, GRADIENT)
    golden.check(GUMBEL, "entries", "gumbel_entry", quantizer.entry(quantized.codes))
    golden.all_checked(f"{case}:")


@pytest.mark.parity
def test_the_moving_average_quantizer_is_the_repaired_official_one() -> None:
    golden = Golden("quantizers")
    names = {"embedding.weight": "embedding", "embedding.cluster_size": "cluster_size"}
    names["embedding.embed_avg"] = "embed_avg"
    state = goldens.weights(goldens.keys("quantizers")["EMAVectorQuantizer"])
    state = {ours: state[theirs] for theirs, ours in names.items()}
    state["cluster_size"] = golden.tensor("ema:cluster_size0")
    state["embed_avg"] = state["embedding"] * state["cluster_size"][:, None]
    quantizer = MovingAverageQuantizer(num_codes=48, dim=16)
    quantizer.load_state_dict(state)
    for step in range(2):
        case, z = f"ema:s{step}", inputs(golden)
        quantized = quantizer(z)
        quantized.loss.backward()
        check(golden, AVERAGES, case, quantized)
        perplexity = Usage(count(quantized.codes, 48)).perplexity
        golden.check(AVERAGES, "perplexity", f"{case}:perplexity", torch.tensor(perplexity))
        golden.check(AVERAGES, "gradients", f"{case}:grad_z", z.grad, GRADIENT)
        golden.check(AVERAGES, "moving averages", f"{case}:weight", quantizer.embedding)
        golden.check(AVERAGES, "moving averages", f"{case}:cluster_size", quantizer.cluster_size)
        golden.check(AVERAGES, "moving averages", f"{case}:embed_avg", quantizer.embed_avg)
    golden.all_checked("ema:", inputs=["ema:cluster_size0"])


@pytest.mark.usefixtures("formulation")
def test_of_equally_near_codes_the_first_is_taken() -> None:
    codebook = torch.tensor([[5.0, 5.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    rows = torch.tensor([[0.0, 2.0], [2.0, 0.0], [1.0, 1.0], [9.0, 9.0]]).repeat(50, 1)
    assert nearest_codes(rows, codebook).tolist() == [2, 1, 1, 0] * 50


@pytest.mark.parametrize("kind", [NearestQuantizer, MovingAverageQuantizer])
def test_gradients_pass_straight_through_to_the_encoder(kind: type[Quantizer]) -> None:
    z, up = torch.randn(2, 4, 3, 3, requires_grad=True), torch.randn(2, 4, 3, 3)
    quantized = kind(num_codes=7, dim=4)(z)
    (quantized.z_q * up).sum().backward()
    assert torch.equal(z.grad, up)


def test_the_corrected_beta_stands_on_the_term_of_the_encoder() -> None:
    slopes = {}
    for legacy in (True, False):
        z = torch.ones(1, 2, 1, 1, requires_grad=True)
        quantizer = NearestQuantizer(num_codes=3, dim=2, beta=0.25, legacy=legacy)
        quantizer(z).loss.backward()
        slopes[legacy] = float(z.grad.norm() / quantizer.codebook.grad.norm())
    assert slopes[True] == pytest.approx(4.0) and slopes[False] == pytest.approx(0.25)


def test_entries_are_what_the_decoder_was_given() -> None:
    quantizer = NearestQuantizer(num_codes=9, dim=4)
    quantized = quantizer(torch.randn(2, 4, 3, 5))
    assert torch.allclose(quantizer.entry(quantized.codes), quantized.z_q, atol=1e-6)


@pytest.mark.parametrize(
    "codes", [torch.tensor([[[9]]]), torch.tensor([[[-1]]]), torch.zeros(1, 1, 1), torch.tensor([1, 2])]
)
def test_codes_that_are_none_end_in_a_sentence(codes: Tensor) -> None:
    with pytest.raises(UserError, match="codes must be"):
        NearestQuantizer(num_codes=9, dim=4).entry(codes)


def test_a_remap_reads_its_file_and_goes_back(tmp_path: Path) -> None:
    np.save(tmp_path / "used.npy", np.array([7, 2, 5]))
    codes = torch.tensor([[[2, 5], [7, 0]]])
    extra = Remap.load(tmp_path / "used.npy", 9, "extra")
    assert extra.to_used(codes).tolist() == [[[1, 2], [0, 3]]] and extra.vocabulary == 4
    assert extra.to_all(extra.to_used(codes)).tolist() == [[[2, 5], [7, 7]]]
    assert Remap.load(tmp_path / "used.npy", 9, 1).to_used(codes).tolist() == [[[1, 2], [0, 1]]]
    with torch.device("meta"):  # an outline of a network has no numbers, but the same checks
        assert Remap.load(tmp_path / "used.npy", 9).vocabulary == 3


def test_unknown_codes_become_random_ones_by_the_image() -> None:
    remap, codes = Remap([1, 2, 3], 9, "random"), torch.zeros(4, 8, 8, dtype=torch.long)
    found = remap.to_used(codes, rng(4))
    assert found.unique().tolist() == [0, 1, 2] and remap.vocabulary == 3
    assert torch.equal(remap.to_used(codes[1:2], Rng.of("test", rows=range(1, 2))), found[1:2])


@pytest.mark.parametrize("used, unknown", [([1, 1], "random"), ([1, 9], "random"), ([], "extra"), ([1, 2], "last")])
def test_a_bad_remap_ends_in_a_sentence(used: list[int], unknown: str) -> None:
    with pytest.raises(UserError):
        Remap(used, 9, unknown)


def test_a_remap_that_is_no_array_ends_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "used.npy").write_text("1 2 3")
    with pytest.raises(UserError, match="cannot be read"):
        Remap.load(tmp_path / "used.npy", 9)


def test_gumbel_noise_is_gumbel_noise() -> None:
    noise = gumbel_noise(rng(4), 50000)
    assert torch.isfinite(noise).all()
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, rel=0.02)


def test_gumbel_draws_in_training_and_reconstructs_the_same_in_evaluation() -> None:
    z = torch.randn(2, 4, 6, 6)
    quantizer = GumbelQuantizer(num_codes=32, dim=4)
    assert not torch.equal(quantizer(z, Rng.of(1, rows=range(2))).codes, quantizer(z, Rng.of(2, rows=range(2))).codes)
    assert torch.equal(quantizer(z, rng()).z_q, quantizer(z, rng()).z_q)
    quantizer.eval()
    quantized = quantizer(z)
    assert torch.equal(quantized.codes, quantizer.logits(z).argmax(1))
    assert torch.equal(quantized.z_q, quantizer.entry(quantized.codes))


def test_with_a_remap_gumbel_chooses_among_the_used_codes() -> None:
    quantizer = GumbelQuantizer(num_codes=32, dim=4, remap=Remap([3, 30], 32))
    quantized = quantizer(torch.randn(2, 4, 6, 6), rng())
    assert quantized.codes.unique().tolist() == [0, 1]
    assert torch.allclose(quantized.z_q, quantizer.entry(quantized.codes), atol=1e-6)


def test_moving_averages_move_only_in_training_and_where_they_are_not_held() -> None:
    z, quantizer = torch.randn(4, 3, 5, 5), MovingAverageQuantizer(num_codes=6, dim=3)
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    quantizer.eval()(z)
    with quantizer.train().held():
        quantizer(z)
    assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())
    quantizer(z)
    assert not any(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())


def test_usage_tells_share_perplexity_and_dead_codes() -> None:
    usage = Usage(count(torch.tensor([[0, 0], [1, 1]]), 4))
    assert usage.share == 0.5 and usage.dead.tolist() == [False, False, True, True]
    assert usage.perplexity == pytest.approx(2.0)


@pytest.mark.parametrize("kind", [NearestQuantizer, MovingAverageQuantizer])
def test_dead_codes_restart_at_vectors_of_the_batch(kind: type[Quantizer]) -> None:
    quantizer, z = kind(num_codes=8, dim=3), 10 + torch.randn(2, 3, 4, 4)
    before = quantizer.codebook.detach().clone()
    dead = torch.tensor([True] * 5 + [False] * 3)
    assert restart_dead(quantizer, dead, z, rng()) == 5
    rows = z.permute(0, 2, 3, 1).flatten(0, 2)
    assert all((row == rows).all(1).any() for row in quantizer.codebook[:5])
    assert torch.equal(quantizer.codebook[5:], before[5:])
    assert restart_dead(quantizer, torch.zeros(8) > 0, z, rng()) == 0


def test_gumbel_codes_cannot_restart() -> None:
    with pytest.raises(UserError, match="cannot restart"):
        restart_dead(GumbelQuantizer(num_codes=4, dim=3), torch.ones(4) > 0, torch.randn(2, 3, 2, 2), rng())
