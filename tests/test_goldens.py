"""The rules that make the goldens' weights and inputs, against what travels with the goldens."""

from __future__ import annotations

import importlib.util

import numpy as np
import parity
import pytest
import torch
import vqgan_goldens
from goldens import Case
from sagan_goldens import Golden


@pytest.mark.parametrize(
    ("name", "net"), [("styleswin/g_s64_thin", "g"), ("stylenat/d_s32_sn", "d"), ("styleswin/d_s64_eq", "d")]
)
def test_our_rule_of_weights_is_the_goldens_own(name: str, net: str) -> None:
    spec = importlib.util.spec_from_file_location("fill_style", parity.golden("fill_style.py"))
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    case = Case(name)
    wanted = theirs.fill([(key, tuple(shape)) for key, shape, _ in case.keys], net)
    weights = case.weights(net)
    assert len(wanted) > 20
    for key, value in wanted.items():
        assert np.array_equal(weights[key], value), key


@pytest.mark.parametrize("name", ["d_forward", "train_step"])
def test_our_rule_of_sagans_images_gives_the_stored_ones(name: str) -> None:
    golden = Golden(name)
    if "images" not in golden.arrays:
        pytest.skip("the small set of golden numbers does not store the images")
    assert torch.equal(golden.images().permute(0, 2, 3, 1), golden.tensor("images"))


@pytest.mark.parametrize("name", ["styleswin/d_s32_sn", "styleswin/d_s64_eq", "stylenat/d_s32_sn"])
def test_our_rule_of_the_style_papers_images_gives_the_stored_ones(name: str) -> None:
    case = Case(name)
    if "in/image" not in case.data:
        pytest.skip("the small set of golden numbers does not store the images")
    assert torch.equal(case.image(), case.array("in/image"))


@pytest.mark.parametrize("name", vqgan_goldens.INPUTS)
def test_our_rule_of_vqgans_images_gives_the_stored_ones(name: str) -> None:
    file, array = name.split("/")
    stored = vqgan_goldens.Golden(file).arrays
    if array not in stored:
        pytest.skip("the small set of golden numbers does not store the images")
    assert np.allclose(vqgan_goldens.drawn(name), stored[array], rtol=0, atol=1e-6)
