"""The verdict on the learning rates of one parametrization, its reason, and the most useful thing to do next.

`cannot tell` comes first, in this order: runs are missing (then nothing else is said: what is there says little of
what will be), weight decay changes with width, a guard was hit, widths or seeds are too few. Coupled decay leaves the
verdict open rather than only warning: lr x decay is part of what is tuned, so where it changes with width an optimum
that holds, or moves, is not the lr rule's alone; a coordinate check fails for the same setting (theory.md, sections 2
and 5).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mupcheck.learning_rates.optimum import EDGES, GUARDS, Optimum
from mupcheck.learning_rates.robustness import common_lrs
from mupcheck.results.reading import TO_COMPLETE
from mupcheck.theory.parametrization import TABLES, Table, decay_exponents

MIN_WIDTHS, MIN_SEEDS = 3, 3
MOST_SEEDS = 64  # more cost more than a larger width
DECAY_RATIO = 1.5  # of lr x weight decay between widths, above which it counts as another decay

# what helps where a guard was hit: an option of lr-sweep, and why
REMEDIES = {
    "no finite lr": ("--refine", "goes down to lrs that do not diverge"),
    "too few lrs": ("--refine", "adds lrs around the best one"),
    "low edge": ("--refine", "follows the optimum beyond the lr grid"),
    "high edge": ("--refine", "follows the optimum beyond the lr grid"),
}


class Conclusion(NamedTuple):
    """transfers, drifts or cannot tell; why, in one line; and what to do next, "" for nothing."""

    verdict: str
    reason: str
    next_step: str


class Line(NamedTuple):
    """Slope of the drift with its interval, and the half-width of that by the lr grid alone; octaves per doubling."""

    slope: float | None
    ci_low: float | None
    ci_high: float | None
    ci_grid: float | None


def conclude(
    optima: Sequence[Optimum],
    line: Line,
    tolerance: float,
    *,
    missing: str = "",
    decay: str = "",
    spec: Mapping[str, Any] | None = None,
) -> Conclusion:
    """Return the verdict on one parametrization.

    Args:
        optima: by rising width.
        line: of the drift.
        tolerance: octaves per doubling of width.
        missing: how many runs of the sweep are missing, some of them here, and what completes it.
        decay: what `changing_decay` says.
        spec: the sweep's, for what it already asks for.
    """
    if missing:
        return Conclusion("cannot tell", missing, missing.partition(TO_COMPLETE)[2])
    doubts = [decay] if decay else []
    for guard, advice in GUARDS.items():
        hit = [str(optimum.width) for optimum in optima if guard in optimum.flags]
        if hit:
            doubts.append(f"width {', '.join(hit)}: {advice}")
    if len(optima) < MIN_WIDTHS:
        widths = ",".join(map(str, more_widths(optima, MIN_WIDTHS)))
        doubts.append(
            f"{len(optima)} width(s) where at least {MIN_WIDTHS} are needed; add widths, such as --widths {widths}"
        )
    if max(optimum.n_seeds for optimum in optima) == 1:
        doubts.append("one seed does not show the noise; add seeds, 3 or more in all")
    slope, low, high, _ = line
    if doubts or slope is None or low is None or high is None:
        return Conclusion("cannot tell", ". ".join(doubts), _next_of_doubts(optima, line, tolerance, decay, spec or {}))
    measured = f"drift {slope:+.2f} [{low:+.2f}, {high:+.2f}] octaves per doubling of width"
    if -tolerance <= low and high <= tolerance:
        return Conclusion("transfers", f"{measured}, within +-{tolerance:g}", "")
    if low > tolerance or high < -tolerance:
        return Conclusion("drifts", f"{measured}, outside +-{tolerance:g}", _next_of_drift(optima))
    reason = f"{measured}, an interval across +-{tolerance:g}"
    return Conclusion("cannot tell", reason, _next_of_interval(optima, line, tolerance, spec or {}))


def changing_decay(runs: pd.DataFrame, table: Table | None) -> str:
    """Say that weight decay changes with width because the lr of a table does, "" where it does not.

    Args:
        runs: of one group.
        table: what they followed; of an unknown one nothing can be said.
    """
    run = runs.iloc[0]
    if table is None or run["weight_decay"] == 0 or run["decay_mode"] != "coupled":
        return ""
    exponents = decay_exponents(table, optimizer=run["optimizer"], mode=run["mode"])
    low, high = runs["width"].min(), runs["width"].max()
    ratios = {role: (high / low) ** exponent for role, exponent in exponents.items()}
    changed = {role: ratio for role, ratio in ratios.items() if max(ratio, 1 / ratio) > DECAY_RATIO}
    if not changed:
        return ""
    ratio = max(changed.values(), key=lambda each: max(each, 1 / each))
    how = f"{max(ratio, 1 / ratio):.2g} times {'larger' if ratio > 1 else 'smaller'}"
    return (
        f"coupled weight decay changes with width as lr does: lr x decay of {', '.join(changed)} is up to {how} at "
        f"width {high} than at {low}, so that the best lr is not the lr rule's alone; use --decay-mode independent, "
        "or --weight-decay 0"
    )


def more_widths(optima: Sequence[Optimum], n: int) -> list[int]:
    """Return the widths with larger ones, each twice the one before, until there are n."""
    widths = sorted({optimum.width for optimum in optima})
    while len(widths) < n:
        widths.append(2 * widths[-1])
    return widths


def wider_lrs(optima: Sequence[Optimum]) -> str:
    """Return the option for the lr grid and two steps more at either end, "wider --lrs" of a grid that is uneven."""
    x = np.array(common_lrs(optima))
    steps = np.diff(x)
    if not len(steps) or not np.allclose(steps, steps[0]) or steps[0] % 1:
        return "wider --lrs"
    return f"--lrs 2^{x[0] - 2 * steps[0]:g}:2^{x[-1] + 2 * steps[0]:g}:{2 ** steps[0]:g}"


def _next_of_doubts(
    optima: Sequence[Optimum], line: Line, tolerance: float, decay: str, spec: Mapping[str, Any]
) -> str:
    """Return all options that the doubts ask for, in one line."""
    flags = {flag for optimum in optima for flag in optimum.flags}
    if "copied seeds" in flags:
        return "let the seed reach the initial weights and the batches"
    if "incomplete" in flags:
        return "run the same command again: an lr lacks a seed, or a width an lr"
    n_seeds = max(optimum.n_seeds for optimum in optima)
    asked: dict[str, str] = {}
    if decay:
        asked["--decay-mode independent"] = "or --weight-decay 0"
    if len(optima) < MIN_WIDTHS:
        widths = ",".join(map(str, more_widths(optima, MIN_WIDTHS)))
        asked[f"--widths {widths}"] = f"{MIN_WIDTHS} at least"
    if n_seeds == 1:
        asked[f"--seeds {MIN_SEEDS}"] = f"{MIN_SEEDS} at least"
    for guard, (option, why) in REMEDIES.items():
        if guard not in flags:
            continue
        if spec.get("refine"):
            option, why = wider_lrs(optima), f"{guard}, where the refinement ended"
        asked.setdefault(option, why)
    if _grid_limits(line, tolerance) and not spec.get("refine"):
        asked.setdefault("--refine", "most of the drift's interval is the spacing of the lrs")
    if "flat" in flags:
        steps = f" {2 * spec['steps']}" if "steps" in spec else ""
        asked[f"--steps{steps}"] = "the loss hardly depends on lr yet"
    if flags & {"near edge", "within noise"} and not flags & set(EDGES):
        asked[wider_lrs(optima)] = "so that the loss rises on both sides"
    if flags & {"near edge", "within noise", "not convex"} and n_seeds > 1:
        asked[f"--seeds {2 * n_seeds}"] = "more noise than shape around the optimum"
    return "give " + ", ".join(f"{option} ({why})" for option, why in asked.items()) if asked else ""


def _next_of_interval(optima: Sequence[Optimum], line: Line, tolerance: float, spec: Mapping[str, Any]) -> str:
    """Say what makes an interval across the tolerance narrower: finer lrs, more seeds, or a wider range of widths."""
    slope, low, high, grid = (float(value or 0.0) for value in line)
    half, room = (high - low) / 2, abs(abs(slope) - tolerance)
    if _grid_limits(line, tolerance):
        finer = f"--precision {float(spec['precision']) / 2:g}" if spec.get("refine") else "--refine"
        return f"give {finer}: most of the interval is the spacing of the lrs, +-{grid:.2f} octaves"
    n_seeds = max(optimum.n_seeds for optimum in optima)
    left = room**2 - grid**2
    needed = n_seeds * (half**2 - grid**2) / left if left > 0 else np.inf
    if needed <= MOST_SEEDS:
        return f"give more seeds, about {max(int(np.ceil(needed)), n_seeds + 2)}: most of the interval is their noise"
    widths = ",".join(map(str, more_widths(optima, len(optima) + 1)))
    return f"give widths over a wider range, such as --widths {widths}: more seeds alone will hardly do"


def _grid_limits(line: Line, tolerance: float) -> bool:
    """Say whether a drift's interval lies across the tolerance more for the spacing of the lrs than for the seeds."""
    if line.ci_low is None or line.ci_high is None or line.ci_grid is None:
        return False
    if (-tolerance <= line.ci_low and line.ci_high <= tolerance) or max(line.ci_low, -line.ci_high) > tolerance:
        return False
    return line.ci_grid**2 > ((line.ci_high - line.ci_low) / 2) ** 2 / 2


def _next_of_drift(optima: Sequence[Optimum]) -> str:
    """Name the check that says where a drift comes from."""
    first, widths = optima[0], ",".join(str(optimum.width) for optimum in optima)
    table = first.parametrization if first.parametrization in TABLES else "TABLE.toml"
    options = f"-p {table} --opt {first.optimizer} --mode {first.mode} --widths {widths}"
    return f"see which sizes change with width: mupcheck coord {options}"
