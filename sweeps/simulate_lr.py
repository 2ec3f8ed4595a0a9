"""How often the verdict on learning rates is right: simulated sweeps with a known drift, judged as measured ones are.

    python sweeps/simulate_lr.py [--sweeps 1000] [--processes 2] [--kinds KIND,...] [--seeds N,...] [--drifts D,...]
                                  [--noise F,F,F ...] [--moves F,F,F ...]

Prints a Markdown table: a row for every kind of curve, number of seeds and true drift. Widths 32, 64, 128 and lrs from
2^-9 to 2^-3 an octave apart, as in the default sweep on a CPU; the optimum of width 32 lies at 2^-6.2 to 2^-5.2,
anywhere between two lrs. Noise as in the demo sweep of gdn-mup, run with 24 seeds (CPU, 2026-11-26): around the optimum
a second derivative of 0.066, 0.062 and 0.050 nats per octave^2, 0.021 to 0.029 nats a run, 0.023 a seed, and an optimum
that moves by 0.06 octaves a seed and by 0.08 a seed and width. One seed's drift then has a standard deviation of 0.10
octaves per doubling; measured from these lrs: 0.09.

Widths may differ in noise: --noise has a factor for the noise of a run at each width, --moves for the octaves by which
a seed moves that width's optimum alone. With several of either, all pairs are simulated.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from multiprocessing import Pool
from typing import NamedTuple

import numpy as np

from mupcheck.learning_rates.drift import DRIFT_TOLERANCE
from mupcheck.learning_rates.line import fit_drift
from mupcheck.learning_rates.lr_curve import Floats, Point
from mupcheck.learning_rates.optimum import optima_of
from mupcheck.learning_rates.verdict import conclude

WIDTHS = (32, 64, 128)
LRS = np.arange(-9.0, -2)
RUN_NOISE, SEED_NOISE = 0.026, 0.023  # nats
SEED_OCTAVES, OWN_OCTAVES = 0.06, 0.08
EQUAL = (1.0,) * len(WIDTHS)
BEND = 0.06  # nats per octave^2, second derivative


def symmetric(z: Floats, _width: int) -> Floats:
    """Parabola."""
    return BEND / 2 * z**2


def lopsided(z: Floats, _width: int, *, ratio: float = 0.7) -> Floats:
    """Third derivative `ratio` times the second."""
    return BEND / ratio**2 * (np.exp(ratio * z) - ratio * z - 1)


def steep(z: Floats, _width: int) -> Floats:
    """Steeper from 0.8 octaves above the minimum on, diverged from 1.9 on."""
    return np.where(z > 1.9, np.inf, BEND / 2 * z**2 + 0.15 * np.clip(z - 0.8, 0, None) ** 2)


def cliff(z: Floats, _width: int) -> Floats:
    """Steeper from half an octave above the minimum on, diverged from 1.2 on."""
    return np.where(z > 1.2, np.inf, BEND / 2 * z**2 + 0.1 * np.clip(z - 0.5, 0, None) ** 2)


def deforming(z: Floats, width: int) -> Floats:
    """More lopsided at every doubling, by 0.1 in the ratio of the third derivative to the second."""
    return lopsided(z, width, ratio=0.3 + 0.1 * width)


def reshaping(z: Floats, width: int) -> Floats:
    """As SP's curves at widths 256 to 1024 (AdamW, H200): the widest is flatter above its minimum, by 0.8 in that."""
    return lopsided(z, width, ratio=(0.12, 0.06, -0.7)[width])


Shape = Callable[[Floats, int], Floats]
KINDS: dict[str, tuple[Shape, float]] = {  # shape, and its noise over the demo's
    "symmetric": (symmetric, 1.0),
    "lopsided": (lopsided, 1.0),
    "steep, diverging": (steep, 1.0),
    "at a cliff": (cliff, 1.0),
    "little noise": (lopsided, 0.1),
    "little noise, steep, diverging": (steep, 0.1),
    "deforming": (deforming, 1.0),
    "reshaping": (reshaping, 1.0),
    "little noise, reshaping": (reshaping, 0.3),
}


def simulate(
    shape: Shape,
    drift: float,
    n_seeds: int,
    noise: float,
    rng: np.random.Generator,
    of_runs: Sequence[float] = EQUAL,
    of_moves: Sequence[float] = EQUAL,
) -> list[Floats]:
    """Return losses [seed, lr] of each width, +inf where a run diverged.

    `of_runs` and `of_moves` are each width's factors of RUN_NOISE and of OWN_OCTAVES.
    """
    best = rng.uniform(-6.2, -5.2)
    shared, heights = SEED_OCTAVES * rng.normal(size=n_seeds), SEED_NOISE * rng.normal(size=n_seeds)
    losses = []
    for doublings in range(len(WIDTHS)):
        moved = shared + OWN_OCTAVES * of_moves[doublings] * rng.normal(size=n_seeds)
        z = LRS - best - drift * doublings - noise * moved[:, None]
        each = heights[:, None] + RUN_NOISE * of_runs[doublings] * rng.normal(size=z.shape)
        losses.append(2.7 - 0.06 * doublings + shape(z, doublings) + noise * each)
    return losses


def curve_of(losses: Floats) -> tuple[Point, ...]:
    """Curve of losses [seed, lr]."""
    points = []
    for x, at_lr in zip(LRS, losses.T, strict=True):
        died = ~np.isfinite(at_lr)
        seeds = tuple(
            (seed, None if dead else float(loss)) for seed, (loss, dead) in enumerate(zip(at_lr, died, strict=True))
        )
        points.append(Point(float(x), None if died.any() else float(at_lr.mean()), int(died.sum()), seeds))
    return tuple(points)


class Cell(NamedTuple):
    """Sweeps that are alike but for their random numbers."""

    kind: str
    n_seeds: int
    drift: float
    of_runs: Sequence[float]
    of_moves: Sequence[float]
    n_sweeps: int
    random_seed: int

    @property
    def name(self) -> str:
        """Return "lopsided, runs 1 2 1", of the factors that are not all 1."""
        factors = (("runs", self.of_runs), ("moves", self.of_moves))
        parts = [f"{what} {' '.join(f'{each:g}' for each in of)}" for what, of in factors if tuple(of) != EQUAL]
        return ", ".join([self.kind, *parts])


def judge_cell(cell: Cell) -> str:
    """Judge the sweeps of one cell; return its row of the table."""
    kind, n_seeds, drift, of_runs, of_moves, n_sweeps, random_seed = cell
    shape, noise = KINDS[kind]
    rng = np.random.default_rng([random_seed, n_seeds, round(100 * drift) + 1000])
    verdicts: Counter[str] = Counter()
    slopes, covered, bounded = [], [], 0
    for _ in range(n_sweeps):
        losses = simulate(shape, drift, n_seeds, noise, rng, of_runs, of_moves)
        curves = {width: curve_of(each) for width, each in zip(WIDTHS, losses, strict=True)}
        optima = optima_of(curves, ("simulated", kind, "adamw", "head-dim"))
        found = fit_drift(optima)
        verdicts[conclude(optima, found, DRIFT_TOLERANCE).verdict] += 1
        if found.slope is None or found.ci_low is None or found.ci_high is None:
            bounded += 1
            continue
        slopes.append(found.slope - drift)
        covered.append((found.ci_low <= drift <= found.ci_high, (found.ci_high - found.ci_low) / 2))
    shares = [100 * verdicts[verdict] / n_sweeps for verdict in ("transfers", "drifts", "cannot tell")]
    coverage, half = (np.mean(covered, axis=0) * (100, 1)) if covered else (np.nan, np.nan)
    counts = " | ".join(f"{share:.1f}" for share in shares)
    return (
        f"| {cell.name} | {n_seeds} | {drift:+.2f} | {counts} | {coverage:.1f} | {half:.3f} | "
        f"{np.mean(slopes):+.3f} | {np.std(slopes):.3f} | {bounded} |"
    )


def factors(text: str) -> tuple[float, ...]:
    """Read "1,2,1", a factor for each width; ArgumentTypeError if that is not so."""
    try:
        found = tuple(float(each) for each in text.split(","))
    except ValueError:
        found = ()
    if len(found) != len(WIDTHS) or not all(0 <= each < np.inf for each in found):
        raise argparse.ArgumentTypeError(f"{text!r} is no {len(WIDTHS)} factors, one for each width; try 1,2,1")
    return found


def main() -> None:
    """Read options, judge all cells, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kinds", default=",".join(name.replace(", ", "+") for name in KINDS))
    parser.add_argument("--seeds", default="3,6,16")
    parser.add_argument("--drifts", default="0,0.15,0.35,-0.4,-0.9")
    parser.add_argument("--noise", type=factors, nargs="+", default=[EQUAL])
    parser.add_argument("--moves", type=factors, nargs="+", default=[EQUAL])
    parser.add_argument("--random-seed", type=int, default=0)
    options = parser.parse_args()
    kinds = [name.replace("+", ", ") for name in options.kinds.split(",")]
    if unknown := [name for name in kinds if name not in KINDS]:
        parser.error(f"--kinds {unknown[0]!r} is unknown; try {', '.join(KINDS)}, with + for a comma")
    seeds, drifts = [int(n) for n in options.seeds.split(",")], [float(drift) for drift in options.drifts.split(",")]
    grid = product(kinds, seeds, drifts, options.noise, options.moves)
    cells = [Cell(*cell, options.sweeps, options.random_seed) for cell in grid]
    print(
        "| curves | seeds | true drift | transfers % | drifts % | cannot tell % | 90% interval covers % | half-width | "
        "bias | sd | of which one-sided |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    with Pool(options.processes) as pool:
        for row in pool.imap(judge_cell, cells):
            print(row, flush=True)


if __name__ == "__main__":
    main()
