"""A comparison before it runs: who takes part, what is made equal, what a budget buys, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from zoo_core import catalog, parts
from zoo_core import recipe as recipes
from zoo_core.comparison import budget, contenders, deciding, plan, tracks
from zoo_core.comparison.contenders import Entry
from zoo_core.comparison.matching import match, parameters
from zoo_core.comparison.plan import Plan, Request
from zoo_core.comparison.results import Budget
from zoo_core.data import ImageSet, open_images
from zoo_core.errors import UserError
from zoo_core.recipe import for_stage
from zoo_core.session import build_stages


@pytest.fixture(scope="module")
def drawn() -> ImageSet:
    return open_images("", 32, progress=False)


def stages(recipe: recipes.Recipe) -> list[str]:
    return [stage.name for stage in build_stages(recipe, parts.outline(recipe))]


def no_prices(recipe: recipes.Recipe, kind: str) -> dict[str, float]:
    raise AssertionError("a budget of images has no price")


def decided(images: ImageSet, *names: str, **request) -> Plan:
    entries = dict(contenders.parse(name) for name in names)
    return deciding.Decider(Request(entries=entries, **request), images, stages, no_prices, {}).plan()


# --- contenders ---


@pytest.mark.parametrize(
    ("text", "name", "entry"),
    [
        ("hit", "hit", Entry("hit")),
        ("hit:ffhq128", "hit-ffhq128", Entry("hit", "ffhq128")),
        ("mine=hit:tiny", "mine", Entry("hit", "tiny")),
        ("some/where/wide.yaml", "wide", Entry("", "some/where/wide.yaml")),
        ("other=wide.yaml", "other", Entry("", "wide.yaml")),
    ],
)
def test_a_contender_is_a_plugin_a_recipe_or_a_file(text: str, name: str, entry: Entry) -> None:
    assert contenders.parse(text) == (name, entry)


@pytest.mark.parametrize("name", ["../x", "a b", "", "x" * 61, ".hidden"])
def test_names_that_cannot_be_folders_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="cannot be called"):
        contenders.check_name(name)


def test_a_recipe_file_names_its_plugin(tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text("plugin: sagan\nrecipe: tiny\ngenerator: {channels: 32}\n")
    found = contenders.resolve(contenders.parse(str(tmp_path / "wide.yaml"))[1], [])
    assert (found.plugin, found.generator.options["channels"]) == ("sagan", 32)
    (tmp_path / "lost.yaml").write_text("recipe: tiny\n")
    with pytest.raises(UserError, match="names no plugin"):
        contenders.resolve(Entry(recipe=str(tmp_path / "lost.yaml")), [])


def test_a_plan_file_has_swaps_and_values(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(
        "track: swap\nbudget: images=2k\ncontenders:\n"
        "  own: {plugin: styleswin}\n"
        "  full: {plugin: styleswin, attention: core/full, set: {generator.mlp_ratio: 1}}\n"
    )
    assert contenders.is_plan_file(str(file))
    found = contenders.read_plan_file(file)
    assert (found.track, found.budget, list(found.contenders)) == ("swap", "images=2k", ["own", "full"])
    recipe = contenders.resolve(found.contenders["full"], [("train.batch", 8)])
    assert recipe.generator.options["attention"] == {"name": "core/full"}
    assert (recipe.generator.options["mlp_ratio"], recipe.train.batch) == (1, 8)


# --- budgets ---


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("images=30k", Budget("images", 30_000)),
        ("images=1_500", Budget("images", 1_500)),
        ("flops=5e15", Budget("flops", 5e15)),
        ("flops=2p", Budget("flops", 2e15)),
        ("minutes=1.5", Budget("seconds", 90)),
        ("hours=2", Budget("seconds", 7_200)),
    ],
)
def test_budgets_are_read(text: str, wanted: Budget) -> None:
    assert budget.parse(text) == wanted


@pytest.mark.parametrize("text", ["30k", "images=", "images=-1", "images=0", "watts=3", "images=1e999", "images=nan"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="budget"):
        budget.parse(text)


def test_stages_share_the_budget_as_they_share_their_own() -> None:
    recipe = recipes.load("vqgan", changes=[("train.images", 3_000), ("train.stages", {"prior": {"images": 6_000}})])
    names = stages(recipe)
    spent = budget.spend(recipe, names, 900)
    given = {name: for_stage(spent, name).train.images for name in names}
    assert given["prior"] == pytest.approx(2 * given["autoencoder"], abs=32)
    assert 800 < sum(given.values()) <= 900
    assert all(images % for_stage(spent, name).train.batch == 0 for name, images in given.items())


def test_what_begins_on_the_way_begins_at_the_same_part() -> None:
    changes = [
        ("train.images", 1_000),
        ("train.decay_from_images", 500),
        ("train.averages.generator.start_images", 200),
    ]
    spent = budget.spend(recipes.load("hit", changes=changes), ["main"], 320)
    assert spent.train.decay_from_images == 160
    assert spent.train.averages["generator"].start_images == 64


def test_operations_buy_images_by_their_price() -> None:
    assert budget.images(Budget("flops", 1_000), {"a": 0.25, "b": 0.75}, {"a": 4.0, "b": 2.0}) == 400


def test_a_budget_below_one_batch_is_refused(drawn: ImageSet) -> None:
    with pytest.raises(UserError, match="too few for one batch"):
        decided(drawn, "sagan", budget=Budget("images", 8))


# --- tracks ---


def test_the_common_track_makes_batch_precision_and_augmentation_equal(drawn: ImageSet, tmp_path: Path) -> None:
    own = "{precision: bf16, micro_batch: 4, stages: {prior: {precision: bf16, seed: 5}}}"
    (tmp_path / "own.yaml").write_text(f"plugin: vqgan\nrecipe: tiny\ntrain: {own}\n")
    found = decided(drawn, "sagan", "styleswin", str(tmp_path / "own.yaml"), batch=8)
    for name, recipe in found.recipes.items():
        for stage in stages(recipe):
            train = for_stage(recipe, stage).train
            assert (train.batch, train.micro_batch, train.precision, train.seed) == (8, 0, "fp32", 0), (name, stage)
        assert not recipe.data.mirror
        assert not recipe.data.labels
    assert any("sagan is class-conditional" in remark for remark in found.remarks)
    assert any("mirrors" in remark for remark in found.remarks)


def test_the_paper_track_leaves_recipes_alone(drawn: ImageSet) -> None:
    found = decided(drawn, "sagan", track="paper")
    own = recipes.load("sagan")
    assert found.recipes["sagan"].train.batch == own.train.batch
    assert found.recipes["sagan"].data.mirror == own.data.mirror


def test_the_swap_track_allows_one_component() -> None:
    host = recipes.load("styleswin")
    attention = recipes.load("styleswin", changes=[("generator.attention", {"name": "core/full"})])
    loss = recipes.load("styleswin", changes=[("loss", {"name": "core/hinge"})])
    wider = recipes.load("styleswin", changes=[("generator.style_dim", 64)])
    assert tracks.odd_ones({"own": host, "full": attention}) == []
    (complaint,) = tracks.odd_ones({"own": host, "full": attention, "hinge": loss})
    assert "attention and loss" in complaint
    (complaint,) = tracks.odd_ones({"own": host, "wider": wider})
    assert "generator.style_dim" in complaint


# --- as a whole ---


def test_everything_that_is_wrong_is_said_at_once(drawn: ImageSet) -> None:
    unlabelled = dataclasses.replace(drawn, labels=None, classes=())
    with pytest.raises(UserError) as refusal:
        decided(
            unlabelled,
            "nobody",
            "hit:no-such-recipe",
            "sagan:imagenet128-paper",
            "styleswin",
            track="paper",
            budget=Budget("images", 4),
        )
    said = str(refusal.value)
    for part in (
        'no plugin "nobody"',
        'no recipe "no-such-recipe"',
        "different resolutions (sagan-imagenet128-paper 128 px, styleswin 32 px)",
        "the recipe trains with labels, but drawn has no class folders",
        "too few for one batch",
    ):
        assert part in said


def test_what_a_training_would_refuse_is_refused_by_the_plan(drawn: ImageSet) -> None:
    few = dataclasses.replace(drawn, images=drawn.images[:20])
    with pytest.raises(UserError) as refusal:
        decided(few, "sagan", "styleswin", batch=32)
    assert str(refusal.value).count("drawn has 20 images, less than one batch of 32") == 2
    with pytest.raises(UserError, match="the recipe is for 3 classes and drawn has 8"):
        decided(drawn, "sagan", set={"data.num_classes": 3})
    with pytest.raises(UserError, match="ask for less"):
        decided(drawn, "sagan", budget=Budget("images", 1e19))


def test_all_contenders_see_the_same_images(drawn: ImageSet) -> None:
    photographs = dataclasses.replace(drawn, name="photographs")
    entries = {name: Entry("sagan", set={"data.filter": name}) for name in ("box", "bilinear")}
    for track in ("common", "paper"):
        request = Request(entries=entries, track=track)
        with pytest.raises(UserError, match="different filters.*box box, bilinear bilinear.*--set data.filter=box"):
            deciding.Decider(request, photographs, stages, no_prices, {}).plan()


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"set": {"train.seed": 3}}, "--set train.seed would change nothing.*see --seeds"),
        ({"set": {"train.batch": 3}}, "--set train.batch would change nothing.*see --batch"),
        ({"track": "paper", "batch": 8}, "--batch is for the common track"),
        ({"match": "params=0"}, "params=N takes a number above 0"),
        ({"match": "params="}, "there is params, or params=N"),
    ],
)
def test_nothing_that_is_asked_for_is_left_out_in_silence(drawn: ImageSet, request_: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        decided(drawn, "sagan", **request_)


def test_a_contender_whose_parts_cannot_be_built_is_named_beside_the_others(drawn: ImageSet) -> None:
    entries = {
        "own": Entry("styleswin"),
        "odd": Entry("styleswin", set={"generator.attention.foo": 3}),
        "lost": Entry("nobody"),
        "OWN": Entry("styleswin"),
    }
    with pytest.raises(UserError) as refusal:
        deciding.Decider(Request(entries=entries, track="swap"), drawn, stages, no_prices, {}).plan()
    for part in ("odd: generator.attention needs a name", 'lost: no plugin "nobody"', "own and OWN differ in capitals"):
        assert part in str(refusal.value)


def test_scaling_is_remarked(drawn: ImageSet) -> None:
    found = decided(drawn, "sagan", "styleswin", match="params")
    (remark,) = [remark for remark in found.remarks if "scaled" in remark]
    assert remark.startswith("styleswin is scaled from ")


def test_the_same_request_makes_the_same_plan_and_another_is_refused(drawn: ImageSet, tmp_path: Path) -> None:
    first = decided(drawn, "sagan", "styleswin")
    plan.check_folder(first, tmp_path / "it")
    plan.keep(first, tmp_path / "it")
    again = decided(drawn, "sagan", "styleswin", seeds=5)
    plan.check_folder(again, tmp_path / "it")
    plan.keep(again, tmp_path / "it")  # more seeds go on with it
    with pytest.raises(UserError, match="another comparison"):
        plan.check_folder(decided(drawn, "sagan", "styleswin", num=100), tmp_path / "it")
    kept = plan.load(tmp_path / "it")
    assert kept.recipes == again.recipes
    assert kept.request.seeds == 5
    assert plan.fingerprint(kept) == plan.fingerprint(again)


def test_a_budget_of_time_goes_on_with_the_speed_that_was_measured_first(drawn: ImageSet, tmp_path: Path) -> None:
    hurried = Request(entries=dict([contenders.parse("sagan")]), budget=Budget("seconds", 60))

    def at(seconds: float) -> deciding.Prices:
        return lambda recipe, kind: {"main": seconds}

    def again(seconds: float) -> Plan:
        known = plan.known_prices(tmp_path / "it", hurried.budget)
        return deciding.Decider(hurried, drawn, stages, at(seconds), known).plan()

    first = again(0.01)
    assert first.images["sagan"] == 60 / 0.01
    plan.keep(first, tmp_path / "it")
    assert again(0.02) == first == dataclasses.replace(plan.load(tmp_path / "it"), request=hurried)
    plan.check_folder(again(0.02), tmp_path / "it")
    other = dataclasses.replace(hurried, budget=Budget("seconds", 120))
    assert plan.known_prices(tmp_path / "it", other.budget) == {}
    assert plan.folder_name(hurried, drawn) != plan.folder_name(other, drawn)
    assert plan.folder_name(hurried, drawn) == plan.folder_name(dataclasses.replace(hurried, seeds=9), drawn)


def test_jobs_are_commands_paired_by_seed(drawn: ImageSet, tmp_path: Path) -> None:
    found = plan.jobs(decided(drawn, "sagan", "b=styleswin", seeds=2), tmp_path)
    assert [(job.contender, job.seed) for job in found] == [("sagan", 0), ("b", 0), ("sagan", 1), ("b", 1)]
    assert found[3].line() == (
        f"zoo train --plugin styleswin --recipe {tmp_path}/recipes/b.yaml --set train.seed=1 "
        f"--out {tmp_path}/runs/b-seed-1"
    )


# --- equal numbers of parameters ---


@pytest.mark.parametrize("name", ["sagan", "styleswin", "stylenat", "hit", "vqgan"])
@pytest.mark.parametrize("factor", [0.5, 3])
def test_widths_are_scaled_to_a_number_of_parameters(name: str, factor: float) -> None:
    recipe = recipes.load(name, changes=[("data.labels", False)])
    target = round(parameters(recipe) * factor)
    matched = match(recipe, target)
    assert parameters(matched) == pytest.approx(target, rel=0.05)
    assert matched.generator.name == recipe.generator.name


def test_where_one_factor_leaves_a_gap_single_widths_of_a_table_fill_it() -> None:
    recipe, sought = recipes.load("hit"), 308_000  # {8: 24, 16: 16, 32: 8} has 291,179, {8: 32, 16: 16, 32: 8} 388,911
    assert parameters(match(recipe, sought)) == pytest.approx(sought, rel=0.05)


@pytest.mark.parametrize(
    ("plugin", "name", "factor"),
    [("hit", "ffhq256", 0.5), ("hit", "imagenet128", 4), ("styleswin", "ffhq256", 2), ("stylenat", "church256", 0.5)],
)
def test_widths_that_a_published_recipe_leaves_to_its_network_are_scaled_at_every_side(
    plugin: str, name: str, factor: float
) -> None:
    recipe = recipes.load(plugin, name)
    derived = parts.outline(recipe).generator.channels
    assert "channels" not in recipe.generator.options
    target = round(parameters(recipe) * factor)
    matched = match(recipe, target)
    assert parameters(matched) == pytest.approx(target, rel=0.05)
    multiple = catalog.plugin(plugin).widths["generator.channels"]
    widths = matched.generator.options["channels"]
    lowest = max((widths[side] - multiple / 2) / dim for side, dim in derived.items())
    highest = min((widths[side] + multiple / 2) / dim for side, dim in derived.items())
    assert lowest <= highest, "one factor gives them all, but for rounding"


def test_a_generator_of_another_plugin_is_scaled_by_the_widths_of_its_own() -> None:
    changes = [("generator", {"name": "styleswin/styleswin", "channels": {4: 64, 8: 32, 16: 32, 32: 16}})]
    recipe = recipes.load("sagan", changes=[*changes, ("data.labels", False)])
    matched = match(recipe, 2 * parameters(recipe))
    assert parameters(matched) == pytest.approx(2 * parameters(recipe), rel=0.05)
    assert all(width % 8 == 0 for width in matched.generator.options["channels"].values())


@pytest.mark.parametrize("attention", ["core/full", "core/none", "hit/multi-axis", "stylenat/hydra", "sagan/non_local"])
@pytest.mark.parametrize("factor", [0.5, 3])
def test_heads_still_fit_where_a_swapped_host_is_scaled(attention: str, factor: float) -> None:
    recipe = recipes.load("styleswin", changes=[("generator.attention", {"name": attention})])
    target = round(parameters(recipe) * factor)
    assert parameters(match(recipe, target)) == pytest.approx(target, rel=0.05)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (10**12, r"1,000,000,000,000 parameters are out of reach: .* scaling generator.channels of sagan gives is \d"),
        (-5, "above 0, not -5"),
    ],
)
def test_a_number_that_no_width_gives_is_refused(target: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        match(recipes.load("sagan", changes=[("data.labels", False)]), target)
