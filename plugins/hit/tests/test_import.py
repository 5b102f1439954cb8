"""`zoo import` of a TensorFlow object-based checkpoint, and the image that the run draws."""

from __future__ import annotations

from pathlib import Path

import imports
import numpy as np
import pytest
import torch
from hit_goldens import arrays, keys, stored_part, variables
from parity import note, peak_error

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
SMALL = {  # the golden case g_tiny32
    "data.resolution": 32,
    "generator.latent_dim": 16,
    "generator.channels": {8: 32, 16: 32, 32: 16},
    "generator.heads": {8: 4, 16: 4, 32: 2},
    "generator.blocks": {8: 4, 16: 4, 32: 0},
    "generator.depths": {8: 2, 16: 1, 32: 1},
    "discriminator.channels": {4: 16, 8: 16, 16: 16, 32: 16},
}


def checkpoint(average: bool = False) -> dict[str, np.ndarray]:
    """The golden weights as a training checkpoint has them: the raw ones, or as the average beside other raw ones."""
    weights = {key: value.numpy() for key, value in variables(keys("g_tiny32")).items()}
    found = {f"{name}{SUFFIX}": value + 1 if average else value for name, value in weights.items()}
    if average:
        found |= {f"ema_{name}{SUFFIX}": value for name, value in weights.items()}
    slots = {f"{name}/.OPTIMIZER_SLOT/generator_optim/m{SUFFIX}": value for name, value in weights.items()}
    return found | slots | {f"save_counter{SUFFIX}": np.int64(3), f"generator_optim/iter{SUFFIX}": np.int64(200)}


@pytest.mark.parity
@pytest.mark.parametrize("average", [False, True])
def test_a_training_checkpoint_as_npz_draws_the_golden_image(tmp_path: Path, average: bool) -> None:
    file = tmp_path / "hit.npz"
    np.savez(file, **checkpoint(average))
    answer, run = imports.run(tmp_path, file, "hit", "imagenet128", SMALL)
    assert "The file holds no discriminator: it starts fresh." in answer.out
    recorded = arrays("g_tiny32")
    with torch.no_grad():
        image = run.generator(torch.from_numpy(recorded["z"])).permute(0, 2, 3, 1)
    ours = stored_part(recorded, "infer_image", image)
    note("hit: import", "g_tiny32", "image", peak_error(ours, recorded["infer_image"]), 1e-4)
    # A file's average is kept by training that goes on: it does not begin as a copy of the raw weights.
    assert (run.recipe.train.averages["generator"].start_images == 0) == average
    if average:
        imports.draws(run, tmp_path)


def test_every_variable_that_does_not_fit_is_named(tmp_path: Path) -> None:
    content = checkpoint()
    del content[f"generator/dense_layer/layer_with_weights-0/bias{SUFFIX}"]
    content |= {
        f"generator/position_embeddings/0/embedding_weight{SUFFIX}": np.zeros((1, 4, 4, 32), np.float32),
        f"generator/blocks/9/kernel{SUFFIX}": np.zeros(3, np.float32),
    }
    file = tmp_path / "hit.npz"
    np.savez(file, **content)
    said = imports.refused(tmp_path, file, "hit", "imagenet128", SMALL)
    for line in (
        "generator: generator/dense_layer/layer_with_weights-0/bias is missing",
        "generator: generator/position_embeddings/0/embedding_weight is [1, 4, 4, 32], which does not fit",
        "generator: generator/blocks/9/kernel [3] is left over",
    ):
        assert line in said
    assert len(said.splitlines()) == 5
