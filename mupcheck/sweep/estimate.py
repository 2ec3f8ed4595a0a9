"""What a plan would cost: sizes, FLOPs, memory, and a time that a few of its steps were timed for.

On one core of a busy CPU, in seconds of that core (2026-11):

    sweep, width, R          took   timed steps said   a matrix product alone would say
    coord        32, 16       0.50         0.19             0.35
                 64, 16       0.69         0.43             0.78
                128, 16       2.00         1.28             2.33
                256, 16       4.99         5.39             8.24
                together      8.2          7.3             11.7
    demo_lr      32, 14       2.52         2.48             3.78
                 64, 14       4.87         4.39             7.33
                128, 14      10.96        10.59            17.58

Of the check the two widest were timed, which is where the time goes; the others follow the nearest.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mupcheck.spec.run import RunSpec
from mupcheck.sweep.cost import count_parameters, cuda_seconds, group_bytes, group_work, run_flops
from mupcheck.sweep.groups import makespan
from mupcheck.sweep.machine import matrix_flops
from mupcheck.sweep.plan import Plan
from mupcheck.sweep.timing import seconds_per_work, time_widths

# A sweep's start (imports, data) and end (judging); a process for a group on a CPU, for a GPU with all its groups.
SWEEP_SECONDS, GROUP_SECONDS, GPU_SECONDS = 3.0, 0.1, 6.0


@dataclass(frozen=True)
class Estimate:
    """What a plan costs.

    Attributes:
        widths: one dict a width; `group_bytes` is the memory of its largest group at its peak.
        flops: floating-point operations of all that is missing.
        seconds: the time for it; infinite where it does not fit.
        timed_widths: widths of which steps were timed for it; it is a guess where there is none.
        not_timed: why steps of a width could not be timed.
        needed_bytes: memory needed at once, by `jobs` processes, on a GPU by those on it.
        available_bytes: memory that is free on the device; None if unknown.
        fits: false where more is needed than is there.
        jobs: processes at a time.
    """

    widths: list[dict[str, Any]]
    flops: float
    seconds: float
    needed_bytes: int
    available_bytes: int | None
    fits: bool
    jobs: int
    timed_widths: tuple[int, ...] = ()
    not_timed: tuple[str, ...] = ()


def estimate(plan: Plan, *, cap: float | None = None, timed: bool = True) -> Estimate:
    """Return what a plan would cost; steps of it are timed, unless it does not fit anyway.

    Args:
        cap: seconds for the timing (default: some on a CPU, some more on a GPU, where kernels may be compiled first).
        timed: whether steps may be timed here; it is a guess otherwise.
    """
    rows, held_out = [], len(plan.corpus.held_out)
    for width in sorted({run.width for run in plan.runs}):
        alike = [run for run in plan.runs if run.width == width]
        groups = [group for group in plan.groups if group[0].width == width]
        first = alike[0]
        heads, k_dim, v_dim = first.heads
        rows.append(
            {
                "width": width,
                "n_heads": heads,
                "head_k_dim": k_dim,
                "head_v_dim": v_dim,
                "n_params": count_parameters(first),
                "runs": len(alike),
                "missing": sum(map(len, groups)),
                "run_flops": run_flops(first, held_out=held_out),
                "group_bytes": group_bytes(first, max(map(len, groups), default=0), devices=plan.gpus_per_run),
            }
        )
    flops = sum(row["run_flops"] * row["missing"] for row in rows)
    seconds, known, not_timed = math.inf, {}, list[str]()
    if plan.fits and plan.groups:
        nominal = 1.0 if plan.gpus else 1 / matrix_flops("cpu")
        timed = timed and plan.gpus_per_run == 1  # what takes several devices is not timed on one
        if timed:
            known = time_widths(plan, partial(work_of, plan), speed=1 / nominal, cap=cap, bad=not_timed.append)
        seconds = predict_seconds(plan, known, nominal=nominal)
    elif plan.fits:
        seconds = 0.0
    available, processes = plan.available_bytes, plan.n_processes
    widths = tuple(sorted(known))
    return Estimate(rows, flops, seconds, plan.needed_bytes, available, plan.fits, processes, widths, tuple(not_timed))


def work_of(plan: Plan, run: RunSpec, replicas: int) -> float:
    """Return the work of a group: operations of a large product on a CPU, seconds of a nominal GPU."""
    work = (cuda_seconds if plan.gpus else group_work)(run, replicas, held_out=len(plan.corpus.held_out))
    return work / plan.gpus_per_run


def predict_seconds(plan: Plan, known: Mapping[int, float], *, nominal: float) -> float:
    """Return the time of a plan: groups go to processes as they become free, the costliest first.

    Args:
        known: seconds that a unit of work takes, by width.
        nominal: the same where no width is known.
    """
    if not plan.groups:
        return 0.0
    groups = [
        seconds_per_work(known, group[0].width, otherwise=nominal) * work_of(plan, group[0], len(group))
        for group in plan.groups
    ]
    if plan.gpus:
        return SWEEP_SECONDS + GPU_SECONDS + makespan(groups, plan.n_processes)
    return SWEEP_SECONDS + makespan([GROUP_SECONDS + seconds for seconds in groups], plan.n_processes)
