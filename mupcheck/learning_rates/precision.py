"""Does another dtype move the best learning rate? The same runs trained in both, compared pair by pair.

Runs of one parametrization, width, lr and seed differ in rounding alone, so what a seed adds to a loss cancels and a
shift is known far better than either optimum. It is small where it lies within the optimum's own interval: then whoever
reads the optimum in one dtype reads nothing that the other would not say.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mupcheck.learning_rates.lr_curve import Point
from mupcheck.learning_rates.optimum import Optimum, find_optima, optima_of
from mupcheck.learning_rates.quantiles import t_ppf
from mupcheck.results.comparable import CONFIDENCE, GROUP, check_confidence
from mupcheck.results.printing import Answers
from mupcheck.results.reading import Results

CELL = ["parametrization", "optimizer", "mode", "width", "lr", "seed"]
MIN_SEEDS = 2  # for an interval of the shift


@dataclass(frozen=True)
class Precision:
    """How far another dtype moves the best log2 lr of one parametrization and width.

    Attributes:
        dtype, other: the sweep's, and the one it is compared with.
        log2_lr, interval: the sweep's optimum, and half of its interval; None where there is none.
        shift, ci_low, ci_high: of the optimum in `other` from that in `dtype`, in octaves.
        n_pairs: runs that there are in both.
        verdict: holds, moves or cannot tell.
    """

    parametrization: str
    optimizer: str
    mode: str
    width: int
    dtype: str
    other: str
    log2_lr: float | None
    interval: float | None
    shift: float | None
    ci_low: float | None
    ci_high: float | None
    n_pairs: int
    verdict: str
    reason: str

    @property
    def title(self) -> str:
        """Return "gdn-mup at width 256"."""
        return f"{self.parametrization} at width {self.width}"

    def __str__(self) -> str:
        return self.sentence

    @property
    def sentence(self) -> str:
        """Say it in one line."""
        said = {"holds": "moves the best lr no further than it is known", "moves": "moves the best lr"}
        return f"{self.title}: {self.other} {said.get(self.verdict, 'may move the best lr')}: {self.reason}"


def compare_precision(one: Results, other: Results, *, confidence: float = CONFIDENCE) -> list[Precision]:
    """Say for each parametrization and width that both have whether the other's dtype moves the best lr.

    `holds` where the interval of the shift lies within half the optimum's own interval on either side of 0, `moves`
    where it lies outside; else `cannot tell`, also with one seed, or where either optimum is at an edge or unknown.

    Args:
        one: of a sweep.
        other: of runs that differ in dtype; of those that have no counterpart nothing is read.
        confidence: of the intervals.
    Raises:
        ValueError: if they have no runs in common, or differ in more than the dtype.
    """
    check_confidence(confidence)
    runs, others = (each.runs[each.runs["kind"] == "lr"] for each in (one, other))
    keys = pd.merge(runs[CELL], others[CELL])
    if keys.empty:
        raise ValueError("there are no two runs of one parametrization, width, lr and seed to compare")
    pairs = [each.merge(keys, on=CELL).assign(sweep="") for each in (runs, others)]
    dtypes = [each["dtype"].unique().tolist() for each in pairs]
    if any(len(each) != 1 for each in dtypes) or dtypes[0] == dtypes[1]:
        raise ValueError(f"runs to compare have one dtype each, and two together, not {dtypes[0]} and {dtypes[1]}")
    _check_alike(*pairs)
    (dtype,), (another,) = dtypes
    found = [{_key(each): each for each in find_optima(pair, confidence=confidence)} for pair in pairs]
    return Answers(
        [_compare(found[0][key], found[1][key], dtype, another, confidence) for key in sorted(found[0].keys())]
    )


def _check_alike(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Raise ValueError where the two differ in what decides a run's numbers, beside dtype and backend."""
    for field in ("data_hash", "steps", "batch_size", "seq_len", "n_layers", "base_width", "rules_hash", "schedule"):
        values = [set(each[field]) for each in (one, other)]
        if values[0] != values[1]:
            raise ValueError(f"runs to compare differ in {field}: {sorted(values[0])} and {sorted(values[1])}")


def _key(optimum: Optimum) -> tuple[str, str, str, int]:
    return optimum.parametrization, optimum.optimizer, optimum.mode, optimum.width


def _compare(one: Optimum, other: Optimum, dtype: str, another: str, confidence: float) -> Precision:
    seeds = sorted({seed for point in one.curve for seed, _ in point.seed_losses})
    half = None if one.at_edge else one.half_width
    shift = None if one.log2_lr is None or other.log2_lr is None else other.log2_lr - one.log2_lr
    low = high = None
    verdict, reason = "cannot tell", ""
    if at_edge := [each for each, where in ((dtype, one), (another, other)) if where.at_edge]:
        reason = f"the optimum in {' and '.join(at_edge)} is at the edge of the lr grid"
    elif shift is None:
        reason = "there is no finite lr in both"
    elif half is None or len(seeds) < MIN_SEEDS:
        reason = f"{len(seeds)} seed{'s' * (len(seeds) != 1)} give no interval"
    else:
        error = _jackknife(one, other, seeds)
        reach = t_ppf((1 + confidence) / 2, len(seeds) - 1) * error
        low, high = shift - reach, shift + reach
        if -half <= low and high <= half:
            verdict = "holds"
        elif low > half or high < -half:
            verdict = "moves"
        reason = f"by {shift:+.3f} [{low:+.3f}, {high:+.3f}] octaves, and it is known to {half:.2f} in {dtype}"
    n_pairs = sum(len(point.seed_losses) for point in one.curve)
    key = (*_key(one), dtype, another)
    return Precision(*key, one.log2_lr, half, shift, low, high, n_pairs, verdict, reason)


def _jackknife(one: Optimum, other: Optimum, seeds: Sequence[int]) -> float:
    """Return the standard error of the shift between two optima: each seed left out of both at once."""
    shifts = []
    for seed in seeds:
        left = [_best({each.width: _without(each.curve, seed)}) for each in (one, other)]
        shifts.append(math.nan if None in left else float(np.subtract(left[1], left[0])))  # type: ignore[arg-type]
    n = len(seeds)
    spread = np.asarray(shifts) - np.nanmean(shifts)
    # a seed without which there is no optimum leaves nothing to go by
    return math.inf if np.isnan(spread).any() else float(np.sqrt((n - 1) / n * np.sum(spread**2)))


def _without(curve: Sequence[Point], seed: int) -> tuple[Point, ...]:
    points = []
    for point in curve:
        losses = tuple(each for each in point.seed_losses if each[0] != seed)
        known = [loss for _, loss in losses if loss is not None]
        mean = float(np.mean(known)) if known and len(known) == len(losses) else None
        points.append(Point(point.log2_lr, mean, len(losses) - len(known), losses))
    return tuple(points)


def _best(curves: Mapping[int, tuple[Point, ...]]) -> float | None:
    (optimum,) = optima_of(curves, ("",) * len(GROUP))
    return optimum.log2_lr
