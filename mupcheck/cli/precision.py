"""--check-precision: the runs that a sweep is compared with, trained when the sweep is whole."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from mupcheck.cli.exits import OK, STORAGE
from mupcheck.cli.typed import command_line
from mupcheck.terminal.console import say
from mupcheck.terminal.progress import follow_as

if TYPE_CHECKING:
    from mupcheck.coordinates.precision import SlopePrecision
    from mupcheck.learning_rates.precision import Precision
    from mupcheck.sweep.pace import Progress
    from mupcheck.sweep.plan import Plan


def check_precision(
    plan: "Plan",
    options: Mapping[str, Any],
    execute: "Callable[[Plan], Iterator[Progress]]",
    *,
    before: Collection[str],
    here: bool,
) -> Sequence["Precision | SlopePrecision"]:
    """Train what the precision check compares with, and return what it says; nothing where it has to wait.

    Args:
        plan: of the sweep, all its rounds included.
        options: of the command.
        execute: trains a plan.
        before: run_ids that were there when the command began.
        here: as in `plan_sweep`.
    """
    from mupcheck.results.reading import load_results
    from mupcheck.sweep.described import lacking
    from mupcheck.sweep.plan import check_fits
    from mupcheck.sweep.precision import counterpart
    from mupcheck.sweep.rounds import rounds

    if n_missing := max(len(lacking(plan)), plan.left_out):
        say(f"{plan.sweep.name}: the precision check waits for the {n_missing} runs that are missing")
        return ()
    limits = plan.limits
    if limits.max_runs is not None:
        trained = {run.run_id for run in plan.runs} - (set() if options["fresh"] else set(before))
        left = limits.max_runs - len(trained)
        if left <= 0:
            say(f"{plan.sweep.name}: the precision check waits for the next call: --max-runs is used up")
            return ()
        limits = replace(limits, max_runs=left)
    other = counterpart(plan, fresh=options["fresh"], here=here, limits=limits)
    if not options["force"]:
        check_fits(other)
    for each in rounds(other, fresh=options["fresh"], tell=say):
        if options["no_wait"] and each.missing:
            deque(execute(each), maxlen=0)
            say(f"not waiting for the precision check; this goes on once it is there: {command_line('--no-wait')}")
            raise typer.Exit(OK)
        if follow_as(options["progress"])(execute(each), each):
            raise typer.Exit(STORAGE)
    if n_missing := len(lacking(other)):
        say(
            f"{plan.sweep.name}: the precision check lacks {n_missing} of {len(other.runs)} runs; this trains them: {command_line()}"
        )
        return ()
    one, another = (load_results(each.folder, tables=("runs", "coords")) for each in (plan, other))
    if plan.sweep.kind == "coord":
        from mupcheck.coordinates.precision import compare_checks

        return list(compare_checks(one, another))
    from mupcheck.learning_rates.precision import compare_precision

    return compare_precision(one, another)
