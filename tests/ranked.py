"""Functions run by several processes that are ranks of one another, and the runs that they train together."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
import torch

from mupcheck.model.ranks import Ranks, joined
from mupcheck.sweep.engines.forking import context_of
from mupcheck.sweep.kernels import PRELOAD
from mupcheck.sweep.shared_run import SHARED
from mupcheck.training.rows import StepRow
from mupcheck.training.sharded import train_sharded

SECONDS = 60.0


def server_of_ranks(device="cpu"):
    """Return where ranks come from: a fork server that has what they need, in place of one that has not."""
    server = forkserver._forkserver
    if device == "cpu" and "torch._dynamo" not in server._preload_modules:
        server._stop()
    return context_of((*PRELOAD, *SHARED[: 2 if device == "cpu" else 1]))


def over_ranks(function: Callable[..., Any], size: int, *args: Any, device: str = "cpu") -> list[Any]:
    """Return what `function(ranks, device, *args)` returned on each of `size` ranks."""
    context = server_of_ranks(device)
    meeting = Path(tempfile.mkdtemp()) / "meeting"
    started = []
    for rank in range(size):
        here, there = context.Pipe()
        place = device if device == "cpu" else f"{device}:{rank}"
        process = context.Process(
            target=_rank, args=(function, Ranks(rank, size), place, meeting, there, args), daemon=True
        )
        process.start()
        there.close()
        started.append((process, here))
    try:
        found = {}
        while len(found) < size:
            ready = wait([pipe for _, pipe in started if pipe not in found], SECONDS)
            assert ready, f"ranks are silent for {SECONDS:g} s"
            for pipe in ready:
                found[pipe] = pipe.recv()
                assert not isinstance(found[pipe], str), found[pipe]
        return [found[pipe] for _, pipe in started]
    finally:
        for process, _ in started:
            process.kill()
            process.join()
        shutil.rmtree(meeting.parent)


def _rank(function, ranks, device, meeting, pipe, args) -> None:
    torch.set_num_threads(1)
    try:
        with joined(ranks, device, meeting):
            pipe.send((function(ranks, device, *args),))
            pipe.poll(SECONDS)  # until all are done
    except Exception as error:
        pipe.send(f"rank {ranks.rank}: {type(error).__name__}: {error}")


def rows_of(ranks, device, runs, corpus, plants=()) -> list[list[StepRow]]:
    """Train each run over all ranks; with plants the first, once with each of these faults in the code."""
    if not plants:
        return [list(train_sharded(run, corpus, ranks=ranks, device=device)) for run in runs]
    found = []
    for plant in plants:
        with pytest.MonkeyPatch.context() as patch:
            plant(ranks, patch)
            found.append(list(train_sharded(runs[0], corpus, ranks=ranks, device=device)))
    return found


def together(runs: Sequence, corpus, *, size: int = 2, plants=(), device: str = "cpu") -> list[list[StepRow]]:
    """Return the rows of each run, trained over `size` ranks which all must say the same, bit for bit."""
    (first,), *others = over_ranks(rows_of, size, list(runs), corpus, plants, device=device)
    assert plants or all(repr(other) == repr(first) for (other,) in others)
    return first
