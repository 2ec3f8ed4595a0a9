"""coord, lr-sweep and run: train what is missing of a sweep and print its answer."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from inspect import Parameter
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mupcheck.cli.answer import code_of, print_answer
from mupcheck.cli.engine import elsewhere_of
from mupcheck.cli.exits import CANNOT_TELL, FAILED, INTERRUPTED, OK, STORAGE
from mupcheck.cli.limits import limits_of, said_of, seconds_of
from mupcheck.cli.options import APART, list_of, one_of, takes
from mupcheck.cli.precision import check_precision
from mupcheck.cli.typed import command_line, names_of
from mupcheck.terminal.console import say
from mupcheck.terminal.plan_page import print_plan, resolution_of
from mupcheck.terminal.progress import follow_as

if TYPE_CHECKING:
    from mupcheck.coordinates.precision import SlopePrecision
    from mupcheck.learning_rates.precision import Precision
    from mupcheck.sweep.engines.elsewhere import Elsewhere
    from mupcheck.sweep.pace import Progress
    from mupcheck.sweep.plan import Plan

JUDGES = {"coord": "mupcheck.coordinates.folder", "lr": "mupcheck.learning_rates.drift"}


@takes("coord")
def coord(ctx: typer.Context, **options: Any) -> None:
    """Coordinate check: train each width and seed a few steps, fit how sizes grow with width, judge the slopes.

    Example: mupcheck coord --widths 64,128,256,512 -p gdn-mup --opt adamw
    """
    _sweep("coord", ctx, options)


@takes("lr")
def lr_sweep(ctx: typer.Context, **options: Any) -> None:
    """Learning-rate sweep: train parametrizations x widths x lrs x seeds, say how far the best lr moves with width.

    Example: mupcheck lr-sweep --opt adamw -p sp-fanin,gdn-mup --widths 32,64,128 --lrs 2^-9:2^-3:2
    """
    if options["model"] is not None:
        from mupcheck.cli.own import sweep_own

        raise typer.Exit(sweep_own(options, names_of(ctx)))
    _sweep("lr", ctx, options)


FILE = Annotated[Path, typer.Argument(help="Sweep file (TOML).")]


@takes("run", Parameter("file", Parameter.KEYWORD_ONLY, annotation=FILE))
def run(ctx: typer.Context, file: Path, **options: Any) -> None:
    """Run a sweep file, a coordinate check or a learning-rate sweep; all that is not an option here stands in the file.

    Example: mupcheck run sweeps/demo_lr.toml
    """
    _sweep(None, ctx, {**options, "config": file})


def _sweep(kind: str | None, ctx: typer.Context, options: dict[str, Any]) -> None:
    """Run one sweep from options to answer, and exit with its code."""
    _start_ahead(options)
    from mupcheck.results.leftovers import say_leftovers
    from mupcheck.results.reading import finished_runs
    from mupcheck.sweep import runner
    from mupcheck.sweep.described import lacking, made_up_for
    from mupcheck.sweep.estimate import estimate
    from mupcheck.sweep.plan import check_fits
    from mupcheck.sweep.rounds import rounds
    from mupcheck.sweep.sharing import joined

    follow = follow_as(options["progress"], names_of(ctx)["progress"])
    sweep, plan, expected, elsewhere = _plan(kind, ctx, options)
    grid = plan
    if options["dry_run"]:
        # a GPU elsewhere times nothing here
        print_plan(plan, estimate(plan, timed=elsewhere is None or not plan.gpus), as_json=options["json"])
    if not options["force"]:
        check_fits(plan)
    if options["dry_run"]:
        if sweep.top_up:
            say(f"the top-up goes up to 64 seeds and 2 more widths, in {sweep.budget:g} minutes, not counted here")
        if options["check_precision"]:
            what = f"width {min(sweep.widths)}" if sweep.kind == "lr" else "every width"
            say(f"the precision check trains {what} once more, which is not counted here")
        if sweep.refine:
            say("the refinement adds some 2 to 4 lrs at each width, with every seed, which are not counted here")
        return
    if elsewhere is None and plan.limits.group_seconds is None and plan.gpus_per_run == 1:
        runner.draw_next(plan, plan.groups, jobs=options["jobs"])
    if plan.left_out:
        say(f"{plan.left_out} runs that failed before are left out; --retry-failed trains them again")
    grid = plan = replace(plan, claims=ctx.with_resource(joined(plan, command=command_line(), say=say)))
    execute = _engine(ctx, elsewhere, options)
    if sweep.kind == "coord" and plan.missing:
        say(f"{sweep.name}: {resolution_of(plan)}")
    if n_before := runner.not_alone(plan):
        say(f"{n_before} runs were trained beside others before; --fresh trains them again, alone")
    code = OK
    errors: list[str] = []
    precision: Sequence[Precision | SlopePrecision] = ()
    before = finished_runs(plan.folder)
    try:
        for plan in rounds(grid, fresh=options["fresh"], tell=say):
            if options["no_wait"] and plan.missing:
                deque(execute(plan), maxlen=0)
                say(f"not waiting for them; this goes on once they are there: {command_line('--no-wait')}")
                raise typer.Exit(OK)
            errors = follow(execute(plan), plan)
            if errors and made_up_for(plan):
                errors = []
            if errors:
                break
        if options["check_precision"] and not errors:
            precision = check_precision(plan, options, execute, before=before, here=elsewhere is None)
    except KeyboardInterrupt:
        n_missing = len(lacking(plan))
        missing = f"{n_missing} of {len(plan.runs)} runs missing" if n_missing else "the precision check missing"
        say(f"interrupted with {missing}; finished runs are kept, this goes on from them: {command_line()}")
        if options["engine"] == "slurm":
            say("what is in the queue stays there; scancel ends it")
        raise typer.Exit(INTERRUPTED) from None
    limit = said_of(plan.limits, options, names_of(ctx))
    if errors or limit or plan.left_out:
        left = lacking(plan)
        code = STORAGE if errors else code
        if left and not errors:
            code = FAILED if options["strict"] else CANNOT_TELL
            if limit:
                say(f"{sweep.name}: {limit} ended it with {len(left)} of {len(plan.runs)} runs left")
        elif sweep.refine and plan.limits.out_of_time:
            say(f"{sweep.name}: {limit} ended its refinement; this goes on: {command_line()}")
        if len(left) == len(plan.runs):
            say(f"{sweep.name}: none of {len(left)} runs is there; this trains them: {command_line()}")
            raise typer.Exit(code)  # nothing to judge
    if leftovers := say_leftovers(plan.folder):
        say(leftovers)
    costs: dict[str, str] = {}
    verdicts = print_answer(
        plan.folder,
        sweep.kind,
        as_json=options["json"],
        every=options["every"],
        command=command_line(),
        costs=costs,
        precision=precision,
        **{name: options.get(name) for name in ("cost", "target")},
    )
    if sweep.top_up and not errors and "cannot tell" in verdicts.values():
        why = f"its budget ({sweep.budget:g} minutes) is used, or more seeds and widths would not decide it"
        say(f"the top-up ended undecided: {why}")
    decided = costs if options.get("cost") is not None else None
    found = code_of(verdicts, expected, costs=decided, strict=options["strict"])
    code = code or found
    if options["check_precision"] and not precision:
        code = code or (FAILED if options["strict"] else CANNOT_TELL)
    for answer in precision:
        if answer.verdict == "moves":
            code = FAILED if code in (OK, CANNOT_TELL) else code
        elif answer.verdict == "cannot tell":
            code = code or (FAILED if options["strict"] else CANNOT_TELL)
    raise typer.Exit(code)


def _start_ahead(options: Mapping[str, Any]) -> None:
    """Let workers' modules be imported, a second and a half, while this process imports its own and plans."""
    here = options["engine"] == "local" and not options["dry_run"] and not options["gpus_per_run"]
    if here and (options["jobs"] or os.cpu_count() or 1) > 1:
        from mupcheck.sweep.engines.forking import start_ahead
        from mupcheck.sweep.kernels import PRELOAD

        with suppress(OSError):  # it is told where a process is really needed
            start_ahead(PRELOAD)


def _engine(
    ctx: typer.Context, elsewhere: "Elsewhere | None", options: Mapping[str, Any]
) -> "Callable[[Plan], Iterator[Progress]]":
    """Return what executes a plan where the options say, until the command ends.

    Raises:
        ValueError: if that cannot be reached.
    """
    from mupcheck.sweep import runner

    if elsewhere is None:
        return partial(runner.execute, jobs=options["jobs"])
    from mupcheck.sweep.engines.elsewhere import opened

    return partial(runner.execute, engine=ctx.with_resource(opened(elsewhere, say=say, wait=not options["no_wait"])))


def _plan(
    kind: str | None, ctx: typer.Context, options: dict[str, Any]
) -> tuple[Any, Any, dict[str, str | None], "Elsewhere | None"]:
    """Return the sweep that file, environment and options ask for, its plan, the verdicts expected of it, and its engine.

    Raises:
        ValueError: if it cannot be; keys are called what their user called them.
    """
    from mupcheck.spec.reading import call, lay_over, make_sweep, read_sweep_file
    from mupcheck.sweep.engines.elsewhere import devices_of, planned
    from mupcheck.sweep.plan import find_devices, plan_sweep

    file = options["config"]
    document = read_sweep_file(file) if file is not None else {}
    where = str(file) if file is not None else ""
    names, asked = names_of(ctx), _given(options, names_of(ctx))
    if kind is None and document.get("kind") in ("coord", "lr"):
        of_environment, variables = _environment(document["kind"])
        names, asked = variables | names, of_environment | asked
    # what stands in the file is called what it is called there
    names = {key: name for key, name in names.items() if key in asked or key not in document}
    if (kind or document.get("kind")) == "lr":
        asked.pop("budget", None)  # what limits a call is no part of a sweep, but for a top-up
    given = ({} if file is not None else {"kind": kind}) | lay_over(document, asked)
    try:
        elsewhere = elsewhere_of(options, names_of(ctx))
        devices = find_devices(options["device"]) if elsewhere is None else devices_of(elsewhere)
    except ValueError as error:
        raise ValueError(call(str(error), names)) from None
    sweep = make_sweep(given, device=devices[0].partition(":")[0], where=where, names=names)
    if kind not in (None, sweep.kind):
        raise ValueError(f"{file} is of kind {sweep.kind!r}; run it with: mupcheck run {file}")
    expected = _expected(sweep, options.get("expect"), names.get("expect", "--expect"))
    _check_asked(sweep, options, names)
    limits = limits_of(options, names)
    if not options["dry_run"]:
        # what judges is a second to import: meanwhile a GPU is asked, workers import torch, initial values are drawn
        Thread(target=import_module, args=(JUDGES[sweep.kind],)).start()
    try:
        given = {name: options[name] for name in ("out", "fresh", "jobs", "exact", "retry_failed")}
        given["gpus_per_run"] = options["gpus_per_run"] or 1
        if elsewhere is not None and given["gpus_per_run"] > 1:
            raise ValueError(f"gpus_per_run={given['gpus_per_run']} is of engine local; leave one out")
        plan = plan_sweep(sweep, device=devices, limits=limits, here=elsewhere is None, **given)
        return sweep, plan if elsewhere is None else planned(plan, elsewhere), expected, elsewhere
    except ValueError as error:
        said = f"data: {error}" if str(error).startswith(f"{sweep.data}: ") else str(error)
        where = where if said.startswith("data") else ""  # what cannot be written is not the file's fault
        raise ValueError(call(said, names, keys=document, where=where)) from None


def _check_asked(sweep: Any, options: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Raise ValueError where what is asked of the answer, --cost or --target, cannot be, before anything is trained."""
    for key in ("cost", "target"):
        # a variable may be set for other sweeps
        if options.get(key) is not None and sweep.kind != "lr" and names[key].startswith("-"):
            raise ValueError(f"{names[key]} belongs to a sweep of lrs (kind = 'lr'); a coordinate check has none")
    if sweep.kind != "lr":
        return
    if (cost := options.get("cost")) is not None and not 0 < cost < 100:
        raise ValueError(f"{names['cost']} {cost:g} is no percent of the loss between 0 and 100; give one such as 1")
    if options.get("target") is not None:
        from mupcheck.learning_rates.forecast import check_target

        check_target(options["target"], sweep.widths, sweep.model_dump(), name=names["target"])


def _given(options: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the options that were given, as the keys and values of a SweepSpec."""
    given = {key: value for key, value in options.items() if value is not None and key not in (*APART, "file")}
    if "budget" in given:
        given["budget"] = seconds_of(names.get("budget", "--budget"), given["budget"]) / 60
    for key, convert in (("widths", int), ("record", int), ("parametrizations", str)):
        if key in given:
            given[key] = list_of(names.get(key, key), given[key], convert)
    return given


def _environment(kind: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what MUPCHECK_* variables set for a sweep of `kind`, and their names: `run` has no options of its own for it."""
    ctx = _command_of(kind).make_context("", [])
    names = names_of(ctx)
    given = _given(ctx.params, names)
    return given, {key: names[key] for key in given}


@cache
def _command_of(kind: str) -> Any:
    app = typer.Typer()
    app.command()(coord if kind == "coord" else lr_sweep)
    return typer.main.get_command(app)


def _expected(sweep: Any, option: str | None, name: str) -> dict[str, str | None]:
    """Return the verdict that each parametrization is expected to get; a learning-rate sweep expects none by itself."""
    from mupcheck.spec.sweep import VERDICTS, expected_verdict

    if option is not None:
        one_of(name, option, VERDICTS[sweep.kind])
    names = [table.name for table in sweep.tables]
    return {name: expected_verdict(sweep.kind, name, of_file=sweep.expect, option=option) for name in names}
