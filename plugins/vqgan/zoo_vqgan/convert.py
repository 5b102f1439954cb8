"""Official checkpoints, a VQModel's or a Net2NetTransformer's, in our names.

Most names are the official ones already, behind a prefix; `official_name` has the others. Tensors keep their shapes,
but for the 1x1 convolutions of attention, which are linear layers here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo_core import parts
from zoo_core.errors import UserError
from zoo_core.official import Imported, tensors
from zoo_core.recipe import Recipe
from zoo_vqgan.generator import Generator
from zoo_vqgan.permuters import Permuter

State = Mapping[str, Tensor]

PREFIXES = {"autoencoder": "first_stage_model.", "condition": "cond_stage_model.", "prior": "transformer."}
"""Of a Net2NetTransformer; a VQModel's first stage has none."""
DISCRIMINATOR = "loss.discriminator."
ORDER = "permuter.forward_shuffle_idx"
IGNORED = re.compile(
    r"loss\.perceptual_loss\..*"  # LPIPS, which is frozen; ours comes from its own package
    r"|(first|cond)_stage_model\.loss\..*"  # what the finished stages were trained with
    r"|transformer\.blocks\.\d+\.attn\.mask"  # follows from the size of the block
    r"|permuter\..*"  # follows from the order, which is compared
)

_OTHERWISE = [
    (re.compile(pattern), theirs)
    for pattern, theirs in (
        (r"^(encoder\.down\.\d+)\.resample\.", r"\1.downsample."),
        (r"^(decoder\.up\.\d+)\.resample\.", r"\1.upsample."),
        (r"^((?:encoder|decoder)\..*attn[._]\d+)\.mixer\.(q|k|v|proj_out)\.", r"\1.\2."),
        (r"^quantize\.embedding$", "quantize.embedding.weight"),  # of moving averages; nearest's has a weight already
        (r"^quantize\.(cluster_size|embed_avg)$", r"quantize.embedding.\1"),
        (r"^quantize\.remap\.used$", "quantize.used"),
        (r"^palette\.colorize$", "colorize"),
    )
]


def official_name(ours: str) -> str:
    """What a VQModel calls a tensor of our `AutoEncoder`."""
    for pattern, theirs in _OTHERWISE:
        ours = pattern.sub(theirs, ours)
    return ours


def first_stage(official: State, own: State) -> dict[str, Tensor]:
    """A VQModel's tensors in the names and shapes of our autoencoder's state `own`; its loss has no place there.

    What `own` has no place for keeps its name.
    """
    ours = {official_name(name): name for name in own}
    return {
        ours.get(name) or _stranger(name, own): _shaped(value, own.get(ours.get(name, "")))
        for name, value in official.items()
        if not name.startswith("loss.")
    }


def official(content: Mapping[str, Any], recipe: Recipe) -> Imported:
    """A Lightning checkpoint, or its `state_dict` alone.

    A VQModel holds the first stage and its discriminator, a Net2NetTransformer the first stage, the prior and, where
    the condition is a map, the second autoencoder. Raises UserError for anything else, and for a prior of another
    condition or order of codes than the recipe's.
    """
    held = "state_dict" in content
    state = tensors(content["state_dict"] if held else content, "its state_dict" if held else "it")
    whole = any(name.startswith((PREFIXES["prior"], PREFIXES["autoencoder"])) for name in state)
    if not whole and not any(name.startswith(("encoder.", "decoder.")) for name in state):
        raise UserError('it holds no tensor of a VQGAN, such as "encoder.conv_in.weight".')
    own = parts.outline(recipe)
    if not isinstance(own.generator, Generator):
        raise UserError(f"the recipe's generator is {recipe.generator.name}, which is not this paper's.")
    if whole:
        _check_condition(state, own.generator)
        _check_order(state.get(ORDER), own.generator.prior.permuter)
    states = {name: network.state_dict() for name, network in _networks(own, whole).items()}
    names = {network: _official_names(network, state, whole) for network, state in states.items()}
    ours = {theirs: (network, name) for network, table in names.items() for name, theirs in table.items()}
    networks: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if not IGNORED.fullmatch(name):
            network, our_name = ours.get(name) or (_owner(name, whole), "")
            known = states.get(network, {})
            networks.setdefault(network, {})[our_name or _stranger(name, known)] = _shaped(value, known.get(our_name))
    return Imported(networks, names=names)


def _networks(own: parts.Parts, whole: bool) -> dict[str, torch.nn.Module]:
    """Those of our networks that a file of this kind may hold."""
    networks = dict(own.generator.networks())
    if whole:
        return networks
    judge = {} if own.discriminator is None else {"discriminator": own.discriminator}
    return {"autoencoder": networks["autoencoder"], **judge}


def _official_names(network: str, own: State, whole: bool) -> dict[str, str]:
    """Our names -> the file's."""
    if network == "discriminator":
        return {name: f"{DISCRIMINATOR}{name}" for name in own}
    prefix = PREFIXES[network] if whole else ""
    if network == "prior":
        return {name: f"{prefix}{name.removeprefix('gpt.')}" for name in own}
    return {name: f"{prefix}{official_name(name)}" for name in own}


def _owner(name: str, whole: bool) -> str:
    """The network that a tensor without a place is told of."""
    prefixes = PREFIXES if whole else {"discriminator": DISCRIMINATOR}
    return next((network for network, prefix in prefixes.items() if name.startswith(prefix)), "autoencoder")


def _stranger(name: str, own: State) -> str:
    """A name that no tensor of ours has, for one that is not official; it may be called as one of ours is."""
    return f"{name} (not an official name)" if name in own else name


def _shaped(value: Tensor, own: Tensor | None) -> Tensor:
    """A 1x1 convolution's weight as a linear layer's, where ours is one."""
    point = value.ndim == 4 and value.shape[2:] == (1, 1)
    return value.flatten(1) if own is not None and own.ndim == 2 and point else value


def _check_condition(state: State, generator: Generator) -> None:
    """Raise UserError where only the file or only the recipe conditions its prior on a second autoencoder's codes."""
    held = any(name.startswith(PREFIXES["condition"]) for name in state)
    wanted = "condition" in generator.networks()
    if held != wanted and any(name.startswith(PREFIXES["prior"]) for name in state):
        one, other = ("holds a", "has none") if held else ("holds no", "has one")
        raise UserError(f"it {one} second autoencoder (cond_stage_model), for a map as condition; the recipe {other}.")


def _check_order(table: Tensor | None, permuter: Permuter) -> None:
    """Raise UserError where the file's codes come in another order than the recipe's. Rows have no table there."""
    num = len(permuter.table)
    side = round(num**0.5)
    wanted = Permuter(permuter.order, side, side).table  # the outline's has no numbers
    rows = torch.arange(num)
    if not torch.equal(rows if table is None else table, wanted):
        raise UserError(f"its codes come in another order than generator.prior.order={permuter.order}.")
