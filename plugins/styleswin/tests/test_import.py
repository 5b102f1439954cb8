"""`zoo import` of a file in the official layout, and the image that the run draws."""

from __future__ import annotations

import argparse
from pathlib import Path

import imports
import pytest
import torch
from goldens import Case

from zoo_core import parts, recipe
from zoo_styleswin import convert

GENERATOR = {  # the constructor's words -> a recipe's
    "size": "data.resolution",
    "style_dim": "generator.style_dim",
    "n_mlp": "generator.mapping_layers",
    "lr_mlp": "generator.mapping_lr",
    "channel_multiplier": "generator.channel_multiplier",
    "mlp_ratio": "generator.mlp_ratio",
    "enable_full_resolution": "generator.attention.full_resolution",
}


def settings(case: Case) -> dict[str, object]:
    others = {"generator.attention": "windows", "discriminator.max_channels": 16}
    return others | {path: case.meta["ctor"][name] for name, path in GENERATOR.items() if name in case.meta["ctor"]}


def published(**networks: object) -> dict[str, object]:
    """The container of the published files."""
    args = argparse.Namespace(size=32, path="lmdb", lr_mlp=0.01, local_rank=0)
    return {**networks, "g_optim": {"state": {}, "param_groups": [{"lr": 5e-5}]}, "d_optim": {}, "args": args}


@pytest.mark.parity
@pytest.mark.parametrize("name", ["g_s32_win16", "g_s64_thin"])
def test_an_official_file_draws_the_golden_image(tmp_path: Path, name: str) -> None:
    case = Case(f"styleswin/{name}")
    file = tmp_path / "official.pt"
    weights = case.weights("g")
    raw = {key: value + 1 if value.is_floating_point() else value for key, value in weights.items()}
    torch.save(published(g=raw, g_ema=weights), file)
    answer, run = imports.run(tmp_path, file, "styleswin", "ffhq256", settings(case))
    assert "The file holds no discriminator: it starts fresh." in answer.out
    with torch.no_grad():
        case.check("import", "image", "out/image", run.generator(case.array("in/z")))
    assert torch.equal(run.checkpoint.network("generator")["constant"], raw["input.input"])
    if name == "g_s64_thin":
        imports.draws(run, tmp_path)


@pytest.mark.parity
def test_an_official_discriminator_comes_along(tmp_path: Path) -> None:
    drawn, judged = Case("styleswin/g_s32_win16"), Case("styleswin/d_s32_sn")
    file = tmp_path / "official.pt"
    weights = drawn.weights("g")
    torch.save(published(g=weights, g_ema=weights, d=judged.weights("d")), file)
    answer, run = imports.run(
        tmp_path, file, "styleswin", "ffhq256", settings(drawn) | {"discriminator.max_channels": 512}
    )
    assert "fresh" not in answer.out
    with torch.no_grad():
        judged.check("import", "logits", "out/logits_eval", run.discriminator(judged.image()))


@pytest.mark.parametrize("trust", [False, True])
def test_only_the_averaged_weights_serve_both(tmp_path: Path, trust: bool) -> None:
    case = Case("styleswin/g_trunc")
    file = tmp_path / "official.pt"
    weights = {key: value.half() for key, value in case.weights("g").items()}
    torch.save({"g_ema": weights}, file)
    small = {"data.resolution": 16} | settings(case)
    answer, run = imports.run(tmp_path, file, "styleswin", "ffhq256", small, *["--trust-pickle"] * trust)
    assert "holds only averaged weights of the generator" in answer.out
    assert ("runs whatever code" in answer.err) == trust
    own, averaged = run.checkpoint.network("generator"), run.checkpoint.network("generator", averaged=True)
    assert all(torch.equal(own[name], averaged[name]) and own[name].dtype == torch.float32 for name in own)
    assert torch.equal(averaged["constant"], weights["input.input"].float())


def test_every_tensor_that_does_not_fit_is_named(tmp_path: Path) -> None:
    case = Case("styleswin/g_trunc")
    weights = case.weights("g")
    del weights["style.2.bias"]
    weights |= {
        "input.input": torch.zeros(1, 512, 8, 8),
        "to_rgbs.9.bias": torch.zeros(3),
        "layers.0.odd": torch.zeros(2),
    }
    weights["to_rgbs.0.bias"] = weights["to_rgbs.0.bias"].long()
    file = tmp_path / "official.pt"
    torch.save(published(g_ema=weights), file)
    said = imports.refused(tmp_path, file, "styleswin", "ffhq256", settings(case))
    for line in (
        "averaged generator: style.2.bias is missing",
        "averaged generator: input.input is [1, 512, 8, 8], which does not fit [1, 512, 4, 4]",
        "averaged generator: to_rgbs.0.bias holds int64, not floating-point numbers",
        "averaged generator: to_rgbs.9.bias [3] is left over",
        "averaged generator: layers.0.odd [2] is left over",
    ):
        assert line in said


def test_a_file_of_another_resolution_names_what_is_missing(tmp_path: Path) -> None:
    case = Case("styleswin/g_trunc")
    file = tmp_path / "official.pt"
    torch.save(published(g_ema=case.weights("g")), file)
    said = imports.refused(tmp_path, file, "styleswin", "ffhq256", settings(case) | {"data.resolution": 32})
    assert "does not fit styleswin's recipe ffhq256 (32 px)" in said
    assert "layers.3.blocks.0.qkv.weight is missing" in said


def of_recipe(name: str) -> dict[str, object]:
    """A file whose tensors have the names and shapes of a published recipe, and one number each."""
    networks = parts.outline(recipe.load("styleswin", name))
    official = {
        "g_ema": convert.to_official(networks.generator.state_dict(), convert.GENERATOR),
        "d": convert.to_official(networks.discriminator.state_dict(), convert.DISCRIMINATOR),
    }
    return {
        key: {name: torch.ones(1).expand(tensor.shape) for name, tensor in tensors.items()}
        for key, tensors in official.items()
    }


def test_a_published_file_without_a_recipe_names_those_that_it_fits(tmp_path: Path) -> None:
    file = tmp_path / "FFHQ_1024.pt"
    torch.save(of_recipe("ffhq1024"), file)
    said = imports.refused(tmp_path, file, "styleswin", "", {})
    assert "the file fits several recipes, celebahq1024, ffhq1024; name one with --recipe" in said
    said = imports.refused(tmp_path, file, "styleswin", "church256", {})
    assert "does not fit styleswin's recipe church256 (256 px)" in said
    assert "It fits celebahq1024 and ffhq1024: name that with --recipe." in said
