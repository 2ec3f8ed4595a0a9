"""One group of runs from training to files: each run a row with its steps and sizes."""

import math
import resource
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mupcheck.results.writing import write_run
from mupcheck.spec.run import RunSpec
from mupcheck.sweep.checkpoint_file import Header, Kept
from mupcheck.sweep.checkpoints import Keeper, left_by_signal
from mupcheck.sweep.cost import count_parameters
from mupcheck.sweep.machine import device_name, memory_kept
from mupcheck.sweep.plan import Group
from mupcheck.training.data.corpus import Corpus
from mupcheck.training.data.sources import open_corpus
from mupcheck.training.halving import give_up, is_stopped, rungs

if TYPE_CHECKING:
    from mupcheck.training.rows import StepRow
    from mupcheck.training.state import State

WRITERS = 8
LEAST_LEFT = 8  # steps that are worth a model built anew
Tables = tuple[dict[str, Any], dict[str, list], dict[str, list] | None]  # of a run: its row, steps and coords


def run_group(
    group: Group, *, folder: Path, sweep: str, corpus: Corpus | None, device: str, provenance: Mapping[str, Any]
) -> Iterator[int]:
    """Train one group and write its runs; yield the number of steps done since the last yield.

    A group that trains for minutes keeps a checkpoint, and goes on from one that is there.

    Raises:
        StoreError: if results cannot be written.
        Left: once its checkpoint is written, where `checkpoints.leaving` is set.
    """
    corpus = corpus or open_corpus(group[0].data, vocab_size=group[0].vocab_size)
    left, begun = group, None
    with on_device(device):
        while left:
            left, begun = yield from _train_on(
                left, begun, folder=folder, sweep=sweep, corpus=corpus, device=device, provenance=provenance
            )


def _train_on(
    group: Group,
    begun: Kept | None,
    *,
    folder: Path,
    sweep: str,
    corpus: Corpus,
    device: str,
    provenance: Mapping[str, Any],
) -> Generator[int, None, tuple[Group, Kept | None]]:
    """Train a group until runs are given up, or to the end, and write the runs that are done; return what is left.

    Args:
        begun: where the group stands already, None at the start; a checkpoint is looked for then.
        folder, sweep, corpus, device, provenance: as of `run_group`.
    """
    from mupcheck.training.state import pack_rows, pick, unpack_rows
    from mupcheck.training.train import train

    keeper = Keeper(folder, group, device, provenance)
    kept = begun or keeper.take_up()
    if begun:
        keeper.succeed(begun.header)
    rows = kept.rows if kept else []
    if kept and not begun:
        yield len(rows)
    at = rungs(group[0])
    rung: _Rung | None = None

    def between(take: "Callable[[], State]") -> None:
        if (margin := at.get(len(rows))) is not None:
            found = give_up(group, [row.loss for row in rows], rows[-1].diverged, margin)
            if any(map(is_stopped, found)):
                raise _Rung(found, take())
        if device == "cpu" and _sheds(group[0], rows):
            raise _Rung(rows[-1].diverged, take())
        keeper.offer(rows, take)

    with left_by_signal():
        start = kept.state if kept else None
        try:
            for row in train(group, corpus, device=device, start=start, between=between):
                rows.append(row)
                yield 1
        except _Rung as reached:
            rung = reached.with_traceback(None)  # which would hold the model
    seconds = keeper.seconds
    how = how_trained(group[0], device, seconds=seconds, started_at=keeper.started_at) | {**provenance, "sweep": sweep}

    def write(replica: int) -> None:
        tables = tables_of(group[replica], replica, rows, reason=rung.reasons[replica] if rung else None)
        write_trained(folder, tables, how)

    living = [replica for replica, reason in enumerate(rung.reasons) if reason is None] if rung else []
    # a run's files wait for the disk several times, some milliseconds each, which many runs may do at once
    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(write, (replica for replica in range(len(group)) if replica not in living)):
            pass
    if rung is None:
        keeper.remove()
        return (), None
    left = tuple(group[replica] for replica in living)
    run_ids = tuple(run.run_id for run in group)
    header = Header(run_ids, keeper.where, len(rows), keeper.seconds, keeper.started_at)
    return left, Kept(header, unpack_rows(pick(pack_rows(rows), living)), pick(rung.state, living))


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Let a process train on a device: a GPU counts its memory anew, a CPU works on one thread and keeps its memory."""
    import torch

    from mupcheck.training.train import one_thread

    if device != "cpu":
        torch.cuda.init()  # the counters exist only once CUDA does
        torch.cuda.set_device(device)  # where kernels of our own start
        torch.cuda.reset_peak_memory_stats(device)
        yield
        return
    with one_thread(), memory_kept():
        yield


def how_trained(run: RunSpec, device: str, *, seconds: float, started_at: datetime, devices: int = 1) -> dict[str, Any]:
    """Return what the rows of runs of one shape say of how they trained; called when they have.

    Args:
        run: one of them.
        device: that trained them.
        seconds: that they took.
        started_at: when they began.
        devices: how many trained each.
    """
    return {
        "started_at": started_at,
        "wall_seconds": seconds,
        "device": device_name(device),
        "devices": devices,
        "peak_memory_bytes": peak_memory_bytes(device),
        "n_params": count_parameters(run),
    }


def write_trained(folder: Path, tables: Tables, how: Mapping[str, Any]) -> None:
    """Write the tables of a run, its row with what `how_trained` and provenance say.

    Raises:
        StoreError: if they cannot be written.
    """
    record, steps, coords = tables
    speed = record["tokens"] / how["wall_seconds"]
    write_run(folder, {**record, **how, "tokens_per_second": speed}, steps, coords)


def _sheds(run: RunSpec, rows: "Sequence[StepRow]") -> bool:
    """Say whether a group goes on without those that diverged; a GPU's loop does so by itself.

    Half of it is worth a model built anew; a probe's record is of all that it was made for.
    """
    dead = sum(reason is not None for reason in rows[-1].diverged)
    return run.probes != "full" and 2 * dead >= len(rows[-1].diverged) and run.steps - len(rows) >= LEAST_LEFT


class _Rung(Exception):
    """Runs do not train any more from a step on: why those that do not, and where training stands."""

    def __init__(self, reasons: list[str | None], state: "State") -> None:
        super().__init__()
        self.reasons, self.state = reasons, state


def tables_of(run: RunSpec, replica: int, rows: Sequence[Any], *, reason: str | None = None) -> Tables:
    """Return the run's row and the columns of its steps and coords; a diverged run ends with the step where it did.

    Args:
        run: the run.
        replica: its place among the replicas of the rows.
        rows: of every step.
        reason: why it was stopped; else the rows say whether it diverged.
    """
    reason = reason or rows[-1].diverged[replica]
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
        *("seq_len", "steps", "data", "data_hash", "dtype", "backend", "accumulation", "mlp_ratio", "conv_size"),
        *("projection_std", "projection_factor", "conv_std", "logit_scale", "norm_eps"),
    )
    record = {name: getattr(run, name) for name in copied} | {
        "log2_lr": math.log2(run.lr),
        "momentum": run.momentum if run.optimizer == "sgd" else None,
        **{name: getattr(run, name) if run.optimizer == "adamw" else None for name in ("eps", "beta1", "beta2")},
        "min_lr": None if run.schedule == "constant" else run.min_lr,
        "embedding_std": run.std_of_embedding,
        "readout_std": None if run.tied else run.readout_std,
        "clip": run.clip or None,
        "clipped_fraction": sum(row.clipped[replica] for row in kept) / updates,
        "n_heads": heads,
        "head_k_dim": k_dim,
        "head_v_dim": v_dim,
        "status": "ok" if reason is None else "stopped" if is_stopped(reason) else "diverged",
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
