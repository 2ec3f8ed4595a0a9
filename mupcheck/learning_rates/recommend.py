"""Which learning rate to train a width with, what that rests on, and how loudly to doubt it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mupcheck.learning_rates.cost import Cost
from mupcheck.learning_rates.drift import Transfer
from mupcheck.learning_rates.forecast import FAR_DOUBLINGS, Forecast, check_target, forecast
from mupcheck.results.comparable import title_of


@dataclass(frozen=True)
class Recommendation:
    """The lr to use at one width, of one table of a sweep.

    Attributes:
        lr: at the base width, which a table scales for each parameter; None where none can be told.
        rests_on: the sweep, its widths and what else it was measured with, one line.
        sentence: both verdicts.
        warnings: what is wrong with following it, the worst first; () where the lr transfers at no cost.
    """

    sweep: str
    parametrization: str
    optimizer: str
    mode: str
    width: int
    base_width: int
    lr: float | None
    lr_low: float | None
    lr_high: float | None
    forecast: Forecast
    verdict: str
    cost: Cost
    sentence: str
    rests_on: str
    warnings: tuple[str, ...]

    @property
    def title(self) -> str:
        """Return "gdn-mup (adamw, head-dim)"."""
        return title_of(self)


def recommend(answer: Transfer, width: int, *, spec: Mapping[str, Any] | None = None) -> Recommendation:
    """Return the lr to use at a width, off the drift of a learning-rate sweep.

    It is the lr of the base width's table: `mupcheck.model.build.applied_values` says what each parameter gets.

    Args:
        answer: of `transfer`.
        width: at least the smallest of the sweep's.
        spec: the sweep's own, as `load_results(...).sweeps[name]["spec"]` has it: whether the width gives whole heads.
    Raises:
        ValueError: if the width is none that the sweep can speak of, or the base width is not known.
    """
    if answer.base_width is None:
        raise ValueError(
            f"{answer.sweep} does not say its base width, so that no parameter's lr is known; "
            f"mupcheck judge FILE --target {width} predicts the best lr"
        )
    check_target(width, [optimum.width for optimum in answer.optima], spec or {}, name="width")
    found = forecast(answer.optima, width, answer.drift)
    lr, low, high = (None if x is None else 2.0**x for x in (found.log2_lr, found.ci_low, found.ci_high))
    return Recommendation(
        answer.sweep, answer.parametrization, answer.optimizer, answer.mode, width, answer.base_width, lr, low, high,
        forecast=found, verdict=answer.verdict, cost=answer.cost, sentence=answer.sentence,
        rests_on=answer.how_measured, warnings=tuple(_warnings(answer, found)),
    )  # fmt: skip


def _warnings(answer: Transfer, found: Forecast) -> list[str]:
    lines = []
    if answer.verdict == "drifts":
        lines.append(
            "the best lr DRIFTS with width under this table: the lr below follows the drift, and is a guess beyond the "
            "widths that were run"
        )
    elif answer.verdict != "transfers":
        lines.append(f"it CANNOT be TOLD whether the best lr transfers: {answer.reason}")
    if answer.cost.verdict == "costly":
        lines.append(f"tuning small is COSTLY: {answer.cost.reason}")
    if found.log2_lr is None or None in (found.ci_low, found.ci_high):
        lines.append(f"there is no whole interval: {found.reason}")
    elif found.percent is not None and found.percent > answer.cost.tolerance:
        lines.append(
            f"the interval is wide: an lr at its end would cost {found.percent:.1f}% of the loss, more than "
            f"{answer.cost.tolerance:g}%; give the sweep more seeds or a larger width"
        )
    if found.doublings > FAR_DOUBLINGS:
        times = 2**found.doublings
        lines.append(
            f"width {found.width} is {times:.0f} times the largest that was run; nobody knows a drift so far out"
        )
    same = next((optimum for optimum in answer.optima if optimum.width == found.width), None)
    if same is not None and same.log2_lr is not None:
        ends = ", ".join("?" if end is None else f"{2**end:.3g}" for end in (same.ci_low, same.ci_high))
        lines.append(f"width {same.width} was run, and its own best lr is {2**same.log2_lr:.3g} [{ends}]")
    measured = answer.optima[-1]
    if found.doublings > 0 and measured.log2_lr is not None and found.log2_lr is not None:
        away = abs(found.log2_lr - measured.log2_lr)
        if answer.verdict == "transfers" and away > math.log2(1.5):
            lines.append(f"the best lr measured at width {measured.width} is {2**measured.log2_lr:.3g}")
    return lines
