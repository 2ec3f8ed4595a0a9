"""A gate's report for a pull request: Markdown for a step summary, and GitHub's annotations."""

from collections.abc import Iterator

from mupcheck.coordinates.judge import Judgement
from mupcheck.coordinates.slopes import farthest_first
from mupcheck.gate.baseline import required_text
from mupcheck.gate.markdown import cell, folded, number, table
from mupcheck.gate.report import CANNOT_TELL, FAILED, OK, Checked, Report, explain, notes, off_by

MARKS = {OK: "✅", FAILED: "❌", CANNOT_TELL: "⚠️"}
N_ROWS = 20  # of slopes a group; a summary has at most a mebibyte
N_ANNOTATIONS = 10  # GitHub shows no more of a kind for one step


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    """Return a report as GitHub's Markdown: one table of all groups, then what is not as it should be."""
    with_baseline = any(checked.drift is not None for checked in report.groups)
    head = ["", "table", "optimizer, mode", "verdict", "expected", *(["baseline"] if with_baseline else []), "why"]
    rows = []
    for checked in report.worst_first:
        row = [MARKS[checked.outcome], f"**{cell(checked.parametrization)}**"]
        row += [
            cell(text) for text in (f"{checked.optimizer}, {checked.mode}", checked.verdict, checked.expected or "")
        ]
        if with_baseline:
            row.append(cell(_baseline_cell(checked)))
        rows.append([*row, "" if checked.outcome == OK else cell(checked.reason)])
    titles = dict.fromkeys(checked.answer.how_measured for checked in report.groups)
    lines = [f"### mupcheck check: {MARKS[report.outcome]} {report.outcome}", ""]
    lines += [*(f"- {cell(title)}" for title in titles), "", *table(head, rows), ""]
    lines += [f"- {MARKS[CANNOT_TELL]} {cell(line)}" for line in report.missing]
    lines += [f"- {MARKS[FAILED]} the baseline was not compared with: {cell(line)}" for line in report.unfit]
    for checked in report.worst_first:
        if checked.outcome != OK:
            lines += _details(checked)
    return "\n".join(lines) + "\n"


def _baseline_cell(checked: Checked) -> str:
    if checked.drift is None:
        return ""
    return f"{checked.drift}: {len(checked.moved)} of {len(checked.comparisons)}" if checked.moved else checked.drift


def _details(checked: Checked) -> list[str]:
    lines = ["", f"#### {MARKS[checked.outcome]} {cell(checked.title)}: {cell(checked.headline)}", ""]
    lines += [f"- {cell(line)}" for line in (*explain(checked, slopes=False), *notes(checked))]
    if isinstance(checked.answer, Judgement) and checked.verdict != checked.expected:
        pooled = checked.answer.pooled
        wrong = farthest_first(pooled[pooled["verdict"].isin(["fail", "cannot tell"])])
        rows = [
            [
                f"{row['kind']} {row['stat']}",
                row["site"],
                "later" if row["step"] else "0",
                number(row["slope"], 2),
                f"[{number(row['ci_low'], 2)}, {number(row['ci_high'], 2)}]",
                required_text(row["required_low"], row["required_high"]),
                number(off_by(row["slope"], row["required_low"], row["required_high"]), 2),
                row["verdict"],
            ]
            for row in wrong.head(N_ROWS).to_dict("records")
        ]
        interval = f"{checked.answer.confidence:.0%} interval"
        head = ["quantity", "site", "step", "slope", interval, "required", "off by", "verdict"]
        lines.append(f"- {cell(checked.answer.counted)}")
        lines += folded(
            f"judged slopes that do not pass: {len(wrong)} of {(pooled['verdict'] != 'info').sum()}", head, rows
        )
    if checked.moved:
        rows = [
            [
                *each.key,
                *(number(n, 3) for n in (each.slope, each.baseline, each.drift)),
                each.verdict,
                each.was,
                each.now,
            ]
            for each in checked.moved[:N_ROWS]
        ]
        head = ["kind", "stat", "site", "step", "slope", "baseline", "drift", "", "verdict then", "now"]
        moved = f"{len(checked.moved)} of {len(checked.comparisons)} compared"
        lines += folded(f"slopes that moved since the baseline: {moved}", head, rows)
    return lines


# --- annotations ------------------------------------------------------------------------------------------------------


def annotations(report: Report, *, baseline: str | None = None, strict: bool = False) -> list[str]:
    """Return the workflow commands that annotate a step: what failed as errors, what cannot be told as warnings.

    At most N_ANNOTATIONS of a kind, the worst first; where more there are, the last one says so.

    Args:
        report: of `check`.
        baseline: its file, as given: a drift is shown at its line there.
        strict: what cannot be told is an error.
    """
    by_kind: dict[str, list[str]] = {"error": [], "warning": []}
    for kind, command in _annotate(report, baseline, strict):
        by_kind[kind].append(command)
    lines = []
    for kind, commands in by_kind.items():
        if (left := len(commands) - N_ANNOTATIONS) > 0:
            commands = commands[: N_ANNOTATIONS - 1]
            commands.append(_command(kind, f"and {left + 1} more", "the log of this step has all of them"))
        lines += commands
    return lines


def _annotate(report: Report, baseline: str | None, strict: bool) -> Iterator[tuple[str, str]]:
    unknown = "error" if strict else "warning"
    for checked in report.worst_first:
        if checked.outcome != OK:
            kind = "error" if checked.outcome == FAILED else unknown
            at = {}
            if baseline is not None and checked.moved and checked.moved[0].line:
                at = {"file": baseline, "line": str(checked.moved[0].line)}
            yield kind, _command(kind, f"{checked.title}: {checked.headline}", "\n".join(explain(checked)), **at)
    for line in report.missing:
        yield unknown, _command(unknown, "mupcheck check", line)
    for line in report.unfit:
        yield "error", _command("error", "mupcheck check", f"the baseline was not compared with: {line}")


def _command(kind: str, title: str, message: str, **at: str) -> str:
    """Return one workflow command, escaped as actions/toolkit does it."""
    properties = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in {"title": title, **at}.items())
    return f"::{kind} {properties}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    for mark in "%\r\n" + more:
        text = text.replace(mark, f"%{ord(mark):02X}")
    return text
