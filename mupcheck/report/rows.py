"""What the page's charts are drawn of: flat rows of the answers; nothing is computed but sums that a chart shows."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from mupcheck.coordinates.judge import Judgement
from mupcheck.learning_rates.drift import Transfer
from mupcheck.learning_rates.optimum import Optimum

Row = dict[str, Any]

MOST_STEPS = 48  # of a run's curve: about as many as a chart of half a page has room for
CURVES = ("step", "loss", "grad_norm", "lr")
SLOPES = (
    *("kind", "stat", "site", "layer", "step", "slope", "ci_low", "ci_high", "required_low", "required_high"),
    *("implied_low", "implied_high", "verdict", "n_widths", "n_seeds", "reason"),
)


def curve_rows(answer: Transfer) -> list[Row]:
    """Return a row for every width and lr: the mean loss, None where a seed diverged, and how many did."""
    return [
        {
            "width": optimum.width,
            "log2_lr": point.log2_lr,
            "loss": point.loss,
            "above": _less(point.loss, optimum.loss),
            "seeds": len(point.seed_losses),
            "diverged": point.n_diverged,
            "stopped": point.n_stopped,
        }
        for optimum in answer.optima
        for point in optimum.curve
    ]


def seed_rows(answer: Transfer) -> list[Row]:
    """Return a row for every width, lr and seed that has a loss."""
    return [
        {
            "width": optimum.width,
            "log2_lr": point.log2_lr,
            "seed": seed,
            "loss": loss,
            "above": _less(loss, optimum.loss),
        }
        for optimum in answer.optima
        for point in optimum.curve
        for seed, loss in point.seed_losses
        if loss is not None
    ]


def optimum_rows(answer: Transfer) -> list[Row]:
    """Return a row for every width's best lr, its interval without an end on an open side, drawn to the grid's."""
    return [
        {
            "parametrization": answer.parametrization,
            "width": optimum.width,
            "log2_lr": optimum.log2_lr,
            "ci_low": optimum.ci_low,
            "ci_high": optimum.ci_high,
            "half_width": optimum.half_width,
            "loss": optimum.loss,
            "above": None if optimum.loss is None else 0.0,
            "flags": ", ".join(optimum.flags),
            "low": _end(optimum, optimum.drawn[0], 0),
            "high": _end(optimum, optimum.drawn[1], -1),
        }
        for optimum in answer.optima
    ]


def _end(optimum: Optimum, end: float | None, last: int) -> float | None:
    return optimum.log2_lr if end is None else end if math.isfinite(end) else optimum.curve[last].log2_lr


def penalty_rows(answer: Transfer) -> list[Row]:
    """Return a row for every two widths: what the best lr of one costs the other."""
    return [
        {
            "trained": penalty.target,
            "lr_of": penalty.source,
            "nats": penalty.nats,
            "percent": penalty.percent,
            "ci_low": penalty.ci_low,
            "ci_high": penalty.ci_high,
            "reason": penalty.reason,
        }
        for penalty in answer.penalty
    ]


def slope_rows(table: pd.DataFrame) -> list[Row]:
    """Return a row for every slope of a judgement's table, with the band of what passes.

    Where a requirement has no end on one side, the band ends with what else there is to draw.
    """
    bands = table["required_low"] - table["tolerance"], table["required_high"] + table["tolerance"]
    drawn = np.concatenate([table["ci_low"], table["ci_high"], *bands])
    drawn = drawn[np.isfinite(drawn)]
    ends = (float(drawn.min()), float(drawn.max())) if len(drawn) else (0.0, 0.0)
    return [
        {name: _plain(row[name]) for name in SLOPES}
        | {"band_low": _plain(max(low, ends[0])), "band_high": _plain(min(high, ends[1]))}
        for row, low, high in zip(table[list(SLOPES)].to_dict("records"), *bands, strict=True)
    ]


def plain_rows(table: pd.DataFrame) -> list[Row]:
    """Return the rows of a table as JSON has them."""
    return [{name: _plain(value) for name, value in row.items()} for row in table.to_dict("records")]


def run_rows(runs: pd.DataFrame, steps: pd.DataFrame) -> Iterator[Row]:
    """Yield every run with its curve: loss, gradient norm and lr at about MOST_STEPS steps, the last among them."""
    by_run = steps.groupby("run_id", sort=False).indices if len(steps) else {}
    columns = {name: steps[name].to_numpy() for name in (*CURVES, "lr_scale") if name in steps}
    for run in runs.sort_values(["parametrization", "width", "log2_lr", "seed"]).to_dict("records"):
        own = by_run.get(run["run_id"])
        row = {
            name: _plain(run[name])
            for name in ("run_id", "parametrization", "width", "log2_lr", "seed", "status", "val_loss")
        }
        row |= {name: [] for name in CURVES}
        if own is not None and len(own):
            kept = own[np.unique(np.linspace(0, len(own) - 1, min(MOST_STEPS, len(own))).round().astype(int))]
            of = {name: values[kept] for name, values in columns.items()}
            if "lr_scale" in of:
                of["lr"] = run["lr"] * of["lr_scale"]
            row |= {name: [_plain(value) for value in of[name].tolist()] for name in CURVES if name in of}
        yield row


def is_slope_measured(answer: Judgement) -> bool:
    """Say whether there is any slope to draw, as there is none of one width."""
    return bool(answer.pooled["slope"].notna().any())


def _less(value: float | None, by: float | None) -> float | None:
    return None if value is None or by is None else value - by


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: None for what is no finite number, six digits of what is."""
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
