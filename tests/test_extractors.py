"""Opening an extractor: weights files that can be trusted, and what to do without one."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from urllib.error import URLError

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from zoo_core.errors import UserError
from zoo_core.extractors import OFFICIAL, open_extractor
from zoo_core.metrics import figures


class Bomb:
    """Sets a flag when it is unpickled."""

    exploded: list[int] = []

    def __reduce__(self):
        return (explode, ())


def explode() -> None:
    Bomb.exploded.append(1)


@pytest.fixture(scope="module")
def inception_state() -> dict[str, torch.Tensor]:
    """Random weights in the shape of the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).state_dict()


def test_inception_weights_of_ones_own_are_named_by_their_hash(inception_state, tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(inception_state, path)
    extractor = open_extractor("inception-v3-compat", weights=path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert extractor.label(32) == f"inception-v3-compat:{sha256[:8]}" and sha256 in extractor.identity
    found = extractor.features([torch.full((2, 3, 32, 32), 128, dtype=torch.uint8)], 2)
    assert found.features.shape == (2, 2048) and found.logits is not None and found.logits.shape == (2, 1008)
    assert torch.equal(extractor.module.fc.weight, inception_state["fc.weight"])
    assert extractor.classifies and extractor.label(32) != OFFICIAL
    few = figures(found, found, reference="train", metrics=["fid"], neighbours=1)
    assert few[0].name == f"fd@inception-v3-compat:{sha256[:8]}:N=2:train"


def test_an_unfit_weights_file_is_refused_and_never_unpickled(tmp_path):
    standard = URL_INCEPTION_V3.rsplit("/", 1)[1]
    torch.save({"weight": torch.zeros(2), "bomb": Bomb()}, tmp_path / "bomb.pth")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"weight": torch.zeros(2)}, tmp_path / standard)
    (tmp_path / "text.pth").write_text("hello")
    for name, message in {
        "bomb.pth": "not a weights file of plain tensors",
        "text.pth": "not a weights file of plain tensors",
        "list.pth": "not a table of tensors",
        "other.pth": "another network",
        standard: "named like the standard weights",
        "missing.pth": "No such file",
    }.items():
        with pytest.raises(UserError, match=message):
            open_extractor("inception-v3-compat", weights=tmp_path / name)
    assert not Bomb.exploded


def test_without_a_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise URLError("no network here")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", fail)
    with pytest.raises(UserError) as caught:
        open_extractor("inception-v3-compat")
    for part in ("no network here", URL_INCEPTION_V3, "--extractor-weights PATH", "--extractor random-conv"):
        assert part in str(caught.value)
    assert not list(tmp_path.rglob("*.p*t*"))


def test_a_download_with_another_hash_is_refused(tmp_path, monkeypatch):
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"not the weights")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "urlopen", lambda request: urllib.request.urlopen(wrong.as_uri()))
    with pytest.raises(UserError, match="invalid hash value"):
        open_extractor("inception-v3-compat")
    assert not list((tmp_path / "home").rglob("*.pth"))


def test_unknown_extractors_and_needless_weights_are_refused():
    with pytest.raises(UserError, match='did you mean "random-conv"'):
        open_extractor("random-con")
    with pytest.raises(UserError, match="leave --extractor-weights out"):
        open_extractor("random-conv", weights=os.devnull)
