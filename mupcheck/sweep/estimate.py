"""What a plan would cost: sizes, FLOPs, memory and a rough time.

On two quiet cores of a CPU (2026-11) it said, and there was measured: smoke 3 s (3), coord --widths 64,128,256 6 (7),
demo_coord 13 (13), demo_lr 67 (60), the four regression sweeps 11 to 19 (7 to 15). On a GPU it is a guess.
"""

import math
from dataclasses import dataclass
from typing import Any

from mupcheck.sweep.cost import count_parameters, group_bytes, group_work, n_steps, run_flops
from mupcheck.sweep.machine import matrix_flops
from mupcheck.sweep.plan import Plan

# A sweep's start (imports, data) and end (judging), and a process for a group.
SWEEP_SECONDS, GROUP_SECONDS = 3.0, 0.1
# On a GPU: the share of a large product's speed that a step reaches, and the host's seconds for the calls of a block
# and for an initial value, which is drawn on the CPU (H100: three groups of lr sweeps were within 40%).
GPU_SHARE, GPU_BLOCK_SECONDS, GPU_VALUE_SECONDS = 0.4, 0.016, 2e-8


@dataclass(frozen=True)
class Estimate:
    """What a plan costs.

    Attributes:
        widths: one dict a width; `group_bytes` is the memory of its largest group at its peak.
        flops: floating-point operations of all that is missing.
        seconds: a rough time for it, on a GPU a guess; infinite where it does not fit.
        needed_bytes: memory needed at once, by `jobs` processes.
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


def estimate(plan: Plan) -> Estimate:
    """Return what a plan would cost; a matrix product is timed to know the device, unless it does not fit anyway."""
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
                "group_bytes": group_bytes(first, max(map(len, groups), default=0)),
            }
        )
    flops = sum(row["run_flops"] * row["missing"] for row in rows)
    seconds = predict_seconds(plan, matrix_flops(plan.device)) if plan.fits else math.inf
    return Estimate(rows, flops, seconds, plan.needed_bytes, plan.available_bytes, plan.fits, plan.n_processes)


def predict_seconds(plan: Plan, speed: float) -> float:
    """Return a rough time of a plan on a device that does `speed` floating-point operations a second.

    Groups go to processes as they become free, the costliest first.
    """
    if not plan.groups:
        return 0.0
    held_out = len(plan.corpus.held_out)
    busy = [0.0] * plan.n_processes
    for group in plan.groups:
        first = group[0]
        if plan.device == "cpu":
            seconds = group_work(first, len(group), held_out=held_out) / speed
        else:
            seconds = len(group) * run_flops(first, held_out=held_out) / (GPU_SHARE * speed)
            seconds += n_steps(first) * GPU_BLOCK_SECONDS * (first.n_layers + 1)
            seconds += len(group) * count_parameters(first) * GPU_VALUE_SECONDS
        at = busy.index(min(busy))
        busy[at] += GROUP_SECONDS + seconds
    return SWEEP_SECONDS + max(busy)
