"""`zoo import` of Lightning checkpoints: what the run computes, and what is refused.

The files are made of the goldens' small models, whose weights follow from their official names.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import imports
import lightning
import pytest
import torch
import toys
import vqgan_goldens as goldens
from calls import call
from torch import Tensor
from vqgan_goldens import Golden

from zoo_core import parts, recipe, runs
from zoo_core.runs import Run
from zoo_vqgan.conditions import Label, Unconditional
from zoo_vqgan.convert import first_stage, official_name
from zoo_vqgan.map_autoencoder import LabelAutoEncoder
from zoo_vqgan.permuters import Permuter

SMALL = {
    "generator.channels": 32,
    "generator.multipliers": "[1, 2, 2]",
    "generator.z_channels": 64,
    "generator.quantizer.num_codes": 64,
    "generator.quantizer.embed_dim": 32,
    "generator.prior": "{layers: 2, heads: 4, dim: 64}",
    "data.resolution": 64,
}
"""The goldens' sizes, of any recipe with f = 16."""

CASES = {
    "n2n_class": ("cin", {"data.num_classes": 10}),
    "n2n_uncond": ("imagenet-f16-1024", {"generator.prior.order": "alternate", "generator.prior.start_token": 5}),
    "n2n_coord": ("faceshq", {"generator.condition.num_codes": 64}),
    "n2n_depth": ("drin", {"generator.condition.num_codes": 48}),
}
"""The recipe that each golden model is of, and what else is otherwise there."""


@cache
def _tensors(case: str) -> dict[str, Tensor]:
    keys = [(key, [1] if ".perceptual_loss." in key else shape) for key, shape in goldens.keys(case)]  # not looked at
    return lightning.whole(goldens.weights(keys), keys)


def state_dict(case: str) -> dict[str, Tensor]:
    """All tensors of a golden model, masks and what belongs to its loss among them."""
    state = dict(_tensors(case))
    if case == "n2n_uncond":
        order = Permuter("alternate", 16, 16)
        state |= {"permuter.forward_shuffle_idx": order.table, "permuter.backward_shuffle_idx": order.back}
    return state


def imported(folder: Path, case: str, *more: str) -> tuple[str, Run]:
    """What the command said, and its run."""
    name, changes = CASES[case]
    file = lightning.save(folder / "last.ckpt", state_dict(case))
    found, run = imports.run(folder, file, "vqgan", name, SMALL | changes, *more)
    return found.out, run


# --- the run ---


@pytest.mark.parity
@torch.no_grad()
def test_a_first_stage_reconstructs_and_judges_as_recorded(tmp_path: Path) -> None:
    golden = Golden("vq_small")
    file = lightning.save(tmp_path / "last.ckpt", state_dict("vq_small"))
    found, run = imports.run(tmp_path, file, "vqgan", "imagenet-f16-1024", SMALL)
    image, quantized = run.network("autoencoder")(golden.tensor("x"))
    golden.check("import", "images", "recon", image)
    golden.equal("import", "codes", "indices", quantized.codes)
    golden.check(
        "import", "logits of the discriminator", "disc_logits_real_eval", run.discriminator(golden.tensor("x"))
    )
    for said in (
        f"Left unread, as it is not plain data: {lightning.CONFIGURATION}, {lightning.CALLBACK}.",
        "The file holds nothing of the stage prior: it is still to be trained.",
        "run holds autoencoder, discriminator. Next:\n  zoo train ",
        "--stage prior",
    ):
        assert said in found.out
    assert "zoo sample" not in found.out
    drawn = call(tmp_path, ["sample", "run", "--num", "1"])
    assert drawn.code == 2 and "has no trained prior" in drawn.err


@pytest.mark.parity
@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_a_prior_predicts_as_recorded(tmp_path: Path, case: str) -> None:
    golden = Golden(case)
    said, run = imported(tmp_path, case)
    generator = run.generator
    condition = {
        "n2n_class": lambda: Label(10)(golden.tensor("labels"), 2),
        "n2n_uncond": lambda: Unconditional(5)(None, 2),
        "n2n_coord": lambda: golden.tensor("c_indices"),
        "n2n_depth": lambda: generator.condition.codes(golden.tensor("depth")).flatten(1),
    }[case]()
    codes = golden.tensor("z_indices" if case == "n2n_coord" else "target")
    _, logits = generator.prior(generator.prior.permuter.inverse(codes), condition)
    golden.check("import", "logits of the prior", "logits", logits)
    assert "The file holds no discriminator: it starts fresh." in said and "  zoo sample run --num 64" in said
    if case == "n2n_class":
        images = generator.autoencoder.decode_codes(golden.tensor("greedy_past").view(2, 16, 16))
        golden.check("import", "images", "greedy_image", images)


def test_an_imported_run_draws_and_is_shown(tmp_path: Path) -> None:
    _, run = imported(tmp_path, "n2n_class", "--set", "generator.prior.top_k=8")
    imports.draws(run, tmp_path)
    shown = call(tmp_path, ["show", "run"])
    assert shown.code == 0 and "held: autoencoder, prior" in shown.out
    assert [found.state["stage"] for found in run.checkpoints] == ["autoencoder", "prior"]


def recipe_of(name: str, changes: dict[str, object]) -> recipe.Recipe:
    """As the command line has it."""
    return recipe.load("vqgan", name, [recipe.parse_set(f"{path}={value}") for path, value in changes.items()])


TINY = {
    "data.resolution": 16,
    "generator.channels": 32,
    "generator.multipliers": "[1, 1]",
    "generator.attention_resolutions": "[]",
    "generator.prior": "{layers: 1, heads: 1, dim: 8}",
    "discriminator.layers": 1,
}


def ours_as_official(network: torch.nn.Module) -> dict[str, Tensor]:
    """Our autoencoder's tensors as a VQModel has them."""
    state = {official_name(name): value for name, value in network.state_dict().items()}
    return {
        name: value[..., None, None] if "attn" in name and value.ndim == 2 else value for name, value in state.items()
    }


@pytest.mark.parametrize("kind", ["ema", "gumbel"])
def test_the_prior_is_trained_on_an_imported_first_stage(tmp_path: Path, kind: str) -> None:
    changes = TINY | {
        "generator.quantizer": f"{{kind: {kind}, embed_dim: 64, restart_images: 0}}",
        "train.stages.prior": "{images: 8, batch: 8}",
    }
    autoencoder = parts.build(recipe_of("tiny", changes | {"train.seed": 5})).generator.autoencoder
    file = lightning.save(tmp_path / "last.ckpt", ours_as_official(autoencoder))
    found, _ = imports.run(tmp_path, file, "vqgan", "tiny", changes)
    assert "The file holds no discriminator: it starts fresh." in found.out

    toys.write_pictures(tmp_path / "pics")
    words = [word for path, value in changes.items() for word in ("--set", f"{path}={value}")]
    train = ["train", "--plugin", "vqgan", "--out", "run", "--data", "pics", "--no-measure", "--stage", "prior", *words]
    trained = call(tmp_path, train)
    assert trained.code == 0, trained.err
    after = runs.load(tmp_path / "run", "cpu")
    assert after.step == 1
    kept = after.network("autoencoder").state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in autoencoder.state_dict().items())


def test_without_a_recipe_those_that_a_first_stage_fits_are_named(tmp_path: Path) -> None:
    file = lightning.save(tmp_path / "last.ckpt", state_dict("vq_small"))
    said = imports.refused(tmp_path, file, "vqgan", "", SMALL)
    assert "the file fits several recipes, faceshq-f16, imagenet-f16-1024; name one with --recipe." in said


# --- names ---


def test_the_names_are_the_official_ones() -> None:
    built = parts.outline(recipe_of("drin", SMALL | CASES["n2n_depth"][1]))
    listed = [name for name, _ in goldens.keys("vq_small") if not name.startswith("loss.")]
    assert sorted(map(official_name, built.generator.autoencoder.state_dict())) == sorted(listed)
    judge = [name for name, _ in goldens.keys("vq_small") if name.startswith("loss.discriminator.")]
    assert [f"loss.discriminator.{name}" for name in built.discriminator.state_dict()] == judge
    quantizers = goldens.keys("quantizers")
    for kind, names in (
        ("EMAVectorQuantizer", ["embedding", "cluster_size", "embed_avg"]),
        ("GumbelQuantize", ["proj.weight", "proj.bias", "embed.weight"]),
        ("VectorQuantizer2+remap", ["remap.used", "embedding.weight"]),
    ):
        assert [official_name(f"quantize.{name}") for name in names] == [
            f"quantize.{key}" for key, _ in quantizers[kind]
        ]


def test_the_official_colours_of_labels_have_a_place() -> None:
    network = parts.outline(recipe_of("sflckr", SMALL | {"generator.condition.num_codes": 48})).generator.condition
    assert isinstance(network, LabelAutoEncoder)
    state = first_stage({"colorize": torch.ones(3, 182, 1, 1), "loss.x": torch.ones(1)}, network.state_dict())
    assert list(state) == ["palette.colorize"]


# --- what does not fit ---


def refused(folder: Path, state: dict[str, Tensor], name: str, changes: dict[str, object]) -> str:
    return imports.refused(folder, lightning.save(folder / "last.ckpt", state), "vqgan", name, SMALL | changes)


def test_every_tensor_that_does_not_fit_is_named_as_in_the_file(tmp_path: Path) -> None:
    state = state_dict("vq_small")
    del state["encoder.mid.attn_1.q.bias"], state["loss.discriminator.main.3.running_var"]
    value = state.pop("decoder.up.1.upsample.conv.weight")
    state["decoder.up.1.resample.conv.weight"] = value  # by our name, not theirs
    state["decoder.conv_out.weight"] = torch.zeros(3, 32, 1, 1)
    state["loss.discriminator.main.12.weight"] = state["encoder.extra.weight"] = torch.zeros(2)
    said = refused(tmp_path, state, "imagenet-f16-1024", {})
    for line in (
        "autoencoder: encoder.mid.attn_1.q.bias is missing",
        "autoencoder: decoder.up.1.upsample.conv.weight is missing",
        "autoencoder: decoder.up.1.resample.conv.weight (not an official name) [64, 64, 3, 3] is left over",
        "autoencoder: decoder.conv_out.weight is [3, 32, 1, 1], which does not fit [3, 32, 3, 3]",
        "autoencoder: encoder.extra.weight [2] is left over",
        "discriminator: loss.discriminator.main.3.running_var is missing",
        "discriminator: loss.discriminator.main.12.weight [2] is left over",
    ):
        assert line in said
    assert len(said.splitlines()) == 9


def test_constants_and_the_losses_of_finished_stages_may_be_there_or_not(tmp_path: Path) -> None:
    state = state_dict("n2n_class")
    state = {name: value for name, value in state.items() if not name.endswith(".mask")}
    state["first_stage_model.loss.discriminator.main.0.weight"] = torch.zeros(2)
    file = lightning.save(tmp_path / "last.ckpt", state)
    imports.run(tmp_path, file, "vqgan", "cin", SMALL | CASES["n2n_class"][1])


CODES = {"generator.condition.num_codes": 64}


@pytest.mark.parametrize(
    ("case", "name", "changes", "says"),
    [
        ("n2n_class", "faceshq", CODES, "prior: transformer.pos_emb is [1, 256, 64], which does not fit [1, 512, 64]"),
        ("n2n_class", "cin", {"generator.quantizer.num_codes": 1000}, "first_stage_model.quantize.embedding.weight is"),
        ("n2n_class", "cin", {"generator.prior.order": "alternate"}, "another order than generator.prior.order=alt"),
        ("n2n_uncond", "imagenet-f16-1024", {}, "another order than generator.prior.order=identity"),
        ("n2n_depth", "faceshq", CODES, "it holds a second autoencoder (cond_stage_model), for a map as condition"),
        ("n2n_coord", "drin", CODES, "it holds no second autoencoder (cond_stage_model), for a map as condition"),
        pytest.param(
            *("n2n_class", "imagenet-f16-1024", {"generator.name": "sagan/sagan"}, "which is not this paper's"),
            marks=pytest.mark.skipif(not find_spec("zoo_sagan"), reason="zoo-sagan is not installed"),
        ),
    ],
)
def test_a_checkpoint_of_another_recipe_is_refused(
    tmp_path: Path, case: str, name: str, changes: dict[str, object], says: str
) -> None:
    assert says in refused(tmp_path, state_dict(case), name, {"data.num_classes": 10} | changes)


def test_a_checkpoint_of_another_paper_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "style.pt"
    torch.save({"g_ema": {"style.1.weight": torch.zeros(2, 2)}, "d": {}}, file)
    said = imports.refused(tmp_path, file, "vqgan", "cin", {})
    assert "vqgan cannot use this checkpoint: it holds 'g_ema', a dict" in said
    said = imports.refused(tmp_path, lightning.save(file, {"model.0.weight": torch.zeros(2)}), "vqgan", "cin", {})
    assert 'holds no tensor of a VQGAN, such as "encoder.conv_in.weight"' in said


# --- files that must run nothing ---


class Calls:
    """Pickled as a call of any function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


HOSTILE = {
    "a folder": Calls(os.mkdir, "marker"),
    "a program": Calls(eval, "__import__('os').mkdir('marker')"),
    "in a call": argparse.Namespace(x=Calls(torch.Size, (Calls(os.mkdir, "marker"),))),
    "much memory": Calls(bytearray, 10**12),
    "a large tensor": Calls(torch.Tensor, 10**6, 10**6),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_in_place_of_the_weights_runs_nothing_and_is_refused(tmp_path: Path, what: str) -> None:
    said = imports.refused(
        tmp_path, lightning.save(tmp_path / "hostile.ckpt", HOSTILE[what]), "vqgan", "imagenet-f16-1024", SMALL
    )
    assert "nothing of it was run" in said and "--trust-pickle" in said
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("place", ["a tensor", "a name"])
def test_a_hostile_file_among_the_weights_does_so_too(tmp_path: Path, place: str) -> None:
    hostile = HOSTILE["a folder"]
    state = state_dict("vq_small") | ({"decoder.conv_in.bias": hostile} if place == "a tensor" else {hostile: 1})
    said = imports.refused(
        tmp_path, lightning.save(tmp_path / "hostile.ckpt", state), "vqgan", "imagenet-f16-1024", SMALL
    )
    assert "its state_dict holds" in said and "posix.mkdir" in said and "nothing of it was run" in said
    assert not (tmp_path / "marker").exists()


def test_what_hides_in_a_callback_stays_inert(tmp_path: Path) -> None:
    file = lightning.save(tmp_path / "hostile.ckpt", state_dict("vq_small"), lr_schedulers=list(HOSTILE.values()))
    found, run = imports.run(tmp_path, file, "vqgan", "imagenet-f16-1024", SMALL)
    assert "posix.mkdir" in found.out
    assert not (tmp_path / "marker").exists() and run.step == 0
