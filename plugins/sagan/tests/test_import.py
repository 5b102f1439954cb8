"""`zoo import` of a TensorFlow checkpoint's variables, and the image and logits that the run gives."""

from __future__ import annotations

from pathlib import Path

import imports
import numpy as np
import parity
import pytest
import sagan_goldens
import torch
from safetensors.numpy import save_file
from sagan_goldens import Golden

SMALL = {"generator.channels": 8, "discriminator.channels": 8, "data.num_classes": 10}
"""The goldens' configuration, of the recipe imagenet128."""


def with_slots(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What else a training checkpoint holds."""
    slots = {f"{name}/Adam{end}": value * 2 for name, value in variables.items() for end in ("", "_1")}
    counters = {"model/beta1_power": np.float32(0), "model/beta2_power_1": np.float32(0.9), "global_step": np.int64(7)}
    return variables | slots | counters


@pytest.mark.parity
@pytest.mark.parametrize("recipe", ["imagenet128", ""])
def test_a_training_checkpoint_as_npz_draws_the_golden_image(tmp_path: Path, recipe: str) -> None:
    golden = Golden("g_inference")
    file = tmp_path / "sagan.npz"
    np.savez_compressed(file, **with_slots(sagan_goldens.variables()))
    answer, run = imports.run(tmp_path, file, "sagan", recipe, SMALL)
    assert ("fits the recipe imagenet128" in answer.out) == (not recipe)
    assert "fresh" not in answer.out
    with torch.no_grad():
        image = run.generator(golden.tensor("z"), golden.tensor("labels"))
    golden.matches("import", "image", "image", image.permute(0, 2, 3, 1))
    if recipe:
        imports.draws(run, tmp_path)
    golden = Golden("d_forward")
    with torch.no_grad():
        golden.matches("import", "logits", "logits", run.discriminator(golden.images(), golden.tensor("labels")))


@pytest.mark.parity
def test_names_without_their_first_part_and_in_safetensors_do_too(tmp_path: Path) -> None:
    file = tmp_path / "generator.safetensors"
    variables = {name.removeprefix("model/"): value for name, value in sagan_goldens.variables().items()}
    save_file({name: np.asarray(value) for name, value in variables.items() if name.startswith("g_")}, file)
    answer, run = imports.run(tmp_path, file, "sagan", "imagenet128", SMALL)
    assert "The file holds no discriminator: it starts fresh." in answer.out
    golden = Golden("g_inference")
    with torch.no_grad():
        image = run.generator(golden.tensor("z"), golden.tensor("labels"))
    golden.matches("import", "image", "image", image.permute(0, 2, 3, 1))


def test_every_variable_that_does_not_fit_is_named(tmp_path: Path) -> None:
    variables = sagan_goldens.variables()
    del variables["model/g_bn/moving_mean"], variables["model/d_embedding/u"]
    matrix = variables["model/g_snh0/Matrix"]
    variables |= {
        "model/g_snh0/Matrix": matrix.T.copy(),  # which would pass for ours
        "model/g_snconv_last/w": np.zeros((1, 3, 8, 3), np.float32),
        "model/g_block6/cbn_0/beta": np.zeros(3, np.float32),
        "model/d_new/w": np.zeros((2, 2), np.float32),
        "dense.weight": np.zeros((2048, 128), np.float32),  # by our name, not theirs
    }
    file = tmp_path / "sagan.npz"
    np.savez(file, **variables)
    said = imports.refused(tmp_path, file, "sagan", "imagenet128", SMALL)
    for line in (
        "generator: model/g_bn/moving_mean is missing",
        "discriminator: model/d_embedding/u is missing",
        "generator: model/g_snh0/Matrix is missing",
        "generator: model/g_snh0/Matrix [2048, 128] is left over",
        "generator: model/g_snconv_last/w is [1, 3, 8, 3], which does not fit [3, 8, 3, 3]",
        "generator: model/g_block6/cbn_0/beta [3] is left over",
        "discriminator: model/d_new/w [2, 2] is left over",
        "generator: dense.weight (not an official name) [2048, 128] is left over",
    ):
        assert line in said
    assert len(said.splitlines()) == 10


def test_other_sizes_classes_and_recipes_are_sentences(tmp_path: Path) -> None:
    parity.golden("sagan/keys.json")
    file = tmp_path / "sagan.npz"
    np.savez(file, **sagan_goldens.variables())
    assert "does not fit sagan's recipe imagenet128 (128 px)" in imports.refused(
        tmp_path, file, "sagan", "imagenet128", {}
    )
    assert "--set data.num_classes=10" in imports.refused(tmp_path, file, "sagan", "tiny", {})
    modern = imports.refused(tmp_path, file, "sagan", "imagenet128-modern", SMALL)
    assert "has no counterpart in the official SAGAN" in modern
    none = imports.refused(tmp_path, file, "sagan", "", {"data.num_classes": 10})
    assert "fits no recipe of sagan" in none and "imagenet128: " in none
