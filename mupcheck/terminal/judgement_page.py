"""What a person sees of a judgement: a table of slopes, the verdict with its reason, likely causes and what to do."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from mupcheck.coordinates.judge import Judgement
from mupcheck.coordinates.slopes import not_passing
from mupcheck.results.comparable import name_of
from mupcheck.results.path import say_paths
from mupcheck.terminal.console import MAX_LINES, console, interval_text, number, range_text, styled, table_of
from mupcheck.terminal.topic_page import pointer

SAME_LINE_FINDINGS = 3


def print_judgement(judgement: Judgement, *, every: bool) -> None:
    """Print one judgement.

    Args:
        every: every quantity, and not only what does not pass, or the effective updates of a pass.
    """
    out = console()
    out.print(f"{name_of(judgement)}, {judgement.how_measured}", soft_wrap=True)
    rows, left_out = _worth_a_look(judgement, every=every)
    table = table_of(
        "quantity", "site", "step", "slope", f"{judgement.confidence:.0%} interval", "required", "implied", "verdict"
    )
    for cell in rows.to_dict("records"):
        required = range_text(cell["required_low"], cell["required_high"])
        table.add_row(
            " ".join(dict.fromkeys((cell["kind"], cell["stat"]))),
            cell["site"],
            "later" if cell["step"] else "0",
            number(cell["slope"], "+.2f"),
            interval_text(cell["ci_low"], cell["ci_high"]),
            f"{required} ±{cell['tolerance']:g}" if required else "",
            range_text(cell["implied_low"], cell["implied_high"]),
            styled(cell["verdict"]),
        )
    if len(rows):
        out.print(table)
    if left_out:
        which = "that do not pass" if (rows["verdict"] != "info").any() else "that are not judged"
        out.print(f"... and {left_out} more {which} (--all prints every quantity)\n", soft_wrap=True)
    out.print(f"{judgement.title}:", styled(judgement.verdict), f" {judgement.counted}", soft_wrap=True)
    if judgement.verdict != "pass":
        out.print(f"  why: {judgement.reason}", soft_wrap=True)
    for i, cause in enumerate(judgement.causes, 1):
        out.print(f"  likely cause {i}: {cause}", soft_wrap=True)
    if judgement.next_step:
        out.print(f"  next: {judgement.next_step}", soft_wrap=True)
    for line in (*summarize_findings(judgement), *pointer(judgement.verdict)):
        out.print(f"  {line}", soft_wrap=True)


def summarize_findings(judgement: Judgement) -> list[str]:
    """Return a line per finding that is not the reason already, at most a few of one name."""
    findings = [finding for finding in judgement.findings if finding.text not in judgement.reason]
    lines, seen = [], dict.fromkeys((finding.name for finding in findings), 0)
    for finding in findings:
        seen[finding.name] += 1
        if seen[finding.name] <= SAME_LINE_FINDINGS:
            lines.append(f"{finding.effect}: {finding}")
    return lines + [
        f"... and {n - SAME_LINE_FINDINGS} more of {name} (--json prints all)"
        for name, n in seen.items()
        if n > SAME_LINE_FINDINGS
    ]


def as_document(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Return judgements as one JSON document: a summary each, and their slopes one after another."""
    summary = []
    for judgement in judgements:
        record = {name: getattr(judgement, name) for name in ("sweep", "parametrization", "optimizer", "mode")}
        record |= {name: getattr(judgement, name) for name in ("verdict", "reason", "next_step", "worst")}
        record |= {f"n_{verdict.replace(' ', '_')}": n for verdict, n in judgement.counts.items()}
        record |= {"confidence": judgement.confidence, "counted": judgement.counted}
        record |= {"causes": [asdict(cause) for cause in judgement.causes]}
        record |= {"findings": [asdict(finding) for finding in judgement.findings], "measured": judgement.measured}
        record |= {"path": say_paths(judgement.paths)}
        summary.append(record)
    slopes = {name: [getattr(judgement, name) for judgement in judgements] for name in ("pooled", "slopes")}
    return {"summary": summary} | {
        name: pd.concat(tables).to_dict("records") if tables else [] for name, tables in slopes.items()
    }


def _worth_a_look(judgement: Judgement, *, every: bool) -> tuple[pd.DataFrame, int]:
    """Return the rows to print, and how many that do not pass are left out: of a pass the effective updates."""
    pooled = judgement.pooled
    if every:
        return pooled, 0
    if (pooled["verdict"] == "info").all():
        return pooled.head(MAX_LINES), max(len(pooled) - MAX_LINES, 0)
    if judgement.verdict == "pass" and (pooled["kind"] == "effective_update").any():
        return pooled[pooled["kind"] == "effective_update"], 0
    if judgement.verdict == "pass":
        return pooled[pooled["verdict"] == "pass"], 0
    if pooled["slope"].isna().all():
        return pooled.iloc[:0], 0  # as of one width: there is nothing to see, and the reason says why
    trouble = not_passing(pooled)
    return trouble.head(MAX_LINES), max(len(trouble) - MAX_LINES, 0)
