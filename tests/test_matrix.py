"""The whole matrix steps: every attention in every host, every discriminator and loss in every adversarial stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
import toys
from calls import Answer, call
from conftest import run_zoo

from zoo_core import bench, catalog, load, matrix, parts, recipe, session
from zoo_core.attention import offered_heads
from zoo_core.errors import UserError
from zoo_core.interfaces import Site
from zoo_core.plugins import installed
from zoo_core.recipe import Recipe
from zoo_core.trainer import Diverged

SMALL = [("train.batch", 2), ("data.num_classes", 2)]
AT_ONCE = {"vqgan": [("loss.adversarial_start_images", 0)]}
"""What a host needs for its adversarial terms to count in the first step."""

UNLABELLED = {
    f"{plugin}/{name}": f"the recipe trains by class, but the discriminator {plugin}/{name} takes no labels; "
    "set data.labels=false, or choose a discriminator that knows labels."
    for plugin, name in (("hit", "hit"), ("styleswin", "styleswin"), ("vqgan", "patch"))
}
REFUSED = {("discriminator", component, "sagan"): reason for component, reason in UNLABELLED.items()}
"""(kind, component, host): its reason. With `data.labels=false` each of them fits. Everything else fits as it is."""

PLUGINS = ("core", "hit", "sagan", "stylenat", "styleswin", "vqgan")
if any(name not in installed().loaded for name in PLUGINS):
    pytest.skip("not all papers are installed; `pip install -e plugins/NAME`", allow_module_level=True)
ALL = [
    (kind, component.full_name, host)
    for kind in matrix.KINDS
    for component in catalog.components(kind)
    for host in matrix.hosts()
]


def changes(host: str) -> list[tuple[str, Any]]:
    stages = [(f"train.stages.{stage}.batch", 2) for stage in recipe.load(host).train.stages]
    return [*SMALL, *AT_ONCE.get(host, []), *stages]


def swap(kind: str, component: str, host: str, more: Sequence[tuple[str, Any]] = ()) -> Recipe:
    return matrix.swapped(kind, catalog.find(kind, component), host, [*changes(host), *more])


def step(wanted: Recipe, folder: Path) -> None:
    """Every phase once, on noise: all that it says is finite, and each trained network has a gradient."""
    work = bench.Workload(wanted, session.build_stages, folder)
    for tasks in work.steps.values():
        for task in tasks:
            try:
                said = task.run() or {}
            except Diverged as error:
                raise AssertionError(str(error)) from error
            assert all(math.isfinite(value) for value in said.values())
            gradients = [value for name, value in said.items() if name.startswith("gradient/")]
            assert all(value > 0 for value in gradients) and (gradients or task.name == "averages")


@pytest.mark.parametrize("kind", matrix.KINDS)
def test_the_matrix_is_whole(kind: str) -> None:
    """Nothing that this repository has is left out of the table below."""
    found = {(component, host) for each, component, host in ALL if each == kind}
    ours = [c.full_name for c in catalog.components(kind) if c.plugin in PLUGINS]
    assert found >= {(component, host) for component in ours for host in PLUGINS[1:]}
    assert len(ours) >= {"attention": 7, "discriminator": 4, "loss": 5}[kind]


@pytest.mark.parametrize(("kind", "component", "host"), ALL)
def test_every_component_steps_in_every_host(kind: str, component: str, host: str, tmp_path: Path) -> None:
    reason = REFUSED.get((kind, component, host), "")
    if reason:
        with pytest.raises(UserError) as refusal:
            session.rehearse(swap(kind, component, host))
        assert str(refusal.value) == reason
    step(swap(kind, component, host, [matrix.WITHOUT_LABELS] if reason else []), tmp_path)


def test_what_is_listed_is_what_steps() -> None:
    for kind in matrix.KINDS:
        for (component, host), cell in matrix.table(kind, session.rehearse).cells.items():
            assert cell.reason == REFUSED.get((kind, component, host), "")
            assert cell.fits and not cell.broken


@pytest.mark.parametrize("discriminator", ["sagan/sagan", "hit/hit"])
def test_where_the_generator_draws_without_labels_a_discriminator_may_know_them_or_not(
    discriminator: str, tmp_path: Path
) -> None:
    """VQGAN's labels are its prior's; the images of its first stage are judged with them by those that know them."""
    step(swap("discriminator", discriminator, "vqgan", [("data.labels", True)]), tmp_path)


@pytest.mark.parametrize(("dim", "heads"), [(512, 16), (160, 4), (96, 2), (32, 2), (6, 2), (33, 1)])
def test_hosts_offer_an_even_number_of_heads_where_one_divides(dim: int, heads: int) -> None:
    assert offered_heads(dim) == heads


# What cannot fit says so before training.


@pytest.mark.parametrize(
    ("host", "settings", "sentence"),
    [
        ("hit", {"generator.heads": {8: 1}, "generator.attention": "hit/multi-axis"}, "set an even number of heads"),
        (
            "styleswin",
            {"generator.attention": "hydra", "generator.min_heads": 3},
            "3 heads do not divide 64 channels at resolution 16; change",
        ),
        ("sagan", {"generator.attention": {"name": "hydra", "dilations": {16: [3]}}}, "to at most 2 at 16"),
        ("vqgan", {"generator.attention": {"name": "windows", "window": 5, "full_resolution": 4}}, "windows of 5"),
        ("styleswin", {"generator.decoder": "hit"}, "the generator styleswin has no decoder to exchange"),
        ("hit", {"discriminator.attention": "full"}, "the discriminator hit has no attention to exchange"),
        (
            "styleswin",
            {"discriminator": {"name": "sagan", "attention": "hydra"}},
            r"differentiates the discriminator twice, which its attention\.mixer .* or set loss\.r1=0",
        ),
        ("hit", {"data.labels": True}, "set data.labels=false"),
        ("hit", {"train.optimizers.discriminator": None}, "no train.optimizers.discriminator; give it an lr"),
        ("styleswin", {"data.resolution": 8, "discriminator": "vqgan/patch"}, "need images of at least 24 pixels"),
        ("sagan", {"loss": None}, "needs discriminator and loss sections"),
    ],
)
def test_what_cannot_fit_is_refused_before_training(host: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        session.rehearse(recipe.load(host, "", list(settings.items())))


@pytest.mark.parametrize("attention", [component.full_name for component in catalog.components("attention")])
@pytest.mark.parametrize("side", [4, 8, 16])
def test_a_map_of_another_size_than_the_site_is_mixed_or_refused(attention: str, side: int) -> None:
    """Hosts that are convolutional beside their attention also draw other sizes."""
    mixer = parts.nested_factory("attention", {"name": attention}, "")(Site(64, 2, side))
    for height, width in ((side, side), (12, 12), (16, 8), (5, 7)):
        x = torch.randn(1, height, width, 64)
        try:
            assert mixer(x).shape == x.shape
        except UserError:
            assert (height, width) != (side, side)


@pytest.mark.parametrize("attention", ["hit/multi-axis", "stylenat/hydra"])
def test_with_its_option_second_order_an_attention_stands_in_a_discriminator_under_r1(
    attention: str, tmp_path: Path
) -> None:
    options = {"name": attention, "second_order": True}
    step(swap("discriminator", "sagan/sagan", "styleswin", [("discriminator.attention", options)]), tmp_path)


# Strangers.

STRANGER = """
from torch import nn
from torch.nn.functional import mse_loss
from zoo_core.attention import offered_heads
from zoo_core.errors import UserError
from zoo_core.interfaces import Attention, LatentGenerator
from zoo_core.program import Phase, Stage, adam

class Mixer(Attention):
    def __init__(self, site):
        super().__init__()
        self.layer = nn.Linear(site.dim, site.dim)
    def forward(self, x, context=None):
        return self.layer(x)

def wide(site):
    raise UserError(f"wide attention needs a map of 4096, not of {site.resolution}; set data.resolution.")

def faulty(site):
    return 1 / 0

class Painter(LatentGenerator):
    def __init__(self, *, resolution, num_classes=0):
        super().__init__()
        self.resolution, self.latent_dim = resolution, 4
        self.layer = nn.Linear(4, 3 * resolution ** 2)
    def forward(self, z, label=None):
        return self.layer(z).view(-1, 3, self.resolution, self.resolution)

def build(recipe, parts):
    painter = parts.generator
    def loss(batch, clock):
        return {"generator": mse_loss(painter(painter.latent(batch.rng)), batch.image)}
    optimizer = adam(painter, recipe.train.optimizers["generator"])
    return [Stage({"generator": painter}, {"generator": optimizer}, (Phase("paint", ("generator",), loss),))]
"""
RECIPE = """
generator: {name: painter}
data: {resolution: 32}
train: {images: 8, batch: 2, optimizers: {generator: {lr: 0.001}}}
"""


def test_a_strangers_plugin_joins_by_being_installed(tmp_path: Path) -> None:
    attentions = {name: f"painter_parts:{ref}" for name, ref in [("mix", "Mixer"), ("wide", "wide"), ("odd", "faulty")]}
    fields = (
        f", attentions={attentions}, generators={{'painter': 'painter_parts:Painter'}}, "
        "stages='painter_parts:build', recipes='painter_recipes'"
    )
    modules = {
        "zoo_painter.py": fakes.PLUGIN.format(name="painter", fields=fields),
        "painter_parts.py": STRANGER,
        "painter_recipes/__init__.py": "",
        "painter_recipes/tiny.yaml": RECIPE,
    }
    fakes.distribution(tmp_path / "site", "zoo-painter", {"painter": "zoo_painter"}, modules)
    variables = fakes.on_path(tmp_path / "site") | {"ZOO_PLUGINS": "painter,sagan"}
    found = run_zoo(tmp_path, "list", "--matrix", **variables)
    assert found.returncode == 0, found.stderr
    rows = {line.split()[0]: line.split()[1:] for line in found.stdout.splitlines() if "/" in line.split(" ")[0]}
    assert rows["painter/mix"] == ["1", "✓"]  # in painter, in sagan
    assert rows["painter/odd"] == ["1", "2"]
    assert rows["painter/wide"] == ["1", "3"]
    assert rows["sagan/sagan"] == ["1", "✓"] and rows["core/logistic"] == ["2", "✓"]
    printed = " ".join(found.stdout.split())
    for said in (
        "1 the generator painter has no attention to exchange; leave generator.attention out.",
        "2 broken: ZeroDivisionError: division by zero",
        "3 wide attention needs a map of 4096, not of 16; set data.resolution.",
        "1 no stage of painter is adversarial; leave the discriminator sagan/sagan out.",
        "2 no stage of painter is adversarial; leave the loss core/logistic out.",
    ):
        assert said in printed


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_whatever_a_stranger_raises_is_one_cell_and_the_others_are_tried(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def swapped(kind: str, component: catalog.Component, host: str, changes: Sequence[Any] = ()) -> Recipe:
        if host == "hit" or (host == "sagan" and changes):
            raise error("out of\nclay")
        return recipe.load(host)

    def attempt(wanted: Recipe) -> None:
        if wanted.plugin == "sagan":
            raise UserError("no.")

    monkeypatch.setattr(matrix, "swapped", swapped)
    found = matrix.table("attention", attempt).cells
    for component in catalog.components("attention"):
        name = component.full_name
        said = f"{error.__name__}: out of clay"
        assert found[name, "hit"] == matrix.Cell(name, "hit", said, broken=True)
        assert found[name, "sagan"] == matrix.Cell(name, "sagan", "no.")
        assert found[name, "vqgan"].fits


def test_the_table_is_read_on_80_columns_and_equal_reasons_have_one_number() -> None:
    hosts = ("hit", "sagan", "stylenat", "styleswin", "vqgan")
    long = "the recipe trains by class, but the discriminator takes no labels; set data.labels=false. " * 3
    name, path = "styleswin/styleswin", "/a/path/that/is/wider/than/it/may/be/" + "x" * 60
    cells = [
        *(matrix.Cell(name, host, long.strip(), change="data.labels=false") for host in hosts[:2]),
        matrix.Cell(name, hosts[2], f"no {path}", broken=True),
        *(matrix.Cell(name, host) for host in hosts[3:]),
    ]
    found = matrix.lines(matrix.Table("loss", (name,), hosts, {(each.component, each.host): each for each in cells}))
    assert found[1].split() == [name, "✓1", "✓1", "2", "✓", "✓"]
    assert all(len(line) <= 80 for line in found if path not in line)
    assert " ".join(" ".join(found[2:]).split()) == f"1 {long}2 broken: no {path}"


# At the command line.


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.write_pictures(tmp_path_factory.mktemp("pictures") / "pets", num=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "swaps",
    [
        "--plugin styleswin --attention stylenat/hydra --discriminator hit --loss sagan/hinge"
        " --set discriminator.channels={4: 16, 8: 16, 16: 16, 32: 16}",
        "--plugin hit --attention none --discriminator styleswin --loss vqgan/vanilla"
        " --set discriminator.max_channels=16",
        "--plugin vqgan --attention full --discriminator sagan --loss core/logistic --set discriminator.channels=16",
    ],
)
def test_a_hybrid_trains_resumes_and_samples_at_the_command_line(swaps: str, pictures: Path, tmp_path: Path) -> None:
    command, _, setting = swaps.partition(" --set ")

    def train(images: int) -> Answer:
        settings = [setting, "train.batch=2", f"train.images={images}"]
        if "--plugin vqgan" in command:
            settings += ["train.images=4", f"train.stages.prior.images={images}", "train.stages.prior.batch=2"]
        pairs = [word for text in settings for word in ("--set", text)]
        words = ["train", *command.split(), *pairs, "--data", str(pictures), "--out", "run", "--no-measure"]
        return call(tmp_path, words)

    first = train(4)
    assert first.code == 0, first.err
    again = train(8)
    assert again.code == 0 and "Resuming from step 2" in again.out, again.err
    assert load(tmp_path / "run").step == 4
    drawn = call(tmp_path, ["sample", "run", "--num", "2"])
    assert drawn.code == 0 and list((tmp_path / "run" / "sampled").rglob("*.png")), drawn.err
