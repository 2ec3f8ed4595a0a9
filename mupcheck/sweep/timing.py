"""Steps of a plan, timed: what its work takes on this device, width by width."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from mupcheck.spec.run import RunSpec
from mupcheck.sweep.groups import Group
from mupcheck.sweep.plan import Plan

# What timing may take in all, also as a share of what is expected; and when enough of a width was seen.
CPU_SECONDS, CUDA_SECONDS, SHARE, LEAST_SECONDS = 6.0, 12.0, 0.2, 1.0
ENOUGH_STEPS, ENOUGH_SECONDS = 3, 0.4
# On a GPU rows come many at a time; those of the first two times hold compilation, warm-up and capture.
CUDA_STEPS, SAME_MOMENT = 160, 2e-3

Work = Callable[[RunSpec, int], float]  # of a run and a number of replicas, in seconds of a nominal device


class Row(NamedTuple):
    """How many rows there were at a moment, in seconds since the start."""

    steps: int
    seconds: float


def time_widths(plan: Plan, work: Work, *, speed: float, cap: float | None = None) -> dict[int, float]:
    """Return the seconds that a unit of work takes at each width that was timed, the costliest width first.

    A few steps of a group are trained here, of fewer replicas where all of them would take too long. What goes wrong
    leaves its width out.

    Args:
        work: of training a group.
        speed: units of work a second to expect, to choose what to time.
        cap: seconds for all of it.
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
        sample = _choose(largest[width], plan, work, speed, min(left, share))
        if sample is None:
            continue
        with suppress(RuntimeError, MemoryError, ValueError):
            found[width] = _time(sample, plan, work, min(left, 2 * share))
            speed = 1 / found[width]
    return found


def _choose(group: Group, plan: Plan, work: Work, speed: float, seconds: float) -> Group | None:
    """Return as many replicas of a short form of a group as can be timed in so many seconds, None where none can."""
    replicas = len(group)
    while replicas >= 1:
        sample = tuple(run.model_copy(update=_short(run, plan)) for run in group[:replicas])
        steps = max(sample[0].record, default=ENOUGH_STEPS - 1) + 1
        steps = steps if not plan.gpus or sample[0].record else CUDA_STEPS
        if work(sample[0].model_copy(update={"steps": steps}), replicas) / speed <= seconds:
            return sample
        replicas //= 2
    return None


def _short(run: RunSpec, plan: Plan) -> dict[str, Any]:
    """Return what makes a run short; a coordinate check is short, and its recorded steps are not like the others."""
    if run.record:
        return {}
    return {"eval_tokens": 0, "steps": min(run.steps, CUDA_STEPS if plan.gpus else 64)}


def _time(sample: Group, plan: Plan, work: Work, seconds: float) -> float:
    """Return the seconds that a unit of work takes; the first rows of a sweep of lrs, which warm up, are left out."""
    run, replicas = sample[0], len(sample)
    if run.record:
        if plan.gpus:
            list(_rows(sample, plan))  # compiles
        *_, last = _rows(sample, plan)
        return last.seconds / work(run, replicas)
    ends: list[Row] = []  # of rows that come at a time
    for row in _rows(sample, plan):
        if ends and row.seconds - ends[-1].seconds < (SAME_MOMENT if plan.gpus else 0.0):
            ends[-1] = Row(row.steps, ends[-1].seconds)
            continue
        if len(ends) > (2 if plan.gpus else 1) and _seen_enough(ends[_warm(ends, plan) :], seconds):
            break
        ends.append(row)
    first, last = (Row(0, 0.0) if len(ends) == 1 else ends[_warm(ends, plan)]), ends[-1]
    done = work(run.model_copy(update={"steps": last.steps}), replicas)
    before = work(run.model_copy(update={"steps": first.steps}), replicas) if first.steps else 0.0
    return (last.seconds - first.seconds) / (done - before)


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
