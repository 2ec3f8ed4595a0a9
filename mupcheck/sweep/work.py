"""One task of a portion, worked through on the machine where this is called: the command that every engine executes.

It is idempotent: runs that are there are passed over, so it may be called again, twice at once, and after any end.
"""

from collections import deque
from contextlib import nullcontext
from functools import partial
from typing import Any

from mupcheck.results.claims import Claims
from mupcheck.results.reading import finished_runs
from mupcheck.sweep.checkpoints import Left, leaving
from mupcheck.sweep.engines import local
from mupcheck.sweep.failures import keep_traceback
from mupcheck.sweep.kernels import PRELOAD
from mupcheck.sweep.machine import cores, memory_kept
from mupcheck.sweep.path import PathTask
from mupcheck.sweep.plan import find_devices
from mupcheck.sweep.portion import Part, Portion, write_report
from mupcheck.sweep.runner import work_of
from mupcheck.sweep.sharing import Shared
from mupcheck.training.data.corpus import Corpus
from mupcheck.training.data.sources import open_corpus


def work(
    portion: Portion, task: int, *, device: str = "cpu", jobs: int | None = None, seconds: float | None = None
) -> list[str]:
    """Train the groups of a task, those runs that are not there, and write how each group ended; return the errors.

    Args:
        portion: as `read_portion` returns it.
        task: its index.
        device: "cpu", "cuda" (every GPU that this task was given) or "cuda:i".
        jobs: processes at a time (default: one per core on a CPU, one per GPU).
        seconds: that a group may take, as `local.execute` has it.
    Raises:
        ValueError: if there is no such task or device, or the data here is not what the sweep was planned with.
        StoreError: if results cannot be written.
        Left: where `checkpoints.leave` was called meanwhile.
    """
    check_task(portion, task)
    devices = find_devices(device)
    gpus = () if devices == ("cpu",) else devices
    there = finished_runs(portion.folder)
    waiting: deque[Part] = deque()
    index_of: dict[str, int] = {}  # of a group, by its members
    left: dict[int, set[str]] = {}  # members of a group
    errors: dict[int, list[str]] = {}
    for index in portion.tasks[task]:
        group = portion.groups[index]
        part = group if isinstance(group[0], PathTask) else tuple(run for run in group if run.run_id not in there)
        errors[index], left[index] = [], _members(part)
        index_of |= dict.fromkeys(left[index], index)
        portion.report(index).unlink(missing_ok=True)  # of an earlier start of this task
        if part:
            waiting.append(part)
        else:
            write_report(portion, index, [])
    if not waiting:
        return []
    corpus = _corpus(portion)
    where: dict[str, Any] = {} if gpus else {"device": devices[0]}
    doing = work_of(portion.folder, portion.sweep, corpus, **where)
    at_a_time = max(min(jobs or (len(gpus) or cores()), len(waiting)), 1)
    with nullcontext() if gpus else memory_kept(), Claims(portion.folder, asks=portion.asks) as claims:
        shared = Shared(claims, ends=leaving.is_set)
        how: dict[str, Any] = {"jobs": at_a_time, "devices": gpus[:at_a_time], "take": shared.take}
        how["seconds"] = seconds
        start = partial(local.execute, work=doing, preload=PRELOAD, contain=True, **how)
        for message in shared.messages(start, waiting):
            if leaving.is_set():
                waiting.clear()
            left_over = leaving.is_set() and message.error is not None
            if message.steps is not None or not message.group or left_over:
                continue
            part = message.group
            if message.error is not None and message.retry and len(part) > 1:
                waiting.extendleft((part[len(part) // 2 :], part[: len(part) // 2]))
                continue
            index = index_of[next(iter(_members(part)))]
            left[index] -= _members(part)
            if message.error is not None:
                compares = isinstance(part[0], PathTask)
                said = message.error if compares else f"{len(part)} runs of width {part[0].width}: {message.error}"
                if message.traceback:
                    run_ids = part[0].run_ids if compares else [run.run_id for run in part]
                    said = keep_traceback(portion.folder, run_ids, said, message.traceback)
                errors[index].append(said)
            if not left[index]:
                write_report(portion, index, errors[index])
    if leaving.is_set():
        raise Left
    return [error for said in errors.values() for error in said]


def check_task(portion: Portion, task: int) -> None:
    """Refuse a task that a portion does not have.

    Raises:
        ValueError: if it has none of this number.
    """
    if not 0 <= task < len(portion.tasks):
        raise ValueError(f"there is no task {task} in {portion.place}; it has 0 to {len(portion.tasks) - 1}")


def _members(part: Part) -> set[str]:
    """Return what a part has to do, by names that no other part has."""
    return {"path" if isinstance(each, PathTask) else each.run_id for each in part}


def _corpus(portion: Portion) -> Corpus:
    """Open the data that a portion's runs train on.

    Raises:
        ValueError: if it cannot be opened, or is not what the sweep was planned with.
    """
    first = next(part for part in portion.groups)[0]
    run = first.groups[0][0] if isinstance(first, PathTask) else first
    corpus = open_corpus(run.data, vocab_size=run.vocab_size)
    if corpus.hash != run.data_hash:
        raise ValueError(
            f"{run.data} is other data here ({corpus.hash}) than where the sweep was planned ({run.data_hash}); let "
            "every machine read the same files, by the same version of Python"
        )
    return corpus
