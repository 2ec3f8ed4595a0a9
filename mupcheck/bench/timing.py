"""Times of calls that take turns, so that whatever else the machine does meets all of them alike; and its ceilings."""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import pairwise
from typing import TypeVar

import torch

from mupcheck.bench.rows import Machine, Timing
from mupcheck.sweep.machine import memory_kept

T = TypeVar("T")
Call = Callable[[], object]

COPY_BYTES = {"cuda": 2**30, "cpu": 2**25}
PRODUCT_SIZE = {"cuda": 8192, "cpu": 1024}
MOST_CALLS, ROUNDS = 200, 5


def take_turns(calls: Mapping[str, Call], device: str, *, seconds: float) -> dict[str, Timing]:
    """Time calls in rounds in which each has its turn; `seconds` each, after a warm-up.

    On a GPU an event stands between any two calls and the host runs ahead as it can: where it cannot, the device waits,
    and the time of a call is that of its host. On a CPU what a call frees stays with the process, as in a sweep: the
    next one waits for no fresh pages.
    """
    counts = {}
    found: dict[str, list[float]] = {name: [] for name in calls}
    with memory_kept() if device == "cpu" else nullcontext():
        for name, call in calls.items():
            for _ in range(2):
                call()
            counts[name] = max(1, min(MOST_CALLS, round(seconds / ROUNDS / max(_once(call, device), 1e-7))))
        for _ in range(ROUNDS):
            for name, call in calls.items():
                found[name] += _several(call, device, counts[name])
    return {name: summary(each) for name, each in found.items()}


def summary(seconds: list[float]) -> Timing:
    """Return median and quartiles of times."""
    low, median, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    return Timing(median, low, high, len(seconds))


def in_graph(call: Callable[[], T]) -> tuple[Call, T]:
    """Capture a call in a CUDA graph: its replay, which takes what the device alone takes, and where its results come.

    Raises:
        RuntimeError: if the call cannot be captured.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return graph.replay, results


def peak_bytes(call: Call, device: str) -> int | None:
    """Return the memory that a call takes on a GPU at its peak, beyond what lay there before; None on a CPU."""
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def ceilings(device: str, *, seconds: float = 0.3) -> Machine:
    """Measure what this machine does at best: a copy, a product (bfloat16 on a GPU, float32 on a CPU), a launch."""
    kind = torch.device(device).type
    size, dtype = PRODUCT_SIZE[kind], torch.bfloat16 if kind == "cuda" else torch.float32
    source = torch.zeros(COPY_BYTES[kind], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    # random, as a GPU draws less power and so runs faster on zeros
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    calls: dict[str, Call] = {"copy": lambda: target.copy_(source), "product": lambda: torch.matmul(a, b)}
    found = take_turns(calls, kind, seconds=seconds)
    small = torch.zeros(1, device=device)
    n = 1000
    _wait(kind)
    start = time.perf_counter()
    for _ in range(n):
        small.add_(1)
    _wait(kind)
    launch = (time.perf_counter() - start) / n
    name = f"{size}^3 {str(dtype).removeprefix('torch.')}"
    return Machine(2 * source.numel() / found["copy"].median, 2 * size**3 / found["product"].median, launch, name)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _once(call: Call, device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _several(call: Call, device: str, count: int) -> list[float]:
    """Return the seconds of each of several calls in a row."""
    if device == "cpu":
        return [_once(call, device) for _ in range(count)]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    torch.cuda.synchronize()
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    torch.cuda.synchronize()
    return [1e-3 * before.elapsed_time(after) for before, after in pairwise(marks)]
