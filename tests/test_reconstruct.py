"""`zoo reconstruct`: what is compared with what, what is said of the tokens, and what is left out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import fakes
import numpy as np
import pytest
import reconstructing
import torch
import toys
import vqgan_toys
from calls import Answer, call
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from zoo_core import lpips, plugins, recipe, reconstruction, runs, session
from zoo_core.data import ImageSet, open_images
from zoo_core.extractors import Extractor, image_batches, open_extractor
from zoo_core.reconstruction import Mean, Report, TokenUsage

RECIPE = """
plugin: greys
generator: {name: greys}
data: {resolution: 16}
train:
  images: 8
  batch: 4
  log_images: 4
  optimizers: {table: {lr: 0.1}, chooser: {lr: 0.1}}
  averages: {table: {half_life_images: 20}}
"""
NUM = 24


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The plugin, pictures, and `run`, of whose two stages only the first is trained."""
    top = tmp_path_factory.mktemp("greys")
    fields = 'generators={"greys": "reconstructing:Greys"}, stages="reconstructing:build"'
    fakes.plugin(top / "site", "greys", fields=fields)
    toys.write_pictures(top / "pictures")
    (top / "greys.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(top / "site"))
        plugins.installed.cache_clear()
        wanted = recipe.load("greys", str(top / "greys.yaml"), [("data.source", str(top / "pictures"))])
        session.train(wanted, top / "run", only="table", say=lambda text: None)
        yield top
    plugins.installed.cache_clear()


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return open_extractor("random-conv")


@pytest.fixture(scope="module")
def images(home: Path) -> ImageSet:
    return open_images(home / "pictures", 16)


def zoo(home: Path, *arguments: str) -> Answer:
    return call(home, ["reconstruct", "run", "--extractor", "random-conv", *arguments])


def measure(images: ImageSet, extractor: Extractor, *, num: int = NUM, batch: int = 64, **options: object) -> Report:
    generator = reconstructing.Greys(resolution=images.resolution, **options)
    return reconstruction.measure(generator, images, num=num, extractor=extractor, reference="train", batch=batch)


# --- the command ---


def test_a_run_whose_later_stage_is_untrained_reconstructs(home: Path, images: ImageSet) -> None:
    assert "has no trained chooser" in call(home, ["sample", "run"]).err
    found = zoo(home)
    assert found.code == 0, found.err
    folder = home / "run" / "reconstructed" / "step-2-train-seed-0"
    assert sorted(path.name for path in folder.iterdir()) == ["grid.png", "report.json"]
    report = json.loads((folder / "report.json").read_text())
    assert report["num"] == NUM and report["step"] == 2
    for row in report["figures"]:
        assert row["name"].startswith(("rfd@random-conv", "rkd@random-conv")) and row["name"].endswith(":train")
        assert row["name"] in found.out
    assert "LPIPS is left out: --lpips" in found.out
    levels = len(np.unique(_levels(images.images.transpose(0, 3, 1, 2))))
    assert f"tokens: {levels} of 12 in use ({levels / 12:.1%}), {12 - levels} dead, " in found.out
    assert report["tokens"]["dead"] == 12 - levels and report["tokens"]["num"] == NUM * 16 * 16


def test_originals_stand_left_of_their_reconstructions_in_grid_and_files(home: Path, tmp_path: Path) -> None:
    found = zoo(home, "--num", "5", "--files", "--json", "--out", str(tmp_path))
    assert found.code == 0, found.err
    assert json.loads(found.out)["num"] == 5
    (first, *_) = image_batches(open_images(home / "pictures", 16).images, 5)
    names = [f"{i:06d}-{name}.png" for i in range(5) for name in ("original", "reconstruction")]
    assert sorted(path.name for path in tmp_path.glob("0*.png")) == names
    tiles = [np.asarray(Image.open(tmp_path / name)) for name in names]
    assert all(np.array_equal(tile, image.permute(1, 2, 0)) for tile, image in zip(tiles[::2], first, strict=True))
    assert all((tile[..., 0] == tile[..., 1]).all() for tile in tiles[1::2])  # the toy answers in grey
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))[::4, ::4]  # 16 px are enlarged to 64
    assert np.array_equal(sheet[:16, :16], tiles[0]) and np.array_equal(sheet[:16, 17:33], tiles[1])


def test_fewer_reconstructions_leave_no_files_of_an_earlier_call(home: Path, tmp_path: Path) -> None:
    for num in ("4", "2"):
        assert zoo(home, "--num", num, "--files", "--out", str(tmp_path)).code == 0
    assert sorted({path.name[:6] for path in tmp_path.glob("0*.png")}) == ["000000", "000001"]


def test_other_images_are_named_with_their_hash(home: Path) -> None:
    toys.write_pictures(home / "other", num=1)
    found = zoo(home, "--data", "other", "--num", "9")
    assert found.code == 0, found.err
    (folder,) = (home / "run" / "reconstructed").glob("step-2-other-*-seed-0")
    report = json.loads((folder / "report.json").read_text())
    assert report["num"] == 3 and report["data"]["name"] == "other" and ":other-" in report["figures"][0]["name"]


def test_only_what_it_reconstructs_with_is_loaded_with_averaged_weights(home: Path) -> None:
    opened = runs.load(home / "run")
    averaged = opened.checkpoint.network("table", averaged=True)
    assert opened.reconstructing is opened.reconstructing
    assert all(torch.equal(value, averaged[key]) for key, value in opened.reconstructing.table.state_dict().items())
    assert opened.step_of(("table",)) == 2


def test_lpips_is_asked_for_and_never_random(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = zoo(home, "--lpips", "missing.pth", "--out", str(tmp_path / "new"))
    assert found.code == 2 and "missing.pth" in found.err and found.err.endswith("Or leave --lpips out.\n")
    assert found.err.count("\n") == 1 and not (tmp_path / "new").exists()

    class Largest(torch.nn.Module):
        def forward(self, image: Tensor, target: Tensor) -> Tensor:
            assert image.min() >= -1 and image.max() <= 1 < image.max() - image.min()
            return (image - target).abs().amax((1, 2, 3))

    monkeypatch.setattr(lpips, "load_lpips", lambda **options: Largest())
    found = zoo(home, "--lpips", "timm", "--json", "--out", str(tmp_path / "new"))
    assert found.code == 0, found.err
    report = json.loads(found.out)
    assert 0.5 < report["per_image"]["lpips"]["mean"] <= 2 and report["lpips"] == "timm" and report["notes"] == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--data", "nowhere"), "nowhere"),
        (("--extractor", "incepton"), 'there is no extractor "incepton"'),
        (("--out", "greys.yaml/x"), "cannot make the folder greys.yaml/x"),
    ],
)
def test_a_mistake_is_a_sentence(arguments: tuple[str, str], expected: str, home: Path) -> None:
    found = zoo(home, *arguments)
    assert found.code == 2 and expected in found.err and found.err.count("\n") == 1


# --- the numbers ---


def test_psnr_and_ssim_are_those_of_the_definitions(images: ImageSet, extractor: Extractor) -> None:
    report = measure(images, extractor)
    psnr, ssim = [], []
    for original in next(image_batches(images.images, NUM)).double().numpy():
        drawn = np.broadcast_to(((_levels(original[None])[0] + 0.5) / 8 * 255).round(), original.shape)
        psnr.append(10 * math.log10(255**2 / np.mean((original - drawn) ** 2)))
        ssim.append(np.mean([_ssim(*pair) for pair in zip(original, drawn, strict=True)]))
    for name, expected in (("psnr", psnr), ("ssim", ssim)):
        found = report.per_image[name]
        assert found.mean == pytest.approx(np.mean(expected), rel=2e-4)
        assert found.plus_minus == pytest.approx(1.96 * np.std(expected, ddof=1) / NUM**0.5, rel=1e-2)
        assert found.num == NUM


def _levels(images: np.ndarray) -> np.ndarray:
    """The toy's tokens of `[N, 3, H, W]`."""
    return np.floor(images.mean(1) / 255 * 8).clip(max=7)


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, Eq. 13, its window 11 pixels wide."""

    def blur(z: np.ndarray) -> np.ndarray:
        return gaussian_filter(z, 1.5, radius=5, mode="mirror")

    a, b, c1, c2 = blur(x), blur(y), (0.01 * 255) ** 2, (0.03 * 255) ** 2
    va, vb, vab = blur(x * x) - a * a, blur(y * y) - b * b, blur(x * y) - a * b
    return float(np.mean((2 * a * b + c1) * (2 * vab + c2) / ((a * a + b * b + c1) * (va + vb + c2))))


def test_nothing_depends_on_the_batch_even_where_the_bottleneck_draws(images: ImageSet, extractor: Extractor) -> None:
    whole, parts = (measure(images, extractor, batch=batch, noise=0.5) for batch in (64, 5))
    assert whole.tokens == parts.tokens != measure(images, extractor).tokens
    assert whole.per_image["psnr"].mean == pytest.approx(parts.per_image["psnr"].mean)
    for one, other in zip(whole.figures, parts.figures, strict=True):
        assert one.name == other.name and one.value == pytest.approx(other.value, rel=1e-3)


def test_a_perfect_copy_has_no_distance_and_no_psnr(images: ImageSet, extractor: Extractor) -> None:
    report = measure(images, extractor, exact=True)
    assert report.per_image.keys() == {"ssim"} and report.per_image["ssim"].mean == pytest.approx(1)
    assert report.figures[0].value == pytest.approx(0, abs=1e-3) and report.tokens is None
    assert report.notes == ["24 images came back without any difference; PSNR, infinite there, leaves them out."]
    assert measure(images, extractor).figures[0].value > 1


def test_tokens_drawn_at_random_are_not_counted_as_used(images: ImageSet, extractor: Extractor, tmp_path: Path) -> None:
    np.save(tmp_path / "used.npy", np.arange(5))
    for unknown, counted in (("random", False), ("extra", True)):
        options = vqgan_toys.SMALL["quantizer"] | {"remap": str(tmp_path / "used.npy"), "unknown": unknown}
        generator = vqgan_toys.generator(quantizer=options)
        report = reconstruction.measure(generator, images, num=NUM, batch=8, extractor=extractor, reference="train")
        assert (report.tokens is not None) == counted
        said = [note for note in report.notes if "use of tokens is left out" in note]
        assert len(said) == (0 if counted else 1)


def test_what_one_image_or_a_small_one_cannot_tell_is_left_out_by_name(home: Path, extractor: Extractor) -> None:
    report = measure(open_images(home / "pictures", 8), extractor, num=1)
    assert report.figures == [] and report.per_image["psnr"].plus_minus is None and "ssim" not in report.per_image
    assert any("Distances" in note for note in report.notes) and any("SSIM" in note for note in report.notes)
    assert "psnr = " in reconstruction.format_report(report)


def test_token_usage_of_known_counts() -> None:
    usage = TokenUsage.of(torch.tensor([6, 0, 6, 0, 0]))
    assert (usage.used, usage.dead, usage.share, usage.num) == (2, 3, 0.4, 12)
    assert usage.perplexity == pytest.approx(2)
    assert TokenUsage.of(torch.tensor([9, 1])).perplexity == pytest.approx(
        math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    )


def test_a_mean_carries_its_interval() -> None:
    found = Mean.of(torch.tensor([1.0, 3.0, 5.0, 7.0]))
    assert found.mean == 4 and found.plus_minus == pytest.approx(1.96 * np.std([1, 3, 5, 7], ddof=1) / 2)
