"""What a sweep would train, before anything is trained: data, device, runs in groups, and what they cost."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mupcheck.results.aside import kept_runs
from mupcheck.results.claims import Claims
from mupcheck.results.files import check_writable
from mupcheck.results.stores.address import below, check_address, is_address, mirror_of
from mupcheck.spec.model import MAX_INT
from mupcheck.spec.run import RunSpec
from mupcheck.spec.sweep import AUTO_BACKEND, SweepSpec
from mupcheck.sweep.backend import backend_of
from mupcheck.sweep.checkpoints import kept_groups
from mupcheck.sweep.cost import count_parameters, group_bytes, group_memory
from mupcheck.sweep.failures import failed_before
from mupcheck.sweep.groups import Group, group_runs
from mupcheck.sweep.limits import NO_LIMITS, Limits
from mupcheck.sweep.machine import CUDA_CONTEXT_BYTES, TORCH_BYTES, available_memory, size_text
from mupcheck.sweep.teams import at_a_time
from mupcheck.training.data.corpus import Corpus, check_corpus
from mupcheck.training.data.sources import open_corpus

GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # Linux, WSL2, ROCm
LARGEST_TOTAL = 2**63 - 1  # what results count over a run is an int64


@dataclass(frozen=True)
class Plan:
    """What a sweep will train: `groups` of runs that are missing, the costliest first, and what there is already.

    Attributes:
        device: "cpu", or the first of the GPUs.
        jobs: groups at a time, in a process each; in several where a run trains over several devices.
        available_bytes: memory that was free when this was planned, on the GPU that had least; None if unknown.
        devices: the GPUs that groups go to, a process on each; one alone works in this process.
        backend: what "auto" stands for on this device.
        gpus_per_run: devices that train each run together; on a CPU processes.
        exact: whether each run trains alone, so that it does not depend on its group in a single bit.
        failed: run_ids of runs that failed before and are not tried again.
        limits: of what is trained now.
        fresh: whether runs that are there are trained again.
        claims: of this process on the folder's runs, where it has any.
        left_out: how many runs are not there and are not trained, of these or beyond a limit.
        address: of the store that the folder mirrors, "" where it is the sweep's own.
        said: what of that store is not believed.
    """

    sweep: SweepSpec
    folder: Path
    corpus: Corpus
    device: str
    runs: tuple[RunSpec, ...]
    groups: tuple[Group, ...]
    jobs: int = 1
    available_bytes: int | None = None
    devices: tuple[str, ...] = ()
    backend: str = AUTO_BACKEND
    exact: bool = False
    gpus_per_run: int = 1
    failed: frozenset[str] = frozenset()
    limits: Limits = NO_LIMITS
    fresh: bool = False
    claims: Claims | None = None
    left_out: int = 0
    address: str = ""
    said: tuple[str, ...] = ()

    @property
    def gpus(self) -> tuple[str, ...]:
        """Return the GPUs that groups go to, none on a CPU."""
        return () if self.device == "cpu" else self.devices or (self.device,)

    @property
    def where(self) -> str:
        """Say where groups train: "cpu", "cuda:1" or "4 GPUs"."""
        return f"{len(self.gpus)} GPUs" if len(self.gpus) > 1 else self.device

    @property
    def teams(self) -> tuple[tuple[str, ...], ...]:
        """Return the devices that train a run together, of all that work at a time."""
        n = self.gpus_per_run
        if not self.gpus:
            return ((self.device,) * n,) * self.n_processes
        return tuple(self.gpus[i * n : (i + 1) * n] for i in range(len(self.gpus) // n))

    @property
    def computes(self) -> str:
        """Return the backend that the runs name."""
        return self.backend if self.sweep.backend == "auto" else self.sweep.backend

    @property
    def source(self) -> dict[str, Any]:
        """Return what the sweep's runs are made with beside its grid, as `SweepSpec.runs` takes it."""
        return {"vocab_size": self.corpus.vocab_size, "data_hash": self.corpus.hash, "backend": self.backend}

    @property
    def missing(self) -> int:
        """Return the number of runs that are not finished."""
        return sum(len(group) for group in self.groups)

    @property
    def n_there(self) -> int:
        """Return the number of runs that are finished."""
        return len(self.runs) - self.missing - self.left_out

    @property
    def n_processes(self) -> int:
        """Return how many processes work at a time, or teams of them that share a run."""
        return max(min(self.jobs, len(self.groups)), 1)

    @property
    def on_one_device(self) -> int:
        """Return how many processes share a device's memory: all of them on a CPU."""
        return -(-self.n_processes // max(len(self.gpus) // self.gpus_per_run, 1))

    @property
    def shared_bytes(self) -> int:
        """Return the memory that the processes on a device together take beside their groups: torch and the data."""
        if self.device != "cpu":
            return CUDA_CONTEXT_BYTES * self.on_one_device
        data = (part.nbytes for part in (self.corpus.train, self.corpus.held_out) if isinstance(part, np.ndarray))
        # files of tokens are mapped, not read; other data is here already, and once more in every process
        processes = self.n_processes * self.gpus_per_run
        return TORCH_BYTES + sum(data) * (processes if processes > 1 else 0)

    @property
    def needed_bytes(self) -> int:
        """Return the memory needed at once on a device: the largest groups, one a process, and what all take."""
        of_groups = (group_bytes(group[0], len(group), devices=self.gpus_per_run) for group in self.groups)
        share = 1 if self.gpus else self.gpus_per_run  # of a group's processes, on one device
        largest = sorted((share * n_bytes for n_bytes in of_groups), reverse=True)
        return self.shared_bytes + sum(largest[: self.on_one_device]) if largest else 0

    @property
    def fits(self) -> bool:
        """Say whether the memory that is needed is there, as far as is known."""
        return self.available_bytes is None or self.needed_bytes <= self.available_bytes


def find_devices(device: str) -> tuple[str, ...]:
    """Return ("cpu",) or the GPUs that "auto", "cpu", "cuda" (all that torch sees) or "cuda:i" names.

    Raises:
        ValueError: if the device is unknown or is not there.
    """
    if device not in ("auto", "cpu") and device.partition(":")[0] != "cuda":
        raise ValueError(f"device {device!r} is unknown; known: auto, cpu, cuda, cuda:0, cuda:1, ...")
    # torch takes two seconds to import, so a machine without a driver is not asked through it
    if device == "cpu" or (device == "auto" and not any(Path(driver).exists() for driver in GPU_DRIVERS)):
        return ("cpu",)
    import torch

    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto" and not n_gpus:
        return ("cpu",)
    index = device.partition(":")[2] or "0"
    if not index.isdecimal() or int(index) >= n_gpus:
        raise ValueError(f"device {device!r} is not there: torch sees {n_gpus} GPUs; try cpu")
    return (f"cuda:{index}",) if ":" in device else tuple(f"cuda:{i}" for i in range(n_gpus))


def find_device(device: str) -> str:
    """Return the first of the devices that a name stands for; raises as `find_devices` does."""
    return find_devices(device)[0]


def plan_sweep(
    sweep: SweepSpec,
    *,
    out: str | Path = "results",
    device: str | Sequence[str] = "cpu",
    fresh: bool = False,
    jobs: int | None = None,
    exact: bool = False,
    retry_failed: bool = True,
    gpus_per_run: int = 1,
    limits: Limits = NO_LIMITS,
    here: bool = True,
) -> Plan:
    """Open the data, list the runs and group those that are missing under `out`/`sweep.name`; write nothing.

    Where `out` is an address, such as s3://bucket/results, the folder is its mirror, and is brought up to date.

    Args:
        device: "cpu", a GPU or several, as `find_devices` returns them.
        fresh: count finished runs as missing, so that they are trained again.
        jobs: processes at a time (default: one per core on a CPU, one per GPU); runs, where several share one.
        exact: train each run alone.
        gpus_per_run: devices that train each run together; on a CPU processes.
        retry_failed: train runs again that failed before, as `sweep.json` has it.
        limits: of what is trained now.
        here: whether the devices are this machine's; of others nothing is known, and "auto" takes the backend that
            every device has.
    Raises:
        ValueError: if a size is beyond what results hold, the data or backend cannot be used, or the folder cannot be
            written.
        StoreError: if `out` is an address and does not answer.
    """
    if sweep.halving and (exact or gpus_per_run > 1):
        alone = "exact" if exact else f"gpus_per_run={gpus_per_run}"
        raise ValueError(f"halving compares runs that train together, and {alone} trains each by itself; leave one out")
    devices = (device,) if isinstance(device, str) else tuple(device)
    first = devices[0]
    check_sizes(sweep)
    most = at_a_time(sweep, devices, gpus_per_run)
    backend = backend_of(sweep, devices) if here else AUTO_BACKEND
    corpus = open_corpus(sweep.data, vocab_size=sweep.vocab_size)
    check_corpus(corpus, sweep.batch_size, sweep.seq_len)
    address, said = (below(out, sweep.name), list[str]()) if is_address(out) else ("", [])
    folder = mirror_of(address) if address else Path(out) / sweep.name
    if is_address(out):
        check_address(out)
    check_writable(folder)
    if address:
        from mupcheck.results.stores.pull import pull_sweep

        said = pull_sweep(address)[1]
    runs = sweep.runs(vocab_size=corpus.vocab_size, data_hash=corpus.hash, backend=backend)
    jobs = min(jobs or most, most if gpus_per_run > 1 and first != "cpu" else jobs or most)
    devices = devices[: jobs * gpus_per_run]
    free = [available_memory(each) for each in devices] if here else []
    empty = Plan(
        sweep,
        folder,
        corpus,
        first,
        (),
        (),
        jobs,
        min((each for each in free if each is not None), default=None),
        devices=() if first == "cpu" else devices,
        backend=backend,
        exact=exact,
        gpus_per_run=gpus_per_run,
        limits=limits,
        fresh=fresh,
        failed=frozenset() if retry_failed else frozenset(str(each["run_id"]) for each in failed_before(folder)),
        address=address,
        said=tuple(said),
    )
    return extend(empty, runs, finished=() if fresh else kept_runs(folder))


def check_sizes(sweep: SweepSpec) -> None:
    """Refuse sizes beyond what results hold, before anything is made that would be as large.

    Raises:
        ValueError: if a column of whole numbers does not hold a value of one of the runs.
    """
    one_each: dict[str, Any] = {"lrs": sweep.lrs[:1], "seeds": sweep.seeds[:1], "seeds_of": {}}
    one_each |= {"parametrizations": sweep.parametrizations[:1]}
    for run in sweep.model_copy(update=one_each).runs(vocab_size=sweep.vocab_size or 256, data_hash=""):
        for name, value in zip(("n_heads", "head_k_dim", "head_v_dim"), run.heads, strict=True):
            if value > MAX_INT:
                raise ValueError(
                    f"{name} = {value:,} at width {run.width} is beyond {MAX_INT:,}, the most that results hold"
                )
        if run.steps * run.batch_size * run.seq_len > LARGEST_TOTAL:
            sizes = f"{run.steps:,} x {run.batch_size:,} x {run.seq_len:,}"
            raise ValueError(f"steps x batch_size x seq_len = {sizes} is beyond 2^63, the most that results hold")


def check_fits(plan: Plan) -> None:
    """Refuse a plan that needs more memory than is free.

    Raises:
        ValueError: one line: what is needed, what is there, what to try.
    """
    if plan.fits or plan.available_bytes is None:
        return
    largest = max(plan.groups, key=lambda group: group_bytes(group[0], len(group), devices=plan.gpus_per_run))
    run = largest[0]
    memory = group_memory(run, len(largest), devices=plan.gpus_per_run)
    if memory.rows == max(memory):
        advice = ["fewer --steps"]
    elif memory.activations == max(memory):
        advice = ["a smaller --batch-size or --seq-len", "fewer --layers"]
        advice += ["--dtype bfloat16"] if plan.device != "cpu" and run.dtype != "bfloat16" else []
    else:
        advice = ["narrower --widths", "fewer --layers"]
        advice += ["a smaller --vocab-size"] if 3 * run.vocab_size * run.width > count_parameters(run) else []
    advice += ["--jobs 1"] if plan.n_processes > 1 else []
    where = "this machine" if plan.device == "cpu" else plan.device if len(plan.gpus) == 1 else "a GPU"
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
    failed = plan.failed.difference(finished)
    missing = [run for run in runs if run.run_id not in finished and run.run_id not in failed]
    plan = replace(plan, left_out=sum(run.run_id in failed for run in runs))
    # what was left in the middle goes on as it was
    alone = plan.exact or plan.gpus_per_run > 1
    kept = [] if alone else kept_groups(plan.folder, missing, plan.device)
    begun = {run.run_id for group in kept for run in group}
    rest = [run for run in missing if run.run_id not in begun]
    how: dict[str, Any] = {"places": min(plan.jobs, len(plan.gpus)), "exact": alone, "also": kept}
    plan = replace(plan, runs=tuple(runs), groups=tuple(group_runs(rest, plan.device, **how)))
    if plan.fits or plan.available_bytes is None:
        return plan
    each = max(plan.available_bytes - plan.shared_bytes, 0) // plan.on_one_device
    return replace(plan, groups=tuple(group_runs(rest, plan.device, memory=each, **how)))
