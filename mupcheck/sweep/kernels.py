"""Triton's kernels tested before a sweep names them, each shape in a process of its own.

A kernel that reads where it may not takes the whole CUDA context of its process with it, and compiling keeps one core
busy for seconds: so shapes are tested beside each other, away from the process that trains. What was compiled stays in
Triton's cache on disk.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from typing import Any

from mupcheck.sweep.engines import local

AT_A_TIME, UNTESTED = 4, "Triton's kernels cannot be tested"
# What a worker imports; the first that starts a process decides for all. pyarrow imports pandas when it first makes a
# table, a quarter of a second at the end of every group otherwise.
PRELOAD = ("mupcheck.training.train", "mupcheck.measuring.path", "mupcheck.sweep.runner", "pandas")
Heads = tuple[int, int, int]  # H, K, V


def faults_of(heads: Sequence[Heads], dtype: str, devices: Sequence[str]) -> list[str]:
    """Return what is wrong with the kernels of these shapes, in words; nothing where all of them pass their test."""
    # in a worker of a pool, which may start no processes, it has to do without
    jobs = 1 if multiprocessing.current_process().daemon else max(2, min(len(heads), AT_A_TIME))
    groups = [(*each, dtype) for each in heads]
    faults = _faults(groups, devices, jobs=jobs)
    if jobs > 1 and any(UNTESTED in fault for fault in faults):
        # not the kernels' fault, as on a GPU that takes one process at a time: here it may do
        return _faults(groups, devices, jobs=1)
    return faults


def _faults(groups: Sequence[tuple[Any, ...]], devices: Sequence[str], *, jobs: int) -> list[str]:
    messages = local.execute(groups, _test, jobs=jobs, preload=PRELOAD, devices=devices)
    return [message.error for message in messages if message.steps is None and message.error]


def _test(group: tuple[int, int, int, str], *, device: str) -> Iterator[int]:
    """Raise ValueError where the kernels of a shape are wrong or do not run."""
    import torch

    from mupcheck.ops.choice import self_test

    heads, k_dim, v_dim, dtype = group
    try:
        with torch.cuda.device(device):  # where kernels of our own start
            fault = self_test(torch.device(device), heads, k_dim, v_dim, getattr(torch, dtype))
    except RuntimeError as error:
        fault = f"{UNTESTED} on {device}: {str(error).splitlines()[0]}"
    if fault:
        raise ValueError(fault)
    yield from ()
