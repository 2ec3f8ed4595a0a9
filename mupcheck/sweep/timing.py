"""Steps of a plan, timed: what its work takes on this device, width by width."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from mupcheck.results.files import one_line
from mupcheck.spec.run import RunSpec
from mupcheck.sweep.cost import step_flops
from mupcheck.sweep.groups import Group
from mupcheck.sweep.plan import Plan

# What timing may take in all, also as a share of what is expected; and when enough of a width was seen.
CPU_SECONDS, CUDA_SECONDS, SHARE, LEAST_SECONDS = 6.0, 12.0, 0.3, 1.0
ENOUGH_STEPS, ENOUGH_SECONDS = 3, 0.4
# On a GPU rows come many at a time; those of the first two times hold compilation, warm-up and capture.
CUDA_STEPS, SAME_MOMENT = 160, 2e-3
READS = 3  # of which the first holds the capture

# A coordinate check is short enough to be done whole, by one replica and by a few: the rest follows along a line.
FEW_REPLICAS = 4

Work = Callable[[RunSpec, int], float]  # of a run and a number of replicas, in seconds of a nominal device


class Row(NamedTuple):
    """How many rows there were at a moment, in seconds since the start."""

    steps: int
    seconds: float


def time_widths(
    plan: Plan,
    work: Work,
    *,
    speed: float,
    cap: float | None = None,
    bad: Callable[[str], object] = lambda _: None,
) -> dict[int, float]:
    """Return the seconds that a unit of work takes at each width that was timed, the costliest width first.

    A few steps of a group are trained here, of fewer replicas where all of them would take too long. What goes wrong
    leaves its width out.

    Args:
        work: of training a group.
        speed: units of work a second to expect, to choose what to time.
        cap: seconds for all of it.
        bad: is called with why a width could not be timed.
    """
    costs: dict[int, float] = {}
    largest: dict[int, Group] = {}
    for group in plan.groups:
        width = group[0].width
        costs[width] = costs.get(width, 0.0) + work(group[0], len(group))
        largest[width] = max(largest.get(width, ()), group, key=len)
    start, found = time.perf_counter(), {}
    total = sum(costs.values())
    if cap is None:
        cap = CUDA_SECONDS if plan.gpus else min(max(SHARE * total / speed, LEAST_SECONDS), CPU_SECONDS)
    for width in sorted(costs, key=lambda width: costs[width], reverse=True):
        left = cap - (time.perf_counter() - start)
        share = max(cap * costs[width] / total, cap / (2 * len(costs)))
        timed = _time_check if largest[width][0].record else _time_steps
        try:
            seconds = timed(largest[width], plan, work, speed, min(left, share))
        except (RuntimeError, MemoryError, ValueError) as error:
            bad(f"width {width}: {one_line(error) or type(error).__name__}")
            continue
        if seconds is None:
            bad(f"width {width}: its steps are too long to time")
            continue
        found[width] = seconds
        speed = 1 / seconds
    return found


def _time_check(group: Group, plan: Plan, work: Work, speed: float, seconds: float) -> float | None:
    """Return the seconds that a unit of a coordinate check's work takes, None where there is no time for it."""
    run, sizes = group[0], (1, min(FEW_REPLICAS, len(group)))
    if 2 * work(run, 1) / speed > seconds:
        return None
    if plan.gpus:
        list(_rows(group[:1], plan))  # compiles
    # the better of two: what else the machine does makes either longer, and the first has more to set up
    one = min(list(_rows(group[:1], plan))[-1].seconds for _ in range(2))
    if sizes[1] == 1 or work(run, sizes[1]) / speed > seconds:
        return one / work(run, 1)
    more = (list(_rows(group[: sizes[1]], plan))[-1].seconds - one) / (sizes[1] - 1)
    return (one + max(more, 0.0) * (len(group) - 1)) / work(run, len(group))


def _time_steps(group: Group, plan: Plan, work: Work, speed: float, seconds: float) -> float | None:
    """Return the seconds that a unit of work takes in steps of a sweep of lrs, None where there is no time for them."""
    replicas = len(group)
    steps = _steps_to_see(group[0], replicas) if plan.gpus else ENOUGH_STEPS
    short = {"eval_tokens": 0, "steps": min(group[0].steps, CUDA_STEPS)}
    sample = tuple(run.model_copy(update=short) for run in group)
    run = sample[0]
    while work(run.model_copy(update={"steps": steps}), replicas) / speed > seconds:
        replicas //= 2
        if replicas == 0:
            return None
        steps = _steps_to_see(group[0], replicas) if plan.gpus else steps
    ends: list[Row] = []  # of rows that come at a time
    for row in _rows(sample[:replicas], plan):
        if ends and row.seconds - ends[-1].seconds < (SAME_MOMENT if plan.gpus else 0.0):
            ends[-1] = Row(row.steps, ends[-1].seconds)
            continue
        if len(ends) > (2 if plan.gpus else 1) and _seen_enough(ends[_warm(ends, plan) :], seconds):
            break
        ends.append(row)
    if len(ends) == 1:
        return ends[0].seconds / work(run.model_copy(update={"steps": ends[0].steps}), replicas)
    counted = ends[_warm(ends, plan) :]
    # the median step: the first counted has more to set up, and what else the machine does makes some longer
    step = median((b.seconds - a.seconds) / (b.steps - a.steps) for a, b in pairwise(counted))
    one, two = (work(run.model_copy(update={"steps": steps, "warmup_steps": 0}), replicas) for steps in (1, 2))
    return step / (two - one)


def _steps_to_see(run: RunSpec, replicas: int) -> int:
    """Return after how many steps a GPU handed rows over often enough; of a costly model there are few at a time."""
    from mupcheck.training.capture import WARM_UP
    from mupcheck.training.device_loop import FLOPS_A_READ

    a_read = max(int(FLOPS_A_READ / (replicas * step_flops(run))), 1)
    return min(WARM_UP + READS * a_read, CUDA_STEPS)


def _warm(ends: list[Row], plan: Plan) -> int:
    """Return from which end on to count."""
    return min(1 if plan.gpus else 0, len(ends) - 2)


def _seen_enough(ends: list[Row], seconds: float) -> bool:
    counted, steps = ends[-1].seconds - ends[0].seconds, ends[-1].steps - ends[0].steps
    return (counted > ENOUGH_SECONDS and steps >= ENOUGH_STEPS - 1) or counted > seconds


def _rows(sample: Group, plan: Plan) -> Iterator[Row]:
    """Train, and yield how far it is and when."""
    import torch

    from mupcheck.training.train import one_thread, train

    start = time.perf_counter()
    rows: Any = train(sample, plan.corpus, device=plan.device)  # a generator, closed where enough was seen
    try:
        with torch.cuda.device(plan.device) if plan.gpus else one_thread():
            for steps, _ in enumerate(rows, start=1):
                yield Row(steps, time.perf_counter() - start)
    finally:
        rows.close()
        if plan.gpus:
            gc.collect()
            torch.cuda.empty_cache()


def seconds_per_work(known: Mapping[int, float], width: int, *, otherwise: float) -> float:
    """Return what a unit of work takes at a width: as it was timed there or at the nearest width, else as guessed."""
    if not known:
        return otherwise
    return known[min(known, key=lambda other: max(other / width, width / other))]
