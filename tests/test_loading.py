"""A run opened from Python draws what the command draws: the same seeds, the same images, whatever the batch."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from accelerate.state import AcceleratorState
from calls import call
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from zoo_core import checkpoint, evaluation, extractors, load, recipe, runs, sampling, session
from zoo_core.commands.evaluate import command as evaluate_command
from zoo_core.commands.sample import command as sample_command
from zoo_core.data import open_images
from zoo_core.errors import UserError
from zoo_core.interfaces import PIXELS
from zoo_core.rng import Rng

pytestmark = pytest.mark.skipif(
    not entry_points(group="zoo", name="sagan"), reason="zoo-sagan is not installed; `pip install -e plugins/sagan`"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional run of ten steps; checkpoints of steps 5 and 10."""
    AcceleratorState._reset_state(reset_partial_state=True)
    folder = tmp_path_factory.mktemp("loading")
    settings = {
        "data.source": str(toys.write_pictures(folder / "pets")),
        "train.images": 80,
        "train.batch": 8,
        "train.checkpoint_images": 40,
        "train.averages.generator.half_life_images": 40,
        "generator.channels": 2,
        "discriminator.channels": 2,
    }
    session.train(recipe.load("sagan", "tiny", list(settings.items())), folder / "run", say=lambda text: None)
    return folder / "run"


def sample(*arguments: object) -> str:
    """`zoo sample` in this process; returns what it prints."""
    done = CliRunner().invoke(sample_command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def pictures(folder: Path) -> np.ndarray:
    paths = sorted(path for path in folder.glob("*.png") if path.stem != "grid")
    return np.stack([np.asarray(Image.open(path)) for path in paths]).astype(int)


# -- from Python


def test_run_has_its_recipe_networks_and_step(trained):
    run = load(str(trained))
    assert run.step == 10
    assert run.recipe.plugin == "sagan" and run.recipe.data.classes == ("cat", "dog", "owl")
    assert run.recipe == recipe.check(recipe.to_dict(run.recipe))
    for network in (run.generator, run.discriminator):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert run.generator is run.generator


def test_generator_has_the_averaged_weights(trained):
    found = load(trained).generator.state_dict()
    newest = checkpoint.open_checkpoint(trained / "checkpoints" / "step-10")
    averaged, own = newest.network("generator", averaged=True), newest.network("generator")
    toys.assert_same(found, averaged)
    toys.assert_same(found, load_file(trained / "averaged.safetensors"))
    assert any(not torch.equal(found[name], own[name]) for name in own)
    toys.assert_same(load(trained).discriminator.state_dict(), newest.network("discriminator"))


def test_calling_the_generator_is_the_papers_forward(trained):
    """In the recipe's pixel space and not clamped; `sample` is the same, drawn by an Rng, in [-1, 1]."""
    generator = load(trained).generator
    rng = Rng.of("any", rows=range(4))
    label = torch.tensor([0, 1, 2, 0])
    z = generator.latent(Rng.of("any", rows=range(4)))
    image = generator(z, label)
    assert image.shape == (4, 3, 32, 32)
    expected = (PIXELS["symmetric"].decode(image) * 2 - 1).clamp(-1, 1)
    assert torch.equal(generator.sample(4, label, rng), expected)
    assert not torch.equal(generator(z, (label + 1) % 3), image)


def test_sample_fills_in_what_is_left_out(trained):
    generator = load(trained).generator
    torch.manual_seed(0)
    one = generator.sample(3)
    torch.manual_seed(0)
    assert torch.equal(generator.sample(3), one)
    assert one.shape == (3, 3, 32, 32) and one.abs().max() <= 1
    with pytest.raises(ValueError, match="3 integers from 0 to 2"):
        generator.sample(3, torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match="rows"):
        generator.sample(3, rng=Rng.of(0, rows=range(2)))


def test_discriminator_judges(trained):
    run = load(trained)
    logits = run.discriminator(run.generator.sample(2), torch.tensor([0, 1]))
    assert logits.shape[0] == 2 and logits.isfinite().all()


@pytest.mark.parametrize("step", [5, 10])
def test_checkpoint_folder_opens_as_that_step(trained, step):
    run = load(trained / "checkpoints" / f"step-{step}")
    assert run.step == step and run.recipe.plugin == "sagan" and run.path == trained.resolve()


def test_older_checkpoint_has_other_weights(trained):
    old, new = (load(trained / "checkpoints" / f"step-{step}").generator.state_dict() for step in (5, 10))
    assert any(not torch.equal(old[name], new[name]) for name in new)


def test_damaged_newest_checkpoint_is_named_and_the_one_before_opens(trained, tmp_path, capsys):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "checkpoints/step-10/networks.safetensors").write_bytes(b"garbage")
    assert load(run).step == 5
    assert "step-10" in capsys.readouterr().err
    with pytest.raises(UserError, match="step-10 is damaged: networks.safetensors"):
        load(run / "checkpoints" / "step-10")
    (run / "checkpoints/step-10/manifest.json").unlink()
    with pytest.raises(UserError, match="step-10 is not complete: manifest.json is missing"):
        load(run / "checkpoints" / "step-10")


def test_what_is_no_run_is_named(trained, tmp_path):
    with pytest.raises(UserError, match="there is no run folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a run"):
        load(tmp_path)
    shutil.copy(trained / "recipe.yaml", tmp_path)
    with pytest.raises(UserError, match="has no checkpoint yet"):
        load(tmp_path)


def test_run_may_lie_in_a_folder_called_checkpoints(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "checkpoints" / "run")
    assert load(run).step == 10


# -- sampling


def test_drawing_leaves_the_mode_as_it_was(trained):
    generator = load(trained).generator
    for mode in (True, False):
        generator.train(mode)
        before = {name: value.clone() for name, value in generator.state_dict().items()}
        list(sampling.draw(generator, 3, 0, batch=2))
        assert generator.training is mode
        toys.assert_same(before, generator.state_dict())

    def breaks(*arguments, **knobs):
        raise RuntimeError

    generator.train()
    generator.sample = breaks
    with pytest.raises(RuntimeError):
        list(sampling.draw(generator, 3, 0))
    assert generator.training


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_images_do_not_depend_on_the_batch(trained, tmp_path, batch):
    for size, name in ((8, "a"), (batch, "b")):
        sample(trained, "--num", 10, "--seed", 5, "--batch", size, "--out", tmp_path / name)
    one, two = pictures(tmp_path / "a"), pictures(tmp_path / "b")
    assert one.shape == two.shape == (10, 32, 32, 3)
    assert np.abs(one - two).max() <= 1


def test_short_draw_is_the_beginning_of_a_longer_one(trained, tmp_path):
    for num in (4, 9):
        sample(trained, "--num", num, "--seed", 1, "--batch", 4, "--out", tmp_path / str(num))
    assert np.abs(pictures(tmp_path / "4") - pictures(tmp_path / "9")[:4]).max() <= 1


def test_another_seed_draws_other_images(trained, tmp_path):
    for seed in (1, 2):
        sample(trained, "--num", 4, "--seed", seed, "--out", tmp_path / str(seed))
    one, two = pictures(tmp_path / "1"), pictures(tmp_path / "2")
    assert (one != two).any(axis=(1, 2, 3)).all()


def test_label_is_a_number_or_a_name(trained, tmp_path):
    for label in ("1", "dog", "cat"):
        sample(trained, "--num", 4, "--label", label, "--out", tmp_path / label)
    assert np.array_equal(pictures(tmp_path / "1"), pictures(tmp_path / "dog"))
    assert not np.array_equal(pictures(tmp_path / "1"), pictures(tmp_path / "cat"))
    generator = load(trained).generator
    wanted = sampling.to_uint8(generator.sample(4, torch.ones(4, dtype=int), Rng.of("sample", 0, rows=range(4))))
    assert np.abs(pictures(tmp_path / "dog") - wanted.permute(0, 2, 3, 1).numpy().astype(int)).max() <= 1


@pytest.mark.parametrize(
    "label, complaint", [("dgo", 'did you mean "dog"'), ("3", "there are 0 to 2"), ("-1", "no class")]
)
def test_unknown_label_is_a_users_error(trained, tmp_path, label, complaint):
    with pytest.raises(UserError, match=complaint):
        sample(trained, "--num", 1, "--label", label, "--out", tmp_path)


def test_unconditional_generator_takes_no_label():
    with pytest.raises(UserError, match="unconditional"):
        list(sampling.draw(toys.ToyGenerator(resolution=8), 1, 0, label=0))


def test_knob_that_the_generator_has_not_is_a_users_error():
    with pytest.raises(UserError, match='no knob "truncation"'):
        sampling.checked_knobs(toys.ToyGenerator(resolution=8), {"truncation": 0.5})


def test_files_and_grid_lie_where_they_are_said_to(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    said = sample(run, "--num", 3, "--seed", 4)
    assert said == f"{run}/sampled/step-10-seed-4/grid.png and 3 images beside it\n"
    names = ["000000.png", "000001.png", "000002.png", "grid.png"]
    assert sorted(path.name for path in (run / "sampled/step-10-seed-4").iterdir()) == names
    sample(run, "--num", 3, "--seed", 4, "--label", "owl", "--grid")
    assert [path.name for path in (run / "sampled/step-10-seed-4-label-2").iterdir()] == ["grid.png"]
    sample(run / "checkpoints" / "step-5", "--num", 1, "--out", tmp_path / "out", "--grid")
    assert (tmp_path / "out" / "grid.png").exists()


@pytest.mark.parametrize("num, columns, size", [(1, 0, (8, 8)), (5, 0, (17, 26)), (6, 2, (26, 17)), (3, 4, (8, 35))])
def test_grid_has_the_size_of_its_images_and_gaps(num, columns, size):
    images = torch.arange(num, dtype=torch.uint8).view(-1, 1, 1, 1).expand(num, 3, 8, 8)
    sheet = sampling.grid(images, columns)
    assert sheet.shape == (*size, 3)
    across = columns or int(np.ceil(np.sqrt(num)))
    for i in range(num):
        y, x = i // across * 9, i % across * 9
        assert (sheet[y : y + 8, x : x + 8] == i).all()
    if num == 5:
        assert (sheet[9:, 18:] == 255).all() and (sheet[8] == 255).all()


def test_grid_of_many_images_shows_the_first(trained, tmp_path):
    sample(trained, "--num", 300, "--batch", 100, "--grid", "--out", tmp_path)
    scale = sampling.enlargement(32)
    assert Image.open(tmp_path / "grid.png").size == ((16 * 33 - 1) * scale,) * 2


def test_training_samples_are_the_same_seeds_each_time(trained):
    """The last grid is what the averaged generator draws from seed 0: a column for each of 3 classes, whole rows."""
    images = torch.cat(list(sampling.draw(load(trained).generator, 63, seed=0, by_turns=True)))
    grid = sampling.grid(images, 3).repeat(2, axis=0).repeat(2, axis=1)
    shown = np.asarray(Image.open(trained / "samples" / "images-000000080.png"))
    assert shown.shape == grid.shape and np.abs(shown.astype(int) - grid.astype(int)).max() <= 1
    assert (trained / "samples" / "images-000000000.png").exists()


# -- measuring


def evaluate(*arguments: object) -> dict:
    """`zoo evaluate --json` with random-conv in this process; returns its entry."""
    options = ["--extractor", "random-conv", "--num", 8, "--metric", "fid", "--json", *arguments]
    done = CliRunner().invoke(evaluate_command, [str(option) for option in options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refuse(*arguments: object, **options: object) -> None:
    raise AssertionError("must not be called")


def test_only_the_images_of_the_run_are_called_train(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    other = toys.write_pictures(tmp_path / "my: pets")
    next(other.rglob("*.png")).unlink()
    content = open_images(other, 32).content
    for given, reference in ([], "train"), (["--data", other], f"my-pets-{content[:8]}"):
        entry = evaluate(run, *given)
        for row in (*entry["figures"], *entry["floor"]):
            assert row["name"].split(":")[-1].split("=")[0] == reference
    same = open_images(load(run).recipe.data.source, 32)
    assert evaluation.reference_name(same, run) == "train"
    for manifest in ("", "[]", '{"data": {}}'):
        (run / "manifest.json").write_text(manifest)
        assert evaluation.reference_name(same, run) == f"pets-{same.content[:8]}"


def test_the_extractor_is_opened_once(trained, tmp_path, monkeypatch):
    opened = []

    def open_one(*arguments):
        opened.append(arguments)
        return original(*arguments)

    original = extractors.open_extractor
    monkeypatch.setattr(extractors, "open_extractor", open_one)
    monkeypatch.setattr(evaluation, "open_extractor", refuse)
    evaluate(shutil.copytree(trained, tmp_path / "run"))
    assert len(opened) == 1


@pytest.mark.parametrize(
    "options, complaint",
    [(["--metric", "isc"], "no Inception Score"), (["--num", 3], "3 images are too few")],
)
def test_what_cannot_be_measured_is_refused_before_sampling(trained, monkeypatch, options, complaint):
    monkeypatch.setattr(sampling, "draw", refuse)
    with pytest.raises(UserError, match=complaint):
        evaluate(trained, *options)


def test_training_cannot_ask_for_a_score_that_its_extractor_has_not(trained):
    wanted = recipe.load("sagan", "tiny", [("evaluate.num", 8), ("evaluate.metrics", ["isc"])])
    with pytest.raises(UserError, match="no Inception Score"):
        evaluation.Measurer(wanted, trained, print)


GOOD = {"step": 1, "figures": [{"name": "fd@x", "value": None}], "floor": [], "structure": {}}


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"start": 3},
        {"end": None},
        {"start": {}},
        {"commands": 3},
        {"commands": {}},
        {"commands": [3]},
        {"commands": [GOOD, {"step": 1}]},
        *({"end": {key: value for key, value in GOOD.items() if key != left_out}} for left_out in GOOD),
        {"end": {**GOOD, "step": "1"}},
        {"end": {**GOOD, "figures": [{"name": "fd@x"}]}},
        {"end": {**GOOD, "figures": [{"name": "fd@x", "value": "low"}]}},
        {"end": {**GOOD, "structure": {"eyes": {}}}},
    ],
    ids=json.dumps,
)
def test_odd_evaluation_file_is_a_users_error(tmp_path, content):
    (tmp_path / evaluation.FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match="evaluation.json cannot be read .*; delete it to measure anew"):
        evaluation.read(tmp_path)


def test_evaluation_file_keeps_what_could_not_be_read(tmp_path):
    kept = {"start": GOOD, "end": GOOD, "commands": [GOOD, GOOD]}
    evaluation.write(tmp_path, kept)
    assert evaluation.read(tmp_path) == kept


@pytest.mark.parametrize("written", [{"imported": [1]}, {"imported": {"file": "x"}}, {"data": "pets"}])
def test_a_run_whose_manifest_is_odd_is_shown_all_the_same(trained, tmp_path, written):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "manifest.json").write_text(json.dumps(written))
    found = call(tmp_path, ["show", "run"])
    assert found.code == 0 and "manifest.json is damaged" in found.out and "generator:" in found.out


def test_finished_run_that_is_repeated_shows_its_figures_again(trained, tmp_path):
    wanted = recipe.load("sagan", "tiny", [("evaluate.num", 8)])
    images = open_images(runs.read_recipe(trained).data.source, 32)
    generator, said = load(trained).generator, []
    for _ in range(2):
        measurer = evaluation.Measurer(wanted, tmp_path, said.append)
        measurer("start", 0, generator, images)
        measurer("end", 10, generator, images)
    first, again = said[:3], said[3:]
    assert first[0].startswith("Measuring 8") and first[1].startswith("Measuring 8")
    assert again == [first[2]] and "fd@random-conv" in first[2] and "at step 0" in first[2]
