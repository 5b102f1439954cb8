"""`zoo import` of files in both official layouts, their configuration with them, and the image that the run draws."""

from __future__ import annotations

import argparse
from pathlib import Path

import imports
import pytest
import torch
from goldens import Case
from torch import Tensor

from zoo_core import importing, parts, recipe
from zoo_stylenat.configuration import settings
from zoo_stylenat.convert import generator_to_official

SMALL = {"discriminator.max_channels": 16, "data.resolution": 32}
"""A small discriminator where the file holds none. The discriminator's options are the recipe's, not the file's."""


def container(case: Case, nested: bool = False) -> dict[str, object]:
    """The golden's weights in the layout of its kind: the published files' or the current code's."""
    ctor = case.meta["ctor"]
    weights = case.weights("g")
    raw: dict[str, Tensor] = {key: value + 1 if value.is_floating_point() else value for key, value in weights.items()}
    args = (
        argparse.Namespace(misc={"seed": 0}, generator={"model": dict(ctor)}) if nested else argparse.Namespace(**ctor)
    )
    if ctor["legacy"]:
        return {"g": raw, "g_ema": weights, "g_optim": {"state": {}}, "args": args}
    return {"state_dicts": {"g": raw, "g_ema": weights}, "optim_dicts": {"g_optim": {}}, "lr_dicts": {}, "args": args}


@pytest.mark.parity
@pytest.mark.parametrize(("name", "nested"), [("g_s32_legacy", False), ("g_s64_church", True)])
def test_an_official_file_with_its_configuration_draws_the_golden_image(
    tmp_path: Path, name: str, nested: bool
) -> None:
    case = Case(f"stylenat/{name}")
    file = tmp_path / "official.pt"
    torch.save(container(case, nested), file)
    answer, run = imports.run(tmp_path, file, "stylenat", "ffhq256", {"discriminator.max_channels": 16})
    assert f"data.resolution={case.meta['ctor']['size']}" in answer.out
    with torch.no_grad():
        case.check("import", "image", "out/image", run.generator(case.array("in/z")))
    if nested:
        imports.draws(run, tmp_path)


@pytest.mark.parity
def test_a_file_without_its_configuration_takes_the_recipes(tmp_path: Path) -> None:
    case = Case("stylenat/g_s32_legacy")
    content = container(case)
    del content["args"]
    file = tmp_path / "official.pt"
    torch.save(content, file)
    settings = SMALL | {"generator.style_dim": 64, "generator.mapping_layers": 2}
    answer, run = imports.run(tmp_path, file, "stylenat", "ffhq256", settings)
    assert "configuration" not in answer.out
    with torch.no_grad():
        case.check("import", "image", "out/image", run.generator(case.array("in/z")))


def test_settings_that_contradict_the_files_configuration_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "official.pt"
    torch.save(container(Case("stylenat/g_s32_legacy")), file)
    said = imports.refused(tmp_path, file, "stylenat", "ffhq256", SMALL | {"generator.mapping_layers": 3})
    assert "--set generator.mapping_layers=3 contradicts the file, which says 2" in said
    said = imports.refused(
        tmp_path, file, "stylenat", "ffhq256", {"generator.attention": "{name: hydra, dilations: {16: [1, 1]}}"}
    )
    assert "--set generator.attention.dilations.16=[1, 1] contradicts the file, which says [1, 2]" in said


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"block_type": "swin"}, "only nat"),
        ({"dilations": [[1], ["1"]]}, "dilations that are not a list of whole numbers"),
        ({"kernels": [[3], [7], [5], [7]]}, "kernels differ from level to level"),
        ({"dilations": [[1], [1]]}, "fewer levels"),
        ({"mlp_ratio": {"a": 1}}, "generator.mlp_ratio must be a number"),
        ({"n_mlp": "2"}, "configuration is not what stylenat expects: generator.mapping_layers='2'"),
        ({"style_dim": torch.zeros(2)}, "stylenat cannot make sense of what the file holds"),
    ],
)
def test_a_configuration_that_cannot_be_expressed_is_a_sentence(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    case = Case("stylenat/g_s32_legacy")
    file = tmp_path / "official.pt"
    args = argparse.Namespace(**(case.meta["ctor"] | changes))
    torch.save({"g_ema": {"input.input": torch.zeros(1)}, "args": args}, file)
    assert says in imports.refused(tmp_path, file, "stylenat", "ffhq256", SMALL)


def test_half_a_bias_of_the_published_layout_is_named(tmp_path: Path) -> None:
    case = Case("stylenat/g_s32_legacy")
    content = container(case)
    del content["g_ema"]["layers.1.blocks.0.attn.rpb1"]
    content["g_ema"]["layers.2.blocks.0.attn.rpb0"] = torch.zeros(1).expand(10**12)
    file = tmp_path / "official.pt"
    torch.save(content, file)
    said = imports.refused(tmp_path, file, "stylenat", "ffhq256", SMALL)
    assert "layers.1.blocks.0.attn.rpb0 is [8, 13, 13], which does not fit [16, 13, 13]" in said
    assert "layers.2.blocks.0.attn.rpb0 is [1000000000000]" in said
    assert len(said.splitlines()) == 4


@pytest.mark.parametrize("name", ["ffhq256", "ffhq1024", "church256"])
def test_a_published_configuration_changes_nothing_in_its_recipe(name: str) -> None:
    size = 1024 if name == "ffhq1024" else 256
    args = {"size": size, "channel_multiplier": 2, "min_heads": 4, "kernels": [[3], *[[7]] * 8], "qkv_bias": True}
    args["dilations"] = [[1], [1], *([1, 2 << level] for level in range(7))]
    if name == "church256":
        args |= {"min_heads": 8, "dilations": [[1], *([1 << power for power in range(level)] for level in range(1, 9))]}
    wanted = recipe.load("stylenat", name)
    assert settings(argparse.Namespace(**args), wanted) == {}
    changed = settings(argparse.Namespace(**args), recipe.load("stylenat", "tiny"))
    assert changed["data.resolution"] == size and changed["generator.min_heads"] == args["min_heads"]
    assert settings(None, wanted) == settings([args], wanted) == {}


def test_of_several_recipes_that_fit_the_one_of_the_files_own_size_is_found() -> None:
    """The configuration wins over a recipe, so a file of 256 px fits the recipe for 1024 px too."""
    whole = parts.outline(recipe.load("stylenat", "ffhq256")).generator.state_dict()
    weights = {name: torch.zeros(()).expand(value.shape) for name, value in whole.items()}
    content = {"g_ema": generator_to_official(weights, legacy=True), "args": argparse.Namespace(size=256)}
    assert importing.fitting(content, "stylenat", ["ffhq1024", "ffhq256"], []) == ["ffhq1024", "ffhq256"]
    assert importing.find_recipe(content, "stylenat", []) == "ffhq256"
