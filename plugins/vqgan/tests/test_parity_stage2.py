"""The second stage against arrays that the official classes computed.

The codes and conditions that the first stage gave are inputs, but for the last tests, which join the stages. Greedy
chains are compared whole: their least margins between the best and the second code are above rounding, but for two
places, from which on a chain may part.
"""

from __future__ import annotations

import json

import numpy as np
import parity
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from vqgan_goldens import GRADIENT, Golden, keys, weights

from zoo_core.formulation import plain
from zoo_core.interfaces import Latent
from zoo_vqgan.autoencoder import AutoEncoder
from zoo_vqgan.conditions import Codes, Coordinates, Label, Unconditional, raster, stretch
from zoo_vqgan.convert import first_stage
from zoo_vqgan.decoder import ConvolutionalDecoder
from zoo_vqgan.encoder import Encoder
from zoo_vqgan.filtering import Filter, keep_top_k, keep_top_p
from zoo_vqgan.gpt import GPT, parameter_groups
from zoo_vqgan.kv_cache import KeyValueCache
from zoo_vqgan.permuters import ORDERS, Permuter
from zoo_vqgan.prior import Prior
from zoo_vqgan.prior_sampling import sample_codes
from zoo_vqgan.quantizers.nearest import NearestQuantizer
from zoo_vqgan.schedule import warm_up_cosine
from zoo_vqgan.window import Windows, local_index

pytestmark = pytest.mark.parity

GREEDY = Filter(greedy=True)
ROUNDING = 1e-4  # of a margin between the best and the second logit

OFFICIAL_ORDERS = {
    "Subsample": "subsample",
    "ZCurve": "z_curve",
    "SpiralOut": "spiral_out",
    "SpiralIn": "spiral_in",
    "Random": "random",
    "AlternateParsing": "alternate",
}


def multinomial(probabilities: Tensor) -> Tensor:
    """The official draw, from torch's global stream."""
    return torch.multinomial(probabilities, 1)[:, 0]


def unused(probabilities: Tensor) -> Tensor:
    raise AssertionError("greedy sampling draws nothing")


def prior(case: str, *, block_size: int, condition_length: int, order: str = "identity", kept: float = 1.0) -> Prior:
    """A wrapper of the goldens: two layers, four heads, 64 channels, 64 codes, grids of 16 by 16."""
    gpt = GPT(vocabulary=64, block_size=block_size, layers=2, heads=4, dim=64)
    gpt.load_state_dict(weights(keys(case), "transformer."))
    return Prior(gpt, Permuter(order, 16, 16), condition_length=condition_length, kept=kept).eval()


PRIORS = {
    "n2n_class": "prior of classes",
    "n2n_coord": "prior of coordinates",
    "n2n_depth": "prior of depth",
    "n2n_uncond": "unconditional prior",
}


def check_forward(golden: Golden, network: Prior, target: Tensor, condition: Tensor, loss_name: str = "loss") -> None:
    loss, logits = network(network.permuter.inverse(target), condition)
    golden.check(PRIORS[golden.name], "logits", "logits", logits)
    golden.check(PRIORS[golden.name], "loss", loss_name, loss)


def check_chain(golden: Golden, module: str, name: str, codes: Tensor, margins: str) -> None:
    """Greedy codes `[B, N]`, up to each row's first margin within rounding."""
    theirs, margin = golden.arrays[name].reshape(codes.shape), golden.arrays[margins]
    margin = margin if margin.shape == codes.shape else margin.T
    wrong = codes.numpy() != theirs
    doubtful = np.maximum.accumulate(margin < ROUNDING, axis=1)
    golden.note(module, "greedy codes", float((wrong & ~doubtful).mean()), 0.0, name, margins)


def test_transformer() -> None:
    golden = Golden("gpt_small")
    network = GPT(layers=2, vocabulary=64, block_size=48, heads=4, dim=64)
    listed = keys("gpt_base")
    network.load_state_dict(weights(listed))
    assert list(network.state_dict()) == [key for key, _ in listed if not key.endswith(".mask")]

    for name in golden.names("base:act:"):
        network.get_submodule(name.removeprefix("base:act:")).register_forward_hook(
            lambda module, arguments, output, name=name: golden.check("transformer", "activations", name, output)
        )
    tokens = golden.tensor("base:tokens")
    logits = network(tokens)
    for module in network.modules():
        module._forward_hooks.clear()
    golden.check("transformer", "logits", "base:logits", logits)
    loss = F.cross_entropy(logits.flatten(0, 1), tokens.roll(-1, 1).flatten())
    golden.check("transformer", "loss", "base:loss", loss)
    loss.backward()
    for name in golden.names("base:gradnorm:"):
        slope = network.get_parameter(name.removeprefix("base:gradnorm:")).grad
        golden.check("transformer", "norms of gradients", name, slope.norm(), GRADIENT)

    cache = KeyValueCache(48)
    cached = torch.cat([network(tokens[:, place : place + 1], cache=cache) for place in range(10)], dim=1)
    golden.check("cached sampling", "logits", "base:logits_with_past", cached)
    left_out = ["base:emb", "base:logits_with_embeddings", "base:past_shape"]
    golden.all_checked("base:", inputs=["base:tokens", *left_out])


def test_filters() -> None:
    golden = Golden("gpt_small")
    logits = golden.tensor("filter:logits")
    for name in golden.names("filter:top_k") + golden.names("filter:hf_"):
        k, _, p = name.removeprefix("filter:top_k").removeprefix("filter:hf_k").partition("_p")
        ours, theirs = keep_top_p(keep_top_k(logits, int(k)), float(p or 1)), golden.tensor(name)
        golden.note("sampling filters", "logits left", float((ours != theirs).float().mean()), 0.0, name)
    golden.all_checked("filter:", inputs=["filter:logits"])


def test_orders() -> None:
    golden = Golden("misc")
    for name in golden.names("perm:"):
        _, order, side, way = name.split(":")
        permuter = Permuter(OFFICIAL_ORDERS[order], int(side), int(side))
        golden.equal("orders of codes", "tables", name, permuter.table if way == "fwd" else permuter.back)
    golden.all_checked("perm:")
    assert {*OFFICIAL_ORDERS.values(), "identity"} == ORDERS.keys()


def test_schedule() -> None:
    golden = Golden("misc")
    shapes = {
        "lr": {"warm_up": 100, "start": 0.001, "peak": 1.0, "end": 0.01, "total": 1000},
        "gumbel_temp": {"warm_up": 0, "start": 0.9, "peak": 0.9, "end": 1e-6, "total": 1_000_001},
    }
    for name, shape in shapes.items():
        ours = torch.tensor([warm_up_cosine(step, **shape) for step in golden.tensor(f"{name}:n").tolist()])
        golden.check("schedules", "warm-up and cosine", f"{name}:v", ours)


def test_coordinates_and_depth() -> None:
    golden = Golden("misc")
    for name in golden.names("coordstage"):
        height, width = map(int, name.split(":")[1].split("x"))
        golden.equal("conditions", "coordinates", name, Coordinates(1024, 16)(raster(height, width), 1))
    golden.all_checked("coordstage")

    # The picture is not at hand: its recorded corner, with the least and greatest depth of the whole beside it.
    depth = F.pad(golden.tensor("depthpng:raw_corner"), (0, 1))
    depth[:2, 8] = golden.tensor("depthpng:raw_minmaxmean")[:2]
    depth[2:, 8] = depth[0, 8]
    ours = stretch(depth[None, None])[0, 0, :, :8]
    golden.check("conditions", "depth", "depthpng:norm_corner", ours)


def test_coordinate_condition() -> None:
    golden = Golden("n2n_coord")
    network = prior("n2n_coord", block_size=512, condition_length=256, kept=0.9)
    condition = Coordinates(64, 4)(golden.tensor("coord").permute(0, 3, 1, 2), 2)
    golden.equal("conditions", "coordinates", "c_indices", condition)
    check_forward(golden, network, golden.tensor("z_indices"), condition, "loss_eval")


def test_a_step_of_adamw_with_corruption() -> None:
    golden = Golden("n2n_coord")
    network = prior("n2n_coord", block_size=512, condition_length=256, kept=0.9).train()
    codes, condition = golden.tensor("z_indices"), golden.tensor("c_indices")
    mask = golden.tensor("pkeep_mask")
    read = mask * codes + (1 - mask) * golden.tensor("pkeep_random")

    recorded = json.loads(parity.golden("vqgan/n2n_coord.optgroups.json").read_text())
    groups = parameter_groups(network.gpt)
    names = {id(parameter): name for name, parameter in network.gpt.named_parameters()}
    ours = [[names[id(p)] for p in group["params"]] for group in groups], [group["weight_decay"] for group in groups]
    wrong = float(ours != (recorded["groups"], recorded["weight_decay"]))
    golden.note("optimizer groups", "names in order, and decay", wrong, 0.0)

    optimizer = torch.optim.AdamW(groups, lr=9e-6, betas=tuple(recorded["betas"]))
    loss, _ = network(codes, condition, corrupted=read)
    row = PRIORS["n2n_coord"]
    golden.check(row, "loss with corruption", "loss_pkeep", loss)
    loss.backward()
    for name in golden.names("gradnorm:"):
        slope = network.gpt.get_parameter(name.removeprefix("gradnorm:transformer.")).grad
        golden.check(row, "norms of gradients", name, slope.norm(), GRADIENT)
    optimizer.step()
    golden.check(row, "loss after a step", "loss_after_step", network.eval()(codes, condition)[0])


@torch.no_grad()
def test_half_completion() -> None:
    """The recorded codes were drawn in a way that is not told, so only that each is among our two best can be said."""
    golden = Golden("n2n_coord")
    network = prior("n2n_coord", block_size=512, condition_length=256)
    condition, start, theirs = (golden.tensor(name) for name in ("c_indices", "sample_half_start", "sample_half"))
    _, logits = network(theirs, condition)
    best = logits[:, start.shape[1] :].topk(2).indices
    wrong = (best != theirs[:, start.shape[1] :, None]).all(-1).float().mean()
    golden.note("cached sampling", "completed codes, among the two best", float(wrong), 0.0)


@torch.no_grad()
def test_windows_see_what_the_official_ones_see() -> None:
    golden = Golden("n2n_windows")
    network = prior("n2n_coord", block_size=512, condition_length=256)
    windows = Windows(network.gpt, golden.tensor("c_indices"), 24, 32)
    codes = golden.tensor("base")
    rows = [torch.cat([windows.logits(codes, row, column) for column in range(32)]) for row in range(24)]
    golden.check("sliding window", "logits of every cell", "cell_logits", torch.stack(rows))

    torch.manual_seed(3)
    sampled = Windows(network.gpt, golden.tensor("c_indices"), 24, 32).sample(multinomial, Filter(0.9, 8))
    golden.equal("sliding window", "codes, seeded", "sampled_seed3_k8_t0.9", sampled)
    golden.all_checked(inputs=["c_indices", "base", "sampled_image"])


def test_the_window_of_each_cell() -> None:
    cells = [divmod(cell, 32) for cell in range(24 * 32)]
    inside = [(local_index(row, 24, 16), local_index(column, 32, 16)) for row, column in cells]
    ours = [(*cell, *local, cell[0] - local[0], cell[1] - local[1]) for cell, local in zip(cells, inside, strict=True)]
    Golden("n2n_coord").equal("sliding window", "places", "win_locations_i_j_li_lj_i0_j0", torch.tensor(ours))


@pytest.mark.parametrize("case", ["n2n_coord", "n2n_depth"])
def test_windows_with_a_spatial_condition(case: str) -> None:
    golden = Golden(case)
    network = prior(case, block_size=512, condition_length=256)
    if case == "n2n_depth":
        check_forward(golden, network, golden.tensor("target"), golden.tensor("c_indices"))
    codes = Windows(network.gpt, golden.tensor("win_c_indices"), 24, 32).sample(unused, GREEDY)
    check_chain(golden, "sliding window", "win_indices", codes.flatten(1), "win_margins")


@pytest.mark.parametrize("case", ["n2n_class", "n2n_uncond"])
def test_one_condition_token(case: str) -> None:
    golden = Golden(case)
    order = "identity" if case == "n2n_class" else "alternate"
    network = prior(case, block_size=256, condition_length=1, order=order)
    condition = Label(10)(golden.tensor("labels"), 2) if case == "n2n_class" else Unconditional(5)(None, 2)
    check_forward(golden, network, golden.tensor("target"), condition)
    codes = sample_codes(network.gpt, condition, 256, unused, GREEDY)
    check_chain(golden, "cached sampling", "greedy_past", codes, "greedy_margins")
    if case == "n2n_class":
        torch.manual_seed(5)
        sampled = sample_codes(network.gpt, condition, 64, multinomial, Filter(1.1, 20, 0.92))
        golden.equal("cached sampling", "codes, seeded", "sampled_seed5_k20_p0.92_t1.1_64steps", sampled)
        with plain():
            codes = sample_codes(network.gpt, condition, 256, unused, GREEDY)
        check_chain(golden, "sampling without the cache", "greedy_nopast", codes, "greedy_margins")

    num = len(golden.tensor("ext_win_indices"))
    codes = Windows(network.gpt, condition[:num], 24, 32).sample(unused, GREEDY)
    check_chain(golden, "sliding window, one condition token", "ext_win_indices", codes.flatten(1), "ext_win_margins")


def autoencoder(
    case: str, prefix: str = "first_stage_model.", *, num_codes: int = 64, channels: int = 3
) -> AutoEncoder:
    """One of the goldens' autoencoders, which turn 64 pixels into 16 codes."""
    options = {"channels": 32, "multipliers": (1, 2, 2), "blocks": 2, "attention_resolutions": (16,)}
    network = AutoEncoder(
        encoder=Encoder(resolution=64, in_channels=channels, z_channels=64, **options),
        quantizer=NearestQuantizer(num_codes=num_codes, dim=32),
        decoder=ConvolutionalDecoder(Latent(64, 16, 64, channels), **options),
        z_channels=64,
        embed_dim=32,
    )
    network.load_state_dict(first_stage(weights(keys(case), prefix), network.state_dict()))
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("case", "order", "codes"),
    [
        ("n2n_coord", "identity", "z_indices"),
        ("n2n_class", "identity", "target"),
        ("n2n_uncond", "alternate", "target"),
        ("n2n_depth", "identity", "target"),
    ],
)
def test_images_become_the_codes_that_are_predicted(case: str, order: str, codes: str) -> None:
    golden = Golden(case)
    ours = Permuter(order, 16, 16)(autoencoder(case).codes(golden.tensor("x")).flatten(1))
    golden.equal("both stages", "codes in order", codes, ours)


@torch.no_grad()
@pytest.mark.parametrize(
    ("case", "order", "codes", "image"),
    [
        ("n2n_coord", "identity", "win_indices", "win_image"),
        ("n2n_windows", "identity", "sampled_seed3_k8_t0.9", "sampled_image"),
        ("n2n_class", "identity", "greedy_past", "greedy_image"),
        ("n2n_uncond", "alternate", "greedy_past", "greedy_image"),
    ],
)
def test_codes_in_order_become_images(case: str, order: str, codes: str, image: str) -> None:
    golden = Golden(case)
    grid = golden.tensor(codes)
    if grid.ndim == 2:
        grid = Permuter(order, 16, 16).inverse(grid).unflatten(1, (16, 16))
    ours = autoencoder("n2n_coord" if case == "n2n_windows" else case).decode_codes(grid)
    golden.check("both stages", "images", image, ours)


@torch.no_grad()
def test_a_second_autoencoder_gives_the_condition() -> None:
    golden = Golden("n2n_depth")
    second = autoencoder("n2n_depth", "cond_stage_model.", num_codes=48, channels=1)
    condition = Codes(second.codes, 48)
    tokens = condition(golden.tensor("depth"), 1)
    golden.equal("conditions", "codes of depth", "c_indices", tokens)
    golden.equal("conditions", "codes of depth", "win_c_indices", condition(golden.tensor("depth_wide"), 1))
    golden.check("conditions", "decoded codes of depth", "cond_rec", second.decode_codes(tokens))
