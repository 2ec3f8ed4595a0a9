"""Error rates and coverage of the verdict on costs, by simulated sweeps whose truth is known; prints Markdown.

    python sweeps/simulate_cost.py [--sweeps 1000] [--only NAME] [--forecasts 0]

With --forecasts it prints beside that how often the 90% interval of the lr that is predicted at 4 times the largest
width covers the optimum there, where the drift goes on as it was.

A sweep has 3 widths, 7 lrs an octave apart, and as many seeds as a line says (6 is the default of lr-sweep on a CPU).
The optimum moves evenly from width to width, as far as makes the best lr of the smallest cost the largest the stated
percent of the loss, and lies anywhere between two lrs. Noise is as measured in the demo: 0.03 nats a run around a loss
of 2.6, of which widths share 0.3 at one seed and lr, growing above the optimum, and 0.012 that a seed has at all lrs.
A run whose loss lies more than 0.8 nats above the minimum on the high side diverges.
"""

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from mupcheck.learning_rates.cost import find_cost
from mupcheck.learning_rates.drift import fit_drift
from mupcheck.learning_rates.forecast import forecast
from mupcheck.learning_rates.lr_curve import Point
from mupcheck.learning_rates.optimum import SAME, Optimum, find_optima
from mupcheck.results.comparable import SAME_BY_MODE

LRS = np.arange(-10.0, -3.0)
WIDTHS = (32, 64, 128)
LOSS, NOISE, SHARED, OF_SEED = 2.6, 0.03, 0.3, 0.012
MIDDLE, DEAD = -6.5, 0.8  # log2 lr around which a sweep is laid; nats above the minimum
PERCENTS = (0.0, 0.2, 1.0, 5.0)
Rise = Callable[[np.ndarray], np.ndarray]


def symmetric(u):
    """A parabola with the demo's bend."""
    return 0.032 * u**2


def lopsided(u):
    """The same, rising ever faster above the optimum."""
    return 0.032 * u**2 * (1 + np.maximum(u, 0))


def leaning(u):
    """The same, rising faster below the optimum: a third derivative of 0.7 of the second there."""
    return 0.032 * u**2 * (1 + 0.3 * np.maximum(-u, 0))


def steep(u):
    """Slow below the optimum, and soon divergence above it."""
    return np.where(u < 0, 0.03 * np.abs(u) ** 1.7, 0.025 * (np.exp(1.5 * np.maximum(u, 0)) - 1 - 1.5 * u))


def as_measured(u):
    """The demo's curves, smoothed: two exponentials."""
    return 0.085 * (np.exp(-0.49 * u) + 0.49 / 1.1 * np.exp(1.1 * u) - 1 - 0.49 / 1.1)


class Kind(NamedTuple):
    """What a line of the table simulates."""

    name: str
    rise: Rise
    seeds: int = 6
    noise: float = NOISE
    up: bool = False  # the optimum moves to higher lrs
    deforms: float = 0.0  # of the bend, by width: standard deviation of its log
    own: float = 0.0  # octaves by which each seed and width has its optimum elsewhere
    middle: float = MIDDLE
    dead: float = DEAD


KINDS = (
    Kind("as measured", as_measured),
    Kind("symmetric", symmetric),
    Kind("lopsided", lopsided),
    Kind("leaning", leaning),
    Kind("steep and diverging", steep),
    Kind("as measured, optimum rises", as_measured, up=True),
    Kind("as measured, bend differs by 20% between widths", as_measured, deforms=0.2),
    Kind("as measured, each seed's optimum 0.2 octaves elsewhere", as_measured, own=0.2),
    Kind("as measured, 3 seeds", as_measured, seeds=3),
    Kind("as measured, 8 seeds", as_measured, seeds=8),
    Kind("as measured, 16 seeds, a third of the noise", as_measured, seeds=16, noise=NOISE / 3),
    Kind("lopsided, 16 seeds, a third of the noise", lopsided, seeds=16, noise=NOISE / 3),
    Kind("steep and diverging, 8 seeds", steep, seeds=8),
    Kind("as measured, the largest width's optimum at the low edge of the lrs", as_measured, middle=-9.8),
    Kind("as measured, divergence 0.15 nats above the minimum", as_measured, dead=0.15),
)


def way(kind: Kind, percent: float) -> float:
    """Return how far the optimum moves over all widths, in octaves."""
    nats = percent / 100 * LOSS
    sign = 1 if kind.up else -1
    far = brentq(lambda d: float(kind.rise(np.array(-sign * d))) - nats, 0, 8) if percent else 0.0
    return sign * far


def one_sweep(kind: Kind, moved: float, rng: np.random.Generator, start: float | None = None) -> list[Optimum]:
    """Return the curves of one sweep, whose smallest width has its optimum at `start`."""
    start = kind.middle + rng.uniform(-0.5, 0.5) - moved / 2 if start is None else start
    shared = rng.normal(size=(kind.seeds, len(LRS))) * math.sqrt(SHARED)
    optima = []
    for i, width in enumerate(WIDTHS):
        place = start + moved * i / (len(WIDTHS) - 1)
        # the last width, whose cost is stated, keeps its bend
        bend = math.exp(kind.deforms * rng.normal()) if i < len(WIDTHS) - 1 else 1.0
        own = kind.own * rng.normal(size=(kind.seeds, 1)) if kind.own else 0.0
        above = 1 + np.maximum(LRS - place, 0) ** 2 / 4
        run = (shared + rng.normal(size=shared.shape) * math.sqrt(1 - SHARED)) * kind.noise * above
        run = run + OF_SEED * kind.noise / NOISE * rng.normal(size=(kind.seeds, 1))
        losses = LOSS + bend * kind.rise(LRS - place - own) + run
        dead = (place < LRS) & (losses - LOSS > kind.dead)
        optima.append(optimum_of(width, np.where(dead, np.inf, losses)))
    return optima


def optimum_of(width: int, losses: np.ndarray) -> Optimum:
    """Return the record of one width's losses [seed, lr], +inf where a run diverged."""
    curve = []
    for x, at in zip(LRS, losses.T, strict=True):
        seeds = tuple((seed, float(loss) if np.isfinite(loss) else None) for seed, loss in enumerate(at))
        mean = float(at.mean())
        curve.append(Point(float(x), mean if np.isfinite(mean) else None, int(np.isinf(at).sum()), seeds))
    group = ("simulated", "table", "adamw", "head-dim")
    found = {"log2_lr": None, "ci_low": None, "ci_high": None, "loss": None, "loss_name": "val_loss", "flags": ()}
    return Optimum(*group, width=width, **found, n_seeds=len(losses), n_lrs=len(LRS), curve=tuple(curve))


def cell(kind: Kind, percent: float, n_sweeps: int) -> tuple[float, float, float, float]:
    """Return the shares of negligible and costly, and of intervals that cover and, at either end, do not."""
    rng = np.random.default_rng([KINDS.index(kind), int(10 * percent)])
    moved = way(kind, percent)
    costs = [find_cost(one_sweep(kind, moved, rng), tolerance=1.0, confidence=0.9) for _ in range(n_sweeps)]
    slack = 1e-9
    above = np.mean([cost.percent_low is not None and cost.percent_low > percent + slack for cost in costs])
    below = np.mean([cost.percent_high is not None and cost.percent_high < percent - slack for cost in costs])
    shares = [np.mean([cost.verdict == verdict for cost in costs]) for verdict in ("negligible", "costly")]
    return float(shares[0]), float(shares[1]), float(above), float(below)


def runs_of(optima: list[Optimum]) -> pd.DataFrame:
    """Return curves as the rows of a runs table, as far as optima are found in it."""
    rows = [
        {"width": optimum.width, "log2_lr": point.log2_lr, "seed": seed, "val_loss": loss, "train_loss": loss}
        for optimum in optima
        for point in optimum.curve
        for seed, loss in point.seed_losses
    ]
    same = dict.fromkeys([*SAME, *SAME_BY_MODE["head-dim"], *SAME_BY_MODE["heads"], "clipped_fraction"], 0)
    group = {"sweep": "s", "parametrization": "p", "optimizer": "adamw", "mode": "head-dim", "rules_hash": "r"}
    runs = pd.DataFrame(rows).assign(**same, **group, kind="lr", run_id=[str(i) for i in range(len(rows))])
    return runs.assign(status=np.where(runs["val_loss"].isna(), "diverged", "ok"))


def covers(kind: Kind, drift: float, n_sweeps: int) -> tuple[float, float]:
    """Return the share of forecasts that cover, and their mean half-width in octaves."""
    rng = np.random.default_rng([KINDS.index(kind), 99])
    width, hits, halves = 4 * WIDTHS[-1], [], []
    for _ in range(n_sweeps):
        state = np.random.default_rng(rng.integers(2**32))
        simulated = one_sweep(kind, 2 * drift, state, start := kind.middle + rng.uniform(-0.5, 0.5) - drift)
        optima = find_optima(runs_of(simulated))
        found = forecast(optima, width, fit_drift(optima))
        truth = start + drift * math.log2(width / WIDTHS[0])
        low, high = (-np.inf if found.ci_low is None else found.ci_low), (found.ci_high or np.inf)
        hits.append(low <= truth <= high)
        halves.append((high - low) / 2)
    return float(np.mean(hits)), float(np.median(halves))


def print_forecasts(kinds: list[Kind], n_sweeps: int) -> None:
    """Print how often forecasts cover."""
    print(f"\nOf 100 forecasts at width {4 * WIDTHS[-1]} ({n_sweeps} a cell): cover the optimum; half-width, octaves\n")
    drifts = (0.0, -0.3, -0.9)
    print("|".join(["", " curves ", *(f" drift {drift:g} " for drift in drifts), ""]))
    print("|" + " --- |" * (1 + len(drifts)))
    for kind in kinds:
        found = [covers(kind, drift, n_sweeps) for drift in drifts]
        print(
            "|".join(["", f" {kind.name} ", *(f" {100 * hit:.0f}; {half:.2f} " for hit, half in found), ""]), flush=True
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=1000)
    parser.add_argument("--only", default="", help="part of a kind's name")
    parser.add_argument("--forecasts", type=int, default=0, help="simulated forecasts a cell")
    asked = parser.parse_args()
    kinds = [each for each in KINDS if asked.only in each.name]
    if asked.forecasts:
        print_forecasts(kinds, asked.forecasts)
    if not asked.sweeps:
        return
    print(f"Of 100 sweeps ({asked.sweeps} simulated a cell): negligible / costly, and intervals that cover the truth\n")
    print("|".join(["", " curves ", *(f" true cost {percent:g}% " for percent in PERCENTS), ""]))
    print("|" + " --- |" * (1 + len(PERCENTS)))
    for kind in kinds:
        texts = []
        for percent in PERCENTS:
            negligible, costly, above, below = cell(kind, percent, asked.sweeps)
            texts.append(f" {100 * negligible:.1f} / {100 * costly:.1f}, {100 * (1 - above - below):.1f} ")
        print("|".join(["", f" {kind.name} ", *texts, ""]), flush=True)


if __name__ == "__main__":
    main()
