"""Training checkpoints as Lightning wrote them: weights beside callbacks' classes, optimizer states, configurations."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

CALLBACK = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
CONFIGURATION = "omegaconf.dictconfig.DictConfig"


def stranger(name: str) -> type:
    """A class of that full name, which only `save` can pickle."""
    module, _, attribute = name.rpartition(".")
    return type(attribute, (), {"__module__": module})


def save(file: Path, state_dict: Any, **more: Any) -> Path:
    """A checkpoint of these weights; `more` stands beside them."""
    callback, configuration = stranger(CALLBACK), stranger(CONFIGURATION)
    options = configuration()
    options.__dict__ = {"_content": {"base_learning_rate": 4.5e-6}, "_parent": None}
    content = {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "1.0.8",
        "callbacks": {
            callback: {"best_model_score": torch.tensor(0.5), "best_model_path": "last.ckpt", "owner": options}
        },
        "optimizer_states": [
            {"state": {0: {"exp_avg": torch.ones(4)}}, "param_groups": [{"lr": 1e-4, "betas": (0.5, 0.9)}]}
        ],
        "lr_schedulers": [],
        "state_dict": state_dict,
        "hyper_parameters": options,
    }
    modules = {}
    for kind in (callback, configuration):
        above = kind.__module__.split(".")
        modules |= {name: ModuleType(name) for end in range(len(above)) if (name := ".".join(above[: end + 1]))}
        setattr(modules[kind.__module__], kind.__name__, kind)
    with patch.dict(sys.modules, modules):
        torch.save(content | more, file)
    return file


def whole(state: Mapping[str, Tensor], keys: list[tuple[str, list[int]]]) -> dict[str, Tensor]:
    """A state dict of all official `keys`: those that `state` lacks, constants, are zeros."""
    integers = (".num_batches_tracked", "_idx")
    return {
        key: state[key]
        if key in state
        else torch.zeros(shape, dtype=torch.int64 if key.endswith(integers) else torch.float32)
        for key, shape in keys
    }
