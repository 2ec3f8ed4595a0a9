"""What a sweep would train, before anything is trained: data, device, runs in groups, and what they cost."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mupcheck.results.files import check_writable
from mupcheck.results.reading import finished_runs
from mupcheck.spec.model import MAX_INT
from mupcheck.spec.run import RunSpec
from mupcheck.spec.sweep import SweepSpec
from mupcheck.sweep.cost import count_parameters, group_bytes, group_memory, group_work, weight_bytes
from mupcheck.sweep.machine import CUDA_CONTEXT_BYTES, TORCH_BYTES, available_memory, cores, size_text
from mupcheck.training.data.corpus import Corpus, check_corpus
from mupcheck.training.data.sources import open_corpus

Group = tuple[RunSpec, ...]

# More replicas than this gain nothing: on a CPU their weights leave the cache, on a GPU it is full (performance.md).
CPU_REPLICAS = 16
CPU_GROUP_BYTES = 2**31  # there is one group per core
CUDA_TOKENS_IN_FLIGHT = 2**17
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # Linux, WSL2, ROCm
LARGEST_TOTAL = 2**63 - 1  # what results count over a run is an int64


@dataclass(frozen=True)
class Plan:
    """What a sweep will train: `groups` of runs that are missing, the costliest first, and what there is already.

    Attributes:
        jobs: processes at a time.
        available_bytes: memory that was free on the device when this was planned; None if unknown.
    """

    sweep: SweepSpec
    folder: Path
    corpus: Corpus
    device: str
    runs: tuple[RunSpec, ...]
    groups: tuple[Group, ...]
    jobs: int = 1
    available_bytes: int | None = None

    @property
    def missing(self) -> int:
        """Return the number of runs that are not finished."""
        return sum(len(group) for group in self.groups)

    @property
    def n_processes(self) -> int:
        """Return how many processes work at a time."""
        return max(min(self.jobs, len(self.groups)), 1)

    @property
    def shared_bytes(self) -> int:
        """Return the memory that all processes together take beside their groups: torch and the data."""
        if self.device != "cpu":
            return CUDA_CONTEXT_BYTES * self.n_processes
        data = (part.nbytes for part in (self.corpus.train, self.corpus.held_out) if isinstance(part, np.ndarray))
        # files of tokens are mapped, not read; other data is here already, and once more in every process
        return TORCH_BYTES + sum(data) * (self.n_processes if self.n_processes > 1 else 0)

    @property
    def needed_bytes(self) -> int:
        """Return the memory that is needed at once: the largest groups, one a process, beside what all take."""
        largest = sorted((group_bytes(group[0], len(group)) for group in self.groups), reverse=True)
        return self.shared_bytes + sum(largest[: self.n_processes]) if largest else 0

    @property
    def fits(self) -> bool:
        """Say whether the memory that is needed is there, as far as is known."""
        return self.available_bytes is None or self.needed_bytes <= self.available_bytes


def find_device(device: str) -> str:
    """Return "cpu" or "cuda:i" for "auto", "cpu", "cuda" or "cuda:i".

    Raises:
        ValueError: if the device is unknown or is not there.
    """
    if device not in ("auto", "cpu") and device.partition(":")[0] != "cuda":
        raise ValueError(f"device {device!r} is unknown; known: auto, cpu, cuda, cuda:0, cuda:1, ...")
    # torch takes two seconds to import, so a machine without a driver is not asked through it
    if device == "cpu" or (device == "auto" and not any(Path(driver).exists() for driver in GPU_DRIVERS)):
        return "cpu"
    import torch

    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    index = device.partition(":")[2] or "0"
    if not index.isdecimal() or int(index) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r} is not there: torch sees {torch.cuda.device_count()} GPUs; try cpu")
    return f"cuda:{index}"


def plan_sweep(
    sweep: SweepSpec,
    *,
    out: str | Path = "results",
    device: str = "cpu",
    fresh: bool = False,
    jobs: int | None = None,
) -> Plan:
    """Open the data, list the runs and group those that are missing under `out`/`sweep.name`; write nothing.

    Args:
        fresh: count finished runs as missing, so that they are trained again.
        jobs: processes at a time (default: one per core on a CPU, one on a GPU).
    Raises:
        ValueError: if a size is beyond what results hold, the data cannot be used, or the folder cannot be written.
    """
    check_sizes(sweep)
    if sweep.backend == "triton":
        _check_triton(sweep, device)
    corpus = open_corpus(sweep.data, vocab_size=sweep.vocab_size)
    check_corpus(corpus, sweep.batch_size, sweep.seq_len)
    folder = Path(out) / sweep.name
    check_writable(folder)
    runs = sweep.runs(vocab_size=corpus.vocab_size, data_hash=corpus.hash)
    jobs = jobs or (cores() if device == "cpu" else 1)
    empty = Plan(sweep, folder, corpus, device, (), (), jobs, available_memory(device))
    return extend(empty, runs, finished=() if fresh else finished_runs(folder))


def check_sizes(sweep: SweepSpec) -> None:
    """Refuse sizes beyond what results hold, before anything is made that would be as large.

    Raises:
        ValueError: if a column of whole numbers does not hold a value of one of the runs.
    """
    one_each = {"lrs": sweep.lrs[:1], "seeds": sweep.seeds[:1], "parametrizations": sweep.parametrizations[:1]}
    for run in sweep.model_copy(update=one_each).runs(vocab_size=sweep.vocab_size or 256, data_hash=""):
        for name, value in zip(("n_heads", "head_k_dim", "head_v_dim"), run.heads, strict=True):
            if value > MAX_INT:
                raise ValueError(
                    f"{name} = {value:,} at width {run.width} is beyond {MAX_INT:,}, the most that results hold"
                )
        if run.steps * run.batch_size * run.seq_len > LARGEST_TOTAL:
            sizes = f"{run.steps:,} x {run.batch_size:,} x {run.seq_len:,}"
            raise ValueError(f"steps x batch_size x seq_len = {sizes} is beyond 2^63, the most that results hold")


def _check_triton(sweep: SweepSpec, device: str) -> None:
    """Refuse a sweep that Triton's kernels do not take."""
    from mupcheck.ops.choice import check_triton

    one_each = {"lrs": sweep.lrs[:1], "seeds": sweep.seeds[:1], "parametrizations": sweep.parametrizations[:1]}
    runs = sweep.model_copy(update=one_each).runs(vocab_size=sweep.vocab_size or 256, data_hash="")
    check_triton(device, sweep.dtype, [run.heads[1:] for run in runs])


def check_fits(plan: Plan) -> None:
    """Refuse a plan that needs more memory than is free.

    Raises:
        ValueError: one line: what is needed, what is there, what to try.
    """
    if plan.fits or plan.available_bytes is None:
        return
    largest = max(plan.groups, key=lambda group: group_bytes(group[0], len(group)))
    run = largest[0]
    memory = group_memory(run, len(largest))
    if memory.rows == max(memory):
        advice = ["fewer --steps"]
    elif memory.activations == max(memory):
        advice = ["a smaller --batch-size or --seq-len", "fewer --layers"]
        advice += ["--dtype bfloat16"] if plan.device != "cpu" and run.dtype != "bfloat16" else []
    else:
        advice = ["narrower --widths", "fewer --layers"]
        advice += ["a smaller --vocab-size"] if 3 * run.vocab_size * run.width > count_parameters(run) else []
    advice += ["--jobs 1"] if plan.n_processes > 1 else []
    where = "this machine" if plan.device == "cpu" else plan.device
    needed, available = size_text(plan.needed_bytes), size_text(plan.available_bytes)
    raise ValueError(
        f"width {run.width} does not fit: needs {needed} of {available} free on {where}; try {', '.join(advice)}, or "
        "--force to try anyway (mupcheck explain memory)"
    )


def extend(plan: Plan, runs: Sequence[RunSpec], *, finished: Collection[str]) -> Plan:
    """Return the plan of the same sweep with these runs.

    Args:
        runs: all of the sweep, those that are there included.
        finished: run_ids that are not to be trained.
    """
    missing = [run for run in runs if run.run_id not in finished]
    plan = replace(plan, runs=tuple(runs), groups=tuple(group_runs(missing, plan.device)))
    if plan.fits or plan.available_bytes is None:
        return plan
    each = max(plan.available_bytes - plan.shared_bytes, 0) // plan.n_processes
    return replace(plan, groups=tuple(group_runs(missing, plan.device, memory=each)))


def group_runs(runs: Sequence[RunSpec], device: str, *, memory: int | None = None) -> list[Group]:
    """Split runs into groups that train as replicas of one model, the costliest first.

    Args:
        memory: bytes for one group; a group of one run may need more.
    """
    groups: list[Group] = []
    by_shape: dict[tuple, list[RunSpec]] = {}
    for run in runs:
        by_shape.setdefault(run.group, []).append(run)
    for _, alike in sorted(by_shape.items(), key=lambda item: repr(item[0])):
        if device == "cpu":
            limit = min(CPU_REPLICAS, CPU_GROUP_BYTES // weight_bytes(alike[0]))
        else:
            limit = CUDA_TOKENS_IN_FLIGHT // (alike[0].batch_size * alike[0].seq_len)
        if memory is not None:
            limit = min(limit, replicas_within(alike[0], memory))
        limit = max(1, limit)
        count = math.ceil(len(alike) / limit)
        # even parts: no straggler of one run at the end
        groups += [tuple(alike[i * len(alike) // count : (i + 1) * len(alike) // count]) for i in range(count)]
    return sorted(groups, key=group_cost, reverse=True)


def replicas_within(run: RunSpec, memory: int) -> int:
    """Return how many replicas fit into `memory` bytes, which grow linearly with them."""
    alone = group_bytes(run, 1)
    return 1 + (memory - alone) // max(group_bytes(run, 2) - alone, 1)


def group_cost(group: Group) -> float:
    """Return the work of training a group, to order and to weigh groups by; two halves have that of the whole."""
    return len(group) * group_work(group[0], CPU_REPLICAS) / CPU_REPLICAS
