"""The table of docs/parity.md: the modules that it must have, its rows as noted by the tests, as a page and back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

MODULES = {
    "hit": (
        "attention block",
        "batch norm",
        "blocked layout",
        "cross-attention",
        "depth to space",
        "discriminator",
        "GELU",
        "generator",
        "import",
        "multi-axis attention",
        "nearest doubling",
        "training",
    ),
    "sagan": (
        "conditional batch norm",
        "discriminator",
        "generator",
        "generator blocks with conditional batch norm",
        "import",
        "last batch norm",
        "losses",
        "non-local attention",
        "spectral norm",
        "training step",
    ),
    "styleswin": (
        "adaptive instance norm",
        "augmentation (DiffAugment with flips)",
        "discriminator",
        "discriminator: convolutions",
        "discriminator: minibatch standard deviation and last convolution",
        "discriminator: wavelet images",
        "double window attention",
        "FIR resampling",
        "generator",
        "import",
        "level with up-sampling and positions",
        "mapping network",
        "MLP",
        "moving average",
        "pixel norm",
        "R1",
        "RGB branch",
        "scaled leaky ReLU",
        "sinusoid positions",
        "spectral norm",
        "training step",
        "transformer block",
        "truncation",
        "wavelet transform",
    ),
    "stylenat": (
        "adaptive instance norm",
        "attention at 4 x 4",
        "discriminator",
        "discriminator: convolutions",
        "discriminator: minibatch standard deviation and last convolution",
        "generator",
        "Hydra attention",
        "import",
        "level with up-sampling and positions",
        "mapping network",
        "MLP",
        "neighbourhood attention",
        "R1",
        "RGB branch",
        "spectral norm",
        "transformer block",
        "wavelet transform",
    ),
    "vqgan": (
        "adaptive weight",
        "attention block",
        "autoencoder",
        "autoencoder of label maps",
        "both stages",
        "cached sampling",
        "conditions",
        "convolutions around the quantizer",
        "decoder",
        "discriminator with ActNorm",
        "discriminator with batch norm",
        "down-sampling",
        "encoder",
        "import",
        "losses of stage 1",
        "LPIPS",
        "optimizer groups",
        "orders of codes",
        "prior of classes",
        "prior of coordinates",
        "prior of depth",
        "published sizes",
        "quantizer by moving averages",
        "quantizer by nearest neighbour",
        "quantizer by nearest neighbour, beta as in the paper",
        "quantizer by nearest neighbour, version 1",
        "quantizer of Gumbel",
        "remapped codes",
        "residual block",
        "sampling filters",
        "sampling without the cache",
        "schedules",
        "sliding window",
        "sliding window, one condition token",
        "transformer",
        "unconditional prior",
        "up-sampling",
    ),
}
"""The modules of each paper's spec, and the import of its official files."""

CONFIGURATIONS = {
    "sagan": {
        "d_convention_b": "discriminator's logits when its u moves between reals and fakes",
        "d_forward": "discriminator at 128 px",
        "g_inference": "generator at 128 px with stored statistics",
        "g_training": "generator at 128 px with the batch's statistics",
        "train_step": "losses, gradients, and one step of each network",
    },
    "styleswin": {
        "d_s32_sn": "discriminator at 32 px with spectral norm",
        "d_s64_eq": "discriminator at 64 px, equalised, without spectral norm",
        "g_s32": "generator at 32 px, full width",
        "g_s32_win16": "generator at 32 px, windows of 16, MLP ratio 2",
        "g_s64_thin": "generator at 64 px with half the channels",
        "g_trunc": "generator at 16 px, truncated to 0.7",
        "ops": "operators alone",
        "train_s16": "three training steps at 16 px with R1",
    },
    "stylenat": {
        "d_s32_sn": "discriminator at 32 px with spectral norm",
        "g_s16_transformer": "generator at 16 px with full attention",
        "g_s32": "generator at 32 px with FFHQ's dilations",
        "g_s32_legacy": "generator at 32 px in the published files' layout",
        "g_s64_church": "generator at 64 px with uneven head partitions",
        "na2d_ops": "neighbourhood attention alone, 11 sizes, with each backend",
    },
    "hit": {
        "attn_cross_mq_blocked": "cross-attention alone, on blocks",
        "attn_cross_mq_fullres": "cross-attention alone, on a map",
        "attn_local_dilated_mh": "multi-axis attention alone, multi-head",
        "attn_local_dilated_mq": "multi-axis attention alone, multi-query",
        "block_cross_batchnorm": "cross-attention block with batch norm",
        "block_self_batchnorm": "self-attention block with batch norm",
        "d16_avgpool_m1": "discriminator at 16 px, average pooling",
        "d16_blur_m1": "discriminator at 16 px",
        "d32_blur_equal_mbstd": "discriminator at 32 px, equalised, with minibatch standard deviation",
        "g_tiny32": "generator at 32 px",
        "g_tiny32_layer_multihead": "generator at 32 px with layer norm and multi-head attention",
        "g_tiny32p2": "generator at 32 px, blocks of 2 and 8",
        "g_tiny64": "generator at 64 px, with a doubling that has no linear layer",
        "misc": "operators alone; not compared: its resizing, from which ours differs on purpose, and blurs and a "
        "minibatch deviation of kinds that no network here has",
    },
    "vqgan": {
        "discriminators": "patch discriminators: three layers, two, four narrow ones, ActNorm, one channel",
        "gpt_small": "transformer, two layers; sampling filters",
        "loss_small": "the loss alone, in five settings, before and after the discriminator's start",
        "misc": "orders of codes, schedules, coordinates, depth",
        "n2n_class": "second stage with class labels, beside an autoencoder of 64 px",
        "n2n_coord": "second stage with coordinates, beside an autoencoder of 64 px",
        "n2n_depth": "second stage with the codes of a second autoencoder, of depth",
        "n2n_uncond": "unconditional second stage, codes in alternating order",
        "n2n_windows": "sliding window over 24 x 32 codes",
        "quantizers": "quantizers alone, with gradients",
        "seg_small": "autoencoder of 12 labels at 32 px",
        "vq_small": "autoencoder at 64 px: evaluation, other sizes, three training steps",
    },
}
"""The golden cases of each paper."""

LEFT_OUT = {
    "vqgan/gpt_small/base:emb": "embeddings in front of the tokens, which no published model has",
    "vqgan/gpt_small/base:logits_with_embeddings": "behind these",
    "vqgan/gpt_small/base:past_shape": "the shape of the official cache; ours is allocated whole",
    "vqgan/gpt_small/unmask:*": "first tokens that see one another, which no published model has",
    "vqgan/misc/depthpng:shape": "of a picture that is not among the goldens",
    "vqgan/misc/scene:*": "scene layouts, a condition that is not built",
    "vqgan/n2n_coord/coord_decode": "a picture of coordinates, which nothing shows",
    "vqgan/n2n_coord/sample_half": "drawn with settings that are not recorded; each code is among our two best",
    "vqgan/seg_small/to_rgb": "a picture in the model's own random colours; ours have those of all label maps",
}
"""Arrays that are not compared (`*` is any end of a name), and why."""

HEADER = ("module", "configuration", "quantity", "largest error", "tolerance")


@dataclass(frozen=True)
class Row:
    """The largest error of what the tests noted for one quantity of one module in one configuration."""

    paper: str
    module: str
    configuration: str
    quantity: str
    error: float
    tolerance: float
    count: int = 1
    why: str = ""


def read(file: Path) -> list[Row]:
    """What the tests noted in the file that ZOO_PARITY_ROWS named, joined to rows and sorted."""
    rows: dict[tuple[object, ...], Row] = {}
    for line in file.read_text().splitlines():
        if len(json.loads(line)) == 2:  # an array that a test reads, see `unread`
            continue
        name, configuration, quantity, error, tolerance, count, why = json.loads(line)
        paper, module = name.split(": ", 1)
        key = (paper, module, configuration, quantity, tolerance, why)
        if before := rows.get(key):
            error, count = max(error, before.error), count + before.count
        rows[key] = Row(paper, module, configuration, quantity, error, tolerance, count, why)
    return [rows[key] for key in sorted(rows)]


def missing(rows: Iterable[Row]) -> list[str]:
    """Modules and golden cases without a row, as "paper: name"."""
    rows = list(rows)
    there = {(row.paper, row.module) for row in rows} | {(row.paper, row.configuration.split(",")[0]) for row in rows}
    return [
        f"{paper}: {name}"
        for wanted in (MODULES, CONFIGURATIONS)
        for paper, names in wanted.items()
        for name in names
        if (paper, name) not in there
    ]


def unread(file: Path, goldens: Path) -> list[str]:
    """Arrays, as "paper/case/array", that neither a test reads nor `LEFT_OUT` names.

    Of the papers whose tests say what they read. An array stored in part, as `NAME__sub` and the like, is one.
    """
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    there = {"/".join(line) for line in lines if len(line) == 2}
    stored = {
        f"{path.relative_to(goldens).with_suffix('').as_posix()}/{re.sub('__(shape|stride|sub|stats)$', '', name)}"
        for paper in {name.split("/")[0] for name in there}
        for path in (goldens / paper).glob("*.npz")
        for name in np.load(path)
    }
    return sorted(name for name in stored - there if not any(fnmatchcase(name, pattern) for pattern in LEFT_OUT))


def tables(rows: Iterable[Row], titles: Mapping[str, str]) -> str:
    """The rows as Markdown, one table a paper under its title; looser tolerances have their reason as a footnote."""
    rows = list(rows)
    reasons = list(dict.fromkeys(row.why for row in rows if row.why))
    lines: list[str] = []
    for paper in sorted({row.paper for row in rows}):
        lines += [f"## {paper}", "", titles.get(paper, ""), ""]
        if cases := CONFIGURATIONS.get(paper):
            lines += [*(f"- `{case}`: {words}" for case, words in cases.items()), ""]
        if left := {name: words for name, words in LEFT_OUT.items() if name.startswith(f"{paper}/")}:
            lines += ["Not compared:", ""]
            lines += [*(f"- `{name.split('/', 1)[1]}`: {words}" for name, words in left.items()), ""]
        lines += [_line(HEADER), _line(["---"] * len(HEADER))]
        for row in rows:
            if row.paper == paper:
                note = f" [^{reasons.index(row.why) + 1}]" if row.why else ""
                count = f" ({row.count})" if row.count > 1 else ""
                error, tolerance = _figure(row.error, 1), _figure(row.tolerance, 0) + note
                lines.append(_line([row.module, row.configuration, row.quantity + count, error, tolerance]))
        lines.append("")
    lines += [f"[^{number}]: {why}\n" for number, why in enumerate(reasons, 1)]
    return "\n".join(lines).rstrip() + "\n"


def parse(page: str) -> list[Row]:
    """The rows of a page that `tables` made; counts stay part of the quantity, and `why` is the footnote's mark."""
    rows, paper = [], ""
    for line in page.splitlines():
        if line.startswith("## "):
            paper = line.removeprefix("## ")
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == len(HEADER) and cells[0] not in (HEADER[0], "---"):
            tolerance, _, note = cells[4].partition(" ")
            rows.append(Row(paper, *cells[:3], float(cells[3]), float(tolerance), why=note))
    return rows


def _figure(value: float, digits: int) -> str:
    return f"{value:.{digits}e}" if value else "0"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
