"""The gate: every verdict under a folder against what is expected of it and, with a baseline, against what it was.

Two questions, kept apart: how far a slope is from what theory requires (`verdict`, `off_by`), and how far it moved
since the baseline was written (`drift`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mupcheck.coordinates.finding import LOST
from mupcheck.coordinates.judge import Judgement, judge
from mupcheck.gate.baseline import Stored, read_baseline
from mupcheck.gate.compare import Comparison, compare, not_comparable, renew_file, strangers
from mupcheck.gate.report import CANNOT_TELL, FAILED, OK, WORST_FIRST, Checked, Report, counts
from mupcheck.learning_rates.drift import Transfer, transfer
from mupcheck.results.comparable import group_of
from mupcheck.results.reading import Results, finished_runs, load_results, read_sweep, say_incomplete
from mupcheck.spec.sweep import VERDICTS, expected_verdict


def check(path: str | Path, *, baseline: str | Path | None = None, expect: str | None = None) -> Report:
    """Judge everything under a folder, coordinate checks and learning-rate sweeps.

    Args:
        path: a results folder, or one sweep's folder in it.
        baseline: compare coordinate checks with this file. All that it holds must be there; of one sweep's folder, all
            that it holds of that sweep. One that is none, or of another, is said in `unfit` and hides no failure.
        expect: the verdict that is a success, for every group that can have it (default: what each sweep's file
            expects, else pass of a coordinate check and nothing of a learning-rate sweep).

    Raises:
        ValueError: if nothing can be judged: no or damaged results, or runs that must not be compared; one line that
            names what differs.
    """
    path = Path(path)
    stored, unfit = None, []
    if baseline is not None:
        try:
            stored = read_baseline(baseline)
        except ValueError as error:
            unfit.append(str(error))
    results = load_results(path, coded=True)
    report = check_results(results, baseline=stored, expect=expect, where=str(baseline))
    missing = [f"no run of {name} is there; run it again" for name in _empty_sweeps(path)]
    missing += _not_there(stored or [], report, path, baseline)
    return Report(report.groups, tuple(missing), (*unfit, *report.unfit))


def check_results(
    results: Results, *, baseline: Sequence[Stored] | None = None, expect: str | None = None, where: str = "baseline"
) -> Report:
    """Judge results that are in memory; arguments and errors as of `check`, `where` names the baseline's file."""
    answers = answers_of(results)
    known = list(dict.fromkeys(verdict for answer in answers for verdict in VERDICTS[kind_of(answer)]))
    if expect is not None and expect not in known:
        raise ValueError(f"expect = {expect!r} is no verdict of what is there; try {' or '.join(known)}")
    stored = {each.group: each for each in baseline or ()}
    unfit: list[str] = []
    strange = ""
    if stored and not any(group_of(answer) in stored for answer in answers):
        strange = strangers(list(stored), [group_of(a) for a in answers if isinstance(a, Judgement)], where)
        unfit.append(strange)
    groups = []
    for answer in answers:
        checked = _against_theory(answer, _expected(answer, results.sweeps, expect))
        trouble = _trouble(answer, results)
        if trouble and checked.outcome == OK:
            checked = replace(checked, outcome=CANNOT_TELL, reason=trouble)
        if baseline is not None and isinstance(answer, Judgement):
            mine = stored.get(checked.group)
            other = strange or ("" if mine is None or trouble else not_comparable(answer, mine, where=where))
            if other not in ("", *unfit):
                unfit.append(other)
            checked = _against_baseline(checked, answer, mine, where, unfit=other, comparable=not trouble)
        groups.append(checked)
    return Report(tuple(groups), unfit=tuple(unfit))


def answers_of(results: Results) -> list[Judgement | Transfer]:
    """Judge every group of results, coordinate checks first.

    Raises:
        ValueError: if nothing can be judged, or runs must not be compared.
    """
    answers: list[Judgement | Transfer] = []
    if "coord" in results.kinds:
        answers += judge(results)
    if "lr" in results.kinds:
        answers += transfer(results)
    if not answers:
        raise ValueError("nothing to judge: no run of a coordinate check or learning-rate sweep has finished")
    return answers


def renew_baseline(path: str | Path, report: Report, *, keep_other_sweeps: bool) -> str:
    """Write the coordinate checks of a report as a baseline, in place of one that is there; say what became of it.

    Slopes that did not move keep their lines, so that a diff shows the others. A baseline records what is right: if a
    coordinate check failed or cannot tell, or runs are missing, nothing is written.

    Raises:
        ValueError: if there is no coordinate check in the report, or the file that is there is no baseline.
        StoreError: if the file cannot be written.
    """
    judged = [each.answer for each in report.groups if isinstance(each.answer, Judgement)]
    if not judged:
        raise ValueError(f"{path} was not written: a baseline holds coordinate checks, and there is none here")
    wrong = [
        f"{each.title}: {each.headline}: {each.reason}"
        for each in report.groups
        if each.kind == "coord" and each.outcome != OK
    ]
    if wrong or report.missing:
        return f"{path} was not written, as a baseline records what is right; {[*wrong, *report.missing][0]}"
    n_groups, n_slopes, n_changed = renew_file(path, judged, keep_other_sweeps=keep_other_sweeps)
    held = f"{n_groups} group(s), {n_slopes} judged slopes (mean_abs left out)"
    return f"{path} was written: {held}; {n_changed} new, changed or gone"


def is_one_sweep(path: Path) -> bool:
    """Say whether a folder is one sweep's, and not the results folder of several."""
    return bool(finished_runs(path))


def kind_of(answer: Judgement | Transfer) -> str:
    """Return coord or lr."""
    return "coord" if isinstance(answer, Judgement) else "lr"


def _expected(answer: Judgement | Transfer, sweeps: Mapping[str, Any], expect: str | None) -> str | None:
    """Return the verdict that is a success: the option's, else that of the sweep's own file, else the kind's."""
    spec = sweeps.get(answer.sweep, {}).get("spec")
    of_file = spec.get("expect") if isinstance(spec, dict) else None
    of_file = of_file if isinstance(of_file, dict) else {}
    return expected_verdict(kind_of(answer), answer.parametrization, of_file=of_file, option=expect)


def _against_theory(answer: Judgement | Transfer, expected: str | None) -> Checked:
    """Return the outcome of a verdict without a look at any baseline."""
    outcome = OK
    if answer.verdict == CANNOT_TELL:
        outcome = CANNOT_TELL
    elif expected is not None and answer.verdict != expected:
        outcome = FAILED
    return Checked(
        *group_of(answer), kind_of(answer), answer.verdict, expected, outcome, answer.reason,
        drift=None, comparisons=(), answer=answer,
    )  # fmt: skip


def _against_baseline(
    checked: Checked, judgement: Judgement, stored: Stored | None, where: str, *, unfit: str, comparable: bool
) -> Checked:
    """Return the outcome with what moved since the baseline; `unfit` says why it belongs to something else."""
    drift, reason = CANNOT_TELL, ""
    if unfit:
        reason = f"not compared: {unfit}"
    elif stored is None:
        reason = f"{checked.title} of {checked.sweep} is not in {where}; add it with --update-baseline"
    elif comparable:
        checked = replace(checked, comparisons=tuple(compare(judgement, stored)))
        drift = _drift(checked.comparisons)
        if drift != "same":
            moved = checked.moved
            what = "drifted from" if drift == "drifted" else "could not be compared with"
            n = sum(_drift([each]) == drift for each in moved)
            reason = f"{n} of {len(checked.comparisons)} compared slopes {what} {where}: {moved[0].text}"
    outcome = {"drifted": FAILED, "same": OK}.get(drift, CANNOT_TELL)
    reasons = [checked.reason] if checked.outcome != OK else []
    reason = "; ".join([*reasons, reason] if reason else reasons) or checked.reason
    worst = min(outcome, checked.outcome, key=WORST_FIRST.index)
    return replace(checked, outcome=worst, reason=reason, drift=drift)


def _drift(comparisons: Sequence[Comparison]) -> str:
    counting = [each for each in comparisons if counts(each)]
    if any(each.failed for each in counting):
        return "drifted"
    return CANNOT_TELL if counting else "same"


def _trouble(answer: Judgement | Transfer, results: Results) -> str:
    """Say what of the sweep was not there to be judged, "" where all was."""
    if incomplete := say_incomplete(results, answer.sweep):
        return incomplete
    if isinstance(answer, Judgement) and answer.verdict != "fail":
        return next((str(finding) for finding in answer.findings if finding.name in LOST), "")
    return ""


def _empty_sweeps(path: Path) -> list[str]:
    """Name the folders under a results folder that plan a sweep of which no run is there."""
    if is_one_sweep(path):
        return []
    folders = sorted(file.parent for file in path.glob("*/sweep.json"))
    return [each.name for each in folders if finished_runs(each).isdisjoint(read_sweep(each).get("run_ids", []))]


def _not_there(stored: Sequence[Stored], report: Report, path: Path, baseline: str | Path | None) -> list[str]:
    """Name what a baseline holds and a folder lacks: of one sweep's folder its tables, of a results folder all."""
    of_one_sweep = is_one_sweep(path)
    there = {checked.group for checked in report.groups}
    sweeps = {group[0] for group in there}
    if there.isdisjoint(each.group for each in stored):
        return []  # it belongs to something else, of which nothing need be here
    lines = []
    for each in stored:
        if each.group in there or (of_one_sweep and each.sweep not in sweeps):
            continue
        what = f"{each.parametrization} of {each.sweep}" if each.sweep in sweeps else f"the sweep {each.sweep}"
        lines.append(f"{what} is in {baseline} and not in {path}; run it, or renew the baseline")
    return list(dict.fromkeys(lines))
