"""Kernels compiled side by side, before they are needed: one after another they take longer than many steps."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

MOST_THREADS = 16


@contextmanager
def compiled_ahead() -> Iterator[None]:
    """Launch no kernel within; at the end, every one that would have been is compiled.

    Tensors that kernels would have filled hold what memory held, so nothing within may depend on them. Where this
    triton has no way to do so (and under its interpreter), kernels are launched as always. What does not compile fails
    when it is launched.
    """
    try:
        from triton.runtime._async_compile import AsyncCompileMode, active_mode
        from triton.runtime.jit import JITFunction
    except ImportError:
        yield
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    run = JITFunction.run
    with ThreadPoolExecutor(max(1, min(MOST_THREADS, cores // max(torch.cuda.device_count(), 1)))) as pool:
        mode = AsyncCompileMode(pool, ignore_errors=True)

        def submit(self: Any, *given: Any, grid: Any, warmup: bool, **named: Any) -> Any:  # noqa: ARG001
            # set anew in each thread: the backward pass has one of its own
            token = active_mode.set(mode)
            try:
                return run(self, *given, grid=grid, warmup=True, **named)
            finally:
                active_mode.reset(token)

        JITFunction.run = submit
        try:
            yield
        finally:
            JITFunction.run = run
            for kernel in mode.future_kernels.values():
                kernel.result(ignore_errors=True)
