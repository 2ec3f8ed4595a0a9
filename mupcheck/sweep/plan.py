"""What a sweep would train, before anything is trained: data, device, runs in groups, and what they cost."""

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from mupcheck.results.files import check_writable
from mupcheck.results.reading import finished_runs
from mupcheck.spec.run import RunSpec
from mupcheck.spec.sweep import SweepSpec
from mupcheck.training.data.corpus import Corpus, check_corpus
from mupcheck.training.data.sources import open_corpus

Group = tuple[RunSpec, ...]

# More replicas than this gain nothing: on a CPU their weights leave the cache, on a GPU it is full (performance.md).
CPU_REPLICAS = 16
CPU_GROUP_BYTES = 2**31  # there is one group per core
CUDA_TOKENS_IN_FLIGHT = 2**17
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # Linux, WSL2, ROCm
# Share of a large matrix product's speed that a training step of these sizes reaches.
DEVICE_SHARE = 0.15


@dataclass(frozen=True)
class Plan:
    """What a sweep will train: `groups` of runs that are missing, the costliest first, and what there is already."""

    sweep: SweepSpec
    folder: Path
    corpus: Corpus
    device: str
    runs: tuple[RunSpec, ...]
    groups: tuple[Group, ...]

    @property
    def missing(self) -> int:
        """Return the number of runs that are not finished."""
        return sum(len(group) for group in self.groups)


@dataclass(frozen=True)
class Estimate:
    """What a plan costs: one dict a width, FLOPs and seconds of all that is missing."""

    widths: list[dict[str, Any]]
    flops: float
    seconds: float


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


def plan_sweep(sweep: SweepSpec, *, out: str | Path = "results", device: str = "cpu", fresh: bool = False) -> Plan:
    """Open the data, list the runs and group those that are missing under `out`/`sweep.name`; write nothing.

    Args:
        fresh: count finished runs as missing, so that they are trained again.
    Raises:
        ValueError: if the data cannot be used, or the folder cannot be written.
    """
    if sweep.backend == "triton":
        from mupcheck.ops import pick_backend

        pick_backend(sweep.backend)
    corpus = open_corpus(sweep.data, vocab_size=sweep.vocab_size)
    check_corpus(corpus, sweep.batch_size, sweep.seq_len)
    folder = Path(out) / sweep.name
    check_writable(folder)
    runs = sweep.runs(vocab_size=corpus.vocab_size, data_hash=corpus.hash)
    return extend(Plan(sweep, folder, corpus, device, (), ()), runs, finished=() if fresh else finished_runs(folder))


def extend(plan: Plan, runs: Sequence[RunSpec], *, finished: Collection[str]) -> Plan:
    """Return the plan of the same sweep with these runs.

    Args:
        runs: all of the sweep, those that are there included.
        finished: run_ids that are not to be trained.
    """
    missing = [run for run in runs if run.run_id not in finished]
    return replace(plan, runs=tuple(runs), groups=tuple(group_runs(missing, plan.device)))


def group_runs(runs: Sequence[RunSpec], device: str) -> list[Group]:
    """Split runs into groups that train as replicas of one model, the costliest first."""
    groups = []
    ordered = sorted(runs, key=lambda run: repr(run.group))
    for _, same in groupby(ordered, key=lambda run: run.group):
        alike = list(same)
        if device == "cpu":
            limit = min(CPU_REPLICAS, CPU_GROUP_BYTES // replica_bytes(alike[0]))
        else:
            limit = CUDA_TOKENS_IN_FLIGHT // (alike[0].batch_size * alike[0].seq_len)
        limit = max(1, limit)
        count = math.ceil(len(alike) / limit)
        # even parts: no straggler of one run at the end
        groups += [tuple(alike[i * len(alike) // count : (i + 1) * len(alike) // count]) for i in range(count)]
    return sorted(groups, key=group_cost, reverse=True)


def matrix_weights(run: RunSpec) -> int:
    """Return the number of weights that multiply every token: all but embedding rows, gains, filters and scalars."""
    heads, k_dim, v_dim = run.heads
    projections = run.width * heads * (2 * k_dim + 3 * v_dim + 2) + 3 * run.mlp_ratio * run.width**2
    return run.n_layers * projections + run.width * run.vocab_size


def replica_bytes(run: RunSpec) -> int:
    """Return the memory that one replica's weights take in training: weight, gradient, moments and temporaries."""
    copies = (5 if run.optimizer == "adamw" else 4) + (2 if run.probes == "full" else 0)
    return 4 * copies * matrix_weights(run)


def group_cost(group: Group) -> float:
    """Return the FLOPs of training a group."""
    return len(group) * step_flops(group[0]) * group[0].steps


def step_flops(run: RunSpec) -> float:
    """Return the floating-point operations of one training step.

    A matrix weight takes 6 per token; the delta rule takes 2 C (3 K + 2 V) + 6 K V per token and head forward, and 2.7
    times that backward (C = 32).
    """
    heads, k_dim, v_dim = run.heads
    mixer = run.n_layers * heads * (2 * 32 * (3 * k_dim + 2 * v_dim) + 6 * k_dim * v_dim) * 3.7
    return (6 * matrix_weights(run) + mixer) * run.batch_size * run.seq_len


def count_parameters(run: RunSpec) -> int:
    """Return the number of trained values of one run's model, without making them."""
    from mupcheck.model import build_model

    return sum(parameter[0].numel() for parameter in build_model([run], "meta").parameters())


def estimate(plan: Plan) -> Estimate:
    """Return sizes, FLOPs and a rough time of what a plan would train; a matrix product is timed to know the device."""
    rows = []
    for width in sorted({run.width for run in plan.runs}):
        alike = [run for run in plan.runs if run.width == width]
        groups = [group for group in plan.groups if group[0].width == width]
        first, n_params = alike[0], count_parameters(alike[0])
        heads, k_dim, v_dim = first.heads
        rows.append(
            {
                "width": width,
                "n_heads": heads,
                "head_k_dim": k_dim,
                "head_v_dim": v_dim,
                "n_params": n_params,
                "runs": len(alike),
                "missing": sum(map(len, groups)),
                "run_flops": step_flops(first) * first.steps,
                "group_bytes": replica_bytes(first) * max(map(len, groups), default=0),
            }
        )
    flops = sum(row["run_flops"] * row["missing"] for row in rows)
    # small tensors keep a device at a fraction of what a large product reaches
    return Estimate(rows, flops, flops / (DEVICE_SHARE * _device_flops(plan.device)))


def _device_flops(device: str) -> float:
    """Return the floating-point operations a second of a float32 matrix product, on all cores of a CPU."""
    import torch

    size = 1024 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        float((a @ a)[0, 0])
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
