"""What the page of a results folder holds: for each sweep its answers, its charts and how it was measured."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import pandas as pd

from mupcheck.coordinates.judge import Judgement
from mupcheck.gate.difference import Difference
from mupcheck.gate.report import Checked, Report, notes
from mupcheck.learning_rates.drift import Transfer
from mupcheck.looks import MIN_SHARE
from mupcheck.report import charts, rows
from mupcheck.report.against import Against, against
from mupcheck.report.guards import guard_charts
from mupcheck.report.rows import Row
from mupcheck.report.tables import Grid, gates_grid, parameters_grid, rules_grid
from mupcheck.results.comparable import UNKNOWN, name_of, seeds_text
from mupcheck.results.reading import Results, say_incomplete
from mupcheck.theory.parametrization import table_order
from mupcheck.theory.required import OWN

BAND = 0.05  # of a loss axis: one width's line of diverged runs
APART = 0.04  # doublings between the marks of two parametrizations at one width
VERSIONS = ("mupcheck", "commit", "torch", "triton", "python", "device", "dtype", "backend", "data", "data_hash")


@dataclass(frozen=True)
class Answer:
    """One verdict as the page says it; all of it is text of the gate's and the judge's own.

    Attributes:
        name: of the parametrization or model.
        verdict: transfers, drifts, pass, fail or cannot tell.
        cost: negligible, costly or cannot tell; "" of a coordinate check.
        sentence: the answer with its interval, in one sentence.
        reason: why, one line; "" where the sentence says it.
        next_step: what to do next, "" where nothing is.
        lines: what else a reader must know.
    """

    name: str
    verdict: str
    cost: str
    sentence: str
    reason: str
    next_step: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """One sweep of one optimizer and mode.

    Attributes:
        title: such as "demo_lr · adamw · head-dim".
        question: of the sweep's file, "" where there is none.
        kind: lr or coord.
        answers: one a parametrization.
        charts: as `charts.chart` makes them, the one that answers first.
        grids: rules and gates, where these are known.
        facts: (name, value) of how it was measured.
        command: that made it, "" where that is not known.
        missing: a line where runs are missing, else "".
        terms: what its verdicts mean, and how many seeds they rest on.
        since: what moved since other results, None without any.
    """

    title: str
    question: str
    kind: str
    answers: tuple[Answer, ...]
    charts: tuple[dict[str, Any], ...]
    grids: tuple[Grid, ...]
    facts: tuple[tuple[str, str], ...]
    command: str
    missing: str
    terms: str
    since: Against | None = None


def sections_of(report: Report, results: Results, difference: Difference | None = None) -> list[Section]:
    """Return a section for every (sweep, optimizer, mode, kind) of a report, in its order.

    Args:
        report: of `check`.
        results: that were checked.
        difference: from other results, A, to these.
    """
    groups: dict[tuple[str, ...], list[Checked]] = {}
    for checked in report.groups:
        groups.setdefault((checked.sweep, checked.optimizer, checked.mode, checked.kind), []).append(checked)
    names: Counter[str] = Counter()  # of all the page's figures
    sections = [_section(key, members, results, names) for key, members in groups.items()]
    if difference is None:
        return sections
    return [replace(each, since=against(difference, key)) for each, key in zip(sections, groups, strict=True)]


def _section(key: tuple[str, ...], members: Sequence[Checked], results: Results, names: Counter[str]) -> Section:
    sweep, optimizer, mode, kind = key
    members = sorted(members, key=lambda each: table_order(each.parametrization))
    runs = results.runs
    of = ("sweep", "optimizer", "mode", "kind")
    runs = runs[(runs[list(of)] == list(key)).all(axis=1)]
    resolved = results.sweeps.get(sweep, {})
    answers = [checked.answer for checked in members]
    made = _lr_charts([a for a in answers if isinstance(a, Transfer)], runs, results.steps)
    if kind == "coord":
        judged = _coord_charts([a for a in answers if isinstance(a, Judgement)])
        made = chain(judged, guard_charts(runs, results.coords))
    grids = (
        rules_grid(runs, resolved.get("tables", {}), [checked.parametrization for checked in members]),
        (gates_grid(runs, results.coords) if kind == "coord" else None),
        parameters_grid(runs, results.coords, resolved.get("parameters", ()))
        if mode == OWN and kind == "coord"
        else None,
    )
    return Section(
        title=" · ".join(part for part in (sweep, optimizer, mode) if part != UNKNOWN),
        question=str(resolved.get("question") or ""),
        kind=kind,
        answers=tuple(map(_answer, members)),
        charts=tuple({**each, "name": _file_name(names, *key[:3], each["name"])} for each in made),
        grids=tuple(grid for grid in grids if grid is not None),
        facts=tuple(_facts(members[0], runs)),
        command=str(resolved.get("command") or ""),
        missing=say_incomplete(results, sweep),
        terms=_terms(answers[0], runs),
    )


def _file_name(names: Counter[str], *parts: str) -> str:
    """Return a name that a file and an element of the page may have, and that none before has."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(part for part in parts if part != UNKNOWN))
    names[name] += 1
    return name if names[name] == 1 else f"{name}-{names[name]}"


def _named(answer: Transfer | Judgement) -> str:
    """Return what an answer is of: a parametrization, or a model of a user's own, as its sweep is called."""
    return answer.sweep if answer.mode == OWN else name_of(answer)


def _answer(checked: Checked) -> Answer:
    answer = checked.answer
    if isinstance(answer, Transfer):
        sentence, lines = answer.sentence, (answer.drift_text, *notes(checked), *answer.notes)
        cost, next_step = answer.cost.verdict, answer.what_next
    else:
        sentence, cost, next_step = f"{answer.title}: {answer.verdict}; {answer.counted}", "", answer.next_step
        lines = (*answer.worst, *map(str, answer.causes), *map(str, answer.findings))
    lines = tuple(filter(None, lines))
    return Answer(_named(answer), checked.verdict, cost, sentence, checked.reason, next_step, lines)


def _terms(answer: Transfer | Judgement, runs: pd.DataFrame) -> str:
    """Say what the verdicts of a section mean, and how many seeds they rest on."""
    said = f"Widths {', '.join(map(str, sorted(runs['width'].unique())))}; {seeds_text(runs)}; "
    if isinstance(answer, Transfer):
        return said + (
            f"{answer.drift.confidence:.0%} intervals. A best lr transfers where its drift is known to lie within "
            f"±{answer.tolerance:g} octaves per doubling of width, and drifts outside; a cost within "
            f"{answer.cost.tolerance:g}% of the loss is negligible."
        )
    return said + (
        f"{answer.confidence:.0%} intervals. A slope is p in size ~ width^p, pooled over layers; it passes where the "
        "whole interval lies in the green band. What is not judged is grey; later means the steps after the first."
    )


def _facts(checked: Checked, runs: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield how a sweep was measured, and by what, as its runs say."""
    yield "measured", checked.answer.how_measured
    yield "runs", ", ".join(f"{n} {status}" for status, n in runs["status"].value_counts().items())
    for name in VERSIONS:
        if name in runs and (values := sorted({str(value) for value in runs[name].dropna()} - {""})):
            yield name.replace("_", " "), ", ".join(values)
    if "started_at" in runs and runs["started_at"].notna().any():
        yield "date", f"{runs['started_at'].min():%Y-%m-%d} to {runs['started_at'].max():%Y-%m-%d}"


def _lr_charts(answers: Sequence[Transfer], runs: pd.DataFrame, steps: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the charts of a sweep of learning rates: losses of each parametrization first, on one axis."""
    drawn = [(answer, rows.curve_rows(answer), rows.seed_rows(answer)) for answer in answers]
    if not drawn:
        return
    widths = sorted({row["width"] for _, curves, _ in drawn for row in curves})
    diverged = any(row["diverged"] for _, curves, _ in drawn for row in curves)
    lrs = [row["log2_lr"] for _, curves, _ in drawn for row in curves]
    every_seed = [row for _, _, seeds in drawn for row in seeds]
    limits = {name: _limits(every_seed, name, len(widths) if diverged else 0) for name in ("loss", "above")}
    for answer, curves, seeds in drawn:
        lost = list(_lost(curves, widths, limits))
        yield charts.chart(
            f"losses-{answer.parametrization}",
            f"{_named(answer)}: loss against learning rate",
            charts.losses(curves, (limits["loss"], limits["above"]), answer.loss_name, widths, (min(lrs), max(lrs))),
            {"curves": curves, "seeds": seeds, "optima": rows.optimum_rows(answer), "lost": lost},
            table="curves",
            about=answer.sentence,
            main=True,
        )
    everything = [
        row | {"at": row["width"] * 2 ** (APART * (i - (len(drawn) - 1) / 2))}
        for i, (answer, *_) in enumerate(drawn)
        for row in rows.optimum_rows(answer)
    ]
    yield charts.chart(
        "optima",
        "Best learning rate against width",
        charts.optima(everything),
        {"optima": everything, "drifts": list(_lines(answers))},
        table="optima",
        main=True,
        about="; ".join(filter(None, (f"{_named(a)}: {a.drift_text}" for a in answers))),
    )
    for answer in answers:
        yield charts.chart(
            f"penalty-{answer.parametrization}",
            f"{_named(answer)}: cost of another width's best learning rate",
            charts.penalties(),
            {"penalties": rows.penalty_rows(answer)},
            table="penalties",
            about="Percent of the loss lost, read off the mean curves alone. The verdict's number is made of all of "
            f"them at once, and is the better one: {answer.cost.reason}",
        )
    every = list(rows.run_rows(runs, steps))
    if any(row["step"] for row in every):
        about = "Loss, gradient norm or realised learning rate of the runs chosen, at some of their steps."
        yield charts.chart("runs", "Curves of any run", charts.curves(), {"runs": every}, table="curves", about=about)


def _limits(seeds: Sequence[Row], name: str, n_lines: int) -> charts.Ends:
    """Return the ends of the loss axis that all parametrizations share, with lines for diverged runs at its top."""
    values = [row[name] for row in seeds if row[name] is not None]
    least = MIN_SHARE * min((abs(row["loss"]) for row in seeds), default=1.0)
    return charts.span(values, least=least, above=BAND * (n_lines + 0.5) if n_lines else 0.0)


def _lost(curves: Sequence[Row], widths: Sequence[int], limits: Mapping[str, charts.Ends]) -> Iterator[Row]:
    """Yield where seeds diverged, with the place of its mark: a line for each width at the top of the axis."""
    for row in curves:
        if row["diverged"]:
            line = (widths.index(row["width"]) + 0.5) * BAND / (1 + BAND * (len(widths) + 0.5))
            places = {name: high - line * (high - low) for name, (low, high) in limits.items()}
            yield row | places


def _lines(answers: Sequence[Transfer]) -> Iterator[Row]:
    """Yield both ends of every drift's line, as `fit_drift` placed it."""
    for answer in answers:
        placed = [optimum for optimum in answer.optima if optimum.log2_lr is not None]
        slope, intercept = answer.drift.slope, answer.drift.intercept
        if slope is None or intercept is None or any(optimum.at_edge for optimum in placed):
            continue
        for width in (placed[0].width, placed[-1].width):
            at = intercept + slope * math.log2(width)
            yield {"parametrization": answer.parametrization, "width": width, "at": width, "log2_lr": at}


def _coord_charts(judgements: Sequence[Judgement]) -> Iterator[dict[str, Any]]:
    """Yield the charts of a coordinate check: the forest of slopes, and any of them by layer and step."""
    measured = [judgement for judgement in judgements if rows.is_slope_measured(judgement)]
    for judgement in measured:
        pooled, own = rows.slope_rows(judgement.pooled), rows.slope_rows(judgement.slopes)
        yield charts.chart(
            f"slopes-{judgement.parametrization}",
            f"{_named(judgement)}: slopes",
            charts.slopes(),
            {"slopes": pooled},
            table="slopes",
            main=True,
            about=f"{judgement.counted}, over layers and later steps; {judgement.reason}",
        )
        yield charts.chart(
            f"layers-{judgement.parametrization}",
            f"{_named(judgement)}: one quantity's slopes by layer and step",
            charts.layers(),
            {"layers": own},
            table="layers",
            about="Slopes of the quantity chosen, for each layer and recorded step.",
        )
