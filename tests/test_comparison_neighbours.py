"""The training images nearest to samples: the right ones, at their distances, and never looked for twice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comparisons
import numpy as np
import pytest
import torch
import toys
from PIL import Image
from torch import Tensor

from zoo_core import sampling
from zoo_core.comparison import measure, neighbours, results
from zoo_core.comparison.measure import Asked
from zoo_core.comparison.results import Neighbours, Trained
from zoo_core.extractors import open_extractor

TRAINED = Trained(3, "done", 96, 1.0, "runs/toy-seed-3", "ab" * 32)


def asked(num_images: int = 300, num: int = 40) -> Asked:
    images = toys.images(num_images)
    kept = dict.fromkeys(("resolution", "filter", "crop", "alpha", "pillow"))
    images = dataclasses.replace(images, meta={**kept, "content": images.content, "num": num_images})
    return Asked(num, ("fid",), open_extractor("random-conv"), images)


def noise(num: int, seed: int = 1) -> Tensor:
    """Samples that are noise, as the toys' training images are, and none of these."""
    side = toys.RESOLUTION
    return torch.randint(0, 256, (num, 3, side, side), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def look(samples: Tensor, of: Asked) -> Neighbours:
    return neighbours.look(samples, of, train_seed=3, generation_seed=1000, picture="x.png")


# --- distances ---


@pytest.mark.parametrize("num", [5, 32, 33, 100])
def test_neighbours_are_those_of_a_plain_search_in_every_chunking(num: int) -> None:
    among = torch.from_numpy(np.random.default_rng(0).normal(size=(num, 7)).astype(np.float32))
    queries = among.roll(1, 0) + 0.5
    plain = np.linalg.norm(queries.numpy()[:, None] - among.numpy()[None], axis=2)
    for own, at in ((False, queries), (True, among)):
        expected = plain if not own else np.linalg.norm(among.numpy()[:, None] - among.numpy()[None], axis=2)
        if own:
            np.fill_diagonal(expected, np.inf)
        whole = neighbours.nearest(at, among, 3, own=own, rows=10**6)
        assert np.array_equal(whole[1].numpy(), expected.argsort(axis=1)[:, :3])
        np.testing.assert_allclose(whole[0].numpy(), np.sort(expected, axis=1)[:, :3], rtol=1e-5)
        for rows in (1, 7, neighbours.ROWS):
            parts = neighbours.nearest(at, among, 3, own=own, rows=rows)
            assert all(torch.equal(part, one) for part, one in zip(parts, whole, strict=True))


def test_a_copy_is_at_distance_0_and_of_equal_ones_the_earlier_is_named() -> None:
    among = torch.randn(50, 128, generator=torch.Generator().manual_seed(0)) * 1e3
    among[40] = among[11]
    distances, rows = neighbours.nearest(among[11:12].clone(), among, 2)
    assert distances.tolist() == [[0.0, 0.0]] and rows.tolist() == [[11, 40]]
    distances, rows = neighbours.nearest(among, among, 1, own=True)
    assert rows[11].item() == 40 and rows[40].item() == 11 and distances[11].item() == 0
    assert (distances[12:40] > 0).all(), "an image is no neighbour of itself"


# --- samples ---


@pytest.mark.parametrize("num_images", [12, 300])
def test_a_planted_training_image_is_found_and_lowers_the_ratio(num_images: int) -> None:
    of = asked(num_images)
    samples = noise(10)
    before = look(samples, of)
    planted = [2, 7, 5, 11, 0, 9]
    samples[1:7] = torch.from_numpy(of.images.images[planted]).permute(0, 3, 1, 2)
    after = look(samples, of)
    assert [row[0] for row in after.images[1:7]] == planted, "neighbours are numbers of the set's images"
    assert [row[0] for row in after.distances[1:7]] == pytest.approx([0] * 6, abs=1e-3)
    assert before.distances[1][0] > 1 and after.distances[1][1] > 1
    assert after.ratio < 0.01 < 0.5 < before.ratio
    assert after.of_real == before.of_real and after.images[0] == before.images[0]


def test_other_images_of_the_same_kind_have_a_ratio_of_about_1() -> None:
    assert look(noise(200), asked()).ratio == pytest.approx(1, abs=0.05)


def test_training_images_that_are_all_there_twice_have_no_ratio() -> None:
    of = asked()
    of.images.images[150:] = of.images.images[:150]
    of = dataclasses.replace(of, images=dataclasses.replace(of.images, meta={**of.images.meta, "content": "twice"}))
    found = look(noise(10), of)
    assert found.of_real == 0 and found.ratio is None


def test_only_so_many_training_images_are_searched_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = look(noise(10), asked())
    assert whole.num_real == 300 and whole.num_samples == 10 and whole.space == "random-conv-v1:32px"
    monkeypatch.setattr(neighbours, "MOST", 90)
    part = look(noise(10), asked(num=10))
    assert part.num_real == 90 and part.of_samples > whole.of_samples
    assert look(noise(10), asked(num=150)) == part, "which ones does not depend on N"


# --- kept ---


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs that were opened; all have the same toy generator."""
    torch.manual_seed(0)
    generator = toys.ToyGenerator(resolution=toys.RESOLUTION)
    folders: list[Path] = []

    def load(folder: Path) -> Any:
        folders.append(folder)
        return SimpleNamespace(generator=generator)

    monkeypatch.setattr(neighbours.runs, "load", load)
    return folders


def find(folder: Path, of: Asked, trained: Trained = TRAINED) -> Neighbours:
    return neighbours.find(
        "toy", trained, folder / trained.folder, 1000, folder, folder / "kept", of, lambda text: None
    )


def test_the_samples_are_the_first_of_those_that_figures_are_of(
    tmp_path: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[tuple[int, int], Tensor] = {}

    def draw(generator: Any, num: int, seed: int, **options: Any) -> list[Tensor]:
        drawn[num, seed] = torch.cat(list(plain(generator, num, seed, **options)))
        return [drawn[num, seed]]

    plain = sampling.draw
    monkeypatch.setattr(sampling, "draw", draw)
    of = asked(num=300)
    found = find(tmp_path, of)
    run = neighbours.runs.load(tmp_path)
    measure.figures(run, 1000, of)
    assert found.num_samples == 256 and torch.equal(drawn[256, 1000], drawn[300, 1000][:256])
    picture = np.asarray(Image.open(tmp_path / found.picture))[::8, ::8]  # 8 px, eight times as large
    assert np.array_equal(picture[:8, :8], drawn[256, 1000][0].permute(1, 2, 0)), "above, the first sample"
    number = found.images[7][1]
    assert np.array_equal(picture[18:, 63:], of.images.images[number]), "below, the second neighbour of the last"


def test_what_is_kept_is_not_looked_for_again(tmp_path: Path, opened: list[Path]) -> None:
    of = asked()
    found = find(tmp_path, of)
    assert opened == [tmp_path / TRAINED.folder]
    picture = (tmp_path / found.picture).read_bytes()
    assert find(tmp_path, of) == found and len(opened) == 1
    (tmp_path / found.picture).unlink()
    assert find(tmp_path, of) == found and len(opened) == 2
    assert (tmp_path / found.picture).read_bytes() == picture
    find(tmp_path, of, dataclasses.replace(TRAINED, weights="cd" * 32))
    assert len(opened) == 3, "of other weights"
    (file,) = (tmp_path / "kept").glob("*.json")
    file.write_text(file.read_text().replace('"num_real"', '"number"'))
    assert find(tmp_path, of) == found and len(opened) == 4, "of another form"


@pytest.mark.parametrize("function", ["save_png", "write_text"])
def test_killed_before_it_is_kept_and_repeated_it_is_the_same(
    tmp_path: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    of = asked()
    whole = find(tmp_path / "whole", of)

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(neighbours.sampling if function == "save_png" else neighbours.runs, function, killed)
        find(tmp_path / "killed", of)
    assert not list((tmp_path / "killed").rglob("*.json"))
    assert find(tmp_path / "killed", of) == whole


def test_a_report_from_before_neighbours_is_read(tmp_path: Path) -> None:
    made = comparisons.comparison(("one", "two"), diverged=False)
    one = dataclasses.replace(made.contenders[0], neighbours=look(noise(10), asked()))
    file = tmp_path / results.FILE
    file.write_text(results.to_json(dataclasses.replace(made, contenders=[one])))
    assert results.read(file).contenders[0].neighbours == one.neighbours
    content = json.loads(results.to_json(made))
    for contender in content["contenders"]:
        del contender["neighbours"]
    file.write_text(json.dumps(content))
    assert [contender.neighbours for contender in results.read(file).contenders] == [None, None]
