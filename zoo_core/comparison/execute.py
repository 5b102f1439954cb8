"""Trains what a plan lists, one job after the other or wherever a launcher puts it, and knows what is done."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo_core import checkpoint, runs
from zoo_core.comparison.plan import Job
from zoo_core.errors import UserError
from zoo_core.files import parse_json
from zoo_core.recipe import Recipe, for_stage
from zoo_core.trainer import num_steps

STOPPED = 130
"""Exit code of a training that was asked to stop and saved."""

POLL_SECONDS = 1.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    finished: bool
    diverged: str
    """What was not finite; empty where all was."""
    images: int
    """Seen, over all stages, by the newest checkpoints."""

    @property
    def over(self) -> bool:
        """Whether there is nothing left to train."""
        return self.finished or bool(self.diverged)


class Interrupted(Exception):
    """The user stopped a training, which saved its state."""


def progress(folder: Path, stages: Sequence[str], recipe: Recipe) -> Progress:
    """What a run folder holds of a training; nothing where it does not exist."""
    seen, finished = 0, True
    for stage in stages:
        place = folder / runs.CHECKPOINTS / (stage if len(stages) > 1 else "")
        found = checkpoint.latest(place, warn=lambda text: None) if checkpoint.any_in(place) else None
        train = for_stage(recipe, stage).train
        seen += found.step * train.batch if found else 0
        finished = finished and found is not None and found.step >= num_steps(for_stage(recipe, stage))
    return Progress(finished, "" if finished else _diverged(folder), seen)


def _diverged(folder: Path) -> str:
    """Where the journal's last word is a divergence, its place."""
    try:
        lines = (folder / "metrics.jsonl").read_text(errors="replace").splitlines()
        last = parse_json(lines[-1])
    except (OSError, ValueError, IndexError):
        return ""
    if not isinstance(last, dict) or last.get("event") != "diverged":
        return ""
    return f"{last.get('term', 'a weight')} was not finite in step {last.get('step')}"


def command_line(job: Job, launcher: str) -> list[str]:
    """How a job is started. In a launcher `{command}` stands for the whole command and `{arguments}` for what follows
    `zoo`; one with neither is put before `-m zoo_core ARGUMENTS`, as `accelerate launch` wants it.

    Raises UserError for a launcher that is not a command.
    """
    whole = [sys.executable, "-m", "zoo_core", *job.arguments]
    if not launcher:
        return whole
    try:
        words = shlex.split(launcher)
    except ValueError as error:
        raise UserError(f"--launcher is not a command ({error}).") from None
    if not words:
        raise UserError("--launcher is blank; leave it out, or name a program.")
    if "{command}" in launcher or "{arguments}" in launcher:
        said = {"{command}": shlex.join(whole), "{arguments}": shlex.join(job.arguments)}
        found: list[str] = []
        for word in words:
            if word in said:  # a word by itself becomes several
                found += whole if word == "{command}" else job.arguments
            else:
                for mark, text in said.items():
                    word = word.replace(mark, text)
                found.append(word)
        return found
    return [*words, "-m", "zoo_core", *job.arguments]


def check_launcher(job: Job, launcher: str) -> None:
    """Raise UserError for a launcher that starts nothing, before anything is written."""
    words = command_line(job, launcher)
    if shutil.which(words[0]) is None:
        raise UserError(f"cannot start {words[0]} (there is no such program); look at --launcher.")


def train(jobs: Sequence[Job], state: Callable[[Job], Progress], launcher: str, say: Say) -> None:
    """Run every job that is not over; one that another process is running is waited for. Raises Interrupted, and
    UserError for a job that fails otherwise than by diverging: the next call goes on with it."""
    left = [job for job in jobs if not state(job).over]
    if len(left) < len(jobs):
        say(f"{len(jobs) - len(left)} of {len(jobs)} trainings are done already.")
    for number, job in enumerate(left, 1):
        say(f"Training {number} of {len(left)}: {job.contender}, seed {job.seed}.")
        if _waited(job, say) and state(job).over:
            continue
        code = _run(command_line(job, launcher))
        if code in (STOPPED, -2, -15):
            raise Interrupted
        if state(job).diverged:
            say(f"{job.contender}, seed {job.seed}, diverged: {state(job).diverged}. It counts as such.")
        elif not state(job).finished:
            raise UserError(_ended(job, code))


def _ended(job: Job, code: int) -> str:
    """What is said of a training that is not over, though its command is."""
    said = f"the training of {job.contender} with seed {job.seed} ended with exit code {code} before its end"
    if code:
        return f"{said}; its own message stands above. Repeat the command to go on with it."
    return (
        f"{said}: has --launcher handed it to a queue? Use one that waits (`sbatch --wait`), or queue what --dry-run "
        "prints; repeat the command when it is done."
    )


def _waited(job: Job, say: Say) -> bool:
    """Wait until nobody trains in the job's folder: a queue may, or a child that outlived an earlier call. Whether
    there was anyone."""
    waited = False
    while job.folder.exists():
        try:
            with runs.held(job.folder):
                break
        except runs.Busy:
            if not waited:
                say(f"Another process is training in {job.folder}; waiting for it.")
            waited = True
        try:
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            raise Interrupted from None
    return waited


def _run(words: Sequence[str]) -> int:
    """Start and wait. The child saves when it is asked to stop: Ctrl-C reaches it by itself, SIGTERM is handed on."""
    try:
        child = subprocess.Popen(words)
    except OSError as error:
        raise UserError(f"cannot start {words[0]} ({error.strerror}); look at --launcher.") from None
    before = signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(number))
    try:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue
    finally:
        signal.signal(signal.SIGTERM, before)
