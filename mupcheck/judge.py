"""The whole verdict on a coordinate check: validity first, then slopes, then a likely cause."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mupcheck.diagnosis import Cause
from mupcheck.slopes import GROUP, SAME, SAME_BY_MODE, fit_slopes, pool, summarize, warnings_from
from mupcheck.store import Results
from mupcheck.validity import Finding


@dataclass(frozen=True)
class Judgement:
    """The answer on one (sweep, parametrization, optimizer, mode).

    Attributes:
        verdict: pass, fail or cannot tell.
        reason: one line that says why.
        next_step: what to do about it, "" where it passed.
        counts: how many pooled slopes got which verdict.
        pooled: rows of `fit_slopes` over all layers and later steps; these decide.
        slopes: rows of `fit_slopes` per layer and step.
        worst: lines on the slopes that decided against a pass, the farthest off first.
        findings: what validity found, those that count first.
        causes: the likely causes of a failure, ranked.
        measured: how it was measured: what all runs share, with `widths`, `seeds`, `record`, `torch` and `device`.
    """

    sweep: str
    parametrization: str
    optimizer: str
    mode: str
    verdict: str
    reason: str
    next_step: str
    counts: dict[str, int]
    pooled: pd.DataFrame
    slopes: pd.DataFrame
    worst: tuple[str, ...]
    findings: tuple[Finding, ...]
    causes: tuple[Cause, ...]
    measured: dict[str, Any]


def judge(results: Results, *, confidence: float = 0.90) -> list[Judgement]:
    """Judge every coordinate check among the results; runs of other kinds are left out.

    Args:
        results: what `load_results` returned, with its tables runs, steps and coords.
        confidence: of the intervals, in (0, 1).

    Raises:
        ValueError: as `fit_slopes`.
    """
    runs, coords = results.runs, results.coords
    slopes = fit_slopes(runs, coords, confidence=confidence)
    pooled = fit_slopes(runs, pool(coords), confidence=confidence)
    judgements = []
    for row in summarize(slopes, pooled).to_dict("records"):
        key = [row[name] for name in GROUP]
        group = runs[(runs["kind"] == "coord") & (runs[GROUP] == key).all(axis=1)]
        warnings = warnings_from(group, coords)
        judgements.append(
            Judgement(
                *key,
                verdict=row["verdict"],
                reason=row["worst"][0] if row["worst"] else "every judged slope is as required",
                next_step="",
                counts={name: row[f"n_{name.replace(' ', '_')}"] for name in ("pass", "fail", "cannot tell", "info")},
                pooled=pooled[(pooled[GROUP] == key).all(axis=1)],
                slopes=slopes[(slopes[GROUP] == key).all(axis=1)],
                worst=tuple(row["worst"]),
                findings=tuple(Finding("diagnostic", "warning", line) for line in warnings),
                causes=(),
                measured=_measured(group, coords),
            )
        )
    return judgements


def _measured(group: pd.DataFrame, coords: pd.DataFrame) -> dict[str, Any]:
    """Return what the runs of a group share, and over what they range."""
    first = group.iloc[0]
    shared = {name: first[name] for name in (*SAME, *SAME_BY_MODE[first["mode"]])}
    record = sorted(set(coords.loc[coords["run_id"].isin(group["run_id"]), "step"]))
    return shared | {
        "widths": tuple(sorted(set(group["width"]))),
        "seeds": tuple(sorted(set(group["seed"]))),
        "record": tuple(record),
        "torch": tuple(sorted(set(group["torch"]))),
        "device": tuple(sorted(set(group["device"]))),
    }
