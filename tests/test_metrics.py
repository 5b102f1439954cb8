"""The figures of merit: what moves them, what they are called, and what they refuse."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
import torch
import torch_fidelity
from PIL import Image, ImageFilter
from torch.utils.data import Dataset

from zoo_core import extractors, random_conv
from zoo_core.errors import UserError
from zoo_core.extractors import Features, image_batches, open_extractor
from zoo_core.metrics import cached_features, figures, floor

NUM = 500
LEAVES_SHA256 = "9511af6bf4f984c32de0029b25a369cba1447ec411f104943450465b91c173c1"


def characters(num: int, side: int = 32, seed: int = 0) -> np.ndarray:
    """Draw a coloured head with two eyes and a mouth on each plain ground, uint8 `[num, side, side, 3]`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    images = np.empty((num, side, side, 3), np.uint8)
    for image in images:
        ground, head, mark = rng.integers(0, 256, (3, 3))
        radius, gap, height = rng.uniform([0.25, 0.08, 0.4], [0.45, 0.18, 0.5])
        image[:] = ground
        image[(x - 0.5) ** 2 + (y - 0.5) ** 2 < radius**2] = head
        image[((abs(x - 0.5) - gap) ** 2 + (y - height) ** 2) < 0.05**2] = mark
        image[(abs(x - 0.5) < gap) & (abs(y - 0.66) < 0.03)] = mark
    return images


def blurred(images: np.ndarray, radius: float) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(i).filter(ImageFilter.GaussianBlur(radius))) for i in images])


def shifted(images: np.ndarray, amount: int) -> np.ndarray:
    return np.clip(images.astype(int) + np.array([amount, 0, -amount]), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    return characters(2 * NUM)


@pytest.fixture(scope="module")
def extractor() -> extractors.Extractor:
    return open_extractor("random-conv")


def seen(extractor: extractors.Extractor, images: np.ndarray) -> Features:
    return extractor.features(torch.from_numpy(images.copy()).permute(0, 3, 1, 2).split(100), len(images))


def frechet(fake: Features, real: Features) -> float:
    return figures(fake, real, reference="train", metrics=["fid"])[0].value


# --- random-conv ---


def test_random_conv_v1_never_changes():
    # A figure named random-conv-v1 must mean the same for ever: other weights need another version.
    assert random_conv.weights_sha256() == "bdee8bf17aa55ca3e8c86b64cb85f168e3c1b6ebda5e624f14cb30dfade805a6"
    images = random_conv.dead_leaves(256, 32)
    assert hashlib.sha256(images.tobytes()).hexdigest() == LEAVES_SHA256
    pattern = (np.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32) * 37 % 256).astype(np.uint8)
    row = open_extractor("random-conv").features([torch.from_numpy(pattern)], 2).features[0]
    expected = torch.tensor([0.253412, 1.642442, 2.215699, 1.395186])
    torch.testing.assert_close(row[[0, 40, 80, 127]], expected, rtol=1e-4, atol=1e-4)


def test_every_damage_to_the_images_moves_the_frechet_distance_in_order(extractor, real):
    base, other = real[:NUM], real[NUM:]
    reference = seen(extractor, base)
    same = frechet(seen(extractor, other), reference)
    rng = np.random.default_rng(1)
    tiles = other.reshape(NUM, 2, 16, 2, 16, 3)[:, ::-1, :, ::-1].reshape(other.shape)
    rows = [
        [blurred(other, 0.5), blurred(other, 1), blurred(other, 2)],
        [shifted(other, 16), shifted(other, 48)],
        [other[rng.integers(0, 32, NUM)], other[rng.integers(0, 4, NUM)], other[np.zeros(NUM, int)]],
        [tiles],
        [rng.integers(0, 256, other.shape, dtype=np.uint8)],
    ]
    for row in rows:
        values = [same, *(frechet(seen(extractor, images), reference) for images in row)]
        assert all(1.5 * better < worse for better, worse in zip(values, values[1:], strict=False)), values


def test_precision_sees_bad_images_and_recall_sees_collapse(extractor, real):
    base, other = seen(extractor, real[:NUM]), real[NUM:]

    def prc(images):
        return [figure.value for figure in figures(seen(extractor, images), base, reference="t", metrics=["prc"])]

    precision, recall = prc(other)
    assert min(precision, recall) > 0.7
    half_noise = other.copy()
    half_noise[::2] = np.random.default_rng(1).integers(0, 256, half_noise[::2].shape, dtype=np.uint8)
    assert prc(half_noise)[0] == pytest.approx(precision / 2, abs=0.05)
    collapsed = prc(other[np.arange(NUM) % 8])
    assert collapsed[0] > 0.7 and collapsed[1] < recall / 2


@pytest.mark.parametrize(("side", "working", "dim"), [(16, 32, 128), (32, 32, 128), (48, 32, 128), (256, 128, 192)])
def test_the_working_side_is_in_the_name(extractor, side, working, dim):
    found = seen(extractor, characters(3, side))
    assert found.extractor == extractor.label(side) == f"random-conv-v1:{working}px"
    assert found.features.shape == (3, dim)


def test_features_do_not_depend_on_the_batch(extractor, real):
    images = torch.from_numpy(real[:70].copy()).permute(0, 3, 1, 2)
    torch.testing.assert_close(
        extractor.features(images.split(7), 70).features,
        extractor.features([images], 70).features,
        rtol=1e-4,
        atol=1e-4,
    )


# --- torch-fidelity computes the same on its own way ---


class Pictures(Dataset):
    def __init__(self, images: np.ndarray) -> None:
        self.images = torch.from_numpy(images.copy()).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


def test_figures_equal_those_of_torch_fidelity(extractor, real, tmp_path):
    fake, base = blurred(real[NUM:], 0.7), real[:NUM]
    theirs = torch_fidelity.calculate_metrics(
        input1=Pictures(fake),
        input2=Pictures(base),
        feature_extractor="random-conv-v1",
        fid=True,
        kid=True,
        prc=True,
        kid_subsets=10,
        kid_subset_size=200,
        cuda=False,
        save_cpu_ram=True,
        verbose=False,
        cache_root=str(tmp_path),
    )
    ours = figures(seen(extractor, fake), seen(extractor, base), reference="train", num_subsets=10, subset_size=200)
    keys = ["frechet_inception_distance", "kernel_inception_distance_mean", "precision", "recall"]
    assert [figure.value for figure in ours] == pytest.approx([theirs[key] for key in keys], rel=1e-4, abs=1e-5)
    assert ours[1].std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-3)


# --- names, notes and refusals ---


def made_up(num: int, extractor: str = "inception-v3-compat:6726825d", classes: int = 0, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num, classes, generator=generator) if classes else None
    return Features(torch.randn(num, 8, generator=generator), extractor, logits)


def test_a_name_says_everything_that_moves_the_figure():
    found = figures(made_up(60, classes=5), made_up(80, seed=1), reference="train")
    assert [figure.name for figure in found] == [
        "fid@inception-v3-compat:6726825d:N=60:train=80",
        "kid@inception-v3-compat:6726825d:N=60:subsets=100x60:train=80",
        "isc@inception-v3-compat:6726825d:N=60:splits=10",
        "precision@inception-v3-compat:6726825d:N=60:k=3:train=80",
        "recall@inception-v3-compat:6726825d:N=60:k=3:train=80",
    ]


@pytest.mark.parametrize("extractor", ["inception-v3-compat:0123abcd", "random-conv-v1:32px"])
def test_weights_other_than_the_official_ones_give_no_fid_or_kid(extractor):
    found = figures(made_up(60, extractor), made_up(60, extractor, seed=1), reference="train", metrics=["fid", "kid"])
    assert [figure.name for figure in found] == [
        f"fd@{extractor}:N=60:train",
        f"kd@{extractor}:N=60:subsets=100x60:train",
    ]


def test_a_random_network_gives_no_inception_figure(extractor, real):
    found = figures(seen(extractor, real[:200]), seen(extractor, real[200:400]), reference="train", num_subsets=5)
    names = [figure.name for figure in found]
    assert names[0] == "fd@random-conv-v1:32px:N=200:train"
    assert not any(word in name for name in names for word in ("fid", "kid", "isc", "inception"))


def test_too_few_images_for_the_covariance_are_noted(extractor, real):
    few, enough = (
        figures(seen(extractor, real[:n]), seen(extractor, real[-n:]), reference="train", metrics=["fid"])
        for n in (128, 129)
    )
    assert "128 features" in few[0].note and not enough[0].note


@pytest.mark.parametrize(
    ("fake", "options", "message"),
    [
        (made_up(50), {"metrics": ["isc"]}, "no class logits"),
        (made_up(50), {"metrics": ["fdi"]}, 'did you mean "fid"'),
        (made_up(50, "random-conv-v1:64px"), {}, "random-conv-v1:64px"),
        (made_up(3), {}, "give at least 4 generated and, as .* 8 real ones, or .* evaluate.num=0 or --no-measure"),
    ],
)
def test_what_cannot_be_measured_is_refused(fake, options, message):
    with pytest.raises(UserError, match=message):
        figures(fake, made_up(50), reference="train", **options)


def test_the_floor_compares_disjoint_halves_and_says_how_large(extractor, real):
    everything = seen(extractor, real)
    full = floor(everything, NUM, reference="train", metrics=["fid", "isc"])
    assert [(figure.name, figure.note) for figure in full] == [(f"floor:fd@random-conv-v1:32px:N={NUM}:train", "")]
    small = floor(everything, 2000, reference="train", metrics=["fid"])[0]
    assert small.name == f"floor:fd@random-conv-v1:32px:N={NUM}:train" and "1,000 real images" in small.note
    assert 0 < full[0].value == small.value
    # Halves that shared images would come out nearer than this; blurred images must lie well above.
    assert 0.5 < full[0].value / frechet(everything.take(NUM), seen(extractor, real[NUM:])) < 2
    assert floor(everything, NUM, reference="train", metrics=["fid"], seed=1)[0].value != full[0].value


def test_fewer_images_than_asked_for_is_an_error(extractor, real):
    batches = list(image_batches(real, 30, batch=8))
    with pytest.raises(UserError, match="31 images were to be measured, but there are 30"):
        extractor.features(batches, 31)
    with pytest.raises(ValueError, match="uint8"):
        extractor.features([batches[0].float()], 8)


def test_the_first_images_are_a_sample_of_the_whole_set_and_progress_counts_them(extractor):
    by_class = np.repeat(np.arange(200, dtype=np.uint8), 5)[:, None, None, None] + np.zeros((1, 16, 16, 3), np.uint8)
    first, again, other = (torch.cat(list(image_batches(by_class, 100, seed=s, batch=32))) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first[:, 0, 0, 0].float().mean() == pytest.approx(100, abs=25)
    counted: list[int] = []
    extractor.features(image_batches(by_class, 100, batch=32), 70, counted.append)
    assert counted == [32, 32, 6]


# --- the cache ---


class Bomb:
    """Sets a flag when it is unpickled."""

    exploded: list[int] = []

    def __reduce__(self):
        return (explode, ())


def explode() -> None:
    Bomb.exploded.append(1)


def test_cached_features_are_computed_once_and_again_when_damaged(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    calls = []

    def compute() -> Features:
        calls.append(1)
        return made_up(20, classes=3)

    key = {"extractor": "a", "num": 20, "data": {"content": "b"}}
    first, second = cached_features(key, compute), cached_features(dict(reversed(key.items())), compute)
    assert len(calls) == 1
    assert torch.equal(first.features, second.features) and first.extractor == second.extractor
    assert first.logits is None and second.logits is None
    cached_features({**key, "num": 21}, compute)
    assert len(calls) == 2

    (path,) = [p for p in (tmp_path / "metrics").iterdir() if "20" in str(np.load(p)["key"])]
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    evil = io.BytesIO()
    np.savez(evil, key=np.array([Bomb()], dtype=object), extractor="x", features=np.zeros((2, 2), np.float32))
    unclean = io.BytesIO()
    np.savez(unclean, key=str(np.load(path)["key"]), extractor="x", features=np.full((20, 8), np.nan, np.float32))
    for damaged in (good[:-100], b"", bytes(flipped), evil.getvalue(), unclean.getvalue()):
        path.write_bytes(damaged)
        before = len(calls)
        assert torch.equal(cached_features(key, compute).features, first.features)
        assert len(calls) == before + 1 and path.name in caplog.text
        caplog.clear()
        assert torch.equal(cached_features(key, compute).features, first.features) and len(calls) == before + 1
    assert not Bomb.exploded and not list((tmp_path / "metrics").glob("tmp-*"))


def test_a_cache_that_cannot_be_written_does_not_stop_the_measuring(tmp_path, monkeypatch, caplog):
    (tmp_path / "metrics").write_text("in the way")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    assert len(cached_features({"num": 5}, lambda: made_up(5))) == 5
    assert "cannot be kept" in caplog.text
