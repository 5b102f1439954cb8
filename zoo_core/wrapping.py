"""Which of accelerate's ways of training there are here, and which driver each needs."""

from __future__ import annotations

import os

from accelerate import Accelerator
from accelerate.utils import DistributedType

from zoo_core.drivers import Driver, Wrapped
from zoo_core.errors import UserError
from zoo_core.program import Stage


def driver(stage: Stage, accelerator: Accelerator, num_micro: int) -> Driver:
    """The driver for a stage, as accelerate was launched; every process must ask. Restore the stage before."""
    if not stage.wrapped:
        return Driver(stage, accelerator, num_micro)
    if accelerator.distributed_type == DistributedType.FSDP:
        from zoo_core.sharded import Sharded  # DTensor takes a second to import

        return Sharded(stage, accelerator, num_micro)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        from zoo_core.zero import Zero

        return Zero(stage, accelerator, num_micro)
    return Wrapped(stage, accelerator, num_micro)


def check(accelerator: Accelerator, precision: str) -> None:
    """Raise UserError for a way of training whose state could not be kept safely, before any work is done."""
    kind = accelerator.distributed_type
    for name in (DistributedType.FSDP.value, DistributedType.DEEPSPEED.value):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" and kind.value != name:
            raise UserError(f"accelerate has no {name} on this device; launch with --multi_gpu, which is for CPUs too.")
    remedy = "choose another with `accelerate config`, such as FSDP version 2."
    if kind in (DistributedType.MEGATRON_LM, DistributedType.XLA) or accelerator.parallelism_config:
        raise UserError(f"zoo trains with accelerate's data parallelism, FSDP and DeepSpeed only; {remedy}")
    if kind == DistributedType.FSDP:
        from torch.distributed.fsdp import CPUOffloadPolicy

        if not accelerator.is_fsdp2:
            raise UserError(
                "FSDP version 1 is not supported; set `fsdp_version: 2`, or launch with `--fsdp_version 2`."
            )
        if isinstance(accelerator.state.fsdp_plugin.cpu_offload, CPUOffloadPolicy):
            raise UserError("FSDP's offloading is not supported; set `fsdp_offload_params: false`.")
    if kind == DistributedType.DEEPSPEED:
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        zero = config["zero_optimization"]
        devices = {zero.get(name, {}).get("device", "none") for name in ("offload_optimizer", "offload_param")}
        if zero["stage"] not in (1, 2) or devices != {"none"}:
            raise UserError(f"DeepSpeed is supported with ZeRO 1 and 2, without offloading; {remedy}")
        if precision != "fp32" or accelerator.mixed_precision != "no" or "optimizer" in config:
            raise UserError(
                "under DeepSpeed zoo trains in fp32 (in train.precision and in DeepSpeed's own settings) and with the "
                f"recipe's optimizer; {remedy}"
            )
