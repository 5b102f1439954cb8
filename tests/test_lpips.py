"""LPIPS: where its weights may come from, and that it is never random."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from zoo_core import lpips
from zoo_core.errors import UserError
from zoo_core.lpips import LPIPS, TAPS, load_lpips

Weights = tuple[dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture(scope="module")
def weights() -> Weights:
    """VGG16 and linear layers in the layout of their files, with numbers that stay in range."""
    torch.manual_seed(0)
    vgg = {}
    for key, value in lpips._features().state_dict().items():
        vgg[f"features.{key}"] = torch.randn_like(value) / value[0].numel() ** 0.5 if value.ndim == 4 else value
    vgg["classifier.0.weight"] = torch.zeros(1)
    return vgg, {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(TAPS.values())}


@pytest.fixture
def package(tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package `lpips`, whose import would fail; answers with its file."""
    file = tmp_path / "site" / "lpips" / "weights" / "v0.1" / "vgg.pth"
    file.parent.mkdir(parents=True)
    torch.save(weights[1], file)
    (tmp_path / "site" / "lpips" / "__init__.py").write_text("raise AssertionError('lpips was imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(lpips, "LINEAR_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    importlib.invalidate_caches()
    return file


def distance(module: LPIPS) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return module(*(torch.rand(2, 2, 3, 16, 16, generator=generator) * 2 - 1))


def test_weights_come_from_files_of_both_formats(tmp_path: Path, weights: Weights) -> None:
    vgg, linear = weights
    torch.save(vgg, tmp_path / "vgg.pth")
    torch.save(linear, tmp_path / "linear.pth")
    save_file(vgg, tmp_path / "vgg.safetensors")
    save_file(linear, tmp_path / "linear.safetensors")
    expected = distance(LPIPS(vgg, linear))
    assert expected.shape == (2,) and bool((expected > 0).all())
    for end in ("pth", "safetensors"):
        file = tmp_path / f"vgg.{end}"
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        found = load_lpips(vgg=str(file), linear=str(tmp_path / f"linear.{end}"), vgg_sha256=digest.upper())
        assert torch.equal(distance(found), expected)


def test_linear_layers_come_from_the_package_without_importing_it(
    tmp_path: Path, weights: Weights, package: Path
) -> None:
    torch.save(weights[0], tmp_path / "vgg.pth")
    assert torch.equal(distance(load_lpips(vgg=str(tmp_path / "vgg.pth"))), distance(LPIPS(*weights)))
    package.write_bytes(package.read_bytes() + b" ")
    with pytest.raises(UserError, match="its sha256 is"):
        load_lpips(vgg=str(tmp_path / "vgg.pth"))


def test_the_package_when_installed_has_the_file_that_we_know() -> None:
    if importlib.util.find_spec("lpips") is None:
        pytest.skip("the package lpips is not installed")
    file = lpips._packaged_linear()
    assert hashlib.sha256(file.read_bytes()).hexdigest() == lpips.LINEAR_SHA256


def test_vgg_comes_through_timm(weights: Weights, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")

    class Model:
        def state_dict(self) -> dict[str, Tensor]:
            return weights[0]

    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append((name, options)) or Model())
    assert torch.equal(distance(load_lpips()), distance(LPIPS(*weights)))
    overlay = {"hf_hub_filename": "model.safetensors"}
    assert asked == [("vgg16.tv_in1k", {"pretrained": True, "pretrained_cfg_overlay": overlay})]


def test_without_weights_a_sentence_says_what_to_type(
    tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(weights[0], tmp_path / "vgg.pth")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install lpips.*vgg.pth\. Or leave it out\.$"):
        load_lpips(vgg=str(tmp_path / "vgg.pth"), without="Or leave it out.")
    with pytest.raises(UserError, match=r"cannot be read.*\. Or leave it out\.$"):
        load_lpips(vgg=str(tmp_path / "missing.pth"), without="Or leave it out.")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm, which is not installed.*instead\.$"):
        load_lpips()


def test_a_download_that_fails_ends_in_a_sentence_and_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    timm = pytest.importorskip("timm")

    def offline(*arguments: object, **options: object) -> None:
        for name in ("huggingface_hub.utils._http", "timm.models._hub"):
            logging.getLogger(name).error("Retrying in 8s")
        raise OSError("There is no network here. " + "Please check your connection. " * 10)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"weights \(There is no network here\)\. Give .* instead\.$"):
        load_lpips()
    assert not caplog.records and not capsys.readouterr().err
    logging.getLogger("timm").warning("heard again")
    assert [record.message for record in caplog.records] == ["heard again"]


class Hostile:
    """Pickled, a call of a function."""

    def __reduce__(self) -> tuple[object, ...]:
        return (sys.setrecursionlimit, (1234,))


def test_files_that_are_not_the_weights_end_in_a_sentence(tmp_path: Path, weights: Weights) -> None:
    file, limit = tmp_path / "vgg.pth", sys.getrecursionlimit()
    vgg = weights[0]
    torch.save(vgg, file)
    with pytest.raises(UserError, match="its sha256 is"):
        load_lpips(vgg=str(file), vgg_sha256="0" * 64)
    with pytest.raises(UserError, match="not with timm's"):
        load_lpips(vgg_sha256="0" * 64)
    for content, sentence in (
        (Hostile(), "cannot be read"),
        ([vgg], "no state dict"),
        ({key: value for key, value in vgg.items() if "28" not in key}, "features.28.weight is missing"),
        (vgg | {"features.0.bias": torch.zeros(3)}, r"features.0.bias has the shape \[3\]"),
        (vgg | {"features.0.bias": torch.full((64,), torch.nan)}, "damaged"),
    ):
        torch.save(content, file)
        with pytest.raises(UserError, match=sentence):
            LPIPS(lpips._read(file, "VGG16's weights", ""), weights[1])
    assert sys.getrecursionlimit() == limit
    (tmp_path / "vgg.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        load_lpips(vgg=str(tmp_path / "vgg.safetensors"))


def test_it_is_frozen_but_passes_gradients_to_the_image(weights: Weights) -> None:
    module = LPIPS(*weights)
    assert sum(parameter.numel() for parameter in module.parameters()) == 14_714_688 + 1_472
    assert not any(parameter.requires_grad for parameter in module.train().parameters())
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    module(image, torch.rand(1, 3, 16, 16)).sum().backward()
    assert float(image.grad.abs().sum()) > 0


def test_equal_images_have_no_distance_and_grey_ones_serve(weights: Weights) -> None:
    module, grey = LPIPS(*weights), torch.rand(2, 1, 16, 16)
    assert module(grey, grey).tolist() == [0, 0]
    other = torch.rand(2, 1, 16, 16)
    assert torch.allclose(module(grey, other), module(grey.repeat(1, 3, 1, 1), other.repeat(1, 3, 1, 1)))


def test_dropout_is_drawn_only_where_a_generator_is_given(weights: Weights) -> None:
    module = LPIPS(*weights).train()
    image, target = torch.rand(2, 1, 3, 16, 16)
    assert torch.equal(module(image, target), module(image, target))
    draws = [module(image, target, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
