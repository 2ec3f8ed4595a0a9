"""What a person or a pipe sees: progress on stderr; answers, as tables or one JSON document, on stdout."""

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    from mupcheck.results.reading import Results
    from mupcheck.spec.sweep import RunSpec
    from mupcheck.sweep.plan import Estimate, Plan
    from mupcheck.sweep.runner import Progress
    from mupcheck.theory.parametrization import Table

PIPE_COLUMNS = 120
SECONDS_BETWEEN_LINES = 5.0
STYLES = {"pass": "green", "transfers": "green", "fail": "red", "drifts": "red", "cannot tell": "yellow"}
MAX_LINES = 10


def say(line: str) -> None:
    """Print one line on stderr."""
    print(line, file=sys.stderr, flush=True)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; numbers that JSON has no form for become null."""
    print(json.dumps(_finite(document), indent=2, ensure_ascii=False))


def follow(progress: Iterator["Progress"], plan: "Plan") -> list[str]:
    """Show how far a sweep is until it ends: a bar with the time left, or plain lines in a pipe; return its errors."""
    errors: list[str] = []
    if not plan.missing:
        say(f"{plan.folder}: all {len(plan.runs)} runs are there already")
        for _ in progress:
            pass
        return errors
    show = _lines if _is_plain(sys.stderr) else _bar
    for state in show(progress, plan):
        if state.error is not None:
            say(f"retrying: {state.error}" if state.retried else f"failed: {state.error}")
            if not state.retried:
                errors.append(state.error)
    return errors


def _bar(progress: Iterator["Progress"], plan: "Plan") -> Iterator["Progress"]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Bar(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(plan.sweep.name, total=None)
        for state in progress:
            text = f"{plan.sweep.name}: {state.runs_finished} of {state.runs_total} runs"
            bar.update(task, total=state.total, completed=state.done, description=text)
            yield state


def _lines(progress: Iterator["Progress"], plan: "Plan") -> Iterator["Progress"]:
    start = last = time.monotonic()
    say(f"{plan.sweep.name}: {plan.missing} of {len(plan.runs)} runs to train, into {plan.folder}")
    for state in progress:
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and 0 < state.done < state.total:
            left = (now - start) * (state.total / state.done - 1)
            share = state.done / state.total
            say(f"{plan.sweep.name}: {state.runs_finished} of {state.runs_total} runs, {share:.0%}, {left:.0f} s left")
            last = now
        yield state
    say(f"{plan.sweep.name}: done in {time.monotonic() - start:.0f} s")


def resolution_of(plan: "Plan") -> str:
    """Say what the widths and seeds of a coordinate check can resolve."""
    from mupcheck.coordinates.power import resolve

    sweep = plan.sweep
    found = resolve(sweep.widths, len(sweep.seeds), optimizer=sweep.optimizer)
    return str(found or "fewer than 3 widths or 2 seeds give no interval, and no verdict")


def print_plan(plan: "Plan", estimate: "Estimate", *, as_json: bool) -> None:
    """Print what a sweep would train and cost."""
    resolution = resolution_of(plan) if plan.sweep.kind == "coord" else None
    if as_json:
        sizes = {"runs": len(plan.runs), **asdict(estimate), "resolution": resolution}
        print_json({"sweep": plan.sweep.model_dump(mode="json"), **sizes})
        return
    out = console()
    table = table_of("width", "H", "K", "V", "parameters", "runs", "missing", "FLOPs a run", "bytes a group")
    for row in estimate.widths:
        table.add_row(
            *(str(row[key]) for key in ("width", "n_heads", "head_k_dim", "head_v_dim")),
            f"{row['n_params']:,}",
            *(str(row[key]) for key in ("runs", "missing")),
            f"{row['run_flops']:.2g}",
            f"{row['group_bytes']:.2g}",
        )
    out.print(f"sweep {plan.sweep.name} ({plan.sweep.kind}) into {plan.folder}, on {plan.device}", soft_wrap=True)
    if plan.sweep.question:
        out.print(plan.sweep.question, soft_wrap=True)
    out.print(table)
    out.print(
        f"{plan.missing} of {len(plan.runs)} runs to train in {len(plan.groups)} groups, {estimate.flops:.2g} FLOPs, "
        f"about {_duration(estimate.seconds)} on {plan.device}; nothing was trained",
        soft_wrap=True,
    )
    if resolution:
        out.print(resolution, soft_wrap=True)


def print_answer(folder: Path, kind: str, *, as_json: bool, every: bool) -> dict[str, str]:
    """Judge a sweep's folder, print the answer, and return the verdict of each parametrization."""
    from mupcheck.results.reading import load_results

    if kind == "coord":
        from mupcheck.coordinates.judge import judge
        from mupcheck.terminal.judgement_page import as_document, print_judgement

        judgements = judge(load_results(folder, tables=("runs", "coords")))
        if as_json:
            print_json(as_document(judgements))
        else:
            for judgement in judgements:
                print_judgement(judgement, every=every)
        return {judgement.parametrization: judgement.verdict for judgement in judgements}

    from mupcheck.learning_rates.drift import transfer
    from mupcheck.terminal.transfer_page import print_transfer

    results = load_results(folder, tables=("runs", "steps"))
    answers = transfer(results)
    if as_json:
        print_json([asdict(answer) for answer in answers])
    else:
        for answer in answers:
            print_transfer(answer)
    return _without_pass({answer.parametrization: answer.verdict for answer in answers}, _troubles(results))


def _troubles(results: "Results") -> list[str]:
    """Say what of a sweep is not there to be judged."""
    from mupcheck.coordinates.validity import say_missing
    from mupcheck.results.reading import n_missing

    lacking = {name: n_missing(results, name) for name in results.sweeps}
    return [f"{say_missing(n, name)}; run the same command again" for name, n in lacking.items() if n]


def _without_pass(verdicts: dict[str, str], troubles: Sequence[str]) -> dict[str, str]:
    """Return the verdicts, with no pass or transfer where part of the sweep was not there to be judged."""
    for trouble in troubles:
        say(f"cannot tell: {trouble}")
    if not troubles:
        return verdicts
    return {name: "cannot tell" if verdict in ("pass", "transfers") else verdict for name, verdict in verdicts.items()}


def print_tables(tables: Iterable["Table"], optimizers: Sequence[str], modes: Sequence[str], *, as_json: bool) -> None:
    """Print the exponents of every table."""
    from mupcheck.theory.parametrization import MULTIPLIER_SITES, SOURCES, Role, write_exponent

    if as_json:
        document = []
        for table in tables:
            for optimizer in optimizers:
                for mode in modes:
                    named = {"parametrization": table.name, "optimizer": optimizer, "mode": mode}
                    rules = {role: asdict(table.rule(role, optimizer=optimizer, mode=mode)) for role in Role}
                    multipliers = {site: table.multiplier(site, mode=mode) for site in MULTIPLIER_SITES}
                    document.append(named | {"rules": rules, "multipliers": multipliers})
        print_json(document)
        return
    out = console()
    for table in tables:
        for mode in modes:
            out.print(f"{table.name}, {mode} mode: {table.summary}", soft_wrap=True, style="bold")
            grid = table_of("role", "init std", *(f"lr ({name})" for name in optimizers), "eps", "source")
            for role in Role:
                by_optimizer = [table.rule(role, optimizer=optimizer, mode=mode) for optimizer in optimizers]
                first = by_optimizer[0]
                lrs = [write_exponent(rule.lr) for rule in by_optimizer]
                grid.add_row(role, write_exponent(first.init), *lrs, write_exponent(first.eps), first.source)
            out.print(grid)
            sites = [f"{s} {write_exponent(e)}" for s in MULTIPLIER_SITES if (e := table.multiplier(s, mode=mode))]
            sites += [
                f"weights of role {role} {write_exponent(rule.multiplier)}"
                for role in Role
                if (rule := table.rule(role, optimizer=optimizers[0], mode=mode)).multiplier
            ]
            out.print(f"forward multipliers: {', '.join(sites) or 'none'}\n", soft_wrap=True)
    for line in SOURCES:
        out.print(line, soft_wrap=True)


def print_values(answers: Sequence[tuple["RunSpec", list[dict[str, Any]]]], *, as_json: bool) -> None:
    """Print what every parameter gets at one width."""
    if as_json:
        keys = ("parametrization", "optimizer", "mode", "width", "base_width")
        print_json([{key: getattr(run, key) for key in keys} | {"parameters": rows} for run, rows in answers])
        return
    out = console()
    for run, rows in answers:
        title = f"{run.parametrization}, {run.optimizer}, {run.mode} mode, width {run.width}, m = {run.m:g}"
        out.print(title, soft_wrap=True, style="bold")
        grid = table_of("parameter", "role", "shape", "init std", "lr x", "decay x", "eps x", "multiplier")
        for row in rows:
            std = "as drawn" if row["init_std"] is None else number(row["init_std"], ".4g")
            factors = [number(row[key], ".4g") for key in ("lr", "weight_decay", "eps", "multiplier")]
            grid.add_row(row["site"], row["role"], " x ".join(map(str, row["shape"])), std, *factors)
        out.print(grid)


def print_findings(findings: Sequence[tuple[str, bool | None, str]], *, as_json: bool) -> None:
    """Print what `doctor` found: a name, whether it works (None: a fact), and what was seen."""
    if as_json:
        print_json([{"name": name, "works": works, "seen": seen} for name, works, seen in findings])
        return
    from rich.text import Text

    out = console()
    for name, works, seen in findings:
        mark = {True: [Text("works", "green")], False: [Text("no", "yellow")], None: []}[works]
        out.print(f"{name:<24}", *mark, seen, soft_wrap=True)


def console() -> "Console":
    """Return a console for answers on stdout; a pipe gets plain text of PIPE_COLUMNS."""
    from rich.console import Console

    class Quiet(Console):
        """A console whose reader may leave: the rest goes nowhere, and the verdict keeps its exit code."""

        def on_broken_pipe(self) -> None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return Quiet(
        width=None if sys.stdout.isatty() else PIPE_COLUMNS,
        force_terminal=False if _is_plain(sys.stdout) else None,
        highlight=False,
        # names and paths are a user's, and mean what they say
        markup=False,
        emoji=False,
    )


def _is_plain(stream: IO[str]) -> bool:
    """Say whether a stream takes no colour and no movement: a pipe, or any while NO_COLOR is set (no-color.org)."""
    return not stream.isatty() or bool(os.environ.get("NO_COLOR"))


def table_of(*columns: str) -> "RichTable":
    """Return an empty table with these columns."""
    from rich import box
    from rich.table import Table as RichTable

    return RichTable(*columns, box=box.SIMPLE_HEAD, pad_edge=False)


def styled(verdict: str) -> "Text":
    """Return a verdict in its colour."""
    from rich.text import Text

    return Text(verdict, STYLES.get(verdict, ""))


def number(value: float | None, form: str) -> str:
    """Write a number in a form such as "+.2f", "?" where there is none."""
    return "?" if value is None or math.isnan(value) else format(value, form)


def interval_text(low: float | None, high: float | None, form: str = "+.2f") -> str:
    """Write an interval, "?" for an end that is not there."""
    return f"[{number(low, form)}, {number(high, form)}]"


def range_text(low: float, high: float) -> str:
    """Write a required or implied range: "0", "-1/2 to 0", "<= 0", "" for none."""
    from mupcheck.theory.parametrization import write_exponent

    if math.isnan(high):
        return ""
    if math.isinf(low):
        return f"<= {high:g}"
    low, high = round(low, 2), round(high, 2)
    return write_exponent(low) if low == high else f"{write_exponent(low)} to {write_exponent(high)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
