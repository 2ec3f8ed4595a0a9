"""What became of each quantity between two results: moved, the same, or it cannot be told.

Moved: the interval of the difference excludes 0, at a level that holds for all quantities of a group at once
(FAMILY_CONFIDENCE). The same: its plain interval lies within what would change a verdict; as each of them must be, that
needs no correction. What both is, small and beyond doubt, has moved.

Two estimates that are independent differ by the root of the sum of squares of their intervals' sides (MOVER; Zou and
Donner, Statist. Med. 27, 2008). With the same seeds and another setting they are not, and share noise: the interval is
too wide then, and claims less. With the same seeds and the same setting the draws are shared: slopes are compared as
with a baseline, where more than rounding is real, best lrs seed by seed (`learning_rates.apart`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, inf, isfinite, isnan, nan
from typing import Any, NamedTuple

import numpy as np

from mupcheck.coordinates.judge import Judgement
from mupcheck.gate.baseline import Key, kept, quantity
from mupcheck.gate.compare import DRIFT_TOLERANCE as ROUNDING
from mupcheck.gate.compare import FAMILY_CONFIDENCE, SEEDS_TOLERANCE, family_factor, judge_drift
from mupcheck.learning_rates.apart import half_of_paired, weights_of_drift
from mupcheck.learning_rates.cost import find_cost
from mupcheck.learning_rates.cubic import Floats
from mupcheck.learning_rates.drift import DRIFT_TOLERANCE, Transfer
from mupcheck.learning_rates.line import bound_optima, fit_drift
from mupcheck.learning_rates.optimum import GUARDS, Optimum
from mupcheck.learning_rates.verdict import CENSORED
from mupcheck.results.comparable import CONFIDENCE

MOVED, SAME, CANNOT_TELL, ONLY_A, ONLY_B = "moved", "same", "cannot tell", "only in A", "only in B"
UNKNOWN = "cannot tell"  # of a verdict
# Octaves of a best lr: half of a factor of 2, so that the same lr of a grid of octaves stays the nearest. At an end of
# three widths, a doubling apart, it moves the drift by its own tolerance.
OPTIMUM_TOLERANCE = 2 * DRIFT_TOLERANCE
SLOPE, OPTIMUM, DRIFT, COST = "slope", "best lr", "drift", "cost"
DOUBTS = tuple(flag for flag in GUARDS if flag not in CENSORED)  # which leave nothing to rest an interval on


class Span(NamedTuple):
    """A value with its interval; an end is infinite where it is open, all are NaN where nothing is known."""

    value: float
    low: float
    high: float


NOTHING = Span(nan, nan, nan)


@dataclass(frozen=True)
class Move:
    """One quantity in A and in B.

    Attributes:
        what: slope, best lr, drift or cost.
        name, of: as a person reads it: "effective_update rms" and "a_proj later"; "best lr" and "width 64".
        a, b: each with its own interval; NaN where there is none. Of a best lr its log2, of a cost percent of the loss.
        difference: b - a, with an interval that holds for all quantities of the group together.
        tolerance: of the difference, below which it changes no verdict.
        verdict: moved, same, cannot tell, only in A, only in B.
        was, now: the verdict on a slope; "" of the others, whose verdicts are the group's.
        reason: why it cannot be told, where it is not the interval alone.
    """

    what: str
    name: str
    of: str
    a: Span
    b: Span
    difference: Span
    tolerance: float
    verdict: str
    was: str = ""
    now: str = ""
    reason: str = ""

    @property
    def turned(self) -> bool:
        """Say whether it passed and fails, or the other way round, however little it moved."""
        return turned(self.was, self.now)

    @property
    def moved(self) -> bool:
        """Say whether it moved, or has the opposite verdict."""
        return self.verdict == MOVED or self.turned


def turned(was: str, now: str) -> bool:
    """Say whether two verdicts are opposite ones."""
    return was != now and not {was, now} & {"", UNKNOWN, "info"}


def apart(a: Span, b: Span) -> Span:
    """Return b - a; where an end of either is open, bounds alone are known, and what they exclude."""
    value = b.value - a.value
    if not all(map(isfinite, (*a, *b))):
        return Span(value, b.low - a.high, b.high - a.low)
    return Span(
        value, value - hypot(b.value - b.low, a.high - a.value), value + hypot(b.high - b.value, a.value - a.low)
    )


def verdict_of(together: Span, alone: Span, tolerance: float) -> str:
    """Return moved, same or cannot tell by the interval that holds for all, and by the plain one."""
    if together.low > 0 or together.high < 0:
        return MOVED
    return SAME if alone.low >= -tolerance and alone.high <= tolerance else CANNOT_TELL


# --- slopes -----------------------------------------------------------------------------------------------------------


def slope_moves(a: Judgement, b: Judgement, *, shared: bool) -> list[Move]:
    """Compare the judged slopes of two coordinate checks, as `gate.compare` does.

    Args:
        a, b: of one optimizer and mode.
        shared: whether both were measured with the same draws.
    """
    sides = [{quantity(row): row for row in kept(each.pooled).to_dict("records")} for each in (a, b)]
    n_both = len(sides[0].keys() & sides[1].keys())
    return [_slope_move(key, sides, n_both, shared=shared) for key in sorted({*sides[0], *sides[1]})]


def _slope_move(key: Key, sides: Sequence[Mapping[Key, dict[Any, Any]]], n_both: int, *, shared: bool) -> Move:
    kind, stat, site, when = key
    rows = [side.get(key) for side in sides]
    one, other = (_span_of(row) for row in rows)
    was, now = (row["verdict"] if row else "" for row in rows)
    names = (SLOPE, f"{kind} {stat}", f"{site} {'step 0' if when == '0' else when}")
    if None in rows:
        return Move(*names, one, other, NOTHING, SEEDS_TOLERANCE, ONLY_B if rows[0] is None else ONLY_A, was, now)
    if isnan(one.value) or isnan(other.value):
        # such as 0 at every width, both times
        alike = isnan(one.value) and isnan(other.value) and was == now and (shared or now == "pass")
        verdict = SAME if alike else CANNOT_TELL
        return Move(*names, one, other, NOTHING, SEEDS_TOLERANCE, verdict, was, now, "" if alike else "no slope")
    n_seeds = min(int(row["n_seeds"]) for row in rows if row)
    halves = [(each.high - each.low) / 2 if n_seeds > 1 else nan for each in (one, other)]
    drift = other.value - one.value
    shared = shared or one == other  # to the last bit: no other draws
    allowed, verdict = judge_drift(drift, halves, None if shared else family_factor(n_both, n_seeds))
    found = {"drifted": MOVED}.get(verdict, verdict)
    reason = "one seed" if n_seeds < 2 and found == CANNOT_TELL else ""
    return Move(
        *names, one, other, Span(drift, drift - allowed, drift + allowed), SEEDS_TOLERANCE, found, was, now, reason
    )


def _span_of(row: Mapping[Any, Any] | None) -> Span:
    return NOTHING if row is None else Span(*(float(row[name]) for name in ("slope", "ci_low", "ci_high")))


# --- learning rates ---------------------------------------------------------------------------------------------------


def lr_moves(a: Transfer, b: Transfer, *, shared: bool, without: Collection[str] = ()) -> list[Move]:
    """Compare the best lrs of the widths that two sweeps have in common, their drifts and their costs.

    Args:
        a, b: of one optimizer and mode.
        shared: whether both were trained with the same draws.
        without: of best lr, drift and cost, what means another thing in either.
    """
    wanted = [what for what in _quantities(a, b) if what[0] not in without]
    together = 1 - (1 - FAMILY_CONFIDENCE) / max(len(wanted), 1)
    alike = [(each.width, each.curve) for each in a.optima] == [(each.width, each.curve) for each in b.optima]
    tolerances = {OPTIMUM: OPTIMUM_TOLERANCE, DRIFT: a.tolerance, COST: a.cost.tolerance}
    moves = []
    for what, width in wanted:
        of = f"width {width}" if what == OPTIMUM else f"{b.cost.source} at {b.cost.target}" if what == COST else ""
        one, other = (_span_at(answer, what, width, CONFIDENCE) for answer in (a, b))
        by_all = alone = Span(0.0, 0.0, 0.0)
        doubt = ""
        if not alike:
            by_all = _difference(a, b, what, width, together, shared=shared)
            alone = _difference(a, b, what, width, CONFIDENCE, shared=shared)
            doubt = _doubt(a, b, what, width)
        verdict = CANNOT_TELL if doubt else verdict_of(by_all, alone, tolerances[what])
        moves.append(Move(what, what, of, one, other, by_all, tolerances[what], verdict, reason=doubt))
    return [*moves, *(() if OPTIMUM in without else _of_one_side(a, b))]


def _quantities(a: Transfer, b: Transfer) -> Iterator[tuple[str, int]]:
    """Yield what both have, with the width that it is of, 0 for the whole."""
    widths = [{each.width for each in answer.optima} for answer in (a, b)]
    yield from ((OPTIMUM, width) for width in sorted(widths[0] & widths[1]))
    if a.drift.slope is not None and b.drift.slope is not None:
        yield DRIFT, 0
    ends = {(answer.cost.source, answer.cost.target) for answer in (a, b)}
    if len(ends) == 1 and a.cost.source != a.cost.target:
        yield COST, 0


def _span_at(answer: Transfer, what: str, width: int, level: float) -> Span:
    """Return a quantity of one sweep with its interval at a level."""
    if what == OPTIMUM:
        at = next(each.log2_lr for each in answer.optima if each.width == width)
        return NOTHING if at is None else _span(at, *bound_optima(answer.optima, confidence=level)[width])
    if what == DRIFT:
        drift = fit_drift(answer.optima, confidence=level)
        return NOTHING if drift.slope is None else _span(drift.slope, drift.ci_low, drift.ci_high)
    if answer.cost.percent is None:
        return NOTHING
    # the level of a cost is 1 - 2 (1 - confidence) / 5
    cost = find_cost(answer.optima, tolerance=answer.cost.tolerance, confidence=1 - 2.5 * (1 - level))
    return NOTHING if cost.percent is None else _span(cost.percent, cost.percent_low, cost.percent_high)


def _difference(a: Transfer, b: Transfer, what: str, width: int, level: float, *, shared: bool) -> Span:
    paired = _paired(a, b, what, width, level) if shared else None
    return paired or apart(_span_at(a, what, width, level), _span_at(b, what, width, level))


def _span(value: float, low: float | None, high: float | None) -> Span:
    return Span(value, -inf if low is None else low, inf if high is None else high)


def _of_one_side(a: Transfer, b: Transfer) -> Iterator[Move]:
    """Yield the best lrs of widths that one sweep alone has."""
    widths = [{each.width for each in answer.optima} for answer in (a, b)]
    for width in sorted(widths[0] ^ widths[1]):
        in_b = width in widths[1]
        known = _span_at(b if in_b else a, OPTIMUM, width, CONFIDENCE)
        spans = (NOTHING, known) if in_b else (known, NOTHING)
        yield Move(OPTIMUM, OPTIMUM, f"width {width}", *spans, NOTHING, OPTIMUM_TOLERANCE, ONLY_B if in_b else ONLY_A)


def _paired(a: Transfer, b: Transfer, what: str, width: int, level: float) -> Span | None:
    """Return the difference by seeds that both drew alike, None where it is not known that way."""
    found = [[each for each in answer.optima if each.log2_lr is not None] for answer in (a, b)]
    if what == COST or [each.width for each in found[0]] != [each.width for each in found[1]]:
        return None
    if any(set(each.flags) & set(CENSORED) for each in (*found[0], *found[1])):
        return None  # known from one side
    widths = [each.width for each in found[0]]
    weights = weights_of_drift(found[0]) if what == DRIFT else np.array([float(each == width) for each in widths])
    half = half_of_paired(found[0], found[1], weights, level)
    value = float(weights @ (_places(found[1]) - _places(found[0])))
    return None if half is None else Span(value, value - max(half, ROUNDING), value + max(half, ROUNDING))


def _places(optima: Sequence[Optimum]) -> Floats:
    return np.array([each.log2_lr for each in optima], dtype=float)


def _doubt(a: Transfer, b: Transfer, what: str, width: int) -> str:
    """Say what puts a quantity of either side in doubt, "" where nothing does."""
    for name, answer in (("A", a), ("B", b)):
        if what == COST and answer.cost.n_diverged:
            return f"runs diverge there in {name}"
        if what == COST and answer.cost.percent is None:
            return f"{answer.cost.reason} in {name}"
        if what != COST:
            if answer.missing and what == DRIFT:
                return f"runs are missing in {name}"
            for optimum in answer.optima:
                flags = [flag for flag in DOUBTS if flag in optimum.flags]
                if flags and (what == DRIFT or optimum.width == width):
                    return f"width {optimum.width} in {name}: {flags[0]}"
            if max(each.n_seeds for each in answer.optima) < 2:
                return f"one seed in {name}"
    return ""
