"""The sliding window: its place, and that what it leaves out changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo_core import formulation
from zoo_core.errors import UserError
from zoo_core.rng import Rng
from zoo_vqgan.filtering import Filter, chooser
from zoo_vqgan.gpt import GPT
from zoo_vqgan.prior_sampling import sample_codes
from zoo_vqgan.window import Windows, local_index

HEIGHT, WIDTH, SIDE = 7, 9, 4
LABEL = torch.tensor([[3], [5]])
GRID = torch.randint(16, (2, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(2))
FILTER = Filter(top_k=12)


@pytest.fixture(scope="module")
def gpt() -> GPT:
    torch.manual_seed(0)
    network = GPT(vocabulary=16, block_size=32, layers=2, heads=2, dim=16)
    for parameter in network.parameters():  # its own start gives nearly even logits
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return network.eval()


def windows(gpt: GPT, condition: Tensor, **options: int) -> Windows:
    return Windows(gpt, condition, HEIGHT, WIDTH, side=SIDE, **options)


def draws() -> Rng:
    return Rng.of("windows", rows=range(2))


@pytest.mark.parametrize("side", [4, 16])
def test_the_window_is_centred_but_at_the_edges(side: int) -> None:
    for length in range(side, 3 * side):
        starts = [index - local_index(index, length, side) for index in range(length)]
        assert starts == sorted(starts) and starts[0] == 0 and starts[-1] == length - side
        for index, start in enumerate(starts):
            assert 0 <= start <= length - side
            assert index - start == side // 2 or start in (0, length - side)


@pytest.mark.parametrize("condition", [LABEL, GRID], ids=["label", "grid"])
@pytest.mark.parametrize("memory", [2**31, 0])
@torch.no_grad()
def test_every_cells_logits_are_those_of_its_whole_window(gpt: GPT, condition: Tensor, memory: int) -> None:
    codes = torch.randint(16, (2, HEIGHT, WIDTH))
    ours, official = windows(gpt, condition, memory=memory), windows(gpt, condition)
    for cell in range(HEIGHT * WIDTH):
        row, column = divmod(cell, WIDTH)
        logits = ours.logits(codes, row, column)
        with formulation.plain():
            torch.testing.assert_close(logits, official.logits(codes, row, column), rtol=1e-4, atol=1e-5)
    assert official.tokens_read == HEIGHT * WIDTH * official.whole


@torch.no_grad()
def test_a_cell_reads_no_code_that_comes_after_it(gpt: GPT) -> None:
    codes = torch.randint(16, (2, HEIGHT, WIDTH))
    other = codes.clone()
    other.flatten(1)[:, 3 * WIDTH + 4 :] = 0
    assert torch.equal(windows(gpt, GRID).logits(codes, 3, 4), windows(gpt, GRID).logits(other, 3, 4))


def test_memory_for_windows_of_other_rows_saves_reading_them_again(gpt: GPT) -> None:
    read = []
    for memory in (2**31, 0):
        table = windows(gpt, GRID, memory=memory)
        codes = table.sample(chooser(draws()), FILTER)
        read.append((table.tokens_read, codes))
    assert torch.equal(read[0][1], read[1][1])
    assert read[0][0] < read[1][0] < HEIGHT * WIDTH * table.whole
    # Each place of the window is read once, up to the last code drawn there.
    places: dict[tuple[int, int], int] = {}
    for cell in range(HEIGHT * WIDTH):
        row, column = divmod(cell, WIDTH)
        local_row, local_column = local_index(row, HEIGHT, SIDE), local_index(column, WIDTH, SIDE)
        places[row - local_row, column - local_column] = SIDE**2 + local_row * SIDE + local_column
    assert read[0][0] == sum(places.values())


@pytest.mark.parametrize("condition", [LABEL, GRID[:, :SIDE, :SIDE]], ids=["label", "grid"])
def test_on_a_grid_of_its_size_the_window_is_plain_sampling(gpt: GPT, condition: Tensor) -> None:
    table = Windows(gpt, condition, SIDE, SIDE, side=SIDE)
    codes = table.sample(chooser(draws()), FILTER)
    assert torch.equal(codes.flatten(1), sample_codes(gpt, condition.flatten(1), SIDE**2, chooser(draws()), FILTER))
    assert table.tokens_read == table.whole


def test_an_image_does_not_depend_on_its_batch(gpt: GPT) -> None:
    both = windows(gpt, GRID).sample(chooser(draws()), FILTER)
    second = windows(gpt, GRID[1:]).sample(chooser(Rng.of("windows", rows=range(1, 2))), FILTER)
    assert torch.equal(both[1:], second)


def test_progress_counts_codes(gpt: GPT) -> None:
    told: list[int] = []
    windows(gpt, GRID).sample(chooser(draws()), FILTER, progress=told.append)
    assert told == list(range(1, HEIGHT * WIDTH + 1))


@pytest.mark.parametrize(
    ("condition", "size", "side", "message"),
    [
        (LABEL, (7, 9), 5, "must be even"),
        (LABEL, (3, 9), 4, "grid of 3x9 codes is smaller than the window of 4x4"),
        (GRID, (9, 9), 4, "condition has 7x9 tokens, the image 9x9 codes"),
        (LABEL, (7, 9), 6, "are 36 tokens; the transformer's block holds 32"),
    ],
)
def test_a_window_that_does_not_fit_is_a_sentence(
    gpt: GPT, condition: Tensor, size: tuple[int, int], side: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Windows(gpt, condition, *size, side=side)
