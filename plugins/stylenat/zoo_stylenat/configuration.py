"""The configuration in an official checkpoint, `args`, in the words of a recipe."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from zoo_core import parts
from zoo_core.errors import UserError
from zoo_core.recipe import Recipe, to_dict

OPTIONS = {
    "size": "data.resolution",
    "style_dim": "generator.style_dim",
    "n_mlp": "generator.mapping_layers",
    "lr_mlp": "generator.mapping_lr",
    "channel_multiplier": "generator.channel_multiplier",
    "min_heads": "generator.min_heads",
    "mlp_ratio": "generator.mlp_ratio",
}
"""Their word -> where ours stands in a recipe."""

ATTENTION = ("kernels", "dilations", "qkv_bias", "block_type")


def settings(args: Any, recipe: Recipe) -> dict[str, Any]:
    """Where the container's configuration differs from the recipe: values by path. `args`: None, Namespace or mapping.

    Raises UserError for a configuration that cannot be expressed.
    """
    theirs = _flat(args)
    if not theirs:
        return {}
    ours = to_dict(parts.complete(recipe))
    changes = {}
    for name, path in OPTIONS.items():
        section, option = path.split(".")
        if theirs.get(name) is not None and theirs[name] != ours[section].get(option):
            changes[path] = theirs[name]
    size = theirs.get("size") if isinstance(theirs.get("size"), int) else recipe.data.resolution
    wanted, attention = _attention(theirs, size), ours["generator"].get("attention") or {"name": "hydra"}
    if wanted and wanted != _described(attention, wanted):
        changes["generator.attention"] = {"name": attention["name"], **wanted}
    return changes


def _flat(args: Any) -> dict[str, Any]:
    """The words that we know, wherever they stand in up to three levels of nesting; the outermost counts."""
    found: dict[str, Any] = {}
    level = [args]
    for _ in range(3):
        level = [vars(item) if isinstance(item, argparse.Namespace) else item for item in level]
        level = [item for item in level if isinstance(item, Mapping)]
        for item in level:
            found = {name: item[name] for name in (*OPTIONS, *ATTENTION) if name in item} | found
        level = [inner for item in level for inner in item.values()]
    return found


def _attention(theirs: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Their lists, one entry for each level from 4 px on (which has full attention), as options of `hydra`."""
    if theirs.get("block_type", "nat") != "nat":
        raise UserError(f"its blocks are of the type {theirs['block_type']!r}; only nat, the published one, is read.")
    if theirs.get("dilations") is None:
        return {}
    sides = [8 << level for level in range(max(size.bit_length() - 3, 0))]
    dilations = dict(zip(sides, _groups(theirs["dilations"], "dilations")[1:], strict=False))
    kernels = _groups(theirs.get("kernels") or [[7]] * (1 + len(sides)), "kernels")[1 : 1 + len(sides)]
    if len(dilations) < len(sides) or len(kernels) < len(sides):
        raise UserError(f"its args give kernels and dilations for fewer levels than an image of {size} px has.")
    different = {groups if len(set(groups)) > 1 else groups[:1] for groups in kernels}
    if len(different) != 1:
        raise UserError(f"its kernels differ from level to level ({sorted(different)}), which no option can express.")
    return {
        "kernel": list(different.pop()),
        "dilations": {side: list(groups) for side, groups in dilations.items()},
        "qkv_bias": theirs.get("qkv_bias", True),
    }


def _described(attention: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's options of `hydra` in the same form, its rule for dilations written out for the same sides."""
    kernel = attention.get("kernel", 7)
    kernel = [kernel] if isinstance(kernel, int) else list(kernel)
    table = {int(side): list(groups) for side, groups in (attention.get("dilations") or {}).items()}
    by_rule = {
        side: [1, side // (max(kernel) + 1)] if side >= 2 * (max(kernel) + 1) else [1] for side in like["dilations"]
    }
    return {
        "kernel": kernel,
        "dilations": {side: table.get(side, by_rule[side]) for side in like["dilations"]},
        "qkv_bias": attention.get("qkv_bias", True),
    }


def _groups(value: Any, name: str) -> list[tuple[int, ...]]:
    """A list with a list of whole numbers for each level."""
    lists = _is_list(value, 16) and all(_is_list(groups, 64) for groups in value)
    if not lists or not all(type(number) is int for groups in value for number in groups):
        raise UserError(f"its args give {name} that are not a list of whole numbers for each level.")
    return [tuple(groups) for groups in value]


def _is_list(value: Any, longest: int) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and 0 < len(value) <= longest
