"""Recipes: what a file, the file that it begins from and `--set` make together, and which mistakes are named how."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from zoo_core import recipe
from zoo_core.errors import UserError
from zoo_core.plain_yaml import MAX_BYTES, parse_yaml
from zoo_core.plugins import installed
from zoo_core.recipe import Part, check, load, merge, parse_set, to_dict, to_yaml
from zoo_core.schema import coerce

SHIPPED = [(name, known) for name in sorted(installed().loaded) for known in recipe.names(name)]


def tiny(*settings: str, given: str | Path = "") -> recipe.Recipe:
    """SAGAN's default recipe, or the one given, with `--set` applied."""
    return load("sagan", str(given), [parse_set(text) for text in settings])


def refusal(*settings: str, given: str | Path = "") -> str:
    with pytest.raises(UserError) as caught:
        tiny(*settings, given=given)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    return text


def write(folder: Path, name: str, **sections: Any) -> Path:
    (folder / name).write_text(yaml.safe_dump(sections))
    return folder / name


# --- the collection ---


@pytest.mark.parametrize(("plugin", "name"), SHIPPED)
def test_every_shipped_recipe_survives_saving_exactly(plugin: str, name: str) -> None:
    found = load(plugin, name)
    assert check(to_dict(found)) == found
    assert check(parse_yaml(to_yaml(found), "saved")) == found


@pytest.mark.parametrize(("plugin", "name"), SHIPPED)
def test_every_shipped_recipe_survives_saving_with_all_its_options(plugin: str, name: str) -> None:
    from zoo_core import parts

    full = parts.complete(load(plugin, name))
    assert full.generator.options.keys() >= load(plugin, name).generator.options.keys()
    assert check(parse_yaml(to_yaml(full), "saved")) == full
    assert parts.complete(full) == full


def test_every_plugin_has_its_default_recipe() -> None:
    for name, item in installed().loaded.items():
        assert not item.plugin.stages or item.plugin.recipe in recipe.names(name)


# --- inheritance ---


def test_a_file_begins_from_a_shipped_recipe_and_changes_single_values(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.yaml", recipe="tiny", train={"batch": 8, "optimizers": {"generator": {"lr": 0.5}}})
    base, found = tiny(), tiny(given=path)
    assert found.train.batch == 8 and found.train.images == base.train.images
    assert found.train.optimizers["generator"].lr == 0.5
    assert found.train.optimizers["generator"].betas == base.train.optimizers["generator"].betas
    assert found.train.optimizers["discriminator"] == base.train.optimizers["discriminator"]
    assert found.generator == base.generator


def test_a_part_of_another_name_replaces_and_of_the_same_name_merges(tmp_path: Path) -> None:
    same = write(tmp_path, "same.yaml", recipe="tiny", generator={"channels": 8}, loss={"name": "hinge", "r1": 2})
    assert tiny(given=same).generator.options == {**tiny().generator.options, "channels": 8}
    other = write(tmp_path, "other.yaml", recipe=str(same), loss={"name": "logistic"}, discriminator="core/other")
    assert tiny(given=other).loss == Part("logistic", {"r1": 2}), "R1 is the stage's, whatever the loss is called"
    assert tiny(given=other).discriminator == Part("core/other", {})
    assert tiny(given=other).generator.options["channels"] == 8


def test_null_takes_a_key_away() -> None:
    base = {"train": {"averages": {"generator": {"decay": 0.9}}}}
    assert merge(base, {"train": {"averages": {"generator": None}}}) == {"train": {"averages": {}}}
    assert tiny("train.averages=null").train.averages == {}


def test_the_same_rule_holds_for_a_part_inside_a_part() -> None:
    base = {"generator": {"name": "a", "attention": {"name": "full", "heads": 2}}}
    assert merge(base, {"generator": {"attention": {"heads": 4}}})["generator"]["attention"] == {
        "name": "full",
        "heads": 4,
    }
    assert merge(base, {"generator": {"attention": {"name": "none"}}})["generator"]["attention"] == {"name": "none"}


def test_a_file_begins_from_a_file_beside_it_wherever_it_is_called_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir()
    write(tmp_path / "shared", "base.yaml", recipe="tiny", train={"batch": 4})
    write(tmp_path, "mine.yaml", recipe="shared/base.yaml", train={"seed": 3})
    for folder, given in ((tmp_path, "mine.yaml"), (tmp_path / "shared", "../mine.yaml"), (Path("/"), tmp_path)):
        monkeypatch.chdir(folder)
        found = tiny(given=given if given != tmp_path else tmp_path / "mine.yaml")
        assert (found.train.batch, found.train.seed) == (4, 3)


def test_a_circle_of_recipes_is_named(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    write(tmp_path, "a.yaml", recipe="deeper/b.yaml")
    write(tmp_path / "deeper", "b.yaml", recipe="./../deeper/../a.yaml")
    text = refusal(given=tmp_path / "a.yaml")
    assert "in a circle" in text and "a.yaml -> " in text
    assert "in a circle" in refusal(given=write(tmp_path, "self.yaml", recipe="self.yaml"))


def test_a_recipe_for_another_plugin_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "theirs.yaml", plugin="styleswin", recipe="tiny")
    assert 'for the plugin "styleswin", not for "sagan"' in refusal(given=path)
    assert 'no plugin "sagann" is installed; did you mean "sagan"?' in refusal(
        given=write(tmp_path, "none.yaml", plugin="sagann", recipe="tiny")
    )


# --- --set ---


def test_set_reads_values_by_the_type_of_the_field() -> None:
    found = tiny(
        "train.images=200k",
        "train.batch=1_0",
        "train.log_images=1.5k",
        "train.checkpoint_images=1e5",
        "train.sample_images=20000.0",
        "train.optimizers.generator.lr=1e-4",
        "train.optimizers.generator.betas=[0, 0.9]",
        "data.mirror=false",
        "train.precision=bf16",
        "evaluate.metrics=[fid, kid]",
        "data.source=some/folder",
    )
    train = found.train
    assert (train.images, train.batch, train.log_images) == (200_000, 10, 1_500)
    assert (train.checkpoint_images, train.sample_images) == (100_000, 20_000)
    assert all(type(getattr(train, name)) is int for name in ("images", "batch", "log_images", "sample_images"))
    assert train.optimizers["generator"].lr == 1e-4
    betas = train.optimizers["generator"].betas
    assert betas == (0.0, 0.9) and all(type(beta) is float for beta in betas)  # torch's Adam refuses the mix
    assert (found.data.mirror, train.precision, found.data.source) == (False, "bf16", "some/folder")
    assert found.evaluate.metrics == ("fid", "kid")


@pytest.mark.parametrize(("text", "value"), [("2k", 2_000), ("1.5M", 1_500_000), ("-3", -3), ("1e3", 1_000), (7.0, 7)])
def test_whole_numbers_may_be_written_short(text: str | float, value: int) -> None:
    assert coerce(text, int, "place") == value


def test_set_takes_an_attention_as_a_name_or_as_a_mapping() -> None:
    for settings in (
        ["generator.attention=full"],
        ["generator.attention={name: full}"],
        ["generator={attention: full}"],
        ["generator.attention.name=full"],
    ):
        assert tiny(*settings).generator.options["attention"] == {"name": "full"}
    both = tiny("generator.attention=full", "generator.attention.qkv_bias=false")
    assert both.generator.options["attention"] == {"name": "full", "qkv_bias": False}


def test_later_settings_win_and_lists_are_replaced() -> None:
    assert tiny("train.batch=4", "train.batch=6").train.batch == 6
    assert tiny("evaluate.metrics=[kid, prc]", "evaluate.metrics=[fid]").evaluate.metrics == ("fid",)


@pytest.mark.parametrize("text", ["train.batch", "=5", "", "train.batch:5"])
def test_a_setting_without_a_path_or_a_value_is_refused(text: str) -> None:
    assert "--set takes path=value" in refusal(text)


# --- mistakes: each names the place and the remedy ---

MISSPELT = {
    "trian.batch=4": 'unknown key "trian"; did you mean "train"?',
    "data.resolutoin=4": 'unknown key "data.resolutoin"; did you mean "resolution"?',
    "train.bacth=4": 'unknown key "train.bacth"; did you mean "batch"?',
    "train.optimizers.generator.beta=[0, 1]": 'unknown key "train.optimizers.generator.beta"; did you mean "betas"?',
    "train.averages.generator.halflife_images=1": 'did you mean "half_life_images"?',
    "evaluate.extactor=x": 'unknown key "evaluate.extactor"; did you mean "extractor"?',
    "recipe=tiny": 'unknown key "recipe"',
    "train..batch=4": 'unknown key "train."',
}
WRONG = {
    "train.batch=many": "train.batch must be a whole number, not 'many'.",
    "train.batch=1.5": "train.batch must be a whole number, not 1.5.",
    "train.batch=true": "train.batch must be a whole number, not True.",
    "train.batch=": "train.batch is missing.",
    "train.batch=[4]": "train.batch must be a whole number, not [4].",
    "train.batch={x: 4}": "train.batch must be a whole number",
    "train.images=" + 99 * "9": "train.images must be a whole number below 2**63.",
    "train.images='" + 999 * "9" + "'": "train.images must be a whole number, not '999",
    "train.optimizers.generator.lr=fast": "train.optimizers.generator.lr must be a number, not 'fast'.",
    "train.optimizers.generator.lr=.nan": "must be finite",
    "train.optimizers.generator.lr=.inf": "must be finite",
    "train.optimizers.generator.betas=0.5": "train.optimizers.generator.betas must be a list, not 0.5.",
    "train.optimizers.generator.betas=[0.5]": "must be a list of 2, not of 1.",
    "train.optimizers.generator.betas=[a, b]": "train.optimizers.generator.betas[0] must be a number, not 'a'.",
    "train.optimizers=adam": "train.optimizers must be a mapping, not 'adam'.",
    "data.labels=maybe": "data.labels must be true or false, not 'maybe'.",
    "data.source=5": "data.source must be text, not 5.",
    "data.pixels=srgb": "data.pixels: 'srgb' is not one of symmetric, imagenet.",
    "data=5": "data must be a mapping of names to values, not 5.",
    "generator=5": "generator must be {name: ..., options}, not 5.",
    "generator.name=5": "generator.name must be text, not 5.",
    "generator=null": "the recipe has no generator section.",
    "train=null": "the recipe has no train section.",
    "plugin=null": "the recipe names no plugin.",
}
OUT_OF_RANGE = {
    "data.resolution=48": "data.resolution must be a power of two from 4 on, not 48.",
    "data.resolution=-4": "data.resolution must be a power of two",
    "train.batch=0": "train.batch must be at least 1, not 0.",
    "train.images=5": "train.images=5 is less than one batch of 32.",
    "train.keep=0": "train.keep must be at least 1, not 0.",
    "train.micro_batch=-1": "train.micro_batch cannot be negative.",
    "train.optimizers.generator.lr=-1": "an optimizer's lr must be above 0, not -1.0.",
    "train.optimizers.generator.eps=0": "an optimizer's eps must be above 0, not 0.0.",
    "train.optimizers.generator.betas=[0, 1]": "an optimizer's betas must be from 0 to below 1, not [0.0, 1.0].",
    "train.optimizers.generator.clip_norm=-1": "an optimizer's clip_norm cannot be negative.",
    "train.averages.generator.decay=0.9": "one of decay and half_life_images above 0, and not both.",
    "train.averages.generator={decay: 1.5, half_life_images: 0}": "the decay of an average must be below 1, not 1.5.",
    "evaluate.num=-1": "evaluate.num cannot be negative; 0 is off.",
}


@pytest.mark.parametrize("setting", [*MISSPELT, *WRONG, *OUT_OF_RANGE])
def test_a_mistake_in_a_setting_is_named(setting: str) -> None:
    assert (MISSPELT | WRONG | OUT_OF_RANGE)[setting] in refusal(setting)


@pytest.mark.parametrize("section", ["generator", "data", "train"])
def test_a_missing_section_or_value_is_named(section: str, tmp_path: Path) -> None:
    whole = to_dict(tiny())
    without = write(tmp_path, "without.yaml", **{key: value for key, value in whole.items() if key != section})
    assert f"the recipe has no {section} section." in refusal(given=without)
    del whole["data"]["resolution"], whole["train"]["batch"], whole["generator"]["name"]
    place = {"generator": "generator must be {name", "data": "data.resolution is", "train": "train.batch is"}[section]
    rest = {key: value for key, value in to_dict(tiny()).items() if key != section}
    assert place in refusal(given=write(tmp_path, "partly.yaml", **{**rest, section: whole[section]}))


PARTS = {
    "generator.chanels=4": 'unknown key "generator.chanels"; did you mean "channels"?',
    "generator.channels=wide": "generator.channels must be a whole number, not 'wide'.",
    "generator.resolution=64": "generator.resolution is not an option: it follows from the data section.",
    "generator=sagn": 'no generator "sagn"; did you mean "sagan/sagan"?',
    "generator=stylesvin/styleswin": 'no plugin "stylesvin" is installed; did you mean "styleswin"?',
    "discriminator=sagan/sagn": 'no discriminator "sagan/sagn"; did you mean "sagan/sagan"?',
    "generator.attention=fulll": 'no attention "fulll"; did you mean "core/full"?',
    "generator.attention={name: full, qkv_bia: true}": '"generator.attention.qkv_bia"; did you mean "qkv_bias"?',
    "generator.attention={name: full, qkv_bias: 5}": "generator.attention.qkv_bias must be true or false, not 5.",
    "generator.attention=5": "generator.attention needs a name",
    "generator.attention=[full]": "generator.attention needs a name",
    "generator.attention.kernel=5": "generator.attention needs a name",
    "generator.attention={name: 5}": "generator.attention.name must be text, not 5.",
    "loss=hing": 'no loss "hing"',
    "loss.genrator_every=2": 'unknown key "loss.genrator_every"; did you mean "generator_every"?',
    "loss.r1=-1": "loss.r1 cannot be negative.",
    "loss.r1=lots": "loss.r1 must be a number, not 'lots'.",
    "loss.augment=[flipp]": "no augmentation 'flipp'; did you mean \"flip\"?",
    "loss.consistency_augment=flip": "loss.consistency_augment must be a list, not 'flip'.",
    "train.optimizers.gen.lr=1": "train.optimizers.gen: there is no such network; there is",
    "train.averages.gen.decay=0.5": "train.averages.gen: there is no such network; there is",
    "discriminator=null": "the recipe needs discriminator and loss sections",
    "data.resolution=16": "16",
}


@pytest.mark.parametrize("setting", PARTS)
def test_a_mistake_in_a_part_is_named_when_the_networks_are_built(setting: str) -> None:
    import torch

    from zoo_core import parts, session

    wanted = tiny("data.num_classes=3", setting)
    with torch.device("meta"), pytest.raises(UserError) as caught:
        full = parts.complete(wanted)
        session.build_stages(full, parts.build(full))
    assert PARTS[setting] in str(caught.value) and "\n" not in str(caught.value)


# --- files that are no recipes ---

HOSTILE = {
    "python tag": ("plugin: !!python/object/apply:os.system ['touch owned']", "tag"),
    "tag": ("train: !!timestamp 2001-01-01", "tag"),
    "alias": ("train: &a {batch: 4}\ndata: *a", "aliases are not allowed"),
    "bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]", "aliases are not allowed"),
    "merge key": ("train: &a {batch: 4}\ndata: {<<: *a}", "aliases are not allowed"),
    "twice": ("train: {batch: 4}\ntrain: {batch: 5}", 'at line 2: "train" is there twice'),
    "deep": (3000 * "[", "nested too deeply"),
    "no date": ("train: 2001-13-45", "is not valid YAML"),
    "long number": ("train: " + 5000 * "9", "is not valid YAML"),
    "unclosed": ("train: {batch: 4", "is not valid YAML at line 1"),
    "tab": ("train:\n\tbatch: 4", "is not valid YAML at line 2"),
    "control": ("train: \x01", "is not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2", "is not valid YAML"),
    "empty": ("", "it must be a mapping of sections"),
    "list": ("- a\n- b", "it must be a mapping of sections"),
    "number key": ("1: 2\nrecipe: tiny", 'unknown key "1"'),
    "list key": ("[1, 2]: 3", "is not valid YAML"),
    "base is a list": ("recipe: [tiny]", "recipe must be text"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_is_no_recipe_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hostile.yaml").write_text(HOSTILE[kind][0])
    assert HOSTILE[kind][1] in refusal(given="hostile.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.yaml"]  # nothing was run


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    assert "too large for a recipe" in refusal(given=tmp_path / "large.yaml")
    assert "too large for a recipe" in refusal(given="/dev/zero")
    (tmp_path / "latin.yaml").write_bytes("recipe: tiny # \xe9".encode("latin-1"))
    assert "not a text file in UTF-8" in refusal(given=tmp_path / "latin.yaml")
    assert "No such file" in refusal(given=tmp_path / "missing.yaml")
    assert "Is a directory" in refusal(given=f"{tmp_path}/")
    assert 'sagan has no recipe "tinny"; did you mean "tiny"?' in refusal(given="tinny")


def test_a_recipe_may_be_written_with_a_byte_order_mark_and_any_letters(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_text("recipe: tiny\ndata: {source: bilder/Füchse}\n", encoding="utf-8-sig")
    assert tiny(given=tmp_path / "bom.yaml").data.source == "bilder/Füchse"


# --- values of other types that an option may have ---


@pytest.mark.parametrize(
    ("value", "kind", "result"),
    [
        ([1, 2], list[int], [1, 2]),
        ([1, "2k"], tuple[int, ...], (1, 2000)),
        (None, int | None, None),
        ("7", int | None, 7),
        ([3, 4], int | tuple[int, ...], (3, 4)),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        (2, Literal[1, 2], 2),
    ],
)
def test_options_are_read_by_their_annotation(value: Any, kind: Any, result: Any) -> None:
    found = coerce(value, kind, "option")
    assert found == result and type(found) is type(result)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(True, Literal[1, 2]), (None, int | float), ("x", Path), (10**400, float), ({"a": 1}, list[int])],
)
def test_a_value_that_does_not_fit_an_annotation_is_refused(value: Any, kind: Any) -> None:
    with pytest.raises(UserError, match="option"):
        coerce(value, kind, "option")
