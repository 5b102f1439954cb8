"""LPIPS, the perceptual distance (Zhang et al., arXiv 1801.03924, Eq. 1), on VGG16, and where its weights come from.

Shapes: B batch, C channels, H W map, L = H W.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo_core.errors import UserError

PLAN = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
"""VGG16's convolutions by width, 0 for a pooling (Simonyan and Zisserman, arXiv 1409.1556, Table 1, column D)."""

TAPS = {3: 64, 8: 128, 15: 256, 22: 512, 29: 512}
"""Where the features are read, relu1_2 to relu5_3, by torchvision's numbers, and how many channels they have."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation for images in [-1, 1], as the LPIPS authors round them."""

LINEAR_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"
"""weights/v0.1/vgg.pth of the package lpips 0.1.4."""


class LPIPS(nn.Module):
    """sum over taps of mean over positions of w . (a - b)^2, a and b the features, normalised over channels.

    Frozen; gradients pass to the images. It has no weights of its own: `vgg` is a state dict of torchvision's VGG16
    (`features.0.weight`, ...; its classifier is not used), `linear` that of the lpips package
    (`lin0.model.1.weight`, ...). Raises UserError for weights that are missing, of other shapes or not finite.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, vgg: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> None:
        super().__init__()
        with torch.device("meta"):  # nothing random is ever made
            self.features = _features()
        wanted = {f"features.{key}": value.shape for key, value in self.features.state_dict().items()}
        found = _chosen(vgg, wanted, "VGG16")
        self.features.load_state_dict({key.removeprefix("features."): found[key] for key in wanted}, assign=True)
        wanted = {f"lin{index}.model.1.weight": (1, width, 1, 1) for index, width in enumerate(TAPS.values())}
        found = _chosen(linear, wanted, "LPIPS's linear layers")
        self.linear = nn.ParameterList(found[key].flatten() for key in wanted)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The distance `[B]` of two batches `[B, 3, H, W]` (or `[B, 1, H, W]`, grey) in [-1, 1], H and W at least 16.

        `generator` switches dropout on and draws it: half of the squared differences are dropped, the others doubled.
        Code in which this module is switched to training mode together with all others trains so.
        """
        distance = torch.zeros(len(image), device=image.device)
        for weight, ours, theirs in zip(self.linear, self._taps(image), self._taps(target), strict=True):
            squared = (_unit(ours) - _unit(theirs)).square()
            if generator is not None:
                squared = squared * torch.empty_like(squared).bernoulli_(0.5, generator=generator).mul_(2)
            distance = distance + (weight @ squared.flatten(2)).mean(1)  # [C] @ [B, C, L]
        return distance

    def _taps(self, image: Tensor) -> list[Tensor]:
        x, taps = (image - self.shift) / self.scale, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in TAPS:
                taps.append(x)
        return taps


def _features() -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 3
    for width in PLAN:
        if not width:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
        inputs = width
    return nn.Sequential(*layers)


def _unit(x: Tensor) -> Tensor:
    """Vectors of length 1 over channels."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def _chosen(state: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], what: str) -> dict[str, Tensor]:
    """The wanted tensors of a state dict, in float32 and checked."""
    chosen = {}
    for key, shape in wanted.items():
        value = state.get(key)
        if not isinstance(value, Tensor) or value.shape != torch.Size(shape):
            found = "is missing" if not isinstance(value, Tensor) else f"has the shape {list(value.shape)}"
            raise UserError(f"these are not the weights of {what}: {key} {found}.")
        chosen[key] = value.detach().float()
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"the weights of {what} are damaged: {key} is not finite.")
    return chosen


def load_lpips(*, vgg: str = "timm", linear: str = "lpips", vgg_sha256: str = "", without: str = "") -> LPIPS:
    """LPIPS with trained weights, or UserError: never random ones.

    `vgg`: "timm" for timm's `vgg16.tv_in1k`, which is torchvision's and is downloaded once, or the path of a state
    dict, `.safetensors` or torch's own format, whose sha256 must be `vgg_sha256` when that is given. `linear`: "lpips"
    for the file in the package of that name, or a path. Files are read as tensors and plain containers only.
    `without` ends the sentence of an error: how the caller's user can do without LPIPS.
    """
    try:
        return _load(vgg, linear, vgg_sha256)
    except UserError as error:
        raise UserError(f"{error} {without}".strip()) from error


def _load(vgg: str, linear: str, vgg_sha256: str) -> LPIPS:
    if vgg_sha256 and vgg == "timm":
        raise UserError("a sha256 of VGG16's weights goes with the path of a file, not with timm's.")
    weights = _timm_vgg() if vgg == "timm" else _read(Path(vgg), "VGG16's weights", vgg_sha256)
    if linear == "lpips":
        return LPIPS(weights, _read(_packaged_linear(), "LPIPS's linear layers", LINEAR_SHA256))
    return LPIPS(weights, _read(Path(linear), "LPIPS's linear layers", ""))


def _timm_vgg() -> Mapping[str, Tensor]:
    advice = "Give the path of torchvision's vgg16 weights instead."
    try:
        import timm
    except ImportError as error:
        raise UserError(f"VGG16's weights come through timm, which is not installed. {advice}") from error
    try:
        with _quiet("timm", "huggingface_hub"):
            # The file is named: else timm tries several names and, without a network, waits for each.
            overlay = {"hf_hub_filename": "model.safetensors"}
            return timm.create_model("vgg16.tv_in1k", pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    except Exception as error:  # whatever a download may meet
        raise UserError(f"timm cannot bring VGG16's weights ({_first_sentence(error)}). {advice}") from error


@contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Keep what these loggers, and those below them, say of retries to themselves; the error says it all."""
    levels = {logger: logger.level for logger in map(logging.getLogger, loggers)}
    try:
        for logger in levels:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _first_sentence(error: Exception) -> str:
    first = re.split(r"(?<=[.!?])\s", " ".join(str(error).split()), maxsplit=1)[0].rstrip(".")
    return textwrap.shorten(first, 200, placeholder=" ...") or type(error).__name__


def _packaged_linear() -> Path:
    found = importlib.util.find_spec("lpips")  # does not import it
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder) / "weights" / "v0.1" / "vgg.pth"
        if path.is_file():
            return path
    raise UserError(
        "LPIPS's linear layers come with the package lpips, which is not installed: `pip install lpips`, "
        "or give the path of its weights/v0.1/vgg.pth."
    )


def _read(path: Path, what: str, sha256: str) -> Mapping[str, Tensor]:
    """A file's state dict. Raises UserError when it is missing, another than expected, or no state dict."""
    try:
        if sha256:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256.lower():
                raise UserError(f"{path} is not the file of {what} that was meant: its sha256 is {found}.")
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch and safetensors raise many kinds for a file that is not theirs
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{what} cannot be read from {path}: {reason}.") from error
    if not isinstance(state, Mapping):
        raise UserError(f"{path} holds no state dict of {what}.")
    return state
