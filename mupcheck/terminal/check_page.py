"""What a person, a script or CI sees of a gate's report: the page, one JSON document, files and annotations."""

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from mupcheck.terminal.console import (
    MAX_LINES,
    console,
    interval_text,
    number,
    print_json,
    range_text,
    say,
    styled,
    table_of,
)
from mupcheck.terminal.topic_page import pointer

if TYPE_CHECKING:
    from mupcheck.gate.report import Checked, Report

STYLES = {"ok": "green", "failed": "red", "cannot tell": "yellow"}


def print_report(report: "Report", *, every: bool) -> None:
    """Print what of each group is not as it should be, or with `every` all its slopes; then the sum of it."""
    from rich.text import Text

    from mupcheck.gate.report import OK, explain, notes

    out = console()
    title = ""
    for checked in report.groups:
        if (measured := checked.answer.how_measured) != title:
            title = measured
            out.print(title, soft_wrap=True)
        _print_slopes(checked, every=every)
        headline = Text(checked.headline, STYLES[checked.outcome])
        out.print(f"{checked.title}:", headline, f" {_counts(checked)}", soft_wrap=True)
        told = pointer(checked.verdict) if checked.outcome != OK else []
        for line in (*explain(checked, slopes=False), *notes(checked), *told):
            out.print(f"  {line}", soft_wrap=True)
    for line in report.missing:
        out.print(styled("cannot tell"), line, soft_wrap=True)
    for line in report.unfit:
        out.print("the baseline was not compared with:", line, "(mupcheck explain ci)", soft_wrap=True)
    counts = Counter(checked.outcome for checked in report.groups)
    parts = [f"{n} {outcome}" for outcome, n in counts.items()]
    if report.missing:
        parts.append(f"{len(report.missing)} missing")
    if report.unfit:
        parts.append("the baseline does not fit")
    out.print(f"{len(report.groups)} checked: {', '.join(parts)}", soft_wrap=True)


def _counts(checked: "Checked") -> str:
    """Say how many slopes got which verdict, and how many moved; of a learning-rate sweep its drift."""
    from mupcheck.coordinates.judge import Judgement
    from mupcheck.gate.report import OK

    if not isinstance(checked.answer, Judgement):
        return checked.reason if checked.outcome == OK else ""
    moved = Counter(each.verdict for each in checked.comparisons).most_common()
    text = checked.answer.counted
    if moved:
        found = ", ".join(f"{n} {verdict}" for verdict, n in moved)
        text += f"; {len(checked.comparisons)} compared with the baseline, which leaves out mean_abs: {found}"
    return text


def _print_slopes(checked: "Checked", *, every: bool) -> None:
    """Print the slopes that decided against the outcome, the farthest off first, or all of them."""
    from mupcheck.coordinates.judge import Judgement
    from mupcheck.coordinates.slopes import not_passing
    from mupcheck.gate.baseline import quantity
    from mupcheck.gate.report import OK, off_by

    if not isinstance(checked.answer, Judgement) or (checked.outcome == OK and not every):
        return
    if checked.answer.pooled["slope"].isna().all() and not every:
        return  # as of one width: the reason says why
    compared = {each.key: each for each in checked.comparisons}
    pooled = checked.answer.pooled
    rows = pooled.to_dict("records")
    if not every:
        by_key = {quantity(row): row for row in rows}
        # what theory and baseline have against it, in this order; what is expected to fail may do so
        rows = [] if checked.verdict == checked.expected else not_passing(pooled).to_dict("records")
        moved = [each.key for each in checked.moved]
        rows = rows[: MAX_LINES // 2 if moved else MAX_LINES]
        shown = {quantity(row) for row in rows}
        rows += [by_key[key] for key in moved if key in by_key and key not in shown][: MAX_LINES - len(rows)]
    if not rows:
        return
    columns = (
        "quantity",
        "site",
        "step",
        "slope",
        f"{checked.answer.confidence:.0%} interval",
        "required",
        "off by",
        "verdict",
    )
    table = table_of(*columns, *(("drift",) if compared else ()))
    table.padding = (0, 1, 0, 0)  # nine columns in the width of a pipe
    for row in rows:
        off = off_by(row["slope"], row["required_low"], row["required_high"])
        each = compared.get(quantity(row))
        drift = [] if each is None else [f"{number(each.drift, '+.2f')} {each.verdict}".removesuffix(" same")]
        table.add_row(
            f"{row['kind']} {row['stat']}",
            row["site"],
            quantity(row)[3],
            number(row["slope"], "+.2f"),
            interval_text(row["ci_low"], row["ci_high"]),
            range_text(row["required_low"], row["required_high"]),
            "" if row["verdict"] == "info" else number(off, "+.2f"),
            styled(row["verdict"]),
            *drift,
        )
    console().print(table)


def print_report_json(report: "Report") -> None:
    """Print the report as one JSON document."""
    from mupcheck.gate.document import document

    print_json(document(report))


def write_report(
    report: "Report", *, junit: Path | None, markdown: Path | None, baseline: Path | None, strict: bool
) -> None:
    """Write the files asked for and, on GitHub, print annotations on stderr, where the runner reads them too.

    Raises:
        StoreError: if a file cannot be written.
    """
    if junit is not None:
        from mupcheck.gate.junit import junit_xml
        from mupcheck.results.files import write_text

        write_text(junit, junit_xml(report, strict=strict))
    if markdown is not None:
        from mupcheck.gate.summary import markdown as markdown_of
        from mupcheck.results.files import add_text

        add_text(markdown, markdown_of(report))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        from mupcheck.gate.summary import annotations

        for line in annotations(report, baseline=None if baseline is None else str(baseline), strict=strict):
            say(line)
