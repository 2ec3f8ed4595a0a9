"""What a person sees of a judgement: the verdict, the slopes it rests on, why and what to do; asked for, all of it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from mupcheck.coordinates.judge import Judgement
from mupcheck.coordinates.slopes import farthest_first, not_passing
from mupcheck.results.comparable import name_of
from mupcheck.results.path import say_paths
from mupcheck.results.printing import counted
from mupcheck.terminal.bars import size_bars, step_of_sizes
from mupcheck.terminal.console import MAX_LINES, console, interval_text, number, range_text, styled, table_of
from mupcheck.terminal.grid import Column, print_grid
from mupcheck.terminal.prose import print_prose
from mupcheck.terminal.topic_page import TOPIC_OF, pointer

SAME_LINE_FINDINGS = 3
WORDS = ("pass", "fail", "cannot tell")


def print_judgement(judgement: Judgement, *, every: bool) -> None:
    """Print one judgement: the verdict, a row for what does not pass (or a pass rests on), why, and what to do.

    Args:
        every: every quantity with what is implied, all causes and findings, and how it was measured.
    """
    if every:
        _print_all(judgement)
        return
    print_prose(f"{judgement.title}: {judgement.verdict}  {judgement.counted}", verdicts=WORDS)
    rows, left_out = _worth_a_look(judgement)
    if len(rows):
        console().print()
        _print_rows(judgement, rows)
        if left_out:
            print_prose(f"... and {left_out} more {_of_what(rows)}", indent=1)
        console().print()
    for line in _reasons(judgement):
        print_prose(line, indent=2)
    topic = f"; mupcheck explain {TOPIC_OF[judgement.verdict]}" if judgement.verdict in TOPIC_OF else ""
    print_prose(f"(--all prints every quantity and how it was measured{topic})", indent=2)


def _reasons(judgement: Judgement) -> Iterator[str]:
    """Yield why, the likeliest cause, what to do, and the findings that change the answer; of the rest the first."""
    if judgement.verdict != "pass":
        yield f"why: {judgement.reason}"
    told = [cause for cause in judgement.causes if cause.text not in judgement.reason]
    for cause in told[:1]:
        yield f"likely cause {judgement.causes.index(cause) + 1}: {cause}"
    if len(told) > 1:
        yield f"... and {counted(len(told) - 1, 'more likely cause')} on --all"
    if judgement.next_step:
        yield f"next: {judgement.next_step}"
    lines = summarize_findings(judgement, besides=("warning",))
    warnings = [finding for finding in judgement.findings if finding.effect == "warning"]
    if warnings:
        more = f" (and {counted(len(warnings) - 1, 'more warning')} on --all)" if len(warnings) > 1 else ""
        lines.append(f"warning: {warnings[0]}{more}")
    yield from lines


def _print_rows(judgement: Judgement, rows: pd.DataFrame) -> None:
    """Print rows of pooled slopes: those of one quantity and requirement below a line that says these."""
    cells = rows.to_dict("records")
    sizes = [judgement.sizes.get((cell["kind"], cell["stat"], cell["site"], cell["step"] > 0), ()) for cell in cells]
    step = step_of_sizes(sizes)
    columns = [
        Column("site"),
        Column("slope", right=True),
        Column(f"{judgement.confidence:.0%} interval", right=True),
        Column("verdict", verdict=True),
    ]
    widths = judgement.measured["widths"]
    if shown := any(sizes) and len(widths) > 1:
        columns.append(Column("size by width"))
    sections: dict[str, list[list[str]]] = {}
    for cell, each in zip(cells, sizes, strict=True):
        row = [
            cell["site"],
            number(cell["slope"], "+.2f"),
            interval_text(cell["ci_low"], cell["ci_high"]),
            cell["verdict"],
            size_bars(each, step=step),
        ]
        sections.setdefault(_section(cell), []).append(row[: len(columns)])
    print_grid(columns, [line for said, below in sections.items() for line in (said, *below)])
    if shown:
        print_prose(f"size by width: from {widths[0]} to {widths[-1]}, a step for {step:.2g} octaves", indent=1)


def _section(cell: dict[str, Any]) -> str:
    """Say of what a slope is, and what is required of it: "effective_update rms, later steps, required 0 ±0.25"."""
    quantity = " ".join(dict.fromkeys((cell["kind"], cell["stat"])))
    required = _required(cell)
    return f"{quantity}, {'later steps' if cell['step'] else 'step 0'}, " + (
        f"required {required}" if required else "not judged"
    )


def _required(cell: dict[str, Any]) -> str:
    required = range_text(cell["required_low"], cell["required_high"])
    return f"{required} ±{cell['tolerance']:g}" if required else ""


def _print_all(judgement: Judgement) -> None:
    """Print how it was measured, every quantity, the verdict, and all that was found."""
    print_prose(f"{name_of(judgement)}, {judgement.how_measured}")
    table = table_of(
        "quantity", "site", "step", "slope", f"{judgement.confidence:.0%} interval", "required", "implied", "verdict"
    )
    for cell in judgement.pooled.to_dict("records"):
        table.add_row(
            " ".join(dict.fromkeys((cell["kind"], cell["stat"]))),
            cell["site"],
            "later" if cell["step"] else "0",
            number(cell["slope"], "+.2f"),
            interval_text(cell["ci_low"], cell["ci_high"]),
            _required(cell),
            range_text(cell["implied_low"], cell["implied_high"]),
            styled(cell["verdict"]),
        )
    if table.row_count:
        console().print(table)
    print_prose(f"{judgement.title}: {judgement.verdict}  {judgement.counted}", verdicts=WORDS)
    lines = [] if judgement.verdict == "pass" else [f"why: {judgement.reason}"]
    lines += [f"likely cause {i}: {cause}" for i, cause in enumerate(judgement.causes, 1)]
    lines += [f"next: {judgement.next_step}"] if judgement.next_step else []
    for line in (*lines, *summarize_findings(judgement), *pointer(judgement.verdict)):
        print_prose(line, indent=2)


def summarize_findings(judgement: Judgement, *, besides: Sequence[str] = ()) -> list[str]:
    """Return a line per finding that is not the reason already, at most a few of one name; none of these effects."""
    findings = [each for each in judgement.findings if each.text not in judgement.reason and each.effect not in besides]
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


def _worth_a_look(judgement: Judgement) -> tuple[pd.DataFrame, int]:
    """Return the rows to print, the farthest off first, and how many are left out: of a pass the effective updates."""
    pooled = judgement.pooled
    if (pooled["verdict"] == "info").all():
        rows = pooled
    elif judgement.verdict == "pass":
        rows = farthest_first(pooled[pooled["verdict"] == "pass"])
        if (rows["kind"] == "effective_update").any():
            rows = rows[rows["kind"] == "effective_update"]
    elif pooled["slope"].isna().all():
        rows = pooled.iloc[:0]  # as of one width: there is nothing to see, and the reason says why
    else:
        rows = not_passing(pooled)
    # another mean of the same numbers says the same once more
    shown = rows.drop_duplicates(["kind", "site", "step"]).head(MAX_LINES)
    return shown, len(rows) - len(shown)


def _of_what(rows: pd.DataFrame) -> str:
    said = {"info": "that are not judged", "pass": "that pass"}
    verdict, *others = set(rows["verdict"])
    return "that do not pass" if others else said.get(verdict, "that do not pass")
