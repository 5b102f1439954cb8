"""Feature extractors: the networks that a figure of merit looks through.

Shapes: images enter as uint8 `[B, 3, H, W]`; features leave as float32 `[N, D]`, logits as float32 `[N, classes]`.
Both extractors are registered with torch-fidelity, whose own pipeline can therefore run them too.
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_fidelity import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
from torch_fidelity.utils import create_feature_extractor
from torch_fidelity.version import __version__ as FIDELITY_VERSION

from zoo_core.errors import UserError, did_you_mean
from zoo_core.random_conv import RANDOM_CONV, weights_sha256, working_side
from zoo_core.rng import seed_of

INCEPTION = "inception-v3-compat"
EXTRACTORS = {"random-conv": RANDOM_CONV, INCEPTION: INCEPTION}
"""What a user types -> the name under which torch-fidelity and every figure know it."""

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""The standard weights, converted from the TensorFlow graph of 2015-12-05; the file's name carries the first digits."""
OFFICIAL = f"{INCEPTION}:{INCEPTION_SHA256[:8]}"
"""How figures name Inception with the standard weights: the only network whose distances are called FID and KID."""
DOWNLOAD_TIMEOUT_SECONDS = 30.0


# --- what a figure is computed from ---


@dataclass(frozen=True)
class Features:
    """What one extractor saw in a set of images."""

    features: Tensor
    """`[N, D]` float32, on the CPU."""
    extractor: str
    """The extractor as figures name it, with all of it that moves them: weights or working side."""
    logits: Tensor | None = None
    """`[N, classes]` float32 of an extractor that classifies, else None."""

    def __len__(self) -> int:
        return len(self.features)

    def take(self, num: int) -> Features:
        """The first `num` images; all of them when there are fewer."""
        return replace(self, features=self.features[:num], logits=None if self.logits is None else self.logits[:num])


class Extractor:
    """An opened extractor on a device; `open_extractor` makes it."""

    def __init__(self, name: str, weights_sha256: str, module: FeatureExtractorBase, device: torch.device) -> None:
        self.name = name
        self.weights_sha256 = weights_sha256
        self.module = module
        self.device = device

    @property
    def identity(self) -> str:
        """Everything about the extractor that moves a feature; belongs into the key of anything cached."""
        resize = "tensorflow-1 bilinear to 299 px"
        if self.name == RANDOM_CONV:
            resize = "area to the power of two, 32 to 128 px, at or below the shorter side; repetition below 32 px"
        return f"{self.name}:{self.weights_sha256}:{resize}:torch-fidelity-{FIDELITY_VERSION}"

    @property
    def classifies(self) -> bool:
        """Whether it gives class logits, which the Inception Score needs."""
        return self.name == INCEPTION

    def label(self, resolution: int) -> str:
        """The short form that stands in a figure's name, for square images of `resolution` pixels."""
        if self.name == RANDOM_CONV:
            return f"{self.name}:{working_side(resolution, resolution)}px"
        return f"{self.name}:{self.weights_sha256[:8]}"

    @torch.no_grad()
    def features(self, batches: Iterable[Tensor], num: int, progress: Callable[[int], None] | None = None) -> Features:
        """Extract the features of the first `num` images of `batches`, uint8 `[b, 3, H, W]` each, of one size.

        `progress` is called after each batch with the number of images in it.
        Raises UserError when there are fewer images, ValueError when a batch is not uint8 images of one size.
        """
        features, logits, shape, done = [], [], None, 0
        with _exact(self.device):
            for batch in batches:
                batch = batch[: num - done]
                if batch.dtype != torch.uint8 or batch.dim() != 4 or batch.shape[1:] != (shape or batch.shape[1:]):
                    found = f"{batch.dtype} {list(batch.shape)}"
                    raise ValueError(f"images must be uint8 [b, 3, H, W] of one size, not {found}")
                shape = batch.shape[1:]
                outputs = self.module(batch.to(self.device))
                features.append(outputs[0].float().cpu())
                if len(outputs) > 1:
                    logits.append(outputs[1].float().cpu())
                done += len(batch)
                if progress:
                    progress(len(batch))
                if done >= num:
                    break
        if done < num or num < 1:
            raise UserError(f"{num:,} images were to be measured, but there are {done:,}; ask for that many or fewer.")
        result = Features(torch.cat(features), self.label(min(shape[1:])), torch.cat(logits) if logits else None)
        if not bool(result.features.isfinite().all()):
            raise UserError(f"{self.name} gives features that are not finite; its weights file is damaged.")
        return result


def image_batches(images: np.ndarray, num: int, *, seed: int = 0, batch: int = 256) -> Iterator[Tensor]:
    """Yield `num` of `images` (uint8 `[N, H, W, 3]`, may be memory-mapped) as uint8 `[b, 3, H, W]`.

    In an order that depends on `seed` alone, so that any beginning is a fair sample of a set sorted by class.
    """
    # Sorting raw words, which numpy promises for ever; it does not promise its `permutation`.
    order = np.argsort(np.random.Philox(seed_of(seed, "measure")).random_raw(len(images)), kind="stable")[:num]
    for start in range(0, len(order), batch):
        chosen = np.ascontiguousarray(images[order[start : start + batch]])
        yield torch.from_numpy(chosen).permute(0, 3, 1, 2)


def open_extractor(name: str, weights: str | Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """Open `random-conv` or `inception-v3-compat`, the latter from the file `weights` or by downloading once.

    A weights file is never unpickled: only tensors are read from it.
    Raises UserError for an unknown name, a file that is missing, unsafe or another network's, and a failed download.
    """
    official = EXTRACTORS.get(name, name)
    if official not in EXTRACTORS.values():
        raise UserError(f'there is no extractor "{name}"{did_you_mean(name, EXTRACTORS)}')
    device = torch.device(device)
    if official == RANDOM_CONV:
        if weights is not None:
            raise UserError("random-conv has fixed weights of its own; leave --extractor-weights out.")
        module = create_feature_extractor(official, ["pyramid"], cuda=False, verbose=False)
        return Extractor(official, weights_sha256(), module, device)
    path = Path(os.path.expanduser(weights)) if weights is not None else _download_inception()
    state, sha256 = _read_weights(path)
    layers = [FEATURE_EXTRACTORS_REGISTRY[INCEPTION].get_default_feature_layer_for_metric(m) for m in ("fid", "isc")]
    # torch-fidelity unpickles what it is given, so it is given a copy in memory, of tensors alone, that we wrote.
    clean = io.BytesIO()
    torch.save(state, clean)
    clean.seek(0)
    try:
        module = create_feature_extractor(
            INCEPTION, layers, cuda=False, verbose=False, feature_extractor_weights_path=clean
        )
    except RuntimeError as error:
        raise UserError(f"{path} holds the weights of another network; get them from {URL_INCEPTION_V3}.") from error
    return Extractor(INCEPTION, sha256, module.to(device), device)


def _read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read tensors and the sha256 from one and the same reading of the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the extractor's weights {path}: {error.strerror}.") from error
    sha256 = hashlib.sha256(data).hexdigest()
    if INCEPTION_SHA256[:8] in path.name and sha256 != INCEPTION_SHA256:
        raise UserError(
            f"{path} is named like the standard weights, but its sha256 is {sha256[:8]}...; remove it and get it again."
        )
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen kinds for a damaged or an unsafe file
        raise UserError(f"{path} is not a weights file of plain tensors, so it is refused.") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is not a table of tensors; get the weights from {URL_INCEPTION_V3}.")
    return state, sha256


def _download_inception() -> Path:
    """Fetch the standard weights once, to where torch-fidelity keeps them."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[1]
    if path.exists():
        return path
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), INCEPTION_SHA256, progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:  # URLError is an OSError, a wrong hash a RuntimeError
        raise UserError(
            f"the Inception weights could not be fetched ({error}): get {URL_INCEPTION_V3} elsewhere and give it as "
            "--extractor-weights PATH, or use --extractor random-conv."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    return path


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Full float32, whatever the caller trains in: a figure must not depend on the GPU's shortcuts."""
    with torch.autocast(device.type, enabled=False), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
