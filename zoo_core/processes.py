"""One run in several processes: how they start, agree, and wait for the main one."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from zoo_core.errors import UserError
from zoo_core.wrapping import check

PATIENCE = timedelta(hours=6)
"""How long a process waits for another, which may be preparing a large data set or measuring."""


def open_accelerator(precision: str, folder: Path, trackers: Sequence[str] = ()) -> Accelerator:
    """One Accelerator for the process, of `precision` fp32 or bf16.

    Raises UserError when the launcher's world and accelerate's disagree (or two strangers would write the same
    files), when the device cannot do bf16, for a way of training that zoo does not have, and for a tracker that is not
    installed.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    remedy = "start one process plainly, or several with `accelerate launch --multi_gpu --num_processes N`."
    if world != "1" and not {"RANK", "MASTER_ADDR"} <= os.environ.keys():
        raise UserError(f"WORLD_SIZE={world}, but no launcher connects these processes; {remedy}")
    if world != "1":
        _promise_to_leave()
    try:
        accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="bf16" if precision == "bf16" else "no",
            log_with=list(trackers) or None,
            project_dir=str(folder),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except (ValueError, ImportError) as error:  # DeepSpeed, or what accelerate wants with it, is not installed
        raise UserError(f"accelerate cannot start: {error}") from None
    check(accelerator, precision)
    if os.environ.get("WORLD_SIZE", "1") != str(accelerator.num_processes):
        seen = accelerator.num_processes
        raise UserError(f"the launcher started {world} processes but accelerate sees {seen}; {remedy}")
    if len(accelerator.log_with) < len(set(trackers)):
        raise UserError(f"a tracker is not installed (of {', '.join(trackers)}); pip install it, or leave it out.")
    return accelerator


def _promise_to_leave() -> None:
    """However this process ends, have its group of processes end first.

    A thread of Gloo's that lets go of its last tensor while the interpreter shuts down aborts the process: a training
    that was done would end as one that failed. NCCL has no such thread, and ending it waits for the others.
    """
    # Modules of FSDP's, which accelerate imports with the first `prepare`, keep the group that stands when they are
    # imported as a function's default, for good; so they are imported before there is one.
    import torch.distributed.fsdp  # noqa: F401

    def leave() -> None:
        if dist.is_initialized() and dist.get_backend() == "gloo":
            dist.destroy_process_group()

    atexit.register(leave)


def in_any(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set in any process; all must ask."""
    if accelerator.num_processes == 1:
        return flag
    return accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum").item() > 0


def on_main(accelerator: Accelerator, act: Callable[[], None]) -> None:
    """Run `act` in the main process while the others wait; a UserError there ends them all."""
    failure: UserError | None = None
    if accelerator.is_main_process:
        try:
            act()
        except UserError as error:
            failure = error
    if in_any(accelerator, failure is not None):
        raise failure or UserError("the main process stopped; it says why.")


def check_agreement(accelerator: Accelerator, step: int) -> None:
    """Raise UserError unless every process stands at the same step."""
    if accelerator.num_processes == 1:
        return
    steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise UserError(f"the processes start from the steps {steps}; put the run folder on a disk that all share.")
