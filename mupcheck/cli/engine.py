"""Which engine the options name, and the command that every engine of other machines executes."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from mupcheck.cli.exits import OK, STORAGE
from mupcheck.terminal.console import say

if TYPE_CHECKING:
    from mupcheck.sweep.engines.elsewhere import Elsewhere

ENGINES = ("local", "ray", "slurm")
# options of ray_... and slurm_..., by what the engines' records call them
OF = {
    "ray": ("address", "cpus", "gpus"),
    "slurm": ("partition", "time", "gpus", "cpus", "groups", "args", "poll"),
}
LEAVING = 0.6  # of the time after the warning, for groups to be left
JOB_TIME_LIMIT = 75  # what a task ends with that the limit of time ended before its runs were there


def elsewhere_of(options: Mapping[str, Any], names: Mapping[str, str]) -> "Elsewhere | None":
    """Return which engine of other machines to ask and how, None where this machine trains.

    Args:
        options: of the command.
        names: what they were called.
    Raises:
        ValueError: if the engine is unknown or cannot be used, or an option belongs to another one.
    """
    engine = options["engine"]
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is not available; known: {', '.join(ENGINES)}")
    for other in OF:
        asked = [f"{other}_{key}" for key in OF[other] if options[f"{other}_{key}"] is not None]
        asked += ["no_wait"] * (other == "slurm" and bool(options["no_wait"]))
        # a variable may be set for other sweeps
        if other != engine and (asked := [names[key] for key in asked if names[key].startswith("-")]):
            raise ValueError(f"{asked[0]} belongs to engine {other}; add --engine {other}")
    if engine == "local":
        return None
    from mupcheck.sweep.engines.elsewhere import Ray, Slurm, check

    given = {key: options[f"{engine}_{key}"] for key in OF[engine] if options[f"{engine}_{key}"] is not None}
    if options["fresh"]:
        raise ValueError(f"fresh is not for engine {engine}, where runs that are there are done; give another --name")
    device = options["device"]
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {device!r} is one of this machine; with engine {engine} give auto, cpu or cuda")
    gpus = given.get("gpus", int(device == "cuda"))
    if bool(gpus) != (device == "cuda") and device != "auto":
        raise ValueError(f"{engine}_gpus = {gpus:g} does not go with device {device!r}; leave one out")
    given |= {"gpus": gpus, "jobs": options["jobs"]}
    how: Elsewhere
    if engine == "ray":
        how = Ray(**given)
    else:
        how = Slurm(**{"groups": max(gpus or given.get("cpus", 1), 1), **given})
    check(how, starts=not options["dry_run"])
    return how


class _Late(BaseException):
    """Groups were not left in time after the warning; no error that a worker may take for one of its own."""


def _end(_signal: int, _frame: Any) -> NoReturn:
    raise _Late


FOLDER = Annotated[Path, typer.Argument(help="The sweep's folder.")]
PLAN = Annotated[str, typer.Option("--plan", help="What was handed out: a folder's name in FOLDER/work.")]
TASK = Annotated[int, typer.Option("--task", help="Which of its tasks.")]
DEVICE = Annotated[
    str, typer.Option("--device", help="cpu, or cuda: every GPU that the task was given. (default: cpu)")
]
JOBS = Annotated[
    int | None, typer.Option("--jobs", help="Processes at a time. (default: one per core on a CPU, one per GPU)", min=1)
]
WARNING = Annotated[
    float, typer.Option("--warning", help="Seconds from SIGUSR1, the warning, to the limit of time. (default: 10)")
]


def work(
    folder: FOLDER, plan: PLAN, task: TASK, device: DEVICE = "cpu", jobs: JOBS = None, warning: WARNING = 10.0
) -> None:
    """Train one task of a sweep that was handed out, those runs that are not there yet; engines call it.

    Example: mupcheck work results/lr --plan 0123456789ab --task 0
    """
    from mupcheck.results.claims import trained_by_others
    from mupcheck.results.reading import finished_runs
    from mupcheck.sweep.checkpoints import Left, leave, steps_kept
    from mupcheck.sweep.engines.sbatch import requeue
    from mupcheck.sweep.portion import read_portion
    from mupcheck.sweep.work import check_task
    from mupcheck.sweep.work import work as work_through

    portion = read_portion(folder, plan)
    check_task(portion, task)
    mine = {run.run_id for index in portion.tasks[task] for run in portion.groups[index] if hasattr(run, "run_id")}
    before, steps_before = finished_runs(folder), steps_kept(folder, mine)

    def warn(*_: Any) -> None:
        signal.signal(signal.SIGALRM, _end)
        signal.setitimer(signal.ITIMER_REAL, LEAVING * warning)
        leave()

    signal.signal(signal.SIGUSR1, warn)
    try:
        errors = work_through(portion, task, device=device, jobs=jobs)
    except (Left, _Late):
        signal.setitimer(signal.ITIMER_REAL, 0)
        # what comes no further would do so for ever
        there = finished_runs(folder)
        gained, further = len(mine & there - before), steps_kept(folder, mine) > steps_before
        left_to_others = bool(mine - there) and mine - there <= trained_by_others(folder, mine)
        if (gained or further or left_to_others) and requeue():
            goes_on = ", which goes on from checkpoints" * further + ", which others train" * left_to_others
            say(f"{gained} runs ended within the limit of time; queued again for the rest{goes_on}")
        else:
            why = (
                "is over; the same command goes on"
                if gained or further or left_to_others
                else "is too short for one group; give a longer --slurm-time"
            )
            say(f"error: the limit of time {why}")
        raise typer.Exit(JOB_TIME_LIMIT) from None
    for error in errors:
        say(f"error: {error}")
    said = f"task {task} of {plan} on {os.uname().nodename}"
    say(f"{said}: {len(errors)} groups failed" if errors else f"{said}: done")
    raise typer.Exit(STORAGE if errors else OK)
