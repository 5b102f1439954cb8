"""The command line answers without torch; a user's mistake ends in a sentence, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fakes
import pytest
import yaml
from calls import call
from conftest import Zoo
from PIL import Image

SMALL = [
    "--no-measure",
    *("--set", "train.images=16", "--set", "train.batch=8"),
    *("--set", "generator.channels=4", "--set", "discriminator.channels=4"),
]
TRAIN = ["train", "--plugin", "sagan", *SMALL]


# --- answers without torch ---


@pytest.fixture(scope="module")
def no_torch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which importing torch, or what costs as much, is an error."""
    folder = tmp_path_factory.mktemp("no-torch")
    for name in ("torch", "numpy", "PIL", "accelerate", "torch_fidelity", "torchvision"):
        (folder / f"{name}.py").write_text(f"raise AssertionError('{name} was imported')")
    return fakes.on_path(folder)


LIGHT = {
    "": 2,
    "--help": 0,
    "--version": 0,
    "list": 0,
    "plugins": 0,
    "plugins --json": 0,
    "show sagan": 0,
    "import --help": 0,
    "train --help": 0,
    "sample --help": 0,
    "reconstruct --help": 0,
    "evaluate --help": 0,
    "compare --help": 0,
    "report --help": 0,
    "trian": 2,
    "train": 2,
    "train --plugin nowhere": 2,
    "train --plugin sagan --recipe nowhere": 2,
    "train --plugin sagan --set train.bacth=4": 2,
    "train --plugin sagan --set train.batch=many": 2,
    "sample": 2,
}


@pytest.mark.parametrize("command", LIGHT)
def test_these_never_import_torch(command: str, zoo: Zoo, no_torch: dict[str, str]) -> None:
    found = zoo(*command.split(), **no_torch)
    assert "was imported" not in found.stderr
    assert found.returncode == LIGHT[command], found.stderr
    assert "Traceback" not in found.stderr


def test_help_and_list_import_few_modules(tmp_path: Path) -> None:
    """What they cost is what they import; torch alone brings two thousand modules."""
    code = "import sys; from zoo_core import cli\ntry: cli.main()\nfinally: print(len(sys.modules), file=sys.stderr)"
    for command in ("--help", "list"):
        arguments = [sys.executable, "-c", code, command]
        found = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert found.returncode == 0 and int(found.stderr.split()[-1]) < 400


def test_a_reader_that_leaves_early_causes_no_traceback(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "zoo_core", "list"]
    found = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert found.returncode != 0 and not found.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_output_is_one_sentence(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-u", "-m", "zoo_core", "list"]
        found = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert found.returncode == 2 and found.stderr.startswith("Error: cannot write the output (No space left")


# --- a run, seen through the commands ---


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labelled pictures `pics`, the same without labels `flat`, and a run on each: `run`, `plain`."""
    top = tmp_path_factory.mktemp("workspace")
    for index, name in enumerate("ab"):
        for i in range(6):
            picture = Image.new("RGB", (32, 32), (20 * i, 250 - 20 * i, 120 * index))
            for path in (top / "pics" / name / f"{i}.png", top / "flat" / f"{name}{i}.png"):
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
    (top / "file").write_text("not a folder")
    for out, data, more in (("run", "pics", ()), ("plain", "flat", ("--set", "data.labels=false"))):
        found = call(top, [*TRAIN, "--data", data, "--out", out, *more])
        assert found.code == 0, found.err
    for name, text in (("corrupt", "plugin: [sagan"), ("scalar", "hello"), ("misfit", "plugin: sagan\ntrian: {}")):
        shutil.copytree(top / "run", top / name)
        (top / name / "recipe.yaml").write_text(text)
    for name in ("empty", "scribbled"):
        shutil.copytree(top / "run", top / name)
    (top / "scribbled" / "evaluation.json").write_text("[]")
    shutil.rmtree(top / "empty" / "checkpoints")
    return top


def test_training_says_what_it_does_and_leaves_a_run(workspace: Path) -> None:
    made = {path.name for path in (workspace / "run").iterdir()}
    assert made >= {"recipe.yaml", "manifest.json", "metrics.jsonl", "samples", "checkpoints", "averaged.safetensors"}
    assert len(list((workspace / "run" / "samples").glob("*.png"))) == 2
    kept = yaml.safe_load((workspace / "run" / "recipe.yaml").read_text())
    assert kept["data"]["classes"] == ["a", "b"] and kept["generator"]["channels"] == 4


def test_the_same_command_goes_on(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "run", tmp_path / "run")
    again = [*TRAIN, "--data", str(workspace / "pics"), "--out", str(tmp_path / "run")]
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    found = call(tmp_path, again)
    assert found.code == 0 and found.out.startswith("Going on with sagan")
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    found = call(tmp_path, [*again, "--set", "train.images=24"])
    assert found.code == 0 and "Resuming from step 2 (16 images)." in found.out
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 3


def test_a_run_finds_its_images_from_any_folder(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "pics").symlink_to(workspace / "pics")
    for number, given in enumerate((["--data", "pics"], ["--set", "data.source=./pics"])):
        found = call(tmp_path, [*TRAIN, *given, "--out", f"run{number}"])
        assert found.code == 0, found.err
        kept = yaml.safe_load((tmp_path / f"run{number}" / "recipe.yaml").read_text())
        assert kept["data"]["source"] == str(workspace / "pics")


def test_the_default_folder_is_named_after_all_that_was_chosen(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("recipe: tiny\ndata: {labels: false}\n")
    found = call(tmp_path, [*TRAIN, "--data", str(workspace / "flat"), "--recipe", "mine.yaml"])
    assert found.code == 0, found.err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["sagan-mine-flat"]


def test_sample_writes_files_and_a_grid(workspace: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    found = call(workspace, ["sample", "run", "--num", "3", "--label", "b", "--batch", "2", "--out", str(out)])
    assert found.code == 0, found.err
    assert sorted(path.name for path in out.iterdir()) == ["000000.png", "000001.png", "000002.png", "grid.png"]
    found = call(workspace, ["sample", "run/checkpoints/step-2", "--num", "3", "--label", "1", "--out", str(out / "x")])
    assert found.code == 0, found.err
    for name in ("000000.png", "000002.png"):  # the same whatever the batch, and however the class is named
        assert (out / name).read_bytes() == (out / "x" / name).read_bytes()
    assert call(workspace, ["sample", "plain", "--grid", "--num", "4", "--out", str(out / "g")]).code == 0
    assert [path.name for path in (out / "g").iterdir()] == ["grid.png"]


def test_fewer_samples_leave_none_of_an_earlier_call_and_all_else(workspace: Path, tmp_path: Path) -> None:
    own = ["0000000.png", "000000-mine.png", "000007.jpg"]
    for name in (*own, "000009.png"):
        (tmp_path / name).write_text("mine")
    command = ["sample", "run", "--out", str(tmp_path), "--num"]
    assert call(workspace, [*command, "2"]).code == 0
    assert (tmp_path / "000009.png").exists()  # no grid said that it was an earlier call's
    for num in ("4", "2"):
        assert call(workspace, [*command, num]).code == 0
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == sorted([*own, "000000.png", "000001.png", "grid.png"])


def test_evaluate_prints_figures_that_name_what_moves_them(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "run", tmp_path / "run")
    arguments = ["evaluate", str(tmp_path / "run"), "--num", "6", "--extractor", "random-conv", "--metric", "prc"]
    found = call(workspace, [*arguments, "--json"])
    assert found.code == 0, found.err
    names = [row["name"] for row in json.loads(found.out)["figures"]]
    assert names and all("@random-conv" in name and ":N=6:" in name for name in names)
    assert len(json.loads((tmp_path / "run" / "evaluation.json").read_text())["commands"]) == 1


def test_show_prints_the_phases_and_the_sizes(workspace: Path) -> None:
    found = call(workspace, ["show", "sagan", "--set", "data.num_classes=2", "--set", "loss.r1=1"])
    assert found.code == 0, found.err
    text, _, stages = found.out.partition("\nstage ")
    assert yaml.safe_load(text)["loss"] == {"name": "hinge", "r1": 1}
    assert [line.split()[0] for line in stages.splitlines()[2:5]] == ["generator", "discriminator", "r1"]
    assert "trainable parameters, lr 0.0004" in stages


def test_show_says_averages_in_words_and_leaves_counters_out(tmp_path: Path) -> None:
    average = "train.averages.prior={half_life_images: 0, decay: 0.5, start_images: 3000000}"
    found = call(tmp_path, ["show", "vqgan", "--set", average])
    assert found.code == 0, found.err
    assert "  average of autoencoder: half-life 3,000 images, running statistics copied\n" in found.out
    assert "  average of prior: decay 0.5 a step, from 3,000,000 images on, running statistics copied\n" in found.out
    assert "0 trainable parameters\n" not in found.out


# --- mistakes ---

PICS = [*TRAIN, "--data", "pics", "--out"]
MEASURED = ["train", "--plugin", "sagan", *SMALL[1:], "--data", "pics", "--out", "new", "--set"]
MISTAKES = {
    # train: the command and its recipe
    "unknown plugin": (["train", "--plugin", "sagn"], 'no plugin "sagn" is installed; did you mean "sagan"?'),
    "plugin of components": (["train", "--plugin", "core"], "the plugin core brings no recipes"),
    "unknown recipe": (["train", "--plugin", "sagan", "--recipe", "tinny"], 'did you mean "tiny"?'),
    "missing recipe file": (["train", "--plugin", "sagan", "--recipe", "x.yaml"], "cannot read the recipe x.yaml"),
    "misspelt key": ([*PICS, "new", "--set", "train.bacth=4"], 'unknown key "train.bacth"; did you mean "batch"?'),
    "wrong type": ([*PICS, "new", "--set", "train.batch=many"], "train.batch must be a whole number, not 'many'."),
    "misspelt option": ([*PICS, "new", "--set", "generator.chanels=4"], 'did you mean "channels"?'),
    "no setting": ([*PICS, "new", "--set", "train.batch"], "--set takes path=value"),
    "unknown attention": ([*PICS, "new", "--attention", "fulll"], 'no attention "fulll"; did you mean "core/full"?'),
    "unknown loss": ([*PICS, "new", "--loss", "logistik"], 'did you mean "core/logistic"?'),
    "unknown discriminator": ([*PICS, "new", "--discriminator", "sagann"], 'did you mean "sagan/sagan"?'),
    "impossible resolution": ([*PICS, "new", "--set", "data.resolution=16"], "32, 64, 128, 256, 512 px, not 16"),
    "odd resolution": ([*PICS, "new", "--set", "data.resolution=48"], "a power of two from 4 on, not 48."),
    "batch not divisible": ([*PICS, "new", "--set", "train.micro_batch=3"], "train.micro_batch=3 does not divide"),
    "unknown network": ([*PICS, "new", "--set", "train.averages.gen.decay=0.5"], "train.averages.gen: there is no"),
    "unknown augmentation": ([*PICS, "new", "--set", "loss.augment=[flipp]"], 'did you mean "flip"?'),
    # train: the data
    "missing data": ([*TRAIN, "--out", "new", "--data", "nowhere"], "nowhere; name a folder or a zip of images"),
    "data of nobody": ([*TRAIN, "--out", "new", "--data", "~nobody-at-all/x"], "name a folder or a zip of images"),
    "data that is a file": ([*TRAIN, "--out", "new", "--data", "file"], "neither a folder nor a zip"),
    "unlabelled data": (
        [*TRAIN, "--out", "new", "--data", "flat"],
        "put each class in a subfolder, or set data.labels",
    ),
    "too few images": ([*PICS, "new", "--set", "train.batch=16"], "pics has 12 images, less than one batch of 16."),
    "wrong number of classes": ([*PICS, "new", "--set", "data.num_classes=5"], "set data.num_classes=0"),
    # train: the run folder
    "run of another recipe": ([*PICS, "run", "--set", "generator.channels=8"], "generator.channels is 4 there and 8"),
    "run on other data": (
        [*TRAIN, "--out", "plain", "--data", "pics", "--set", "data.labels=false"],
        "of another recipe",
    ),
    "folder of something else": ([*PICS, "pics"], "pics exists and is not a run; name another folder with --out."),
    "below a file": ([*PICS, "file/run"], "cannot use the run folder file/run (Not a directory)"),
    "a file": ([*PICS, "file"], "cannot use the run folder file"),
    "corrupt recipe, train": ([*PICS, "corrupt"], "corrupt/recipe.yaml is not valid YAML at line 1"),
    # train: trackers and figures
    "unknown tracker": ([*PICS, "new", "--tracker", "foo"], "foo"),
    "unknown extractor": ([*MEASURED, "evaluate.extractor=incepton"], 'no extractor "incepton"'),
    "unknown metric": ([*MEASURED, "evaluate.metrics=[fdi]"], 'evaluate.metrics: there is no "fdi"'),
    "too few to measure": ([*MEASURED, "evaluate.num=2"], "2 images are too few to measure"),
    # sample
    "no run": (["sample", "nowhere"], "there is no run folder nowhere; `zoo train` makes one under runs/."),
    "a folder that is no run": (["sample", "pics"], "pics is not a run: it has no recipe.yaml."),
    "a file that is no run": (["sample", "file"], "there is no run folder file"),
    "a run without a checkpoint": (["sample", "empty"], "empty has no checkpoint yet"),
    "corrupt recipe, sample": (["sample", "corrupt"], "corrupt/recipe.yaml is not valid YAML at line 1"),
    "a scalar for a recipe": (["sample", "scalar"], "scalar/recipe.yaml is not a recipe"),
    "a recipe of other keys": (["sample", "misfit"], 'unknown key "trian"; did you mean "train"?'),
    "label of an unconditional run": (["sample", "plain", "--label", "1"], "unconditional; leave --label out."),
    "unknown label": (["sample", "run", "--label", "c"], 'there is no class "c"; there is a, b.'),
    "label out of range": (["sample", "run", "--label", "2"], "there is no class 2; there are 0 to 1."),
    "negative label": (["sample", "run", "--label=-1"], "there is no class -1; there are 0 to 1."),
    "unknown knob": (["sample", "run", "--truncation", "0.5"], 'this generator has no knob "truncation"'),
    "unknown knob, by --set": (
        ["sample", "run", "--set", "top_k=5"],
        'this generator has no knob "top_k"; there is none.',
    ),
    "a setting without a value": (["sample", "run", "--set", "top_k"], "--set takes path=value"),
    "size of a fixed size": (["sample", "run", "--size", "16x16"], "images of 32x32 pixels only; leave --size out."),
    "a size that is none": (["sample", "run", "--size", "512"], "--size takes HEIGHTxWIDTH in pixels, such as 512x768"),
    "sample below a file": (["sample", "run", "--out", "file/x"], "cannot make the folder file/x"),
    # reconstruct
    "nothing to reconstruct with": (
        ["reconstruct", "run"],
        "has no encoder, so it reconstructs nothing; `zoo sample run`",
    ),
    "reconstruct no run": (["reconstruct", "pics"], "pics is not a run"),
    # evaluate
    "evaluate no run": (["evaluate", "pics"], "pics is not a run"),
    "figures that are none": (
        ["evaluate", "scribbled", "--extractor", "random-conv", "--num", "6", "--metric", "prc"],
        "scribbled/evaluation.json cannot be read",
    ),
    "unknown extractor, evaluate": (["evaluate", "run", "--extractor", "incepton"], 'there is no extractor "incepton"'),
    "missing weights": (["evaluate", "run", "--extractor-weights", "nowhere.pth"], "nowhere.pth"),
    "weights that are none": (["evaluate", "run", "--extractor-weights", "file"], "file"),
    "evaluate missing data": (["evaluate", "run", "--extractor", "random-conv", "--data", "nowhere"], "nowhere"),
    "score without logits": (
        ["evaluate", "run", "--extractor", "random-conv", "--num", "6", "--metric", "isc"],
        "it has no Inception Score; leave isc out.",
    ),
    "too few samples": (["evaluate", "run", "--extractor", "random-conv", "--num", "2"], "too few to measure"),
    # show
    "show unknown": (["show", "sagn"], 'did you mean "sagan"?'),
    "show misspelt key": (["show", "sagan", "--set", "trian.batch=4"], 'did you mean "train"?'),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_sentence_and_leaves_nothing(mistake: str, workspace: Path) -> None:
    arguments, expected = MISTAKES[mistake]
    before = _everything(workspace)
    found = call(workspace, arguments)
    assert found.code == 2
    assert expected and expected in found.err, found.err
    line = found.err.strip()
    assert line.startswith("Error: ") and "\n" not in line and len(line) < 350, found.err
    assert _everything(workspace) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], 'Error: there is no command "trian"; did you mean "train"?'),
        (["train"], "Error: Missing option '--plugin'."),
        (["train", "--plugin", "sagan", "--foo"], "Error: No such option '--foo'."),
        (["sample"], "Error: Missing argument 'RUN'."),
        (["sample", "run", "--num", "0"], "Error: Invalid value for '--num'"),
        (["evaluate", "run", "--metric", "fdi"], "Error: Invalid value for '--metric'"),
    ],
)
def test_a_mistake_in_the_command_itself_is_a_sentence(arguments: list[str], expected: str, workspace: Path) -> None:
    found = call(workspace, arguments)
    assert found.code == 2 and expected in found.err


def _everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Each folder, and each file with its size and time."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0)
        for path in folder.rglob("*")
    }


# --- a disk that refuses ---

FULL_DISK = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # no file may grow beyond 100 bytes, as if the disk were full
runpy.run_module("zoo_core", run_name="__main__")
"""


def test_a_full_disk_leaves_no_run(workspace: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, *TRAIN, "--data", str(workspace / "pics")]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.returncode == 2, found.stderr
    said = "Error: cannot write runs/sagan-tiny-pics/recipe.yaml (File too large); free some space"
    assert found.stderr.startswith(said)
    assert not list(tmp_path.iterdir())
