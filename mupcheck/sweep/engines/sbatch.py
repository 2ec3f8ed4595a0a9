"""Slurm's own commands: how a job array is asked for, what the queue holds, and how a task ended."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mupcheck.sweep.portion import Portion

ARRAY = 1000  # tasks, where the cluster does not say how many it takes
WARNING_SECONDS = 120  # before the limit of time, at most
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
State = dict[tuple[str, int], tuple[str, str]]  # (key of a portion, task) -> state, reason


@dataclass(frozen=True)
class Slurm:
    """How to ask Slurm.

    Attributes:
        partition: where tasks run; "" leaves it to the cluster, as with the others.
        time: limit of a task, such as "90m", "4h", or as Slurm writes it.
        gpus: of each task; 0 trains on the CPU.
        cpus: of each task; on a CPU as many groups of it train at a time.
        groups: of each task, one after the other; fewer, longer tasks wait less in the queue.
        args: more options of sbatch, such as "--account=lab --mem=16G".
        jobs: tasks at a time, None for as many as the cluster lets.
        poll: seconds between two looks.
    """

    partition: str = ""
    time: str = ""
    gpus: int = 0
    cpus: int = 1
    groups: int = 1
    args: str = ""
    jobs: int | None = None
    poll: float = 10.0


def check_slurm(slurm: Slurm, *, submits: bool = True) -> None:
    """Refuse what cannot be, before anything is written.

    Args:
        slurm: the settings.
        submits: whether Slurm's commands have to be here.
    Raises:
        ValueError: if Slurm's commands are not here, or a setting is none.
    """
    for command in ("sbatch", "squeue"):
        if submits and shutil.which(command) is None:
            raise ValueError(
                f"engine 'slurm' needs the command {command}, which is not on PATH; call it where jobs are submitted, "
                "or take engine 'local'"
            )
    if not 0 < slurm.poll < 3600:
        raise ValueError(f"slurm_poll = {slurm.poll:g} is no number of seconds to wait; give one such as 10")
    seconds_of(slurm.time)
    try:
        shlex.split(slurm.args)
    except ValueError as error:
        raise ValueError(f"slurm_args {slurm.args!r} cannot be read: {error}") from None
    if "\n" in slurm.args + slurm.partition:
        raise ValueError("slurm_args and slurm_partition go on one line")


def seconds_of(time_limit: str) -> int | None:
    """Return the seconds of "90m", "4h", "1d", or of Slurm's own "MIN", "MIN:SEC", "H:M:S", "D-H[:M[:S]]"; None of "".

    Raises:
        ValueError: if it is none of them.
    """
    text = time_limit.strip().lower()
    if not text:
        return None
    seconds = 0
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        seconds = int(float(found[1]) * UNITS[found[2]])
    elif found := re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text):
        days, *parts = (int(part) if part is not None else 0 for part in found.groups())
        if found[1] is None and found[4] is None:
            parts = [0, parts[0], parts[1]]  # minutes come first where there are no hours
        seconds = days * 86400 + parts[0] * 3600 + parts[1] * 60 + parts[2]
    if seconds <= 0:
        raise ValueError(f"slurm_time {time_limit!r} is no time; give one such as 90m, 4h, 2d or 04:00:00")
    return seconds


def name_of(portion: Portion) -> str:
    """Return the name of a portion's job."""
    return f"mupcheck-{portion.key}"


def script_of(portion: Portion, slurm: Slurm, *, cuda: bool) -> str:
    """Return the script of a job array whose task i works through the portion's task i."""
    place = portion.place.absolute()
    seconds = seconds_of(slurm.time)
    warning = WARNING_SECONDS if seconds is None else max(min(WARNING_SECONDS, seconds // 10), 1)
    at_a_time = f"%{slurm.jobs}" if slurm.jobs else ""
    options = [
        f"--job-name={name_of(portion)}",
        f"--array=0-{len(portion.tasks) - 1}{at_a_time}",
        # a % in a folder's name would be taken for a pattern
        f"--output={str(place).replace('%', '%%')}/task-%a.log",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{warning}",
        f"--chdir={Path.cwd()}",
    ]
    options += [f"--partition={slurm.partition}"] if slurm.partition else []
    options += [f"--time={-(-seconds // 60)}"] if seconds is not None else []
    options += [f"--gres=gpu:{slurm.gpus}"] if slurm.gpus else []
    options += [f"--cpus-per-task={slurm.cpus}"] if not cuda or slurm.cpus > 1 else []
    options += shlex.split(slurm.args)
    where = ["--device", "cuda"] if cuda else ["--device", "cpu", "--jobs", str(slurm.cpus)]
    folder = str(portion.folder.absolute())
    command = shlex.join([sys.executable, "-m", "mupcheck", "work", folder, "--plan", portion.key])
    return "\n".join(
        [
            "#!/bin/sh",
            *(f"#SBATCH {shlex.quote(option)}" for option in options),
            "# Trains runs that are not there yet: it may be submitted again. The warning before the limit reaches the",
            "# process itself, which ends what cannot be finished and asks to be queued again.",
            f'exec {command} --task "$SLURM_ARRAY_TASK_ID" {shlex.join(where)} --warning {warning} </dev/null',
            "",
        ]
    )


def hand_in(script: Path) -> str:
    """Submit a script, and return the job's number, of which nothing depends: it is for who reads.

    Raises:
        ValueError: if sbatch refuses it.
    """
    done = called(["sbatch", "--parsable", str(script.absolute())])
    if isinstance(done, str):
        raise ValueError(f"sbatch refused the job: {done}")
    lines = done.stdout.split()
    return lines[-1].partition(";")[0] if lines else ""


def array_size() -> int:
    """Return how many tasks an array may have, as the cluster says it where it does."""
    if shutil.which("scontrol") is not None:
        done = called(["scontrol", "show", "config"])
        found = None if isinstance(done, str) else re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
        if found:
            return max(int(found[1]) - 1, 1)
    return ARRAY


def ask(keys: Sequence[str]) -> State | str:
    """Return what squeue knows of tasks of portions, by name; what it says where it does not answer."""
    found: State = {}
    for first in range(0, len(keys), 50):
        names = ",".join(f"mupcheck-{key}" for key in keys[first : first + 50])
        done = called(["squeue", "--noheader", "--array", f"--name={names}", "--format=%j|%K|%T|%r"])
        if isinstance(done, str):
            return done
        for line in done.stdout.splitlines():
            name, task, state, reason = [*(part.strip() for part in line.split("|")), "", "", ""][:4]
            if name.startswith("mupcheck-") and task.isdecimal():
                found[name.removeprefix("mupcheck-"), int(task)] = (state, reason)
    return found


def ended(job: str, task: int) -> str:
    """Return how a task ended as sacct says it, "" where there is no sacct or it does not know."""
    if not job or shutil.which("sacct") is None:
        return ""
    done = called(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}_{task}", "--format=State"])
    return "" if isinstance(done, str) or not done.stdout.strip() else done.stdout.strip().splitlines()[-1]


def called(command: Sequence[str]) -> "subprocess.CompletedProcess[str] | str":
    """Call one of Slurm's commands; return its error in one line where it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return f"{command[0]} took more than 60 s"
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    if done.returncode:
        return " ".join((done.stderr or done.stdout).split())[:300] or f"{command[0]} ended with {done.returncode}"
    return done


def requeue() -> bool:
    """Ask for the task that this process is to be queued again; say whether Slurm takes it."""
    job = os.environ.get("SLURM_JOB_ID", "")
    return bool(job) and not isinstance(called(["scontrol", "requeue", job]), str)
