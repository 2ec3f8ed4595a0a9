"""From runs to groups: which train as replicas of one model, and how many at a time."""

import heapq
import math
from collections.abc import Callable, Sequence

from mupcheck.spec.run import RunSpec
from mupcheck.sweep.cost import cuda_seconds, group_bytes, group_work, weight_bytes

Group = tuple[RunSpec, ...]

# More replicas than this gain nothing: on a CPU their weights leave the cache, on a GPU it is full (performance.md).
CPU_REPLICAS = 16
# There is one group per core; memory that a process meets first costs 0.3 to 2 seconds a GiB, and wide models gain
# nothing from replicas.
CPU_GROUP_BYTES = 2**30
CUDA_TOKENS_IN_FLIGHT = 2**17
# GPUs that are busy to this share end together; what a split may gain beyond is not worth its smaller groups.
BUSY_ENOUGH, WORTH_IT = 0.98, 0.995


def group_runs(
    runs: Sequence[RunSpec],
    device: str,
    *,
    memory: int | None = None,
    places: int = 1,
    exact: bool = False,
    also: Sequence[Group] = (),
) -> list[Group]:
    """Split runs into groups that train as replicas of one model, the costliest first.

    Args:
        device: "cpu" or "cuda:i", whose limits hold.
        memory: bytes for one group; a group of one run may need more.
        places: GPUs that work at a time; groups are cut so that they end together, where that is worth it.
        exact: a group of its own for every run.
        also: groups that stay as they are, put among the others.
    """
    by_shape: dict[tuple, list[RunSpec]] = {}
    for run in runs:
        by_shape.setdefault(run.group, []).append(run)
    shapes = [alike for _, alike in sorted(by_shape.items(), key=lambda item: repr(item[0]))]
    counts = []
    for alike in shapes:
        if device == "cpu":
            limit = min(CPU_REPLICAS, CPU_GROUP_BYTES // weight_bytes(alike[0]))
        else:
            in_flight = alike[0].batch_size // alike[0].accumulation * alike[0].seq_len
            limit = CUDA_TOKENS_IN_FLIGHT // in_flight
        if memory is not None:
            limit = min(limit, replicas_within(alike[0], memory))
        counts.append(len(alike) if exact else math.ceil(len(alike) / max(1, limit)))
    if device != "cpu" and places > 1:
        sizes = [len(alike) for alike in shapes]
        counts = spread(sizes, counts, lambda shape, size: cuda_seconds(shapes[shape][0], size), places)
    groups = [
        # even parts: no straggler of one run at the end
        tuple(alike[i * len(alike) // count : (i + 1) * len(alike) // count])
        for alike, count in zip(shapes, counts, strict=True)
        for i in range(count)
    ]
    return sorted([*groups, *also], key=lambda group: group_cost(group, device), reverse=True)


def spread(sizes: Sequence[int], counts: Sequence[int], seconds: Callable[[int, int], float], places: int) -> list[int]:
    """Return in how many groups to cut each shape's runs so that `places` end as early as they can.

    A group of half the runs takes more than half the time, so a cut has to pay by what it evens out.

    Args:
        sizes: number of runs of each shape.
        counts: the fewest groups of each shape.
        seconds: time of a group, by the index of its shape and its number of runs.
        places: groups at a time.
    """
    chosen = list(counts)
    known: dict[tuple[int, int], float] = {}

    def times(shape: int, count: int) -> list[float]:
        n = sizes[shape]
        parts = [(i + 1) * n // count - i * n // count for i in range(count)]
        for size in set(parts):
            if (shape, size) not in known:
                known[shape, size] = seconds(shape, size)
        return [known[shape, size] for size in parts]

    def end(of: Sequence[int]) -> float:
        return makespan([each for shape, count in enumerate(of) for each in times(shape, count)], places)

    least = sum(sum(times(shape, count)) for shape, count in enumerate(chosen)) / places
    best = end(chosen)
    while best * BUSY_ENOUGH > least:
        trials = [
            [*chosen[:shape], min(chosen[shape] + more, sizes[shape]), *chosen[shape + 1 :]]
            for shape in range(len(sizes))
            for more in range(1, places + 1)
        ]
        found = min(trials, key=end, default=chosen)
        if end(found) > WORTH_IT * best:
            break
        chosen, best = found, end(found)
    return chosen


def makespan(seconds: Sequence[float], places: int) -> float:
    """Return when the last of `places` ends that take the tasks as they become free, the longest first."""
    busy = [0.0] * max(places, 1)
    for each in sorted(seconds, reverse=True):
        heapq.heapreplace(busy, busy[0] + each)
    return max(busy)


def replicas_within(run: RunSpec, memory: int) -> int:
    """Return how many replicas fit into `memory` bytes, which grow linearly with them."""
    alone = group_bytes(run, 1)
    return 1 + (memory - alone) // max(group_bytes(run, 2) - alone, 1)


def group_cost(group: Group, device: str = "cpu") -> float:
    """Return the work of training a group, to order and to weigh groups by; two halves have that of the whole."""
    cost = group_work if device == "cpu" else cuda_seconds
    return len(group) * cost(group[0], CPU_REPLICAS) / CPU_REPLICAS
