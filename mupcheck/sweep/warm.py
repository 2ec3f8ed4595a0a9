"""Kernels of shapes that come later, compiled beside the groups that train first.

A GPU's kernels take some 10 to 30 seconds a shape to compile where no run has needed them before, on one core of the
host, while the GPU waits. A process beside the first groups does a step or two of each later shape and leaves what it
compiled in Triton's cache on disk.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import suppress

from mupcheck.sweep.cost import cuda_seconds, group_bytes
from mupcheck.sweep.groups import Group
from mupcheck.sweep.machine import CUDA_CONTEXT_BYTES
from mupcheck.sweep.plan import Plan
from mupcheck.training.data.corpus import Corpus
from mupcheck.training.data.sources import open_corpus

STEPS = 3
LONG_SECONDS = 60.0  # a sweep that is over before has no need of it


def shapes_to_come(plan: Plan) -> list[Group]:
    """Return small groups of the shapes that no GPU begins with, those that come first before others.

    None where the sweep is short, has no kernels to compile, or leaves no room for a group beside its largest.
    """
    if multiprocessing.current_process().daemon:  # which may start no process
        return []
    if not plan.gpus or any(group[0].backend != "triton" for group in plan.groups):
        return []
    if sum(cuda_seconds(group[0], len(group)) for group in plan.groups) / plan.n_processes < LONG_SECONDS:
        return []
    first = {group[0].width for group in plan.groups[: plan.n_processes]}
    small = {group[0].width: _small(group) for group in plan.groups if group[0].width not in first}
    room = (plan.available_bytes or 0) - plan.needed_bytes - CUDA_CONTEXT_BYTES
    return [group for group in small.values() if group_bytes(group[0], len(group)) < room]


def _small(group: Group) -> Group:
    """Return the start of a group, of so many replicas that it needs the same kernels.

    Triton compiles a number anew where it is 1 and where 16 divides it.
    """
    replicas = len(group) if len(group) == 1 or len(group) % 16 == 0 else 2
    changes = {"steps": STEPS, "eval_tokens": min(group[0].eval_tokens, 1), "eval_every": 0, "warmup_steps": 0}
    return tuple(run.model_copy(update=changes) for run in group[:replicas])


def warm_up(group: Sequence, *, corpus: Corpus | None, device: str) -> Iterator[int]:
    """Train a few steps of a group and write nothing; what goes wrong here will show where it counts."""
    with suppress(Exception):
        import torch

        from mupcheck.training.train import train

        torch.cuda.set_device(device)
        given = corpus or open_corpus(group[0].data, vocab_size=group[0].vocab_size)
        for _ in train(group, given, device=device):
            pass
    yield from ()
