"""A sweep from plan to files: train what is missing, write each run whole, keep diverged runs."""

import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib import metadata
from itertools import count, islice
from pathlib import Path
from typing import Any

from mupcheck.results.reading import Results, StoreError, finished_runs, load_results, write_run, write_sweep
from mupcheck.spec.sweep import RunSpec, SweepSpec
from mupcheck.sweep.engines import local
from mupcheck.sweep.plan import Group, Plan, count_parameters, estimate, extend, find_device, group_cost, plan_sweep
from mupcheck.theory.parametrization import table_to_json
from mupcheck.training.data.sources import Corpus, open_corpus

# what a worker imports; `run_group` itself is one of them
PRELOAD = ("mupcheck.training.train", "mupcheck.sweep.runner")


@dataclass(frozen=True)
class Progress:
    """How far a sweep is: `done` of `total` in units of work, runs finished, and what went wrong with a group."""

    done: float
    total: float
    runs_finished: int
    runs_total: int
    error: str | None = None
    retried: bool = False


def run_sweep(
    sweep: SweepSpec,
    *,
    out: str | Path = "results",
    device: str = "auto",
    jobs: int | None = None,
    fresh: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Results:
    """Train what is missing of a sweep, and return all its runs.

    With jobs > 1 the calling script needs `if __name__ == "__main__":`, as everything that starts processes does.

    Args:
        out: results folder; the sweep goes into `out`/`sweep.name`.
        device: "auto", "cpu", "cuda" or "cuda:i".
        jobs: processes at a time (default: one per core on a CPU, one on a GPU).
        fresh: train finished runs again.
        on_progress: called with each Progress.
    Raises:
        ValueError: if the sweep's data, device or folder cannot be used.
        StoreError: if a run could not be trained or written; the others are stored.
    """
    first = plan_sweep(sweep, out=out, device=find_device(device), fresh=fresh)
    for plan in rounds(first, fresh=fresh):
        errors, finished = [], len(plan.runs) - plan.missing
        for progress in execute(plan, jobs=jobs):
            finished = progress.runs_finished
            if progress.error and not progress.retried:
                errors.append(progress.error)
            if on_progress is not None:
                on_progress(progress)
        if errors:
            failed = len(plan.runs) - finished
            raise StoreError(f"{failed} of {len(plan.runs)} runs failed, the rest is in {plan.folder}: {errors[0]}")
    return load_results(first.folder)


def rounds(plan: Plan, *, fresh: bool = False) -> Iterator[Plan]:
    """Yield plans to execute, one after the other: the sweep's grid, then what its refinement or top-up adds.

    What to add is judged from the results in the folder, so the same sweep goes the same way again and an interrupted
    one goes on. Rounds whose runs are all there are passed over.

    Args:
        plan: of the sweep's grid.
        fresh: train the runs of every round again, as `plan_sweep` had it for the grid.
    """
    start = time.monotonic()
    yield plan
    trained = {run.run_id for run in plan.runs}
    cost = sum(map(group_cost, plan.groups))
    more = _refined(plan) if plan.sweep.refine else _topped_up(plan) if plan.sweep.top_up else iter(())
    for runs in more:
        plan = extend(plan, runs, finished=trained if fresh else finished_runs(plan.folder))
        trained |= {run.run_id for run in plan.runs}
        if not plan.missing:
            write_sweep(plan.folder, describe(plan))
            continue
        added = sum(map(group_cost, plan.groups))
        minutes = (time.monotonic() - start) / 60
        predicted = minutes * added / cost if cost else estimate(plan).seconds / 60
        if plan.sweep.top_up and minutes + predicted > plan.sweep.budget:
            return
        cost += added
        yield plan


def _refined(plan: Plan) -> Iterator[list[RunSpec]]:
    """Yield all runs of a learning-rate sweep with the lrs that its refinement adds, round by round."""
    # the judging half, met through what was written; it needs pandas, which no other sweep waits for
    from mupcheck.learning_rates.refine import next_round

    added: dict[tuple[str, int], tuple[float, ...]] = {}
    source: dict[str, Any] = {"vocab_size": plan.corpus.vocab_size, "data_hash": plan.corpus.hash}
    while True:
        runs = load_results(plan.folder, tables=("runs",)).runs
        searches = next_round(runs, lrs=plan.sweep.lrs, precision=plan.sweep.precision)
        wanted = {(s.parametrization, s.width): tuple(2.0**x for x in s.log2_lrs) for s in searches if s.log2_lrs}
        if not wanted:
            return
        added |= {key: added.get(key, ()) + lrs for key, lrs in wanted.items()}
        yield plan.sweep.runs(**source, added=added)


def _topped_up(plan: Plan) -> Iterator[list[RunSpec]]:
    """Yield all runs of a coordinate check with the seeds and widths that its top-up adds, round by round."""
    from mupcheck.coordinates.judge import judge
    from mupcheck.coordinates.top_up import next_round

    runs = {run.run_id: run for run in plan.runs}
    source: dict[str, Any] = {"vocab_size": plan.corpus.vocab_size, "data_hash": plan.corpus.hash}
    entries = {table.name: entry for table, entry in zip(plan.sweep.tables, plan.sweep.parametrizations, strict=True)}
    while True:
        more = next_round(judge(load_results(plan.folder, tables=("runs", "coords"))), widths=plan.sweep.widths)
        if more is None:
            return
        unused = (seed for seed in count() if seed not in plan.sweep.seeds)
        seeds = (*plan.sweep.seeds, *islice(unused, more.n_seeds - len(plan.sweep.seeds)))
        grid = {name: getattr(plan.sweep, name) for name in SweepSpec.model_fields}
        grid |= {"widths": more.widths, "seeds": seeds, "expect": {}}
        grid |= {"parametrizations": tuple(entries[name] for name in more.parametrizations)}
        grid |= {"base_width": plan.sweep.base_width or min(plan.sweep.widths)}
        runs |= {run.run_id: run for run in SweepSpec(**grid).runs(**source)}
        yield list(runs.values())


def execute(plan: Plan, *, jobs: int | None = None) -> Iterator[Progress]:
    """Train what is missing and write each run as it ends; yield how far it is.

    A group that is killed or runs out of memory is split in two and tried again, down to single runs; what fails for
    good is reported in `error` and the rest goes on.

    Args:
        jobs: as in `run_sweep`.
    Raises:
        StoreError: if results cannot be written.
    """
    write_sweep(plan.folder, describe(plan))
    jobs = jobs or (_cores() if plan.device == "cpu" else 1)
    work = partial(
        run_group,
        folder=plan.folder,
        sweep=plan.sweep.name,
        corpus=None if plan.sweep.data.startswith("tokens:") else plan.corpus,
        device=plan.device,
        provenance=provenance(),
    )
    total = sum(map(group_cost, plan.groups))
    done, finished = 0.0, len(plan.runs) - plan.missing
    underway: dict[str, float] = {}
    waiting = list(plan.groups)
    while waiting:
        groups, waiting = waiting, []
        for message in local.execute(groups, work, jobs=min(jobs, len(groups)), preload=PRELOAD):
            group: Group = message.group
            first, error = group[0], None
            if message.steps is not None:
                underway.setdefault(first.run_id, 0.0)
                underway[first.run_id] += group_cost(group) * message.steps / (first.steps + 1)
            else:
                underway.pop(first.run_id, None)
                if message.error is None:
                    done += group_cost(group)
                    finished += len(group)
                else:
                    error = f"{len(group)} runs of width {first.width}: {message.error}"
            retried = message.retry and len(group) > 1
            if retried:
                waiting += [group[: len(group) // 2], group[len(group) // 2 :]]
            yield Progress(done + sum(underway.values()), total, finished, len(plan.runs), error, retried)


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def run_group(
    group: Group, *, folder: Path, sweep: str, corpus: Corpus | None, device: str, provenance: Mapping[str, Any]
) -> Iterator[int]:
    """Train one group and write its runs; yield the number of steps done since the last yield."""
    import torch

    from mupcheck.training.train import one_thread, train

    corpus = corpus or open_corpus(group[0].data, vocab_size=group[0].vocab_size)
    started_at, start = datetime.now(UTC), time.perf_counter()
    if device != "cpu":
        torch.cuda.init()  # the counters exist only once CUDA does
        torch.cuda.reset_peak_memory_stats(device)
    rows = []
    with one_thread() if device == "cpu" else nullcontext():
        for row in train(group, corpus, device=device):
            rows.append(row)
            yield 1
    seconds = time.perf_counter() - start
    common = {
        **provenance,
        "sweep": sweep,
        "started_at": started_at,
        "wall_seconds": seconds,
        "device": torch.cuda.get_device_name(device)
        if device != "cpu"
        else f"cpu ({platform.processor() or platform.machine()})",
        "peak_memory_bytes": peak_memory_bytes(device),
    }
    n_params = count_parameters(group[0])
    for replica, run in enumerate(group):
        record, steps, coords = _tables(run, replica, rows)
        record |= common | {"n_params": n_params, "tokens_per_second": record["tokens"] / seconds}
        write_run(folder, record, steps, coords)


def _tables(
    run: RunSpec, replica: int, rows: Sequence[Any]
) -> tuple[dict[str, Any], dict[str, list], dict[str, list] | None]:
    """Return the run's row and the columns of its steps and coords; a diverged run ends with the step where it did."""
    reason = rows[-1].diverged[replica]
    kept = [
        row
        for row in rows
        if row is rows[0] or row.diverged[replica] is None or rows[row.step - 1].diverged[replica] is None
    ]
    tokens_per_step = run.batch_size * run.seq_len
    steps = {
        "step": [row.step for row in kept],
        "tokens": [row.step * tokens_per_step for row in kept],
        "loss": [row.loss[replica] for row in kept],
        "val_loss": [None if row.val_loss is None else row.val_loss[replica] for row in kept],
        "grad_norm": [row.grad_norm[replica] for row in kept],
        "lr_scale": [row.lr_scale[replica] for row in kept],
    }
    coords = None
    if run.kind == "coord":
        cells = [(c, c.values[replica]) for row in kept for c in row.coords]
        names = ("step", "layer", "site", "kind", "stat")
        coords = {name: [getattr(c, name) for c, _ in cells] for name in names} | {"value": [v for _, v in cells]}
    heads, k_dim, v_dim = run.heads
    val_losses = [value for value in steps["val_loss"] if value is not None]
    updates = min(len(kept), run.steps)
    copied = (
        *("run_id", "kind", "parametrization", "rules_hash", "optimizer", "mode", "width", "base_width", "seed", "lr"),
        *("weight_decay", "decay_mode", "schedule", "warmup_steps", "n_layers", "tied", "vocab_size", "batch_size"),
        *("seq_len", "steps", "data", "data_hash", "dtype", "backend"),
    )
    record = {name: getattr(run, name) for name in copied} | {
        "log2_lr": math.log2(run.lr),
        "momentum": run.momentum if run.optimizer == "sgd" else None,
        "clip": run.clip or None,
        "clipped_fraction": sum(row.clipped[replica] for row in kept) / updates,
        "n_heads": heads,
        "head_k_dim": k_dim,
        "head_v_dim": v_dim,
        "status": "ok" if reason is None else "diverged",
        "diverged_step": None if reason is None else kept[-1].step,
        "reason": reason,
        "train_loss": final_loss(steps["loss"]) if reason is None else steps["loss"][-1],
        "val_loss": val_losses[-1] if val_losses and reason is None else None,
        "best_val_loss": min(val_losses, default=None),
        "tokens": updates * tokens_per_step,
    }
    return record, steps, coords


def final_loss(losses: Sequence[float]) -> float:
    """Return the mean of the last tenth of the losses: one batch's loss is noisier than the differences judged."""
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def peak_memory_bytes(device: str) -> int:
    """Return the peak memory of the device so far; of this process on a CPU."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@cache
def provenance() -> dict[str, Any]:
    """Return the commit and versions that a run's row carries."""
    return {
        "commit": _commit(),
        "torch": metadata.version("torch"),
        "triton": _version("triton"),
        "python": platform.python_version(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return mupcheck's own commit, "+" behind it where files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parents[1]
    if shutil.which("git") is None or not (here.parent / ".git").exists():
        return None
    git = ["git", "-C", str(here)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "."], capture_output=True, text=True, check=True
        ).stdout
    except (subprocess.CalledProcessError, OSError):
        return None
    return commit + ("+" if changed else "")


def describe(plan: Plan) -> dict[str, Any]:
    """Return the resolved sweep as `sweep.json` holds it."""
    return {
        "spec": plan.sweep.model_dump(mode="json"),
        "question": plan.sweep.question,
        "tables": {table.name: table_to_json(table) for table in plan.sweep.tables},
        "data_hash": plan.corpus.hash,
        "vocab_size": plan.corpus.vocab_size,
        "run_ids": [run.run_id for run in plan.runs],
        "device": plan.device,
        **provenance(),
    }
