"""`zoo sample`: knobs, sizes, names of folders, and what is told of the progress."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import fakes
import pytest
import reconstructing
import torch
import toys
from calls import call
from PIL import Image

from zoo_core import plugins, progress, recipe, sampling, session
from zoo_core.errors import UserError

STEPS = reconstructing.STEPS


@pytest.fixture
def slow() -> reconstructing.Greys:
    """A generator that takes several steps for an image, tells them, and has knobs."""
    torch.manual_seed(0)
    return reconstructing.Greys(resolution=16)


# --- knobs and sizes ---


def test_knobs_are_those_of_sample_and_of_their_type(slow: reconstructing.Greys) -> None:
    found = sampling.checked_knobs(slow, {"temperature": "1e-1", "top_k": "2k"}, (16, 24))
    assert found == {"temperature": 0.1, "top_k": 2000, "size": (16, 24)}
    for knobs, sentence in (
        ({"temprature": 1}, 'no knob "temprature"; did you mean "temperature"?'),
        ({"top_k": "many"}, "top_k must be a whole number"),
        ({"progress": 1}, 'no knob "progress"; there is temperature, top_k.'),
        ({"size": [8, 8]}, 'no knob "size"'),  # it has an option of its own
    ):
        with pytest.raises(UserError, match=re.escape(sentence)):
            sampling.checked_knobs(slow, knobs)


@pytest.mark.parametrize("text", ["512", "x", "0x8", "8x", "8x-8", "8x8x8", "8 x 8", "1e9x8", "9999999x8"])
def test_a_size_that_is_none_is_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match="--size takes HEIGHTxWIDTH"):
        sampling.parse_size(text)


def test_a_size_is_height_and_width() -> None:
    assert sampling.parse_size("512x768") == (512, 768) and sampling.parse_size("") is None


def test_other_knobs_have_other_names() -> None:
    settings = (
        *({}, {"temperature": 0.5}, {"temperature": 0.51}, {"temperature": None}, {"top_k": 5}, {"top_p": 5.0}),
        *({"size": (8, 16)}, {"size": (16, 8)}, {"top_k": 5, "temperature": 0.5}),
    )
    names = {sampling.name_of(3, 1, None, knobs) for knobs in settings}
    assert len(names) == len(settings)
    assert sampling.name_of(3, 1, 2, {"top_k": 5, "size": (8, 16)}) == "step-3-seed-1-label-2-size-8x16-top_k-5"
    assert "/" not in sampling.name_of(0, 0, None, {"mode": "../a b"})


@pytest.mark.parametrize(
    ("num", "height", "width", "rows", "columns"), [(13, 8, 8, 4, 4), (10, 8, 16, 4, 3), (12, 24, 8, 2, 6)]
)
def test_a_grid_of_wide_or_high_images_is_about_square(
    num: int, height: int, width: int, rows: int, columns: int
) -> None:
    sheet = sampling.grid(torch.zeros(num, 3, height, width))
    assert sheet.shape == (rows * (height + 1) - 1, columns * (width + 1) - 1, 3)


# --- progress ---


def test_a_slow_generator_tells_its_steps_while_it_draws(slow: reconstructing.Greys) -> None:
    told: list[int] = []
    list(sampling.draw(slow, 5, 0, batch=3, progress=told.append))
    assert told == [3] * STEPS + [2] * STEPS


def test_one_that_tells_nothing_counts_whole_batches() -> None:
    told: list[int] = []
    list(sampling.draw(toys.ToyGenerator(resolution=8), 5, 0, batch=3, progress=told.append))
    assert told == [3, 2]


def test_the_rate_of_steps_is_said_at_the_end(slow: reconstructing.Greys, capsys: pytest.CaptureFixture[str]) -> None:
    with sampling.counting_steps(slow, 5) as advance:
        list(sampling.draw(slow, 5, 0, progress=advance))
    assert re.fullmatch(rf"{5 * STEPS} tokens in [\d,.]+ s, [\d,]+ tokens/s\n", capsys.readouterr().err)
    with sampling.counting_steps(toys.ToyGenerator(resolution=8), 5) as advance:
        advance(5)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar_with_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with progress.counting("drawing", 3000, "tokens") as advance:
        for _ in range(3):
            advance(1000)
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", terminal.getvalue())
    assert "drawing" in shown and "3000/3000" in shown
    assert re.search(r"[\d,]+ tokens/s", shown.split("3,000 tokens in")[0])


# --- the command ---


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a `run` of the slow generator."""
    fields = 'generators={"greys": "reconstructing:Greys"}, stages="reconstructing:build"'
    fakes.plugin(tmp_path / "site", "greys", fields=fields)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    plugins.installed.cache_clear()
    toys.write_pictures(tmp_path / "pictures")
    (tmp_path / "greys.yaml").write_text(
        "plugin: greys\ngenerator: {name: greys}\ndata: {resolution: 16}\n"
        "train: {images: 8, batch: 4, optimizers: {table: {lr: 0.1}, chooser: {lr: 0.1}}}\n"
    )
    wanted = recipe.load("greys", str(tmp_path / "greys.yaml"), [("data.source", str(tmp_path / "pictures"))])
    session.train(wanted, tmp_path / "run", say=lambda text: None)
    yield tmp_path
    plugins.installed.cache_clear()


def test_knobs_and_size_reach_the_generator_and_the_folder(home: Path) -> None:
    found = call(home, ["sample", "run", "--num", "3", "--set", "temperature=0", "--size", "16x24"])
    assert found.code == 0, found.err
    folder = home / "run" / "sampled" / "step-2-seed-0-size-16x24-temperature-0"
    image = Image.open(folder / "000000.png")
    assert image.size == (24, 16)
    assert image.getextrema() == ((128, 128),) * 3  # the temperature of nothing
    assert Image.open(folder / "grid.png").size == (4 * (2 * 24 + 1), 4 * (2 * 16 + 1))
    assert f"{3 * STEPS} tokens in" in found.err and found.err.count("\n") == 1
    assert call(home, ["sample", "run", "--num", "1"]).code == 0
    assert Image.open(home / "run/sampled/step-2-seed-0/000000.png").getextrema() != ((128, 128),) * 3


def test_a_value_that_only_the_generator_refuses_leaves_no_folder(home: Path) -> None:
    found = call(home, ["sample", "run", "--set", "temperature=-1"])
    assert found.code == 2 and found.err == "Error: temperature must be at least 0.\n"
    assert not (home / "run" / "sampled").exists()
