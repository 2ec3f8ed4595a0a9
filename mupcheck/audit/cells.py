"""Runs of a user's own model worked through by the sweeps' engine: processes, progress, and what is there already.

A model of a user's cannot be sent to another process, but its file can be read there: a worker reads it once and works
through run after run. Functions that came from no file are worked through in this process.
"""

import multiprocessing
import random
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mupcheck.audit.user_file import UserCodeError, UserModel
from mupcheck.results.claims import Claims
from mupcheck.results.files import StoreError
from mupcheck.results.mend import mend
from mupcheck.results.reading import finished_runs
from mupcheck.results.writing import write_sweep
from mupcheck.sweep.engines import local
from mupcheck.sweep.machine import cores
from mupcheck.sweep.pace import Pace, Progress
from mupcheck.sweep.sharing import Shared, tell
from mupcheck.training.train import one_thread

# what workers share: torch's optimizers import torch._dynamo, a second, when the first is made
PRELOAD = ("mupcheck.audit.run", "torch._dynamo")
WORTH_PROCESSES = 8.0  # seconds of work, below which starting processes takes longer than it saves
APART = "\0"  # between the parts of what a worker says went wrong
Source = Callable[[], UserModel]


@dataclass(frozen=True)
class Cell:
    """One run: `n_steps` is how often it goes through the model; `lr` None leaves the optimizer its own."""

    run_id: str
    width: int
    seed: int
    n_steps: int
    lr: float | None = None


@dataclass(frozen=True)
class Queue:
    """All runs of a sweep, and those that are missing, each a group of its own, the widest first."""

    folder: Path
    runs: tuple[Cell, ...]
    groups: tuple[tuple[Cell], ...]
    device: str = "cpu"

    @property
    def missing(self) -> int:
        """Return the number of runs that are not there."""
        return len(self.groups)

    @property
    def n_there(self) -> int:
        """Return the number of runs that are."""
        return len(self.runs) - self.missing


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where runs train and results go: what an audit and a sweep of lrs have in common.

    Attributes:
        out, name: results go into the folder `out`/`name`.
        device: where model and batch are put; None leaves them where they are made.
        devices: "cpu", or the GPUs that `device` stands for.
        jobs: processes at a time; None is one per core or GPU, where that is worth it.
        source: reads the model again in another process; None works in this one alone.
        fresh: train runs again that are there.
    """

    out: Path = Path("results")
    name: str = "audit"
    device: str | None = None
    devices: tuple[str, ...] = ("cpu",)
    jobs: int | None = None
    source: Source | None = None
    fresh: bool = False

    @property
    def on_gpu(self) -> bool:
        """Say whether runs go to GPUs."""
        return self.devices[0].startswith("cuda")

    @property
    def folder(self) -> Path:
        """Return where results go."""
        return self.out / self.name


Train = Callable[[Any, UserModel, Cell, str | None], Generator[int]]
Follow = Callable[[Iterator[Progress], Any], list[str]]


@dataclass
class Work:
    """What a worker does with a group: of a plan that is free of the user's functions, which it reads itself."""

    train: Train
    plan: Any
    source: Source | None
    user: UserModel | None = field(default=None)

    def __call__(self, group: tuple[Cell], device: str) -> Iterator[int]:
        """Train one run and write it; yield after each step."""
        try:
            if self.user is None:
                assert self.source is not None
                seeded(0, 0)
                self.user = self.source()
            # small products on several threads take longer; a build that sets another number has it
            with one_thread():
                on = None if self.plan.device is None else device if device.startswith("cuda") else "cpu"
                yield from self.train(self.plan, self.user, group[0], on)
        except UserCodeError as error:
            raise ValueError(APART.join(("user", str(error), *error.lines))) from None
        except StoreError as error:
            raise ValueError(APART.join(("store", str(error)))) from None
        except ValueError as error:
            raise ValueError(APART.join(("value", str(error)))) from None


def queue_of(plan: Any, cells: list[Cell], *, done: set[str]) -> Queue:
    """Return the runs of a plan and those that are to be trained; `done` names those that are not."""
    missing = sorted((cell for cell in cells if cell.run_id not in done), key=lambda cell: -cell.width)
    return Queue(plan.folder, tuple(cells), tuple((cell,) for cell in missing), plan.devices[0])


def mend_before(plan: Any) -> None:
    """Set aside runs that are there and damaged, with a warning for each, so that they are trained again.

    Raises:
        ValueError, StoreError: as `mend`.
    """
    for line in mend(plan.folder, runs=bool(plan.user.sources) and not plan.fresh):
        warnings.warn(line, stacklevel=2)


def done_before(plan: Any) -> set[str]:
    """Return the runs that are not trained again: all that are there, of a plan whose model is known by its sources."""
    return finished_runs(plan.folder) if plan.user.sources and not plan.fresh else set()


def train_missing(
    plan: Any, train: Train, *, done: set[str], sweep: Mapping[str, Any], model_device: str, follow: Follow
) -> list[str]:
    """Train the runs of a plan that are not `done`, once one was tried and the plan written; return what went wrong.

    Args:
        sweep: what is written of the plan, as `write_sweep` takes it.
        model_device: that the file puts its models on.

    Raises:
        ValueError: as `work_through`.
    """
    queue, jobs = queue_of(plan, plan.cells, done=done), 1
    if queue.groups:
        first = min((cell for (cell,) in queue.groups), key=lambda cell: (cell.width, cell.seed))
        jobs = jobs_of(plan, queue, try_out(plan, first, train), model_device=model_device)
    write_sweep(plan.folder, sweep)
    return follow(work_through(plan, queue, train, jobs=jobs), queue)


def work_through(plan: Any, queue: Queue, train: Train, *, jobs: int) -> Iterator[Progress]:
    """Train what is missing, `jobs` at a time; yield how far it is.

    A run whose process is killed, or that a lost GPU takes with it, is told in `error`, and the rest goes on.

    Raises:
        ValueError: if the file, the model or its loss is wrong (UserCodeError: if the user's code raises).
        StoreError: if results cannot be written.
    """
    if not queue.groups:
        return
    jobs = min(jobs, len(queue.groups))
    of_cells: Any = queue
    pace = Pace(of_cells, places=jobs, cost=_cost, steps=lambda cell: cell.n_steps)
    work = Work(train, replace(plan, user=None), plan.source, plan.user if jobs == 1 else None)
    names = [plan.devices[i % len(plan.devices)] for i in range(jobs)]
    # a worker on a device lasts, so each has a name of its own
    names = names if plan.on_gpu else [f"cpu:{i}" for i in range(jobs)]
    with Claims(queue.folder) as claims:
        shared = Shared(claims, again=plan.fresh or not plan.user.sources)
        start = partial(local.execute, work=work, jobs=jobs, preload=PRELOAD, devices=names, take=shared.take)
        yield from tell(claims, _followed(plan, shared.messages(start, deque(queue.groups)), pace))


def _followed(plan: Any, messages: Iterator[local.Message], pace: Pace) -> Iterator[Progress]:
    """Yield how far it is, message by message; raises as `work_through` says."""
    for message in messages:
        group, error = message.group, None
        if message.elsewhere:
            pace.pass_over(group)
        elif message.steps is not None:
            pace.advance(group, message.steps)
        elif message.error is None:
            pace.finish(group)
        elif APART in message.error:
            _raise(*message.error.split(APART))
        else:
            # a worker is a device to the engine, and one whose process died is not used again
            said = message.error if plan.on_gpu else message.error.replace("no GPU is left", "no process is left")
            error = f"width {group[0].width}, seed {group[0].seed}: {said}; try --jobs 1"
            pace.fail(group, again=False)
        yield pace.now(error=error, note=message.note)


def _cost(group: tuple[Cell], _device: str) -> float:
    """Return the work of a run; small models take about as long as their layers do, whatever their width."""
    return float(group[0].n_steps * group[0].width)


def _raise(kind: str, said: str, *lines: str) -> None:
    """Raise here what was raised in a worker."""
    if kind == "user":
        raise UserCodeError(said, lines)
    raise StoreError(said) if kind == "store" else ValueError(said)


def drain(progress: Iterator[Progress], _queue: Queue) -> list[str]:
    """Work through without a word, and return what went wrong."""
    return [state.error for state in progress if state.error is not None]


@dataclass(frozen=True)
class Trial:
    """Seconds of the first step, with the making of the model, and of the one after it."""

    start: float
    step: float

    def of(self, n_steps: int) -> float:
        """Return the seconds of a run."""
        return self.start + self.step * (n_steps - 1)


def try_out(plan: Any, cell: Cell, train: Train) -> Trial:
    """Time two steps of a run in this process, and write nothing: what is wrong with a file shows at once.

    Raises:
        ValueError: as `work_through`.
    """
    on = None if plan.device is None else plan.devices[0]
    with one_thread():
        times = [time.perf_counter()]
        running = train(plan, plan.user, cell, on)
        for _ in range(min(2, cell.n_steps)):
            next(running)
            times.append(time.perf_counter())
        running.close()
    return Trial(times[1] - times[0], times[-1] - times[-2])


def jobs_of(plan: Any, queue: Queue, trial: Trial, *, model_device: str) -> int:
    """Return how many processes at a time: what is asked for; else one per core or GPU, where the work is worth it."""
    if plan.source is None or multiprocessing.current_process().daemon:
        return 1
    if plan.jobs is not None:
        return int(plan.jobs)
    if plan.on_gpu or model_device != "cpu":
        return len(plan.devices) if plan.on_gpu else 1
    narrow = min(cell.width for cell in queue.runs)
    # what is slow in a process for the first time is not in every run; to make a model takes about a step
    seconds = sum(trial.step * (cell.n_steps + 1) * cell.width / narrow for (cell,) in queue.groups)
    return cores() if seconds > WORTH_PROCESSES else 1


def seeded(width: int, seed: int) -> None:
    """Seed torch, numpy and Python by width and seed alone, whatever else is trained."""
    number = int.from_bytes(sha256(f"{width} {seed}".encode()).digest()[:4], "little")
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


def placed(model: nn.Module, device: str | None, name: str) -> nn.Module:
    """Return a model on a device; None leaves it where it is.

    Raises:
        ValueError: if it has no values.
    """
    for called, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ValueError(f"parameter {called} of {name} is on the meta device; let build give it values")
    return model if device is None else model.to(device)


def moved(batch: Any, device: str | None) -> Any:
    """Return a batch on a device: tensors, and whatever holds them or can be moved as they are."""
    if device is None:
        return batch
    if isinstance(batch, Tensor) or callable(getattr(batch, "to", None)):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [moved(value, device) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
