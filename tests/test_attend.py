"""What an attention says of where it looks is true, and `zoo attend` draws it; mistakes end in a sentence."""

from __future__ import annotations

import copy
import errno
import re
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from accelerate.state import AcceleratorState
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from zoo_core import attending, attention_sheet, catalog, cli, load, recipe, sampling, session
from zoo_core.attention import FullAttention, NoAttention
from zoo_core.commands.attend import command
from zoo_core.errors import UserError
from zoo_core.interfaces import Attention, Site

ATTENTIONS = [component.full_name for component in catalog.components("attention")]
CONTEXT_DIM = 12


def attention(name: str, site: Site) -> Attention:
    """The attention with weights so large that it has preferences."""
    component = catalog.find("attention", name)
    torch.manual_seed(0)
    module = catalog.resolve(component.reference, name)(site).double()
    for parameter in module.parameters():
        parameter.data.normal_(std=0.5)
    return module


def places(side: int) -> Tensor:
    return torch.cartesian_prod(torch.arange(side), torch.arange(side))


# -- the contract of `Attention.weights`


@pytest.mark.parametrize("context", [False, True], ids=["alone", "with context"])
@pytest.mark.parametrize("resolution", [4, 16])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_weights_are_shares_over_the_keys_and_move_nothing(name: str, resolution: int, context: bool) -> None:
    try:
        module = attention(name, Site(16, 4, resolution, context_dim=CONTEXT_DIM if context else None))
    except UserError:
        assert context  # it may refuse a context, and nothing else here
        return
    x = torch.randn(2, resolution, resolution, 16, dtype=torch.float64)
    tokens = torch.randn(2, 5, CONTEXT_DIM, dtype=torch.float64) if context else None
    queries = torch.tensor([[0, 0], [resolution - 1, 1], [2, 3]])
    for training in (True, False):
        module.train(training)
        before = copy.deepcopy(module.state_dict())
        weights = module.weights(x, queries, tokens).detach()
        assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
        assert weights.ndim in (4, 5) and weights.isfinite().all() and weights.min() >= 0
        assert weights.shape[0] == 2 and 16 % weights.shape[1] == 0 and weights.shape[2] == 3
        if weights.ndim == 4:
            assert context and weights.shape[3] == 5
        else:
            assert all(0 < side <= resolution and resolution % side == 0 for side in weights.shape[3:])
        sums = weights.flatten(3).sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.parametrize("resolution", [4, 16])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_a_query_depends_on_the_tokens_that_have_weight_and_on_no_others(name: str, resolution: int) -> None:
    """Whatever is inside: the derivative of a query's output by another token is not zero where a head sees it."""
    module = attention(name, Site(16, 4, resolution)).eval()
    x = torch.randn(1, resolution, resolution, 16, dtype=torch.float64, requires_grad=True)
    for query in ([0, 0], [resolution - 1, 1], [2, 3]):
        weights = module.weights(x, torch.tensor([query])).detach()[0, :, 0].sum(0)
        out = module(x)[0, query[0], query[1]]
        slopes = [torch.autograd.grad(each, x, retain_graph=True)[0][0].abs().amax(-1) for each in out]
        moves = torch.stack(slopes).amax(0) > 1e-14
        times = resolution // weights.shape[0]
        sees = (weights > 1e-14).repeat_interleave(times, 0).repeat_interleave(times, 1)
        moves[query[0], query[1]] = sees[query[0], query[1]] = True
        if times == 1:
            assert torch.equal(moves, sees)
        else:  # of pooled keys, only the largest of each channel counts
            assert not (moves & ~sees).any() and moves.any()


@pytest.mark.parametrize("context", [False, True], ids=["alone", "with context"])
def test_the_cores_weights_times_values_through_the_projection_are_the_output(context: bool) -> None:
    x = torch.randn(2, 5, 5, 8, dtype=torch.float64)
    module = attention("core/full", Site(8, 4, 5, context_dim=CONTEXT_DIM if context else None))
    tokens = torch.randn(2, 7, CONTEXT_DIM, dtype=torch.float64) if context else None
    weights = module.weights(x, places(5), tokens).flatten(3)
    source = x.flatten(1, 2) if tokens is None else tokens
    values = module.key_value(source).chunk(2, -1)[1].unflatten(-1, (4, 2))
    mixed = torch.einsum("bnqk,bknd->bqnd", weights, values).reshape(x.shape)
    torch.testing.assert_close(module.proj(mixed), module(x, tokens))

    alone = attention("core/none", Site(8, 4, 5))
    mixed = torch.einsum("bnqyx,byxc->bqc", alone.weights(x, places(5)), x).view_as(x)
    torch.testing.assert_close(alone.proj(mixed), alone(x))


def test_an_attention_need_not_say_where_it_looks() -> None:
    class Silent(NoAttention):
        weights = Attention.weights

    with pytest.raises(NotImplementedError, match="Silent does not say"):
        Silent(Site(8, 1, 4)).weights(torch.zeros(1, 4, 4, 8), places(4))


# -- a generator that is watched


class Host(toys.ToyGenerator):
    """A toy that mixes its image with attention, twice through the same layer, then with a context."""

    def __init__(self, *, resolution: int = 8, kind: type[Attention] = FullAttention) -> None:
        super().__init__(resolution=resolution)
        self.mixer = FullAttention(Site(3, 3, resolution))
        self.unused = FullAttention(Site(3, 3, resolution))
        self.cross = kind(Site(3, 1, resolution, context_dim=4)) if kind is FullAttention else kind(Site(3, 1, 8))
        self.seen: list[Tensor] = []

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        x = super().forward(z).permute(0, 2, 3, 1)
        for _ in range(2):
            self.seen.append(x.clone())
            x = x + self.mixer(x)
        x += self.cross(x, context=z[:, None].expand(-1, 6, -1))  # in place, as a host may
        return x.permute(0, 3, 1, 2)


def test_the_image_is_the_one_that_sampling_draws_and_layers_keep_what_they_mixed_last() -> None:
    host = Host()
    image, layers = attending.draw(host, seed=3)
    (expected,) = sampling.draw(host, 1, seed=3)
    assert np.array_equal(image, expected[0].permute(1, 2, 0).numpy())
    assert [(layer.number, layer.path) for layer in layers] == [(0, "mixer"), (1, "cross")]  # `unused` took no part
    assert torch.equal(layers[0].x, host.seen[1]) and not torch.equal(host.seen[0], host.seen[1])
    own, cross = (layer.look([(7, 1)], (8, 8)) for layer in layers)
    assert own.weights.shape == (3, 1, 8, 8) and cross.weights.shape == (1, 1, 6)
    assert own.places.tolist() == [[1, 7]]
    with torch.no_grad():
        expected = host.mixer.weights(host.seen[1], torch.tensor([[1, 7]]))[0].numpy()
    assert np.array_equal(own.weights, expected)
    assert not any(module._forward_pre_hooks for module in host.modules())


def test_points_are_mapped_to_each_layers_grid() -> None:
    layer = attending.Layer(0, "any", FullAttention(Site(4, 1, 2)), torch.zeros(1, 2, 4, 4), None)
    looked = layer.look([(0, 0), (15, 0), (16, 31), (31, 16)], (32, 32))
    assert looked.places.tolist() == [[0, 0], [0, 1], [1, 2], [1, 3]]


def test_what_cannot_be_shown_is_said() -> None:
    with pytest.raises(UserError, match="without any attention"):
        attending.draw(toys.ToyGenerator(resolution=8), 0)

    class Silent(NoAttention):
        weights = Attention.weights

    _, layers = attending.draw(Host(kind=Silent), 0)
    with pytest.raises(UserError, match="layer 1, cross: Silent does not say where it looks; name other layers"):
        layers[1].look([(0, 0)], (8, 8))
    assert re.search(r"^1 +cross +Silent +8 x 8 +- +does not say where it looks$", attending.table(layers), re.M)


def test_layers_are_chosen_by_path_and_number() -> None:
    _, layers = attending.draw(Host(), 0)
    for wanted, paths in (((), ["mixer", "cross"]), (("cross",), ["cross"]), (("1", "mixer", "0"), ["mixer", "cross"])):
        assert [layer.path for layer in attending.select(layers, wanted)] == paths
    for wanted, hint in (("mixr", 'did you mean "mixer"'), ("2", "there are 0 to 1"), ("x", "there is cross, mixer")):
        with pytest.raises(UserError, match=hint):
            attending.select(layers, [wanted])


# -- the points that are chosen


def test_chosen_points_stand_out_and_lie_apart() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    image[8:16, 8:16] = (255, 0, 0)
    image[40:56, 40:56] = (0, 0, 90)
    points = attending.striking_points(image)
    assert points == attending.striking_points(image.copy()) and len(points) == 4
    assert 40 <= points[0][0] < 56 and 40 <= points[0][1] < 56  # the most different colour first
    assert all(image[y, x].tolist() != [200, 200, 200] for x, y in points[:2])
    assert 8 <= points[1][0] < 16 and 8 <= points[1][1] < 16  # then the one far away


def test_an_image_of_one_colour_has_one_point() -> None:
    assert attending.striking_points(np.full((30, 20, 3), 7, np.uint8)) == [(10, 15)]


# -- the sheet


def test_colours_grow_lighter_with_the_weight() -> None:
    lightness = attention_sheet.RAMP @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > 0).mean() > 0.9 and (np.diff(lightness) >= -0.5).all()


@pytest.mark.parametrize(
    ("keys", "place", "expected"),
    [
        (np.s_[:, :], (0.5, 0.5), (0, 0, 1)),  # the whole map
        (np.s_[32:40, 32:40], (0.55, 0.55), (28 / 64, 28 / 64, 4)),  # a window of 8 in 64: 16 tokens round it
        (np.s_[0:8, 56:64], (0.01, 0.99), (0, 48 / 64, 4)),  # at the edge: not beyond it
        (np.s_[0:8, 0:8], (0.99, 0.99), (0, 0, 1)),  # the query is far away, and must be seen too
        (np.s_[0:64:9, 0:64:9], (0.5, 0.5), (0, 0, 1)),
    ],
    ids=["all", "window", "edge", "far", "dilated"],
)
def test_small_windows_are_enlarged(keys, place, expected) -> None:
    weights = np.zeros((64, 64), np.float32)
    weights[keys] = 0.01
    part = attention_sheet.excerpt(weights, place)
    assert (part.top, part.left, part.zoom) == expected


def test_tiles_show_keys_where_they_are_and_grey_elsewhere() -> None:
    image = np.full((8, 8, 3), (200, 40, 40), np.uint8)
    sheet = attention_sheet.Sheet(image, [(1, 1)], "title", num_tiles=1)
    weights = np.zeros((1, 1, 8, 8), np.float32)
    weights[0, 0, 2, 5], weights[0, 0, 6, 6] = 0.75, 0.25
    looked = attending.Looked("layer", "details", (8, 8), np.array([[1, 1]]), weights)
    tile, caption = sheet._tile(looked, 0, 0)
    pixels, step = np.asarray(tile).astype(int), tile.width // 8
    assert caption == "0.75" and pixels.shape == (128, 128, 3)
    coloured = (pixels.max(-1) - pixels.min(-1) > 20)[step // 2 :: step, step // 2 :: step]
    assert [tuple(place) for place in np.argwhere(coloured)] == [(2, 5), (6, 6)]
    brightest, other = pixels[2 * step + 8, 5 * step + 8], pixels[6 * step + 8, 6 * step + 8]
    assert brightest.sum() > other.sum()


def test_a_tile_of_context_tokens_has_a_cell_for_each() -> None:
    sheet = attention_sheet.Sheet(np.zeros((8, 8, 3), np.uint8), [(1, 1)], "title", num_tiles=1)
    weights = np.array([[[0.1, 0.2, 0.7]]], np.float32)
    tile, caption = sheet._tile(attending.Looked("layer", "details", (8, 8), np.array([[1, 1]]), weights), 0, 0)
    assert caption == "0.7"
    corners = [tile.getpixel(place) for place in ((3, 3), (67, 3), (3, 67), (67, 67))]  # 2 x 2 cells, the last empty
    assert corners[2] == tuple(attention_sheet.RAMP[255]) and len(set(corners)) == 4


def test_many_heads_are_wrapped_and_many_tiles_are_small() -> None:
    sizes = []
    for num_tiles in (10, 300):
        sheet = attention_sheet.Sheet(np.zeros((8, 8, 3), np.uint8), [(1, 1)], "title", num_tiles)
        for _ in range(2):
            weights = np.full((40, 1, 2, 2), 0.25, np.float32)
            sheet.add(attending.Looked("layer", "details", (2, 2), np.array([[0, 0]]), weights))
        sizes.append(sheet.picture().size)
    assert all(width <= attention_sheet.WIDTH + 2 * attention_sheet.MARGIN for width, _ in sizes)
    assert sizes[0][1] > 2 * 5 * 128 and 2 * 3 * 64 < sizes[1][1] < sizes[0][1]


# -- the command, on a run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of a class-conditional run with one attention layer."""
    if not entry_points(group="zoo", name="sagan"):
        pytest.skip("zoo-sagan is not installed; `pip install -e plugins/sagan`")
    AcceleratorState._reset_state(reset_partial_state=True)
    folder = tmp_path_factory.mktemp("attend")
    settings = {
        "data.source": str(toys.write_pictures(folder / "pets")),
        "train.images": 16,
        "train.batch": 8,
        "generator.channels": 4,
        "discriminator.channels": 4,
    }
    session.train(recipe.load("sagan", "tiny", list(settings.items())), folder / "run", say=lambda text: None)
    return folder / "run"


def attend(*arguments: object) -> str:
    """`zoo attend` in this process; returns what it prints."""
    done = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_draws_a_sheet_and_keeps_the_numbers(trained, tmp_path) -> None:
    out = tmp_path / "new" / "a"
    said = attend(trained, "--seed", 5, "--query", "3,30", "--query", "31,0", "--label", "dog", "--out", out)
    assert said == f"{out}.png\n{out}.npz\n"
    assert sorted(path.name for path in out.parent.iterdir()) == ["a.npz", "a.png"]
    picture = Image.open(f"{out}.png")
    assert picture.width > 256 and picture.height > 256 + 2 * 128

    kept = np.load(f"{out}.npz", allow_pickle=False)
    (path,) = kept["layers"].tolist()
    assert set(kept) == {"image", "queries", "layers", f"{path}/weights", f"{path}/queries"}
    (expected,) = sampling.draw(load(trained).generator, 1, 5, label=1)
    assert np.array_equal(kept["image"], expected[0].permute(1, 2, 0).numpy()) and kept["image"].dtype == np.uint8
    assert kept["queries"].tolist() == [[3, 30], [31, 0]]
    weights = kept[f"{path}/weights"]
    assert weights.dtype == np.float32 and weights.shape[:2] == (1, 2)
    assert np.allclose(weights.sum((-1, -2)), 1, atol=1e-5)
    side = 16  # the layer's map: half the image
    assert kept[f"{path}/queries"].tolist() == [[30 * side // 32, 3 * side // 32], [0, 31 * side // 32]]


def test_the_same_command_writes_the_same_files_in_the_run(trained) -> None:
    files = [trained / "attention" / f"step-2-seed-0.{ending}" for ending in ("png", "npz")]
    written = []
    for _ in range(2):
        assert attend(trained).split() == [str(file) for file in files]
        written.append([file.read_bytes() for file in files])
        assert 1 <= len(np.load(files[1])["queries"]) <= 4
    assert written[0] == written[1]


def test_the_list_names_layers_and_draws_nothing(trained, tmp_path) -> None:
    said = attend(trained, "--list", "--out", tmp_path / "a")
    assert re.search(r"^0 +attention\.mixer +NonLocalAttention +16 x 16 +1 +8 x 8$", said, re.M)
    assert not list(tmp_path.iterdir())


MISTAKES = {
    "no run": (["nowhere"], "there is no run folder nowhere"),
    "no point": (["--query", "3;4"], 'the query "3;4" is no point; write X,Y in pixels'),
    "beyond the right edge": (["--query", "32,0"], "the query 32,0 lies outside the image: X goes from 0 to 31"),
    "above the image": (["--query", "0,-1"], "the query 0,-1 lies outside the image"),
    "no layer": (["--layer", "attention.mixr"], 'without a layer "attention.mixr"; did you mean "attention.mixer"?'),
    "no number of a layer": (["--layer", "1"], 'without a layer "1"; there are 0 to 0.'),
    "no class": (["--label", "dgo"], 'there is no class "dgo"; did you mean "dog"?'),
    "no truncation": (["--truncation", "0.5"], 'no knob "truncation"'),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_sentence_and_nothing_is_written(trained, tmp_path, mistake, monkeypatch, capsys) -> None:
    arguments, message = MISTAKES[mistake]
    run = [] if mistake == "no run" else [str(trained)]
    monkeypatch.setattr(sys, "argv", ["zoo", "attend", *run, *arguments, "--out", str(tmp_path / "a")])
    with pytest.raises(SystemExit) as done:
        cli.main()
    said = capsys.readouterr().err
    assert done.value.code == 2 and said.startswith("Error: ") and message in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_picture(trained, tmp_path) -> None:
    with pytest.raises(UserError, match="is a folder; name a PNG in it"):
        attend(trained, "--out", tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unconditional_generator_takes_no_label() -> None:
    with pytest.raises(UserError, match="unconditional; leave --label out"):
        sampling.class_number("0", (), 0)


def test_a_full_disk_leaves_nothing_behind(trained, tmp_path, monkeypatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(attention_sheet.Sheet, "save", refuse)
    with pytest.raises(UserError, match=r"cannot write .*a\.png \(No space left"):
        attend(trained, "--out", tmp_path / "a")
    assert not list(tmp_path.iterdir())
