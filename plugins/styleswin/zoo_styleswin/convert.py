"""Official StyleSwin weights <-> ours: one table of names for each network, in both directions.

`{name}` stands for a number; where the official count is off by one it is written `{name+1}`. Every tensor keeps its
shape; one that the table lacks keeps its name. Constants that the official modules store (masks, index tables, filters)
are derived anew by ours: dropped on the way in, absent on the way out (so load into the official code with
`strict=False`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo_core import parts
from zoo_core.errors import UserError
from zoo_core.official import Imported, tensors
from zoo_core.recipe import Recipe

Table = Iterable[tuple[str, str]]
State = Mapping[str, Tensor]

CONSTANTS = re.compile(
    r"(^|\.)(kernel|attn_mask[12]|relative_position_index|_float_tensor|ll|lh|hl|hh)$"  # either network's
)

_BLOCK, _OUR_BLOCK = "layers.{level}.blocks.{block}", "levels.{level}.blocks.{block}"

GENERATOR_WITHOUT_ATTENTION: Table = (
    *((f"style.{{layer+1}}.{part}", f"mapping.layers.{{layer}}.{part}") for part in ("weight", "bias")),
    ("input.input", "constant"),
    *(
        (f"{_BLOCK}.{theirs}.{part}", f"{_OUR_BLOCK}.{ours}.{part}")
        for theirs, ours in (
            ("norm1.style", "norm1.affine"),
            ("norm2.style", "norm2.affine"),
            ("mlp.fc1", "mlp.expand"),
            ("mlp.fc2", "mlp.contract"),
        )
        for part in ("weight", "bias")
    ),
    *(
        (f"layers.{{level}}.upsample.{theirs}", f"levels.{{level}}.upsample.{ours}")
        for theirs, ours in (
            ("alpha", "alpha"),
            ("norm.weight", "norm.weight"),
            ("norm.bias", "norm.bias"),
            ("reduction.weight", "project.weight"),
        )
    ),
    ("to_rgbs.{level}.conv.weight", "to_rgb.{level}.weight"),
    ("to_rgbs.{level}.conv.bias", "to_rgb.{level}.conv_bias"),
    ("to_rgbs.{level}.bias", "to_rgb.{level}.bias"),
)
"""All of the generator but its attention; papers that change only the attention share it."""

ATTENTION: Table = (
    *(
        (f"{_BLOCK}.{layer}.{part}", f"{_OUR_BLOCK}.attention.{layer}.{part}")
        for layer in ("qkv", "proj")
        for part in ("weight", "bias")
    ),
    (f"{_BLOCK}.attn.{{half}}.relative_position_bias_table", f"{_OUR_BLOCK}.attention.bias.{{half}}"),
)

GENERATOR: Table = (*GENERATOR_WITHOUT_ATTENTION, *ATTENTION)

_SPECTRAL = (("weight_orig", "weight"), ("weight_u", "norm.u"), ("weight_v", "norm.v"))
_EQUAL = (("weight", "weight"),)


def _convolutions(parts: Table) -> Table:
    for theirs, activation, ours in (
        ("from_rgbs.{scale}.conv.0", "from_rgbs.{scale}.conv.1", "from_wavelet.{scale}"),
        ("convs.{scale}.conv1.0", "convs.{scale}.conv1.1", "scales.{scale}.same"),
        ("convs.{scale}.conv2.1", "convs.{scale}.conv2.2", "scales.{scale}.halve"),
        ("final_conv.0", "final_conv.1", "last"),
    ):
        yield from ((f"{theirs}.{part}", f"{ours}.conv.{our_part}") for part, our_part in parts)
        yield f"{activation}.bias", f"{ours}.bias"


DISCRIMINATOR: Table = (
    *_convolutions(_SPECTRAL),
    *((f"final_linear.0.{part}", f"hidden.linear.{ours}") for part, ours in (*_SPECTRAL, ("bias", "bias"))),
    ("final_linear.1.bias", "hidden.bias"),
    *((f"final_linear.2.{part}", f"logit.{ours}") for part, ours in (*_SPECTRAL, ("bias", "bias"))),
)
"""With spectral norm, as every published run."""

DISCRIMINATOR_EQUALISED: Table = (
    *_convolutions(_EQUAL),
    *((f"final_linear.0.{part}", f"hidden.{part}") for part in ("weight", "bias")),
    *((f"final_linear.1.{part}", f"logit.{part}") for part in ("weight", "bias")),
)
"""Without spectral norm."""


def discriminator_table(names: Iterable[str]) -> Table:
    """The table for a discriminator with these tensors, official or ours."""
    spectral = any(name.endswith(("weight_u", "norm.u")) for name in names)
    return DISCRIMINATOR if spectral else DISCRIMINATOR_EQUALISED


def from_official(state: State, table: Table, own: State | None = None) -> dict[str, Tensor]:
    """Rename official tensors to ours and drop the constants.

    With the state dict `own` of the network that shall load them, one that has no place there keeps its name.
    """
    learned = {name: tensor for name, tensor in state.items() if not CONSTANTS.search(name)}
    names = renamed(learned, table)
    if own is not None:
        names = {
            theirs: ours if ours in own and ours != theirs else _stranger(theirs, own) for theirs, ours in names.items()
        }
    return {ours: learned[theirs] for theirs, ours in names.items()}


def _stranger(name: str, own: State) -> str:
    """A name that no tensor of ours has, for one that the table lacks; it may be called by chance as one of ours is."""
    return f"{name} (not an official name)" if name in own else name


def to_official(state: State, table: Table) -> dict[str, Tensor]:
    """Rename our tensors to the official ones."""
    return {theirs: state[ours] for ours, theirs in renamed(state, [(ours, theirs) for theirs, ours in table]).items()}


def renamed(names: Iterable[str], table: Table) -> dict[str, str]:
    """Each name -> its name in the table's right column. Raises UserError when two become one."""
    rules = [(_pattern(source), target) for source, target in table]
    found: dict[str, str] = {}
    for name in names:
        match, target = next(((match, to) for rule, to in rules if (match := rule.fullmatch(name))), (None, name))
        found[name] = _fill(target, {key: int(value) for key, value in match.groupdict().items()}) if match else name
    if len(set(found.values())) < len(found):
        twice = next(name for name in found if list(found.values()).count(found[name]) > 1)
        raise UserError(f'the weights hold "{twice}" under two names; is it the right plugin?')
    return found


def official(content: Mapping[str, Any], recipe: Recipe) -> Imported:
    """A published training checkpoint: state dicts `g`, `g_ema` and `d`, whichever it holds."""
    own = parts.outline(recipe)
    ours = own.generator.state_dict()
    names = renamed(ours, [(ours, theirs) for theirs, ours in GENERATOR])
    return networks(content, own, lambda state: from_official(state, GENERATOR, ours), names)


def networks(
    content: Mapping[str, Any],
    own: parts.Parts,
    generator: Callable[[State], Mapping[str, Tensor]],
    names: Mapping[str, str],
) -> Imported:
    """The state dicts of a container in our names; `generator` renames a generator's, `names` are its way back.

    Raises UserError when there is none, or one is none.
    """
    found = {key: tensors(content[key], f"its {key}") for key in ("g", "g_ema", "d") if content.get(key) is not None}
    if not found:
        raise UserError("it holds none of g, g_ema and d, in which official checkpoints keep their networks.")
    networks, averages, official_names = {}, {}, {"generator": names}
    if "g" in found:
        networks["generator"] = generator(found["g"])
    if "g_ema" in found:
        averages["generator"] = generator(found["g_ema"])
    if "d" in found:
        ours = own.discriminator.state_dict() if own.discriminator is not None else {}
        networks["discriminator"] = from_official(found["d"], discriminator_table(found["d"]), ours)
        table = [(our_name, theirs) for theirs, our_name in discriminator_table(ours)]
        official_names["discriminator"] = renamed(ours, table)
    return Imported(networks, averages, names=official_names)


def _pattern(template: str) -> re.Pattern[str]:
    """`a.{x+1}.b` -> a regular expression with the group `x_plus_1`."""
    parts = re.split(r"\{(\w+)(\+1)?\}", template)  # text, name, offset, text, ..
    pattern = re.escape(parts[0])
    for name, offset, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        pattern += rf"(?P<{name}{'_plus_1' if offset else ''}>\d+)" + re.escape(text)
    return re.compile(pattern)


def _fill(template: str, numbers: Mapping[str, int]) -> str:
    """Put the matched numbers into the other side's template."""
    base = {key.removesuffix("_plus_1"): value - key.endswith("_plus_1") for key, value in numbers.items()}
    return re.sub(r"\{(\w+)(\+1)?\}", lambda match: str(base[match[1]] + bool(match[2])), template)
