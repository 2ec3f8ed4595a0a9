"""The verdict on the learning rates of one parametrization, its reason, and the most useful thing to do next.

`cannot tell` comes first, in this order: runs are missing (then nothing else is said: what is there says little of
what will be), weight decay changes with width, a guard was hit, widths or seeds are too few. Coupled decay leaves the
verdict open rather than only warning: lr x decay is part of what is tuned, so where it changes with width an optimum
that holds, or moves, is not the lr rule's alone; a coordinate check fails for the same setting (theory.md, sections 2
and 5).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mupcheck.learning_rates.line import Drift, OffLine, n_apart
from mupcheck.learning_rates.optimum import EDGES, GUARDS, Optimum
from mupcheck.learning_rates.robustness import common_lrs
from mupcheck.results.reading import TO_COMPLETE
from mupcheck.theory.parametrization import TABLES, Table, decay_exponents

MIN_WIDTHS, MIN_SEEDS = 3, 3
MOST_SEEDS = 64  # more cost more than a larger width
DECAY_RATIO = 1.5  # of lr x weight decay between widths, above which it counts as another decay

# an optimum is still known from one side
CENSORED = (*EDGES, "low divergence", "above divergence", "near edge", "within noise")

# what helps where a guard was hit: an option of lr-sweep, and why
REMEDIES = {
    "no finite lr": ("--refine", "goes down to lrs that do not diverge"),
    "too few lrs": ("--refine", "adds lrs around the best one"),
    "low edge": ("--refine", "follows the optimum beyond the lr grid"),
    "low divergence": ("--refine", "goes down to lrs that do not diverge"),
    "high edge": ("--refine", "follows the optimum beyond the lr grid"),
}


class Conclusion(NamedTuple):
    """transfers, drifts or cannot tell; why, in one line; and what to do next, "" for nothing."""

    verdict: str
    reason: str
    next_step: str


def conclude(
    optima: Sequence[Optimum],
    drift: Drift,
    tolerance: float,
    *,
    missing: str = "",
    decay: str = "",
    unfinished: str = "",
    spec: Mapping[str, Any] | None = None,
) -> Conclusion:
    """Return the verdict on one parametrization.

    Args:
        optima: by rising width.
        drift: of these.
        tolerance: octaves per doubling of width.
        missing: how many runs of the sweep are missing, some of them here, and what completes it.
        decay: what `changing_decay` says.
        unfinished: what goes on with a refinement that has not ended: it comes before options that may not be needed.
        spec: the sweep's, for what it already asks for.
    """
    if missing:
        return Conclusion("cannot tell", missing, missing.partition(TO_COMPLETE)[2])
    doubts = [decay] if decay else []
    edges: list[str] = []
    for guard, advice in GUARDS.items():
        hit = [str(optimum.width) for optimum in optima if guard in optimum.flags]
        if hit:
            (edges if guard in CENSORED else doubts).append(f"width {', '.join(hit)}: {advice}")
    count = n_apart([optimum.width for optimum in optima])
    if count < MIN_WIDTHS:
        widths = ",".join(map(str, more_widths(optima, MIN_WIDTHS)))
        doubts.append(
            f"{count} width(s) where at least {MIN_WIDTHS} are needed"
            f"{_too_close(optima)}; add widths, such as --widths {widths}"
        )
    if max(optimum.n_seeds for optimum in optima) == 1:
        doubts.append("one seed does not show the noise; add seeds, 3 or more in all")
    if not doubts and _is_outside(drift.ci_low, drift.ci_high, tolerance):
        reason = f"{_measured(drift) or bound_text(drift)}, outside +-{tolerance:g}"
        return Conclusion("drifts", ". ".join([reason, *edges]), _next_of_drift(optima))
    doubts += edges
    if doubts or drift.slope is None or drift.ci_low is None or drift.ci_high is None:
        return Conclusion(
            "cannot tell", ". ".join(doubts), _next_of_doubts(optima, drift, tolerance, decay, unfinished, spec or {})
        )
    measured, within = _measured(drift), f"within +-{tolerance:g}"
    if moves := [pair for pair in drift.neighbours if _is_outside(pair.ci_low, pair.ci_high, tolerance)]:
        said = ", ".join(
            f"{_from_to(pair.slope, pair.ci_low, pair.ci_high)} from width {pair.narrow} to {pair.wide}"
            for pair in moves
        )
        return Conclusion("drifts", f"{measured}, but {said}{_stands_out(drift, tolerance)}", _next_of_drift(optima))
    is_within = -tolerance <= drift.ci_low and drift.ci_high <= tolerance
    if is_within and (off := _off_beyond(drift, tolerance)):
        reason = f"{measured}, {within}, but {_lies_off(off)}, not within +-{tolerance:g} beyond doubt"
        next_step = unfinished or _next_of_interval(optima, drift, tolerance, spec or {}, off)
        return Conclusion("cannot tell", reason, next_step)
    if is_within and (against := _registered_elsewhere(drift, tolerance)):
        n_seeds = max(optimum.n_seeds for optimum in optima)
        again = f"give {_seeds(n_seeds, 2 * n_seeds)}: minima and whole curves disagree"
        return Conclusion("cannot tell", f"{measured}, {within}, but {against}", unfinished or again)
    if is_within:
        return Conclusion("transfers", f"{measured}, {within}", "")
    reason = f"{measured}, an interval across +-{tolerance:g}"
    return Conclusion("cannot tell", reason, unfinished or _next_of_interval(optima, drift, tolerance, spec or {}))


def bound_text(drift: Drift) -> str:
    """Say the one end that the interval of a drift has: "drift at most -0.83 ..."; "" where it has none or both."""
    if (drift.ci_low is None) == (drift.ci_high is None):
        return ""
    bound = f"at most {drift.ci_high:+.2f}" if drift.ci_low is None else f"at least {drift.ci_low:+.2f}"
    return f"drift {bound} octaves per doubling of width"


def drift_in_short(drift: Drift, verdict: str, tolerance: float, *, at_edge: bool) -> str:
    """Say what a verdict on a drift rests on, in a few words: the slope, its bound, or the two widths that moved."""
    if drift.slope is None or (at_edge and not bound_text(drift)):
        return "drift unknown"
    if at_edge:
        return bound_text(drift)
    moves = [pair for pair in drift.neighbours if _is_outside(pair.ci_low, pair.ci_high, tolerance)]
    if verdict == "drifts" and moves and not _is_outside(drift.ci_low, drift.ci_high, tolerance):
        pair = max(moves, key=lambda each: abs(each.slope))
        moved = _from_to(pair.slope, pair.ci_low, pair.ci_high)
        return f"drift {moved} octaves per doubling from width {pair.narrow} to {pair.wide}"
    return f"drift {_from_to(drift.slope, drift.ci_low, drift.ci_high)} octaves per doubling"


def _measured(drift: Drift) -> str:
    if drift.slope is None or drift.ci_low is None or drift.ci_high is None:
        return ""
    return f"drift {_from_to(drift.slope, drift.ci_low, drift.ci_high)} octaves per doubling of width"


def _from_to(value: float, low: float | None, high: float | None) -> str:
    ends = ("?" if end is None else f"{end:+.2f}" for end in (low, high))
    return f"{value:+.2f} [{', '.join(ends)}]"


def _is_outside(low: float | None, high: float | None, tolerance: float) -> bool:
    return (low is not None and low > tolerance) or (high is not None and high < -tolerance)


def _stands_out(drift: Drift, tolerance: float) -> str:
    """Name the width farthest off the line, where it lies off it beyond doubt, else return ""."""
    off = max(drift.off_line, key=lambda each: abs(each.octaves), default=None)
    return f"; {_lies_off(off)}" if off is not None and _is_outside(off.ci_low, off.ci_high, tolerance) else ""


def _off_beyond(drift: Drift, tolerance: float) -> OffLine | None:
    """Return the width that may lie farthest off the line, if by more than the tolerance, in octaves."""

    def farthest(off: OffLine) -> float:
        return max(np.inf if end is None else abs(end) for end in (off.ci_low, off.ci_high))

    off = max(drift.off_line, key=farthest, default=None)
    return off if off is not None and farthest(off) > tolerance else None


def _lies_off(off: OffLine) -> str:
    return f"width {off.width} lies {_from_to(off.octaves, off.ci_low, off.ci_high)} octaves off the line"


def _too_close(optima: Sequence[Optimum]) -> str:
    """Say which widths count as one."""
    widths = sorted({optimum.width for optimum in optima})
    close = [f"{a} and {b}" for a, b in pairwise(widths) if n_apart([a, b]) < 2]
    return f" ({', '.join(close)} count as one)" if close else ""


def _registered_elsewhere(drift: Drift, tolerance: float) -> str:
    """Say that a registration that fits contradicts the drift; a misfit one has no say."""
    found = drift.registration
    if found is None or not found.fits or found.ci_low is None or found.ci_high is None:
        return ""
    low, high = drift.ci_low, drift.ci_high
    apart = (high is not None and found.ci_low > high) or (low is not None and found.ci_high < low)
    if not apart and not _is_outside(found.ci_low, found.ci_high, tolerance):
        return ""
    return f"the curves as wholes lie {_from_to(found.slope, found.ci_low, found.ci_high)} octaves per doubling apart"


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
    """Return the widths with larger ones, each twice the one before, until there are n; without any too close."""
    widths: list[int] = []
    for width in sorted({optimum.width for optimum in optima}):
        if not widths or n_apart([widths[-1], width]) == 2:
            widths.append(width)
    while len(widths) < n:
        widths.append(2 * widths[-1])
    return widths


def wider_lrs(optima: Sequence[Optimum]) -> str:
    """Return the option for the lr grid and two steps more at either end, "wider --lrs" of a grid that is uneven.

    The low end is counted from the lowest lr that any width had; of high lrs at which no width trains one is enough.
    """
    x = np.array(common_lrs(optima))
    steps = np.diff(x)
    if not len(steps) or not np.allclose(steps, steps[0]) or steps[0] % 1:
        return "wider --lrs"
    points = [point for optimum in optima for point in optimum.curve]
    below = np.ceil((x[0] - min(point.log2_lr for point in points)) / steps[0])
    dead = x[x > max([point.log2_lr for point in points if point.loss is not None], default=-np.inf)]
    low, high = x[0] - (below + 2) * steps[0], dead[0] if len(dead) else x[-1] + 2 * steps[0]
    return f"--lrs 2^{low:g}:2^{high:g}:{2 ** steps[0]:g}"


def _next_of_doubts(
    optima: Sequence[Optimum], drift: Drift, tolerance: float, decay: str, unfinished: str, spec: Mapping[str, Any]
) -> str:
    """Return all options that the doubts ask for, in one line; of lrs and noise only once the search has ended."""
    flags = {flag for optimum in optima for flag in optimum.flags}
    if "copied seeds" in flags:
        return "let the seed reach the initial weights and the batches"
    if "copied width" in flags:
        return "let the width reach the model, and see what wrote the files"
    if "incomplete" in flags:
        return "run the same command again: an lr lacks a seed, or a width an lr"
    n_seeds = max(optimum.n_seeds for optimum in optima)
    asked: dict[str, str] = {}
    if decay:
        asked["--decay-mode independent"] = "or --weight-decay 0"
    if n_apart([optimum.width for optimum in optima]) < MIN_WIDTHS:
        widths = ",".join(map(str, more_widths(optima, MIN_WIDTHS)))
        asked[f"--widths {widths}"] = f"{MIN_WIDTHS} at least"
    if n_seeds == 1:
        asked[f"--seeds {MIN_SEEDS}"] = f"{MIN_SEEDS} at least"
    if unfinished:  # a sweep with these options is refined too
        return _give(asked) or unfinished
    for guard, (option, why) in REMEDIES.items():
        if guard not in flags:
            continue
        if spec.get("refine"):
            option, why = wider_lrs(optima), f"the refinement ended where {GUARDS[guard].partition(';')[0]}"
        asked.setdefault(option, why)
    if _grid_limits(drift, tolerance) and not spec.get("refine"):
        asked.setdefault("--refine", "most of the drift's interval is the spacing of the lrs")
    if "flat" in flags:
        steps = f" {2 * spec['steps']}" if "steps" in spec else ""
        asked[f"--steps{steps}"] = "the loss hardly depends on lr yet"
    if flags & {"near edge", "within noise"} and not flags & set(EDGES):
        asked[wider_lrs(optima)] = "so that the loss rises on both sides"
    if flags & {"near edge", "within noise", "not convex"} and n_seeds > 1:
        asked[f"--seeds {2 * n_seeds}"] = "more noise than shape around the optimum"
    if "above divergence" in flags and n_seeds > 1:
        asked[f"--seeds {2 * n_seeds}"] = "whether lrs above one that diverged train by chance"
    return _give(asked)


def _give(asked: Mapping[str, str]) -> str:
    return "give " + ", ".join(f"{option} ({why})" for option, why in asked.items()) if asked else ""


def _next_of_interval(
    optima: Sequence[Optimum], drift: Drift, tolerance: float, spec: Mapping[str, Any], off: OffLine | None = None
) -> str:
    """Say what makes an interval across the tolerance narrower: finer lrs, more seeds, or a wider range of widths.

    The interval is the drift's, or that of a width off the line.
    """
    given = off or drift
    low, high, grid = (float(each or 0) for each in (given.ci_low, given.ci_high, given.ci_grid))
    if _grid_limits(given, tolerance):
        finer = f"--precision {float(spec['precision']) / 2:g}" if spec.get("refine") else "--refine"
        return f"give {finer}: most of the interval is the spacing of the lrs, +-{given.ci_rounding or 0:.2f} octaves"
    value, half = float((off.octaves if off else drift.slope) or 0), (high - low) / 2
    n_seeds = max(optimum.n_seeds for optimum in optima)
    left = abs(abs(value) - tolerance) ** 2 - grid**2
    needed = n_seeds * (half**2 - grid**2) / left if left > 0 else np.inf
    if needed <= MOST_SEEDS:
        return f"give {_seeds(n_seeds, needed)}: most of the interval is their noise"
    if off is not None:
        return f"look at width {off.width}: more seeds alone will hardly do"
    widths = ",".join(map(str, more_widths(optima, len(optima) + 1)))
    return f"give widths over a wider range, such as --widths {widths}: more seeds alone will hardly do"


def _seeds(n_seeds: int, needed: float) -> str:
    return f"more seeds, about {max(int(np.ceil(needed)), n_seeds + 2)}"


def _grid_limits(given: Drift | OffLine, tolerance: float) -> bool:
    """Say whether an interval lies across the tolerance more for the spacing of the lrs than for the seeds."""
    if given.ci_low is None or given.ci_high is None or given.ci_rounding is None:
        return False
    if (-tolerance <= given.ci_low and given.ci_high <= tolerance) or max(given.ci_low, -given.ci_high) > tolerance:
        return False
    return given.ci_rounding > (given.ci_high - given.ci_low) / 4


def _next_of_drift(optima: Sequence[Optimum]) -> str:
    """Name the check that says where a drift comes from."""
    first, widths = optima[0], ",".join(str(optimum.width) for optimum in optima)
    table = first.parametrization if first.parametrization in TABLES else "TABLE.toml"
    options = f"-p {table} --opt {first.optimizer} --mode {first.mode} --widths {widths}"
    return f"see which sizes change with width: mupcheck coord {options}"
