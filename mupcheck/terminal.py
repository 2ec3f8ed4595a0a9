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
    import pandas as pd
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    from mupcheck.parametrization import Table
    from mupcheck.penalty import Penalty
    from mupcheck.plan import Estimate, Plan
    from mupcheck.runner import Progress
    from mupcheck.spec import RunSpec
    from mupcheck.store import Results
    from mupcheck.transfer import Transfer

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


def print_plan(plan: "Plan", estimate: "Estimate", *, as_json: bool) -> None:
    """Print what a sweep would train and cost."""
    if as_json:
        print_json({"sweep": plan.sweep.model_dump(mode="json"), "runs": len(plan.runs), **asdict(estimate)})
        return
    console = _console()
    table = _table("width", "H", "K", "V", "parameters", "runs", "missing", "FLOPs a run", "bytes a group")
    for row in estimate.widths:
        table.add_row(
            *(str(row[key]) for key in ("width", "n_heads", "head_k_dim", "head_v_dim")),
            f"{row['n_params']:,}",
            *(str(row[key]) for key in ("runs", "missing")),
            f"{row['run_flops']:.2g}",
            f"{row['group_bytes']:.2g}",
        )
    console.print(f"sweep {plan.sweep.name} ({plan.sweep.kind}) into {plan.folder}, on {plan.device}", soft_wrap=True)
    if plan.sweep.question:
        console.print(plan.sweep.question, soft_wrap=True)
    console.print(table)
    console.print(
        f"{plan.missing} of {len(plan.runs)} runs to train in {len(plan.groups)} groups, {estimate.flops:.2g} FLOPs, "
        f"about {_duration(estimate.seconds)} on {plan.device}; nothing was trained",
        soft_wrap=True,
    )


def print_answer(folder: Path, kind: str, *, as_json: bool, every: bool) -> dict[str, str]:
    """Judge a sweep's folder, print the answer, and return the verdict of each parametrization."""
    from mupcheck.store import load_results

    if kind == "coord":
        from mupcheck.slopes import fit_slopes, pool, summarize, warnings_from

        results = load_results(folder, tables=("runs", "coords"))
        troubles = _troubles(results)
        slopes = fit_slopes(results.runs, results.coords)
        pooled = fit_slopes(results.runs, pool(results.coords))
        summary, warnings = summarize(slopes, pooled), warnings_from(results.runs, results.coords)
        if as_json:
            records = {"summary": summary, "pooled": pooled, "slopes": slopes}
            print_json({name: frame.to_dict("records") for name, frame in records.items()} | {"warnings": warnings})
        else:
            print_slopes(pooled, summary, warnings, every=every)
        verdicts = dict(zip(summary["parametrization"], summary["verdict"], strict=True))
        return _without_pass(verdicts, troubles)

    from mupcheck.transfer import transfer

    results = load_results(folder, tables=("runs", "steps"))
    answers = transfer(results)
    if as_json:
        print_json([asdict(answer) for answer in answers])
    else:
        for answer in answers:
            print_transfer(answer)
    return _without_pass({answer.parametrization: answer.verdict for answer in answers}, _troubles(results))


def _troubles(results: "Results") -> list[str]:
    """Say what of a sweep is not there to be judged: runs that are missing, coordinate checks that diverged."""
    troubles = []
    for name, resolved in results.sweeps.items():
        there = set(results.runs.loc[results.runs["sweep"] == name, "run_id"])
        if lacking := len(set(resolved.get("run_ids", [])) - there):
            troubles.append(f"{lacking} runs of {name} are missing; run the same command again")
    lost = results.runs[(results.runs["kind"] == "coord") & (results.runs["status"] == "diverged")]
    if len(lost):
        widths = ", ".join(map(str, sorted(set(lost["width"]))))
        troubles.append(f"{len(lost)} of {len(results.runs)} runs diverged, at width {widths}; try a smaller lr")
    return troubles


def _without_pass(verdicts: dict[str, str], troubles: Sequence[str]) -> dict[str, str]:
    """Return the verdicts, with no pass or transfer where part of the sweep was not there to be judged."""
    for trouble in troubles:
        say(f"cannot tell: {trouble}")
    if not troubles:
        return verdicts
    return {name: "cannot tell" if verdict in ("pass", "transfers") else verdict for name, verdict in verdicts.items()}


def print_slopes(pooled: "pd.DataFrame", summary: "pd.DataFrame", warnings: Sequence[str], *, every: bool) -> None:
    """Print the verdict table: slopes over all layers and steps, every one or those worth a look."""
    import pandas as pd

    from mupcheck.slopes import GROUP, farthest_first

    console = _console()
    for row in summary.to_dict("records"):
        group = pooled[(pooled[GROUP] == [row[name] for name in GROUP]).all(axis=1)]
        left_out = 0
        if not every:
            trouble = group[(group["kind"] != "effective_update") & group["verdict"].isin(["fail", "cannot tell"])]
            left_out = max(len(trouble) - MAX_LINES, 0)
            effective = group[group["kind"] == "effective_update"]
            group = effective if trouble.empty else pd.concat([effective, farthest_first(trouble).head(MAX_LINES)])
        table = _table("quantity", "site", "steps", "slope", "90% interval", "required", "verdict")
        for cell in group.to_dict("records"):
            table.add_row(
                f"{cell['kind']} {cell['stat']}",
                cell["site"],
                "after 0" if cell["step"] else "0",
                _number(cell["slope"], "+.2f"),
                f"[{_number(cell['ci_low'], '+.2f')}, {_number(cell['ci_high'], '+.2f')}]",
                _required(cell["required_low"], cell["required_high"]),
                _styled(cell["verdict"]),
            )
        console.print(table)
        if left_out:
            console.print(f"... and {left_out} more that do not pass (--all prints every quantity)\n", soft_wrap=True)
        console.print(
            f"{row['parametrization']} ({row['optimizer']}, {row['mode']}):",
            _styled(row["verdict"]),
            f"  slopes over all layers and steps: {row['n_pass']} pass, {row['n_fail']} fail, "
            f"{row['n_cannot_tell']} cannot tell, {row['n_info']} are not judged",
            soft_wrap=True,
        )
        for line in row["worst"]:
            console.print(f"  {line}", soft_wrap=True)
    for line in warnings[:MAX_LINES]:
        console.print(f"warning: {line}", soft_wrap=True)
    if len(warnings) > MAX_LINES:
        console.print(f"... and {len(warnings) - MAX_LINES} more warnings (--json prints all)", soft_wrap=True)


def print_transfer(answer: "Transfer") -> None:
    """Print one parametrization's optimum per width, what each optimum costs the other widths, verdict and the rest."""
    console = _console()
    table = _table("width", "best lr", "log2 lr", "interval", "loss", "lr sensitivity", "diverges from", "flags")
    by_width = zip(
        answer.optima, answer.lr_sensitivity, answer.lr_sensitivity_ci, answer.divergence.log2_lr, strict=True
    )
    for optimum, sensitivity, sensitivity_ci, threshold in by_width:
        highest = optimum.curve[-1].log2_lr
        table.add_row(
            str(optimum.width),
            _number(None if optimum.log2_lr is None else 2**optimum.log2_lr, ".3g"),
            _number(optimum.log2_lr, "+.2f"),
            _bounds(optimum.ci_low, optimum.ci_high, "+.2f"),
            _number(optimum.loss, ".4f"),
            _number(sensitivity, ".3f") + " " + _bounds(*sensitivity_ci, ".3f"),
            f"> 2^{highest:.4g}" if threshold is None else f"2^{threshold:.4g}",
            ", ".join(optimum.flags),
        )
    console.print(table)
    widths = [optimum.width for optimum in answer.optima]
    costs = _table("nats lost at", *(f"the best lr of {width}" for width in widths))
    unknown: dict[str, None] = {}
    for width in widths:
        cells = [penalty for penalty in answer.penalty if penalty.target == width]
        costs.add_row(f"width {width}", *(_cost(cell, among=len(widths)) for cell in cells))
        unknown |= dict.fromkeys(penalty.reason for penalty in cells if penalty.nats is None)
    console.print(costs)
    for reason in unknown:
        console.print(f"?: {reason}", soft_wrap=True)
    console.print(
        f"{answer.parametrization} ({answer.optimizer}, {answer.mode}):",
        _styled(answer.verdict),
        soft_wrap=True,
    )
    drift = answer.drift
    interval = _bounds(drift.ci_low, drift.ci_high, "+.2f")
    measured = f"drift {_number(drift.slope, '+.2f')} {interval} octaves per doubling of width, of {answer.loss_name}"
    if answer.reason.startswith("drift"):
        measured = answer.reason
    for line in dict.fromkeys((measured, answer.reason, *_beside_the_verdict(answer), *answer.notes)):
        console.print(f"  {line}", soft_wrap=True)


def _beside_the_verdict(answer: "Transfer") -> Iterator[str]:
    """Yield a line for each of what does not enter the verdict on transfer."""
    divergence, fast, wider = answer.divergence, answer.fast_transfer, answer.wider_is_better
    if divergence.slope is None:
        yield f"drift of divergence: cannot tell, {divergence.reason}"
    else:
        interval = _bounds(divergence.ci_low, divergence.ci_high, "+.2f")
        yield f"drift of divergence: {divergence.slope:+.2f} {interval} octaves per doubling of width"
    agreements = [(pair.rms, pair) for pair in answer.agreement if pair.rms is not None]
    if agreements:
        rms, pair = max(agreements, key=lambda each: each[0])
        interval = _bounds(pair.ci_low, pair.ci_high, ".3f")
        yield (
            f"curves agree to {rms:.3f} {interval} nats at worst: rms difference above their minima, "
            f"widths {pair.narrow} and {pair.wide}, {pair.n_lrs} lrs"
        )
    elif answer.agreement:
        yield f"curves: cannot tell, {answer.agreement[0].reason}"
    names = {True: "useful", False: "not useful", None: "cannot tell"}
    exponents = [
        f"{name} {each.value:.2f} {_bounds(each.ci_low, each.ci_high, '.2f')}"
        for name, each in (("loss gap ~ width^-a, a =", fast.loss), ("lr gap ~ width^-b, b =", fast.optimum))
        if each.value is not None
    ]
    yield f"fast transfer: {names[fast.useful]}, {'; '.join([*exponents, fast.reason])}"
    share = "" if wider.share is None else f" (lower at {wider.share:.0%} of steps)"
    yield f"wider is better: {wider.verdict}{share}, {wider.reason}"


def _cost(penalty: "Penalty", *, among: int) -> str:
    """Write a penalty with what a line of `among` of them has room for: all, no percent, or no interval either."""
    if penalty.nats is None or penalty.source == penalty.target:
        return _number(penalty.nats, ".0f")
    text = f"{penalty.nats:.4f}"
    if among <= 4 and penalty.ci_low is not None:
        text += " " + _bounds(penalty.ci_low, penalty.ci_high, ".3f")
    return text + (f" ({_number(penalty.percent, '.2f')}%)" if among <= 3 else "")


def print_tables(tables: Iterable["Table"], optimizers: Sequence[str], modes: Sequence[str], *, as_json: bool) -> None:
    """Print the exponents of every table."""
    from mupcheck.parametrization import MULTIPLIER_SITES, SOURCES, Role

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
    console = _console()
    for table in tables:
        for mode in modes:
            console.print(f"{table.name}, {mode} mode: {table.summary}", soft_wrap=True, style="bold")
            grid = _table("role", "init std", *(f"lr ({name})" for name in optimizers), "eps", "source")
            for role in Role:
                by_optimizer = [table.rule(role, optimizer=optimizer, mode=mode) for optimizer in optimizers]
                first = by_optimizer[0]
                lrs = [_exponent(rule.lr) for rule in by_optimizer]
                grid.add_row(role, _exponent(first.init), *lrs, _exponent(first.eps), first.source)
            console.print(grid)
            sites = [f"{s} {_exponent(e)}" for s in MULTIPLIER_SITES if (e := table.multiplier(s, mode=mode))]
            sites += [
                f"weights of role {role} {_exponent(rule.multiplier)}"
                for role in Role
                if (rule := table.rule(role, optimizer=optimizers[0], mode=mode)).multiplier
            ]
            console.print(f"forward multipliers: {', '.join(sites) or 'none'}\n", soft_wrap=True)
    for line in SOURCES:
        console.print(line, soft_wrap=True)


def print_values(answers: Sequence[tuple["RunSpec", list[dict[str, Any]]]], *, as_json: bool) -> None:
    """Print what every parameter gets at one width."""
    if as_json:
        keys = ("parametrization", "optimizer", "mode", "width", "base_width")
        print_json([{key: getattr(run, key) for key in keys} | {"parameters": rows} for run, rows in answers])
        return
    console = _console()
    for run, rows in answers:
        title = f"{run.parametrization}, {run.optimizer}, {run.mode} mode, width {run.width}, m = {run.m:g}"
        console.print(title, soft_wrap=True, style="bold")
        grid = _table("parameter", "role", "shape", "init std", "lr x", "decay x", "eps x", "multiplier")
        for row in rows:
            std = "as drawn" if row["init_std"] is None else _number(row["init_std"], ".4g")
            factors = [_number(row[key], ".4g") for key in ("lr", "weight_decay", "eps", "multiplier")]
            grid.add_row(row["site"], row["role"], " x ".join(map(str, row["shape"])), std, *factors)
        console.print(grid)


def print_findings(findings: Sequence[tuple[str, bool | None, str]], *, as_json: bool) -> None:
    """Print what `doctor` found: a name, whether it works (None: a fact), and what was seen."""
    if as_json:
        print_json([{"name": name, "works": works, "seen": seen} for name, works, seen in findings])
        return
    from rich.text import Text

    console = _console()
    for name, works, seen in findings:
        mark = {True: [Text("works", "green")], False: [Text("no", "yellow")], None: []}[works]
        console.print(f"{name:<24}", *mark, seen, soft_wrap=True)


def _console() -> "Console":
    from rich.console import Console

    return Console(
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


def _table(*columns: str) -> "RichTable":
    from rich import box
    from rich.table import Table as RichTable

    return RichTable(*columns, box=box.SIMPLE_HEAD, pad_edge=False)


def _styled(verdict: str) -> "Text":
    from rich.text import Text

    return Text(verdict, STYLES.get(verdict, ""))


def _number(value: float | None, form: str) -> str:
    return "?" if value is None or math.isnan(value) else format(value, form)


def _bounds(low: float | None, high: float | None, form: str) -> str:
    return f"[{_number(low, form)}, {_number(high, form)}]"


def _exponent(value: float) -> str:
    """Write an exponent as the tables do: 0, +1, -1/2."""
    if value == 0:
        return "0"
    if value % 1 == 0.5:
        return f"{int(2 * value):+d}/2"
    return f"{value:+g}"


def _required(low: float, high: float) -> str:
    if math.isnan(high):
        return ""
    if math.isinf(low):
        return f"<= {high:g}"
    return _exponent(low) if low == high else f"{_exponent(low)} to {_exponent(high)}"


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
