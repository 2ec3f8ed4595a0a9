"""The best learning rate at a width that was not trained, off the line of the drift, and what its doubt may cost there.

The interval has three parts, as independent errors: how well the places of the measured optima are known (the mean of
their half-widths: what they share, such as the bias of a fit, does not average out); the interval of the drift, times
the doublings from the middle of the measured widths; and how far the optima lie from a line beyond their own noise,
which the new one will too, more so the farther away. Beyond the largest width the line is a guess that no interval
covers: drifts of measured sweeps fade with width more often than they grow.

What the doubt costs is read off the curve of the largest width: a curve's bend changes little with width.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from mupcheck.learning_rates.cost import curves_of
from mupcheck.learning_rates.curve_family import LOSS, PLACE, rise
from mupcheck.learning_rates.line import Drift
from mupcheck.learning_rates.optimum import Optimum
from mupcheck.learning_rates.quantiles import normal_ppf
from mupcheck.spec.model import ModelSpec, Shape

MAX_WIDTH = 2**24  # as `mupcheck rules --width`
FAR_DOUBLINGS = 4.0  # beyond the largest width, above which a forecast is called far

# flags of an optimum under which there is no telling how far off a forecast is
UNTRUSTED = ("incomplete", "copied seeds", "copied width", "no finite lr")


@dataclass(frozen=True)
class Forecast:
    """The best lr predicted at a width; None where there is no number.

    Attributes:
        width: the one asked for.
        lr, lr_low, lr_high: with the interval, an end None where it is not known.
        log2_lr, ci_low, ci_high: the same in octaves.
        doublings: of width beyond the largest that was measured, below 0 inside.
        percent: of the loss that the worse end of the interval would cost, on the largest width's curve.
        reason: why a number is missing, else empty.
    """

    width: int
    doublings: float
    log2_lr: float | None
    ci_low: float | None
    ci_high: float | None
    percent: float | None
    reason: str

    @property
    def lr(self) -> float | None:
        """Return the predicted lr."""
        return None if self.log2_lr is None else 2.0**self.log2_lr

    @property
    def text(self) -> str:
        """Return the forecast in one line."""
        if self.log2_lr is None:
            return f"no lr for width {self.width}: {self.reason}"
        ends = ", ".join("?" if end is None else f"{2.0**end:.3g}" for end in (self.ci_low, self.ci_high))
        octaves = ", ".join("?" if end is None else f"{end:+.2f}" for end in (self.ci_low, self.ci_high))
        text = f"best lr predicted at width {self.width}: {2.0**self.log2_lr:.3g} [{ends}]"
        text += f" = 2^{self.log2_lr:.2f} [{octaves}]"
        if self.percent is not None:
            text += f"; an end of that interval would cost {self.percent:.1f}% of the loss"
        return f"{text}; {self.reason}" if self.reason else text


def check_target(width: int, widths: Sequence[int], spec: Mapping[str, Any], *, name: str = "target") -> None:
    """Raise ValueError, in one line that says what to give, unless a sweep can speak of a width.

    Args:
        width: asked for.
        widths: of the sweep.
        spec: the sweep's, as its `sweep.json` has it: a width must give whole heads.
        name: what the user calls it, such as "--target".
    """
    smallest = min(widths)
    if not isinstance(width, int) or isinstance(width, bool) or not smallest <= width <= MAX_WIDTH:
        given = f"{name} {width}" if name.startswith("--") else f"{name}={width}"
        if isinstance(width, int) and 0 < width < smallest:
            raise ValueError(f"{given} is below the smallest width of the sweep; give one of {smallest} or more")
        raise ValueError(f"{given} is not a width; give a whole number from {smallest} to {MAX_WIDTH}")
    shape = {field: spec[field] for field in Shape.model_fields if field in spec}
    try:
        ModelSpec(width=width, base_width=spec.get("base_width") or smallest, **shape)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{name}: {said}") from None


def forecast(optima: Sequence[Optimum], width: int, drift: Drift, spec: Mapping[str, Any] | None = None) -> Forecast:
    """Predict the best lr at a width.

    Args:
        optima: of one parametrization, by rising width.
        width: at least the smallest of them.
        drift: the line through them, in octaves over log2 width, whose confidence is this interval's too.
        spec: of the sweep, as its `sweep.json` has it, where there is one.
    Raises:
        ValueError: as `check_target`.
    """
    check_target(width, [optimum.width for optimum in optima], spec or {})
    slope, intercept, ends = drift.slope, drift.intercept, (drift.ci_low, drift.ci_high)
    found = [optimum for optimum in optima if optimum.log2_lr is not None]
    doublings = math.log2(width / max(optimum.width for optimum in found or optima))
    if slope is None or intercept is None or len(found) < 2:
        why = "there is no drift to follow; add widths"
        if len(optima) > 1:
            why = (
                f"{len(found)} of {len(optima)} widths have a best lr, too few for a drift; add lrs that do not diverge"
            )
        return Forecast(width, doublings, None, None, None, None, why)
    log2_lr = intercept + slope * math.log2(width)
    log2_widths = np.log2([optimum.width for optimum in found])
    places = np.array([optimum.log2_lr for optimum in found], dtype=float)
    away = math.log2(width) - float(log2_widths.mean())
    level, residual = _level(found), _residual(found, places - intercept - slope * log2_widths, drift.confidence)
    spread = float(((log2_widths - log2_widths.mean()) ** 2).sum())
    beside = math.hypot(level, residual * math.sqrt(1 + 1 / len(found) + away**2 / spread)) if level else 0.0
    low, high = (None if end is None or not level else abs(end - slope) * abs(away) for end in ends)
    if away < 0:
        low, high = high, low
    ci_low = None if low is None else log2_lr - math.hypot(low, beside)
    ci_high = None if high is None else log2_lr + math.hypot(high, beside)
    known = [end is not None for end in (ci_low, ci_high)]
    reason = (
        "" if all(known) else "the drift is bounded on one side only" if any(known) else "the drift has no interval"
    )
    if untrusted := [f"{flag} at width {o.width}" for o in optima for flag in o.flags if flag in UNTRUSTED]:
        ci_low, ci_high, reason = None, None, ", ".join(untrusted)
    for optimum, place in zip(found, log2_widths, strict=True):
        # what the forecast does when this place moves; one below the middle turns the line the other way
        follows = 1 / len(found) + (float(place) - float(log2_widths.mean())) * away / spread
        for edge, flag, sign in (("lowest", "low edge", -1), ("highest", "high edge", 1)):
            if flag in optimum.flags and follows:
                reason = f"the best lr of width {optimum.width} lies at the {edge} lr or beyond"
                ci_low, ci_high = (None, ci_high) if sign * follows < 0 else (ci_low, None)
    return Forecast(width, doublings, log2_lr, ci_low, ci_high, _percent(optima, log2_lr, ci_low, ci_high), reason)


def _level(found: Sequence[Optimum]) -> float | None:
    """Return the mean half-width of the optima's intervals (octaves), None where each is at an edge or has none."""
    halves = [o.half_width for o in found if o.half_width is not None and not o.at_edge]
    return float(np.mean(halves)) if halves else None


def _residual(found: Sequence[Optimum], residuals: np.ndarray, confidence: float) -> float:
    """Return the half-width (octaves) by which optima lie off their line beyond their own noise."""
    if len(found) < 3:
        return 0.0
    side = float(normal_ppf((1 + confidence) / 2))
    noise = (_level(found) or 0.0) / side
    return side * math.sqrt(max(float(residuals @ residuals) / (len(found) - 2) - noise**2, 0.0))


def _percent(optima: Sequence[Optimum], log2_lr: float, low: float | None, high: float | None) -> float | None:
    """Return the percent of the largest width's loss that it costs to be off by as much as the interval's ends are."""
    curves = curves_of(optima)
    if low is None or high is None or curves is None:
        return None
    _, family = curves
    own = family.theta[-1]
    risen = [float(rise(own, float(own[PLACE]) + end - log2_lr)) for end in (low, high)]
    return 100 * max(risen) / float(own[LOSS])
