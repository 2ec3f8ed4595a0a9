"""Faults of learning-rate sweeps: curves whose truth is known, and numbers of theirs changed afterwards."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from mupcheck.learning_rates.drift import Transfer, transfer
from mupcheck.proof.faults import CODE_WIDTHS, Fault, Where
from mupcheck.results.reading import Results

KIND = "lr-sweep"
GRID, SEEDS, OPTIMUM = np.arange(-10.0, -3.0), 5, -6.8
# octaves and nats: what a seed does to its whole curve, and to each loss; half of what the demo's curves scatter by
SHIFT, NOISE = 0.05, 0.002
BEND, STEEPER = 0.05, 2.0  # nats per octave^2 below the optimum, and how much steeper it is above


def planted_sweep(optimizer: str, mode: str, *, drift: float = 0.0) -> Results:
    """Return the runs of a sweep whose optimum moves by `drift` octaves per doubling of width, with steps of none."""
    bits = np.random.Generator(np.random.Philox(key=8))
    rows = []
    for doublings, width in enumerate(CODE_WIDTHS):
        for seed in range(SEEDS):
            best = OPTIMUM + drift * doublings + SHIFT * bits.standard_normal()
            away = GRID - best
            losses = 2.9 - 0.1 * doublings + BEND * away**2 * np.where(away > 0, STEEPER, 1.0)
            losses += NOISE * bits.standard_normal(len(GRID))
            rows += [
                {"width": width, "seed": seed, "log2_lr": x, "lr": 2.0**x, "train_loss": loss + 0.05, "val_loss": loss}
                for x, loss in zip(GRID, losses, strict=True)
            ]
    shared: dict[str, Any] = {
        "sweep": "planted", "kind": "lr", "parametrization": "gdn-mup", "rules_hash": "0" * 16, "optimizer": optimizer,
        "mode": mode, "status": "ok", "clipped_fraction": 0.0, "base_width": CODE_WIDTHS[0], "n_layers": 1,
        "n_heads": 2, "head_k_dim": 12, "head_v_dim": 24, "tied": False, "vocab_size": 256, "batch_size": 8,
        "seq_len": 48, "steps": 60, "data": "synthetic", "data_hash": "0" * 16, "weight_decay": 0.0,
        "decay_mode": "coupled", "momentum": np.nan, "schedule": "linear", "warmup_steps": 6, "clip": np.nan,
        "dtype": "float32", "backend": "chunk", "device": "cpu", "torch": "2", "commit": None,
    }  # fmt: skip
    runs = pd.DataFrame(rows).assign(run_id=[f"{i:016x}" for i in range(len(rows))], **shared)
    if mode == "head-dim":
        grown = runs["width"] // CODE_WIDTHS[0]
        runs = runs.assign(head_k_dim=12 * grown, head_v_dim=24 * grown)
    else:
        runs = runs.assign(n_heads=2 * runs["width"] // CODE_WIDTHS[0])
    none = pd.DataFrame({"run_id": [], "step": [], "loss": []})
    return Results(runs, none, none, {})


def judge_sweep(results: Results) -> Transfer:
    """Return the verdict on the one group of a planted sweep."""
    (answer,) = transfer(results)
    return answer


# --- edits -----------------------------------------------------------------------------------------------------------


def _losses(results: Results, rows: pd.Series, values: Callable[[pd.DataFrame], Any]) -> Results:
    runs = results.runs.copy()
    for name in ("train_loss", "val_loss"):
        runs.loc[rows, name] = values(runs.loc[rows].assign(loss=runs.loc[rows, name]))
    return Results(runs, results.steps, results.coords, results.sweeps)


def lrs_mislabelled(results: Results, where: Where, *, octaves: float) -> Results:
    """Give the runs of a width the losses of lrs that are so many octaves larger."""
    runs = results.runs
    rows = runs["width"] == where.width

    def moved(of: pd.DataFrame) -> Any:
        by_seed = of.sort_values("log2_lr").groupby("seed")["loss"]
        after = by_seed.transform(lambda losses: np.interp(GRID + octaves, GRID, losses))
        # beyond the grid the curve goes on as its ends do
        return after + BEND * np.maximum(0, np.abs(of["log2_lr"] + octaves + 7) - 3) ** 2

    return _losses(results, rows, moved)


def seeds_copied(results: Results, _: Where) -> Results:
    """Give every seed the losses of the first one."""
    first = results.runs[results.runs["seed"] == 0].set_index(["width", "log2_lr"])

    def copied(of: pd.DataFrame) -> Any:
        name = "val_loss" if of["loss"].equals(of["val_loss"]) else "train_loss"
        return [first.loc[(run.width, run.log2_lr), name] for run in of.itertuples()]

    return _losses(results, results.runs["width"] > 0, copied)


def width_copied(results: Results, where: Where, *, source: int) -> Results:
    """Give a width the losses of another."""
    theirs = results.runs[results.runs["width"] == source].set_index(["seed", "log2_lr"])

    def copied(of: pd.DataFrame) -> Any:
        name = "val_loss" if of["loss"].equals(of["val_loss"]) else "train_loss"
        return [theirs.loc[(run.seed, run.log2_lr), name] for run in of.itertuples()]

    return _losses(results, results.runs["width"] == where.width, copied)


def runs_lost(results: Results, where: Where, *, column: str, value: float) -> Results:
    """Lose the runs of a width that have a seed or an lr."""
    runs = results.runs
    lost = (runs["width"] == where.width) & (runs[column] == value)
    return Results(runs[~lost].reset_index(drop=True), results.steps, results.coords, results.sweeps)


def losses_lost(results: Results, where: Where) -> Results:
    """Give the best lr of a width losses that are no numbers."""
    runs = results.runs
    rows = (runs["width"] == where.width) & (runs["log2_lr"] == round(OPTIMUM))
    return _losses(results, rows, lambda of: np.full(len(of), np.nan))


def losses_scaled(results: Results, where: Where, *, factor: float) -> Results:
    """Multiply the losses of a width, or of all."""
    rows = results.runs["width"] == where.width if where.width else results.runs["width"] > 0
    return _losses(results, rows, lambda of: factor * of["loss"])


def one_seed_off(results: Results, where: Where, *, octaves: float) -> Results:
    """Move the curve of one seed at one width."""
    runs = results.runs
    rows = (runs["width"] == where.width) & (runs["seed"] == 0)
    moved = lrs_mislabelled(results, where, octaves=octaves).runs
    return _losses(results, rows, lambda of: moved.loc[of.index, "val_loss"])


def drifting(results: Results, _: Where, *, drift: float) -> Results:
    """Return a sweep whose optimum moves."""
    run = results.runs.iloc[0]
    return planted_sweep(run["optimizer"], run["mode"], drift=drift)


def beyond_the_grid(results: Results, where: Where) -> Results:
    """Lose the lrs of a width below its optimum, which then lies at the edge."""
    runs = results.runs
    lost = (runs["width"] == where.width) & (runs["log2_lr"] < OPTIMUM + 0.5)
    return Results(runs[~lost].reset_index(drop=True), results.steps, results.coords, results.sweeps)


def column_set(results: Results, where: Where, *, column: str, value: object) -> Results:
    """Let the runs of a width have another value in a column."""
    runs = results.runs
    rows = runs["width"] == where.width
    changed = runs.assign(**{column: runs[column].mask(rows, value)})
    return Results(changed, results.steps, results.coords, results.sweeps)


def _fault(name: str, edit: Callable[..., Results], *, width: int | None = None, **more: Any) -> Fault:
    optimizer, mode = ("adamw", "head-dim") if width != CODE_WIDTHS[-1] else ("sgd", "heads")
    return Fault(name, optimizer, mode, KIND, Where(width=width), edit=edit, **more)


MIDDLE, LAST = CODE_WIDTHS[1], CODE_WIDTHS[-1]
SWEEP_FAULTS = (
    _fault("middle optimum an octave off", partial(lrs_mislabelled, octaves=1), width=MIDDLE),
    _fault("middle optimum two octaves off", partial(lrs_mislabelled, octaves=2), width=MIDDLE),
    _fault("last optimum an octave off", partial(lrs_mislabelled, octaves=1), width=LAST),
    _fault("optimum drifts by -1/2", partial(drifting, drift=-0.5), named=("drift",)),
    _fault("optimum drifts by +1", partial(drifting, drift=1.0), named=("drift",)),
    _fault("seeds are copies", seeds_copied, named=("seed",)),
    _fault("a width is a copy of another", partial(width_copied, source=CODE_WIDTHS[0]), width=MIDDLE),
    _fault("a seed is missing at one width", partial(runs_lost, column="seed", value=4), width=LAST),
    _fault("an lr is missing at one width", partial(runs_lost, column="log2_lr", value=-7.0), width=MIDDLE),
    _fault("best lr has no losses", losses_lost, width=LAST),
    _fault("optimum at the edge of one width's grid", beyond_the_grid, width=MIDDLE),
    _fault("weight decay of one width", partial(column_set, column="weight_decay", value=0.1), width=LAST,
           named=("weight_decay",)),
    _fault("one seed of one width two octaves off", partial(one_seed_off, octaves=2), width=MIDDLE),
    _fault("losses in bits", partial(losses_scaled, factor=1 / np.log(2)), unseen="the optimum stays where it was"),
)  # fmt: skip
