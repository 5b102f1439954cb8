"""Decoders are components: named in a recipe, nested in a generator, swapped across papers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import toys
from accelerate.state import AcceleratorState

from zoo_core import checkpoint, parts, recipe, sampling, session
from zoo_core.errors import UserError
from zoo_core.recipe import Recipe
from zoo_core.runs import load

pytest.importorskip("zoo_vqgan")

OWN = {"channels": 32, "multipliers": [1, 2, 2], "blocks": 1, "attention_resolutions": [8]}
"""What the tiny recipe's generator says, in a decoder's options."""
THIN_HIT = {"name": "hit", "channels": {8: 32, 16: 16, 32: 16}, "depths": {8: 1, 16: 1, 32: 1}}


def wanted(decoder: object = None, **changes: object) -> Recipe:
    settings = [("decoder", decoder)] if decoder else []
    return recipe.load("vqgan", "tiny", settings + [(path.replace("__", "."), v) for path, v in changes.items()])


def decoder_of(made: Recipe) -> torch.nn.Module:
    return parts.build(made).generator.autoencoder.decoder


def test_the_papers_own_decoder_named_is_the_default_network_to_the_bit() -> None:
    named = decoder_of(wanted({"name": "convolutional", **OWN})).state_dict()
    toys.assert_same(named, decoder_of(wanted()).state_dict())


def test_section_and_option_are_the_same_and_the_completed_recipe_keeps_it_as_an_option() -> None:
    own = {"name": "convolutional", **OWN}
    section, option = wanted(own), wanted(generator__decoder=own)
    toys.assert_same(decoder_of(section).state_dict(), decoder_of(option).state_dict())
    complete = parts.complete(section)
    assert complete == parts.complete(option) == parts.complete(complete)
    assert complete.sections == {}
    kept = complete.generator.options["decoder"]
    assert kept.items() > own.items() and kept["dropout"] == 0  # the defaults are written out
    again = recipe.check(recipe.to_dict(complete))
    assert again == complete
    toys.assert_same(decoder_of(again).state_dict(), decoder_of(section).state_dict())


def test_a_component_in_a_component_is_built_and_its_options_are_kept() -> None:
    made = wanted({"name": "convolutional", **OWN, "attention": "full"})
    complete = parts.complete(made)
    assert complete.generator.options["decoder"]["attention"] == {"name": "full", "qkv_bias": True}
    built = [type(module).__name__ for module in decoder_of(complete).modules()]
    assert "FullAttention" in built and "SpatialAttention" not in built


@pytest.mark.parametrize(
    ("plugin", "settings", "sentence"),
    [
        ("vqgan", {"decoder": "convolutionall"}, 'no decoder "convolutionall"; did you mean "vqgan/convolutional"'),
        ("vqgan", {"decoder": "hydro/hit"}, 'no plugin "hydro"'),
        ("vqgan", {"decoder.width": 3}, "decoder must be {name: ..., options}"),
        ("vqgan", {"decoder": {"name": "convolutional", "chanels": 3}}, 'decoder.chanels"; did you mean "channels"'),
        ("vqgan", {"decoder": {"name": "convolutional", "attention": {"name": "fulll"}}}, 'no attention "fulll"'),
        ("vqgan", {"decoder": "convolutional"}, "5 levels lead from 2 to 32, but the latent map is 8 wide"),
        ("vqgan", {"decoder": "convolutional", "generator.decoder": "convolutional"}, "names its decoder itself"),
        ("sagan", {"decoder": "vqgan/convolutional", "data.num_classes": 2}, 'unknown key "decoder"'),
        ("sagan", {"generator.decoder": "vqgan/convolutional", "data.num_classes": 2}, "has no decoder to exchange"),
    ],
    ids=str,
)
def test_a_decoder_that_fits_nothing_is_a_sentence(plugin: str, settings: dict, sentence: str) -> None:
    pytest.importorskip(f"zoo_{plugin}")
    with pytest.raises(UserError) as error:
        parts.build(recipe.load(plugin, "tiny", list(settings.items())))
    assert sentence in str(error.value)


# HiT decodes VQGAN's codes.


def train(pictures: Path, folder: Path, images: int, only: str = "") -> list[str]:
    AcceleratorState._reset_state(reset_partial_state=True)
    said: list[str] = []
    made = wanted(
        THIN_HIT,
        data__source=str(pictures),
        generator__prior={"layers": 1, "heads": 2, "dim": 16},
        loss__adversarial_start_images=0,
        train__images=images,
        train__batch=4,
        train__stages={"prior": {"images": images, "batch": 4}},
    )
    session.train(made, folder, only=only, say=said.append)
    return said


def test_a_vqgan_trains_resumes_to_the_bit_and_samples_with_hits_upper_part_as_its_decoder(tmp_path: Path) -> None:
    pytest.importorskip("zoo_hit")
    pictures = toys.write_pictures(tmp_path / "pets")
    train(pictures, tmp_path / "parts", 8, only="autoencoder")
    said = train(pictures, tmp_path / "parts", 12)
    assert any(text.startswith("Resuming from step 2 of stage autoencoder") for text in said)
    train(pictures, tmp_path / "whole", 12)
    for stage in ("autoencoder", "prior"):
        ends = [checkpoint.latest(tmp_path / name / "checkpoints" / stage) for name in ("parts", "whole")]
        assert [end.step for end in ends] == [3, 3]
        toys.assert_same(*(toys.saved(end.path) for end in ends))

    trained = checkpoint.latest(tmp_path / "whole/checkpoints/autoencoder").network("autoencoder")
    run = load(tmp_path / "whole")
    assert type(run.generator.autoencoder.decoder).__module__ == "zoo_hit.latent_decoder"
    begun = decoder_of(run.recipe).state_dict()
    assert [name for name, value in begun.items() if torch.equal(value, trained[f"decoder.{name}"])] == []
    images = torch.cat(list(sampling.draw(run.generator, 2, seed=0)))
    assert images.shape == (2, 3, 32, 32) and len(images.unique()) > 1
