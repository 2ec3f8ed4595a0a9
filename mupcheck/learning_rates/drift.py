"""Judge learning-rate sweeps: how the optimum drifts with width, what that costs, and whether the lr transfers.

Everything a figure or a table shows is computed here or in `optimum` and handed over in frozen records, with None
where there is no number. Drift is in octaves of lr per doubling of width. Source: theory.md section 6.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from mupcheck.imported.frame import runs_of
from mupcheck.imported.wording import in_words
from mupcheck.learning_rates.cost import COST_TOLERANCE, Cost, find_cost, in_short
from mupcheck.learning_rates.fast_transfer import FastTransfer, fit_fast_transfer
from mupcheck.learning_rates.forecast import Forecast, forecast
from mupcheck.learning_rates.line import Drift, fit_drift
from mupcheck.learning_rates.optimum import DIVERGENCE, GUARDS, SAME, Optimum, distinct, find_optima
from mupcheck.learning_rates.path import cost_held_to_path, held_to_path, notes_of_path
from mupcheck.learning_rates.penalty import Agreement, Penalty, find_agreements, find_penalties
from mupcheck.learning_rates.refine import find_searches, say_unbracketed, say_unfinished
from mupcheck.learning_rates.robustness import (
    Bounds,
    Divergence,
    common_lrs,
    fit_divergence,
    lr_sensitivity,
    sensitivity_interval,
)
from mupcheck.learning_rates.verdict import MIN_WIDTHS, bound_text, changing_decay, conclude, drift_in_short
from mupcheck.learning_rates.wider import WiderIsBetter, compare_widths
from mupcheck.results.comparable import (
    CONFIDENCE,
    GROUP,
    UNKNOWN,
    find_rules,
    group_of,
    is_imported,
    same_by_mode,
    title_of,
)
from mupcheck.results.path import paths_of, say_paths
from mupcheck.results.printing import Answers, Verdict
from mupcheck.results.reading import Results, n_missing, need_results, say_incomplete
from mupcheck.theory.required import OWN

# Octaves per doubling of width. The smallest AdamW fault to be told from transfer is sp's -1/2; halfway to it a drift
# is nearer to none than to that fault. Correct rules were measured at +0.06 to +0.26 on a small CPU setting.
DRIFT_TOLERANCE = 0.25
CLIPPING_ACTIVE = 0.1  # mean fraction of steps that were clipped

PROVENANCE = ("device", "torch", "commit")  # may differ, and is then noted


@dataclass(frozen=True, repr=False)
class Transfer(Verdict):
    """The answer for one parametrization. What is a tuple by width is in the order of `optima`.

    Attributes:
        reason: one line that says why.
        next_step: the most useful thing to do, "" where it transfers.
        missing: how many runs are missing and what completes the sweep, if some of these are; else "".
        missing_runs, planned_runs: of the whole sweep, whatever the parametrization; 0 where that is not known.
        measured: how it was measured: what all runs share, with `widths`, `seeds`, `lrs` (of the sweep's grid),
            `added_lrs` (how many a refinement added, all widths together), `confidence`, `torch` and `device`, and
            `path`, a line on how the backend compares with the reference, "" where that is not known.
    """

    sweep: str
    parametrization: str
    optimizer: str
    mode: str
    base_width: int | None  # None where it is not known
    loss_name: str
    optima: tuple[Optimum, ...]  # by rising width
    drift: Drift
    tolerance: float
    penalty: tuple[Penalty, ...]  # every source with every target
    agreement: tuple[Agreement, ...]  # every two widths
    lr_sensitivity: tuple[float | None, ...]  # nats, by width, over the lrs that all widths have
    lr_sensitivity_ci: tuple[Bounds, ...]
    divergence: Divergence
    fast_transfer: FastTransfer
    wider_is_better: WiderIsBetter
    verdict: str  # transfers, drifts or cannot tell
    reason: str
    notes: tuple[str, ...]
    next_step: str
    missing: str
    missing_runs: int
    planned_runs: int
    measured: dict
    cost: Cost  # of training the largest width at the best lr of the smallest, with a verdict of its own
    target: Forecast | None = None  # of the width that was asked for

    @property
    def title(self) -> str:
        """Return "gdn-mup (adamw, head-dim)"."""
        return title_of(self)

    @property
    def sentence(self) -> str:
        """Say both verdicts, on the cost and on the drift, in one sentence."""
        at_edge = any(optimum.at_edge for optimum in self.optima)
        drifted = drift_in_short(self.drift, self.verdict, self.tolerance, at_edge=at_edge)
        return in_short(self.parametrization, self.cost, drifted, self.verdict)

    @property
    def what_next(self) -> str:
        """Return what to do next, by cost and drift; `mupcheck recommend` knows the models of our own sweeps alone."""
        ours = self.mode != OWN and bool(self.measured["device"])
        return self.cost.next_beside(self.next_step, how=" (mupcheck recommend)" if ours else "")

    @property
    def how_measured(self) -> str:
        """Say in one line of what the numbers are: sweep, widths, seeds, steps, data, lrs, loss, intervals."""
        of, n_seeds = self.measured, len(self.measured["seeds"])
        lrs = of["lrs"]
        grid = f"{len(lrs)} lr{'s' * (len(lrs) != 1)}"
        if lrs:
            grid += f" from 2^{math.log2(lrs[0]):.4g} to 2^{math.log2(lrs[-1]):.4g}"
        many = "width" if len(of["widths"]) == 1 else "widths"
        base = f" (base {self.base_width})" if self.base_width is not None else ""
        setting = ", ".join(word for word in (self.optimizer, self.mode) if word != UNKNOWN)
        parts = [
            f"learning-rate sweep {self.sweep}" + (f": {setting}" if setting else ""),
            f"{many} {', '.join(map(str, of['widths']))}{base}",
            f"{n_seeds} seed{'s' * (n_seeds != 1)}",
            "" if of["steps"] is None else f"{of['steps']} steps",
            "" if of["data"] is None else f"data {of['data']}",
            grid + (f" and {of['added_lrs']} of a refinement" if of["added_lrs"] else ""),
            " on ".join(filter(None, (str(of["dtype"] or ""), " and ".join(of["device"])))),
            self.loss_name,
            f"{of['confidence']:.0%} intervals",
            *filter(None, [of.get("path")]),
        ]
        return ", ".join(filter(None, parts))

    @property
    def drift_text(self) -> str:
        """Say the drift with its interval and what puts it in doubt, "" with one width.

        A bound at most where an optimum is at the edge of its grid.
        """
        widths = [str(optimum.width) for optimum in self.optima if optimum.at_edge]
        if self.drift.slope is None:
            return ""
        if widths:
            at_edge = f"as the optimum of width {', '.join(widths)} is at the edge of the lr grid"
            bound = bound_text(self.drift)
            return f"{bound}, {at_edge}" if bound else f"drift: not known, {at_edge}"
        drift, ends = self.drift, "no interval"
        if drift.ci_low is not None or drift.ci_high is not None:
            low, high = ("?" if end is None else f"{end:+.2f}" for end in (drift.ci_low, drift.ci_high))
            ends = f"[{low}, {high}]"
        text = f"drift {drift.slope:+.2f} {ends} octaves per doubling of width, of {self.loss_name}"
        if len(self.optima) < MIN_WIDTHS:
            text += f", through {len(self.optima)} widths only"
        doubts = {
            flag: [str(optimum.width) for optimum in self.optima if flag in optimum.flags]
            for flag in GUARDS
            if any(flag in optimum.flags for optimum in self.optima)
        }
        if self.missing:
            text += "; in doubt: runs are missing"
        elif doubts:
            text += "; in doubt: " + ", ".join(f"{flag} at {', '.join(at)}" for flag, at in doubts.items())
        return text


def transfer(
    runs: pd.DataFrame | Results,
    steps: pd.DataFrame | None = None,
    *,
    tolerance: float = DRIFT_TOLERANCE,
    confidence: float = CONFIDENCE,
    cost: float = COST_TOLERANCE,
    target: int | None = None,
) -> list[Transfer]:
    """Judge every (sweep, parametrization, optimizer, mode) among the `lr` runs; other kinds of run are left out.

    `print(transfer(results))` prints the verdicts.

    `transfers` when the interval of the drift lies within +-tolerance and every optimum within tolerance of the line;
    `drifts` when the drift lies outside, or that between two neighbouring widths; else `cannot tell`; also `cannot
    tell` while runs of it are missing, when a guard was hit, with fewer than 3 widths, with one seed, or where coupled
    weight decay changes with width. An optimum at an edge of its grid bounds the drift from one side, which may do to
    say `drifts`. The other answers do not enter the verdict; what cannot be computed is None and says why.

    Args:
        runs: the runs table; or what `load_results` returned, which brings its steps, and with its `sweep.json` the
            grid of lrs that every width must have where a refinement added others; or a frame of losses that others
            measured: width, lr (or log2_lr) and loss; seed, parametrization, status, step where there are any.
        steps: the steps table, which `wider_is_better` needs.
        tolerance: octaves of lr per doubling of width.
        confidence: of every interval but that of the cost, see `cost.py`.
        cost: percent of the loss that the best lr of the smallest width may cost the largest and be `negligible`.
        target: a width, for which the best lr is predicted off the drift.
    Raises:
        ValueError: as `find_optima`, if tolerance is not above 0, or if the results are of coordinate checks alone.
    """
    if isinstance(runs, pd.DataFrame):
        runs = runs_of(runs)
    else:
        need_results(runs, "transfer()", kind="lr")
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance} octaves per doubling must be above 0; try {DRIFT_TOLERANCE}")
    specs: dict[str, Mapping[str, Any]] = {}
    results = runs if isinstance(runs, Results) else None
    if isinstance(runs, Results):
        specs = {name: spec for name, resolved in runs.sweeps.items() if "lrs" in (spec := resolved.get("spec", {}))}
        runs, steps = runs.runs, runs.steps if steps is None else steps
    grids = {name: [math.log2(lr) for lr in spec["lrs"]] for name, spec in specs.items()}
    answers = []
    for key, members in groupby(find_optima(runs, grids=grids, confidence=confidence), key=group_of):
        optima = tuple(members)
        group = runs[(runs["kind"] == "lr") & (runs[GROUP] == list(key)).all(axis=1)]
        initial_loss, lrs = _initial_loss(group), common_lrs(optima)
        drift = fit_drift(optima, confidence=confidence)
        resolved = results.sweeps.get(key[0], {}) if results is not None else {}
        spec = specs.get(key[0], {})
        missing = say_incomplete(results, key[0]) if results is not None and _lacks(group, optima, spec, key[1]) else ""
        decay = changing_decay(group, find_rules(group, resolved.get("tables", {})))
        paths = paths_of(resolved, group)
        searched = optima if confidence == CONFIDENCE else find_optima(group, grids=grids)  # as the sweep searches
        searches = find_searches(searched, spec)
        unfinished = say_unfinished(searches)
        conclusion = conclude(
            optima,
            drift,
            tolerance,
            missing=missing,
            decay=decay,
            unfinished=unfinished,
            spec={**_known(group, "steps"), **spec},
        )
        verdict, reason, next_step = held_to_path(conclusion, paths)
        costs = find_cost(optima, tolerance=cost, confidence=confidence, missing=missing, unfinished=unfinished)
        unbracketed = [] if missing else say_unbracketed(searches, spec)
        answer = Transfer(
            *key,
            base_width=_known(group, "base_width").get("base_width"),
            loss_name=optima[0].loss_name,
            optima=optima,
            drift=drift,
            tolerance=tolerance,
            penalty=find_penalties(optima, confidence=confidence),
            agreement=find_agreements(optima, confidence=confidence),
            lr_sensitivity=tuple(lr_sensitivity(optimum.curve, initial_loss, lrs) for optimum in optima),
            lr_sensitivity_ci=tuple(
                sensitivity_interval(optimum.curve, initial_loss, lrs, confidence=confidence) for optimum in optima
            ),
            divergence=fit_divergence(optima, confidence=confidence),
            fast_transfer=fit_fast_transfer(optima, confidence=confidence),
            wider_is_better=compare_widths(group, steps, confidence=confidence),
            verdict=verdict,
            reason=reason,
            notes=(*_notes(group, optima), *notes_of_path(paths), *unbracketed),
            next_step=next_step,
            missing=missing,
            missing_runs=0 if results is None else n_missing(results, key[0]),
            planned_runs=len(set(resolved.get("run_ids", ()))),
            measured=_measured(group, grids.get(key[0], lrs), confidence) | {"path": say_paths(paths)},
            cost=cost_held_to_path(costs, paths),
            target=None if target is None else forecast(optima, target, drift, spec),
        )
        answers.append(_in_words(answer) if is_imported(group) else answer)
    return Answers(answers)


def _in_words(answer: Transfer) -> Transfer:
    """Return an answer whose advice names no options, as no command of mupcheck measured it."""
    cost = replace(answer.cost, reason=in_words(answer.cost.reason), next_step=in_words(answer.cost.next_step))
    ends = cost.source, cost.target
    percent = next((each.percent for each in answer.penalty if (each.source, each.target) == ends), None)
    notes = answer.notes
    if cost.percent is None and percent is not None and ends[0] != ends[1]:
        notes += (f"by the curves alone the best lr of width {ends[0]} costs {percent:.1f}% at {ends[1]}, no interval",)
    reason, next_step = in_words(answer.reason), in_words(answer.next_step)
    return replace(answer, reason=reason, next_step=next_step, cost=cost, notes=notes)


def _known(runs: pd.DataFrame, name: str) -> dict[str, int]:
    """Return what the runs of a group have in a column, by its name; nothing where that is not known."""
    return {} if pd.isna(value := runs[name].iloc[0]) else {name: int(value)}


def _initial_loss(runs: pd.DataFrame) -> float:
    """Return the loss of a model that knows nothing, inf where the size of the vocabulary is not known."""
    return float(np.log(_known(runs, "vocab_size").get("vocab_size", np.inf)))


def _lacks(runs: pd.DataFrame, optima: Sequence[Optimum], spec: Mapping[str, Any], table: str) -> bool:
    """Say whether one parametrization lacks a width, a seed or an lr that its sweep asks for."""
    seeds = (spec.get("seeds_of") or {}).get(table, spec.get("seeds", ()))
    asked = {"width": set(spec.get("widths", ())), "seed": set(seeds)}
    lacks = any(not wanted <= set(runs[column]) for column, wanted in asked.items())
    return lacks or any("incomplete" in optimum.flags for optimum in optima)


def _measured(runs: pd.DataFrame, grid: Sequence[float], confidence: float) -> dict[str, Any]:
    """Return what the runs of a group share, and over what they range; in plain types, None for what is not there."""
    first = runs.iloc[0]
    shared = {name: first[name] for name in (*SAME, *same_by_mode(first["mode"]))}
    known = {name: value for name, value in shared.items() if not pd.isna(value)}
    plain = {name: getattr(known.get(name), "item", lambda name=name: known.get(name))() for name in shared}
    beyond = {(width, x) for width, x in zip(runs["width"], runs["log2_lr"], strict=True) if x not in set(grid)}
    return plain | {
        "widths": tuple(sorted({int(width) for width in runs["width"]})),
        "seeds": tuple(sorted({int(seed) for seed in runs["seed"]})),
        "lrs": tuple(2.0**x for x in sorted(grid)),
        "added_lrs": len(beyond),
        "confidence": confidence,
        **{
            name: tuple(map(str, distinct(runs[name]))) if name in runs and not is_imported(runs) else ()
            for name in ("torch", "device")
        },
    }


def _notes(runs: pd.DataFrame, optima: Sequence[Optimum]) -> tuple[str, ...]:
    """What a reader of the verdict should know beside it."""
    notes = []
    clipped = runs.groupby("width")["clipped_fraction"].mean()
    if clipped.max() > CLIPPING_ACTIVE:
        hid = ", which hid what tells parametrizations apart at widths 32 to 128, and was not seen to at 256 to 1024"
        of_sgd = hid if runs["optimizer"].iloc[0] == "sgd" else ""
        notes.append(
            f"clipping was active, at most at width {clipped.idxmax()} ({clipped.max():.0%} of the steps): it "
            f"renormalises the step{of_sgd}; repeat with it off"
        )
    bracketed = [str(optimum.width) for optimum in optima if DIVERGENCE in optimum.flags]
    if bracketed:
        notes.append(f"width {', '.join(bracketed)}: bracketed by a diverged lr, so known to half a grid step only")
    if n_stopped := int((runs["status"] == "stopped").sum()):
        notes.append(f"{n_stopped} run(s) far above the best one were stopped, and count as worse than it")
    no_loss = (runs["status"] == "ok") & ~np.isfinite(runs[optima[0].loss_name].astype(float))
    if no_loss.any():
        notes.append(f"{no_loss.sum()} finished run(s) without a finite {optima[0].loss_name} count as diverged")
    for field in PROVENANCE:
        values = distinct(runs[field]) if field in runs else []
        if len(values) > 1:
            notes.append(f"runs differ in {field}: {values}")
    return tuple(notes)
