"""What it costs to tune small: the best lr of the smallest width, used at the largest, against that width's own best.

The curves of all widths are fitted together (`curve_family`), and the cost is read off the largest one's at the place
of the smallest one's. Its interval is made for the signed root of the cost, which around a minimum is as normal as the
distance of the two places is, and squared: the noise of both places is in it, and what a minimum of noisy losses gains
by being the minimum is none of the cost. Three things are in its width: the seeds, each compared with itself (what its
departures do to the root, n - 1 degrees of freedom); the same by the noise of single runs, which is known from all lrs
and counts PRIOR_DF more; and the misfit and the prior of the family.

The level of that interval is chosen by what the verdict may get wrong: `negligible` and `costly` are each false in at
most (1 - confidence) / 5 where the cost is just the tolerance, 2 of 100 at a confidence of 0.9.
sweeps/MEASURED.md has what 1,000 simulated sweeps of each kind show of this.

Where a place is not known, only that it lies beyond the end of what was measured, the cost has a lower bound, and that
may already be above the tolerance; there is no upper one then.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mupcheck.learning_rates.curve_family import LOSS, N_PARAMETERS, PLACE, Family, fit_family, rise
from mupcheck.learning_rates.lr_curve import Floats, mean_curve
from mupcheck.learning_rates.optimum import Optimum
from mupcheck.learning_rates.quantiles import normal_ppf, t_ppf
from mupcheck.learning_rates.verdict import MOST_SEEDS

COST_TOLERANCE = 1.0  # percent of the loss
PRIOR_DF = 6  # what the noise of single runs counts for beside the seeds' own n - 1
FEW_SEEDS = 4  # below it, how many more would do is not known either
NUDGE = 1e-3  # of a parameter, in a numerical derivative
MIN_FITTED = 3  # lrs
# flags of an optimum that leave nothing to read off its curve
NO_CURVE = {
    "incomplete": "runs of width {} are missing",
    "copied seeds": "seeds of width {} gave the same losses, which shows no noise",
    "copied width": "width {} and another gave the same losses",
    "no finite lr": "at every lr a seed of width {} diverged",
    "too few lrs": f"width {{}} has fewer than {MIN_FITTED} lrs with a finite loss",
}
# and that leave no cost to or from it, while the fit of the other widths may use its curve
BY_CHANCE = {"above divergence": "the best lr of width {} lies above one that diverged, and may train by chance"}


@dataclass(frozen=True)
class Cost:
    """What width `target` loses at the best lr of width `source`, and the verdict on it.

    Attributes:
        nats, ci_low, ci_high: L_target(x*_source) - min L_target. An end is None where it is not known; without the
            upper one, nats is what is lost at least.
        percent, percent_low, percent_high: the same, of the target's own lowest loss.
        tolerance: percent of the loss that is nothing to worry about.
        level: of the interval, 1 less twice what each verdict may be false.
        verdict: negligible, costly or cannot tell.
        reason: why, one line.
        next_step: what decides it, "" where it is decided.
        n_diverged: how many of the target's seeds diverge at the lr of `diverged_at` or below, at which the source
            trains; 0 where none do.
        diverged_at: log2 lr.
    """

    source: int
    target: int
    verdict: str
    reason: str
    tolerance: float
    level: float
    nats: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    percent: float | None = None
    percent_low: float | None = None
    percent_high: float | None = None
    next_step: str = ""
    n_diverged: int = 0
    diverged_at: float | None = None

    def next_beside(self, of_drift: str, *, how: str = "") -> str:
        """Return what to do next: what the drift asks for, unless what it costs is known to be next to nothing."""
        if self.verdict == "negligible":
            do = f"train the wider ones with the best lr of width {self.source}{how}"
            return f"{do}; to tell the drift, {of_drift}" if of_drift else do
        if of_drift or self.verdict != "cannot tell" or not self.next_step:
            return of_drift
        return f"to tell the cost, {self.next_step}"

    @property
    def text(self) -> str:
        """Return "costs 0.2% [0.0, 0.7]", "costs at least 8.1%", "makes runs diverge" or what else is so."""
        if self.n_diverged:
            return "makes runs diverge"
        if self.percent is None or self.percent_low is None:
            return "costs an unknown part of the loss"
        if self.percent_high is None:
            return f"costs at least {self.percent_low:.1f}%" if self.percent_low else "has no upper bound of its cost"
        return f"costs {self.percent:.1f}% [{self.percent_low:.1f}, {self.percent_high:.1f}]"


class Place(NamedTuple):
    """Where a best lr is on the fitted curve; with an end of what was fitted, it lies there or beyond."""

    log2_lr: float
    beyond: str  # "low" or "high", "" where it is known


class Root(NamedTuple):
    """The signed root of a cost, in square roots of nats."""

    value: float
    half: float  # of its interval, inf where the root is no bound of anything
    sd: float  # of the noise


def find_cost(
    optima: Sequence[Optimum], *, tolerance: float, confidence: float, missing: str = "", unfinished: str = ""
) -> Cost:
    """Return what the best lr of the smallest width costs the largest.

    Args:
        optima: of one parametrization, by rising width.
        tolerance: percent of the loss.
        confidence: of the other intervals; see the top of this file.
        missing: which runs are, "" for none.
        unfinished: what goes on with a refinement that has not ended, "" for none.
    Raises:
        ValueError: if tolerance is not between 0 and 100.
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 < tolerance < 100:
        raise ValueError(f"cost={tolerance!r} is no percent of the loss between 0 and 100; try {COST_TOLERANCE:g}")
    source, target = optima[0], optima[-1]
    level = 1 - 2 * (1 - confidence) / 5
    ends = (source.width, target.width)

    def cannot_tell(reason: str, next_step: str) -> Cost:
        return Cost(*ends, "cannot tell", reason, tolerance, level, next_step=next_step)

    if missing:
        return cannot_tell(missing.partition(";")[0], "run the same command again")
    if source.width == target.width:
        return cannot_tell("one width has no other to be tuned at", f"give --widths {ends[0]},{2 * ends[0]}")
    for optimum in (source, target):
        for flag, why in (NO_CURVE | BY_CHANCE).items():
            if flag in optimum.flags:
                return cannot_tell(why.format(optimum.width), "see the next step of the drift")
    if min(source.n_seeds, target.n_seeds) < 2:
        return cannot_tell("one seed does not show the noise", "give more seeds, 3 or more in all")
    curves = curves_of(optima)
    if curves is None:
        return cannot_tell(
            "the curves share no seeds, or too few lrs without divergence", unfinished or "give more seeds or lrs"
        )
    fitted, family = curves
    places = [_place(optimum, family, i) for i, optimum in enumerate(fitted)]
    root = _root(family, places, level)
    loss = float(family.theta[-1, LOSS] + (_lowest(family, places[-1])))
    if not loss > 0:
        return cannot_tell(f"the loss of width {target.width} is {loss:.3g}, of which nothing is a percent", "")
    bounded = any(place.beyond for place in (places[0], places[-1])) or _outside(family, places[0])
    nats, low, high = _squared(root, only_least=bounded)
    percent, percent_low, percent_high = (None if each is None else 100 * each / loss for each in (nats, low, high))
    cost = Cost(
        *ends, "", "", tolerance, level, nats=nats, ci_low=low, ci_high=high, percent=percent,
        percent_low=percent_low, percent_high=percent_high,
    )  # fmt: skip
    judged = _judge(_with_divergence(cost, target, family, places[0]), places, root, family)
    return replace(judged, next_step=unfinished) if unfinished and judged.next_step else judged


def in_short(parametrization: str, cost: Cost, drifted: str, verdict: str) -> str:
    """Return both verdicts in a sentence: on what the smallest width's best lr costs, and on the drift."""
    costs = ""
    if cost.source != cost.target:
        costs = f"the best lr of width {cost.source} {cost.text} at {cost.target}: {cost.verdict}; "
    return f"{parametrization}: {costs}{drifted}: {verdict}"


def curves_of(optima: Sequence[Optimum]) -> tuple[list[Optimum], Family] | None:
    """Return the optima whose curves can be fitted, and the fit; None where that of the first or last width cannot."""
    fitted = [each for each in optima if not set(NO_CURVE) & set(each.flags) and each.n_seeds > 1]
    if not fitted or fitted[0] is not optima[0] or fitted[-1] is not optima[-1]:
        return None
    try:
        return fitted, fit_family([optimum.curve for optimum in fitted])
    except (ValueError, np.linalg.LinAlgError):
        return None


def _place(optimum: Optimum, family: Family, i: int) -> Place:
    """Return where the best lr of a width is; beyond what was fitted where the lowest loss lies at its end."""
    low, high = family.range_of(i)
    place = float(family.theta[i, PLACE])
    x, losses = mean_curve(optimum.curve)
    lowest = float(x[int(losses.argmin())])
    beyond = "low" if lowest == low or place < low else "high" if lowest == high or place > high else ""
    return Place(min(max(place, low), high), beyond)


def _outside(family: Family, source: Place) -> bool:
    """Say whether the source's best lr lies outside the lrs at which the target was fitted."""
    low, high = family.range_of(-1)
    return not low <= source.log2_lr <= high


def _lowest(family: Family, target: Place) -> float:
    """Return how far the target's lowest known loss lies above the minimum of its curve."""
    return float(rise(family.theta[-1], target.log2_lr)) if target.beyond else 0.0


def _root(family: Family, places: Sequence[Place], level: float) -> Root:
    """Return the signed root of the cost, positive where the source's best lr is above the target's."""
    source, target = places[0], places[-1]
    low, high = family.range_of(-1)
    ends, last, n_seeds = family.range_of(0), len(places) - 1, family.departures.shape[1]
    reach = float(np.sqrt(family.covariance[PLACE, PLACE]))  # so far the curve is followed beyond what was fitted

    def root(theta: Floats) -> float:
        at = float(theta[0, PLACE])
        at = min(max(at, ends[0]), ends[1]) if source.beyond else at
        if not low - reach <= at <= high + reach:
            at = min(max(at, low), high)
        own = theta[last]
        best = target.log2_lr if target.beyond else float(own[PLACE])
        nats = float(rise(own, at)) - (float(rise(own, best)) if target.beyond else 0.0)
        return math.copysign(math.sqrt(max(nats, 0.0)), at - best)

    gradient = np.zeros(family.theta.size)
    for j in (PLACE, *range(last * N_PARAMETERS, (last + 1) * N_PARAMETERS)):
        nudge = np.zeros(family.theta.shape)
        nudge.flat[j] = NUDGE
        gradient[j] = (root(family.theta + nudge) - root(family.theta - nudge)) / (2 * NUDGE)
    value = root(family.theta)
    variance, rest = _variances(family, gradient)
    misfit, side = float(max(family.misfit[0], family.misfit[-1])), (1 + level) / 2
    noise = float(t_ppf(side, n_seeds - 1 + PRIOR_DF)) * math.sqrt(misfit * variance)
    half = math.hypot(noise, float(normal_ppf(side)) * math.sqrt(misfit * rest))
    # beyond an end that faces the target's best lr the source's may be that very one
    if (source.beyond == "low" and value >= 0) or (source.beyond == "high" and value <= 0):
        half = math.inf
    return Root(value, half, math.sqrt(misfit * variance))


def _variances(family: Family, gradient: Floats) -> tuple[float, float]:
    """Return the variance of a quantity with this gradient by noise, and what misfit and prior add to it."""
    n_seeds = family.departures.shape[1]
    follows = np.tensordot(gradient, family.follows, 1)  # [width, lr]
    single = follows * family.noise
    by_runs = float(np.einsum("al,ab,bl->", single, family.correlation, single))
    by_seed = np.einsum("wl,wsl->s", follows, family.departures)
    by_seeds = float(by_seed @ by_seed) / (n_seeds * (n_seeds - 1))
    noise = ((n_seeds - 1) * by_seeds + PRIOR_DF * by_runs) / (n_seeds - 1 + PRIOR_DF)
    return noise, max(float(gradient @ family.covariance @ gradient) - float((single**2).sum()), 0.0)


def _squared(root: Root, *, only_least: bool) -> tuple[float | None, float, float | None]:
    """Return nats with their interval from the root's; of a bound, without an upper end."""
    if not math.isfinite(root.half):
        return None, 0.0, None
    low, high = root.value - root.half, root.value + root.half
    least, most = 0.0 if low <= 0 <= high else min(low**2, high**2), max(low**2, high**2)
    if only_least:
        return root.value**2, least, None
    # the square of a noisy root is too large by the variance of its noise
    return min(max(root.value**2 - root.sd**2, least), most), least, most


def _with_divergence(cost: Cost, target: Optimum, family: Family, source: Place) -> Cost:
    """Say so where seeds of the target diverge at or below the source's best lr, whichever of its interval that is."""
    _, high = family.range_of(-1)
    sd = 0.0 if source.beyond else float(np.sqrt(family.covariance[PLACE, PLACE]))
    surely = source.log2_lr - float(normal_ppf((1 + cost.level) / 2)) * sd
    dead = [point for point in target.curve if point.n_diverged and high < point.log2_lr <= surely]
    if not dead or source.beyond == "low":
        return cost
    return replace(cost, n_diverged=dead[-1].n_diverged, diverged_at=dead[-1].log2_lr)


def _judge(cost: Cost, places: Sequence[Place], root: Root, family: Family) -> Cost:
    """Return a cost with its verdict."""
    within, what = f"{cost.tolerance:g}%", f"the best lr of width {cost.source} {cost.text} at width {cost.target}"
    if cost.n_diverged:
        at = f"{cost.n_diverged} of {family.departures.shape[1]} at 2^{cost.diverged_at:.4g}, at or below that lr"
        return replace(cost, verdict="costly", reason=f"{what}: {at}")
    if cost.percent_low is not None and cost.percent_low > cost.tolerance:
        return replace(cost, verdict="costly", reason=f"{what}, above {within} of the loss")
    if cost.percent_high is not None and cost.percent_high <= cost.tolerance:
        return replace(cost, verdict="negligible", reason=f"{what}, within {within} of the loss")
    if cost.percent_high is None:
        edges = {place.beyond: w for place, w in ((places[-1], cost.target), (places[0], cost.source)) if place.beyond}
        if edges:
            beyond, width = next(iter(edges.items()))
            why, how = f"the best lr of width {width} lies at the {beyond} end of its lrs", "--refine, or wider --lrs"
        else:
            why = f"the best lr of width {cost.source} lies outside the lrs at which width {cost.target} trains"
            how = "--refine, or finer --lrs there"
        return replace(cost, verdict="cannot tell", reason=f"{what}: {why}", next_step=f"give {how}")
    return replace(
        cost, verdict="cannot tell", reason=f"{what}, across {within} of the loss", next_step=_more(cost, root, family)
    )


def _more(cost: Cost, root: Root, family: Family) -> str:
    """Say what makes the interval of a cost narrow enough: seeds, as far as these do."""
    n_seeds = family.departures.shape[1]
    if cost.nats is None or not cost.percent or n_seeds < FEW_SEEDS:
        return f"give more seeds, about {2 * n_seeds}"
    bound = math.sqrt(cost.nats * cost.tolerance / cost.percent)
    room = abs(bound - abs(root.value))
    # what the prior leaves open shrinks as the noise does
    needed = n_seeds * (root.half / room) ** 2 if room > 0 else math.inf
    if needed <= MOST_SEEDS:
        return f"give more seeds, about {max(math.ceil(needed), n_seeds + 2)}"
    return f"give --refine, or another --cost: it is close to {cost.tolerance:g}%"
