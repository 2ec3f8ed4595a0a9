"""coord, lr-sweep and run: train what is missing of a sweep and print its answer."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mupcheck.cli.answer import print_answer
from mupcheck.cli.exits import CANNOT_TELL, FAILED, INTERRUPTED, OK, STORAGE
from mupcheck.cli.options import (
    KEYS,
    All,
    Backend,
    BaseWidth,
    BatchSize,
    Budget,
    Clip,
    Config,
    CoordSteps,
    Data,
    DecayMode,
    Device,
    DryRun,
    Dtype,
    Engine,
    EvalTokens,
    Expect,
    Fresh,
    Heads,
    Jobs,
    Json,
    Layers,
    Lr,
    Lrs,
    Mode,
    Momentum,
    Name,
    Opt,
    Out,
    Precision,
    Record,
    Refine,
    Schedule,
    Seeds,
    SeqLen,
    Steps,
    Strict,
    Tables,
    Tied,
    TopUp,
    VocabSize,
    Warmup,
    WeightDecay,
    Widths,
    list_of,
    one_of,
)
from mupcheck.terminal.console import say
from mupcheck.terminal.plan_page import print_plan, resolution_of
from mupcheck.terminal.progress import follow


def coord(
    config: Config = None, widths: Widths = None, base_width: BaseWidth = None, tables: Tables = None,
    opt: Opt = None, momentum: Momentum = None, lr: Lr = None, mode: Mode = None, layers: Layers = None,
    heads: Heads = None, seeds: Seeds = None, steps: CoordSteps = None, record: Record = None, batch_size: BatchSize = None,
    seq_len: SeqLen = None, data: Data = None, vocab_size: VocabSize = None, tied: Tied = None,
    weight_decay: WeightDecay = None, decay_mode: DecayMode = None, device: Device = "auto", dtype: Dtype = None,
    backend: Backend = None, jobs: Jobs = None, engine: Engine = "local", name: Name = None,
    out: Out = Path("results"), fresh: Fresh = False, dry_run: DryRun = False, json: Json = False,
    expect: Expect = None, strict: Strict = False, top_up: TopUp = None, budget: Budget = None, every: All = False,
) -> None:  # fmt: skip
    """Coordinate check: train each width and seed a few steps, fit how sizes grow with width, judge the slopes.

    Example: mupcheck coord --widths 64,128,256,512 -p gdn-mup --opt adamw
    """
    _sweep("coord", locals())


def lr_sweep(
    config: Config = None, widths: Widths = None, base_width: BaseWidth = None, tables: Tables = None,
    opt: Opt = None, momentum: Momentum = None, lrs: Lrs = None, mode: Mode = None, layers: Layers = None,
    heads: Heads = None, seeds: Seeds = None, steps: Steps = None, batch_size: BatchSize = None,
    seq_len: SeqLen = None, data: Data = None, vocab_size: VocabSize = None, tied: Tied = None,
    weight_decay: WeightDecay = None, decay_mode: DecayMode = None, schedule: Schedule = None, warmup: Warmup = None,
    clip: Clip = None, eval_tokens: EvalTokens = None, refine: Refine = None, precision: Precision = None,
    device: Device = "auto", dtype: Dtype = None,
    backend: Backend = None, jobs: Jobs = None, engine: Engine = "local", name: Name = None,
    out: Out = Path("results"), fresh: Fresh = False, dry_run: DryRun = False, json: Json = False,
    strict: Strict = False,
) -> None:  # fmt: skip
    """Learning-rate sweep: train parametrizations x widths x lrs x seeds, say how far the best lr moves with width.

    Example: mupcheck lr-sweep --opt adamw -p sp-fanin,gdn-mup --widths 32,64,128 --lrs 2^-10:2^-4:2
    """
    _sweep("lr", locals())


def run(
    file: Annotated[Path, typer.Argument(help="Sweep file (TOML).")], device: Device = "auto", jobs: Jobs = None,
    engine: Engine = "local", out: Out = Path("results"), fresh: Fresh = False, dry_run: DryRun = False,
    json: Json = False, expect: Expect = None, strict: Strict = False, every: All = False,
) -> None:  # fmt: skip
    """Run a sweep file, a coordinate check or a learning-rate sweep; all that is not an option here stands in the file.

    Example: mupcheck run sweeps/demo_lr.toml
    """
    _sweep(None, {**locals(), "config": file})


def _sweep(kind: str | None, options: dict[str, Any]) -> None:
    """Run one sweep from options to answer, and exit with its code."""
    from mupcheck.results.leftovers import say_leftovers
    from mupcheck.results.reading import finished_runs
    from mupcheck.spec.reading import load_sweep, make_sweep
    from mupcheck.sweep import runner
    from mupcheck.sweep.plan import estimate, find_device, plan_sweep

    if options["engine"] != "local":
        raise ValueError(f"engine {options['engine']!r} is not available; known: local")
    device = find_device(options["device"])
    given = _given(options)
    if kind is None:
        given = _environment(load_sweep(options["config"], device="cpu").kind) | given
    kind_of_device = device.partition(":")[0]
    if options["config"] is not None:
        sweep = load_sweep(options["config"], given, device=kind_of_device)
        if kind not in (None, sweep.kind):
            raise ValueError(
                f"{options['config']} is of kind {sweep.kind!r}; run it with: mupcheck run {options['config']}"
            )
    else:
        sweep = make_sweep({"kind": kind, **given}, device=kind_of_device)
    expected = _expected(sweep, options.get("expect"))
    plan = grid = plan_sweep(sweep, out=options["out"], device=device, fresh=options["fresh"])
    if options["dry_run"]:
        print_plan(plan, estimate(plan), as_json=options["json"])
        if sweep.top_up:
            say(f"the top-up adds up to 64 seeds and 2 widths, in {sweep.budget:g} minutes, not counted here")
        if sweep.refine:
            say("the refinement adds some 2 to 4 lrs at each width, with every seed, which are not counted here")
        return
    if sweep.kind == "coord" and plan.missing:
        say(f"{sweep.name}: {resolution_of(plan)}")
    code = OK
    errors: list[str] = []
    try:
        for plan in runner.rounds(grid, fresh=options["fresh"]):
            errors = follow(runner.execute(plan, jobs=options["jobs"]), plan)
            if errors:
                break
    except KeyboardInterrupt:
        say(f"interrupted; finished runs are kept, the same command goes on from them: {_command_line()}")
        raise typer.Exit(INTERRUPTED) from None
    if errors:
        code = STORAGE
        if finished_runs(plan.folder).isdisjoint(run.run_id for run in plan.runs):
            raise typer.Exit(code)  # nothing to judge
    if leftovers := say_leftovers(plan.folder):
        say(leftovers)
    verdicts = print_answer(plan.folder, sweep.kind, as_json=options["json"], every=options.get("every", False))
    if sweep.top_up and not errors and "cannot tell" in verdicts.values():
        why = f"its budget ({sweep.budget:g} minutes) is used, or more seeds and widths would not decide it"
        say(f"the top-up ended undecided: {why}")
    for parametrization in (table.name for table in sweep.tables):
        verdict, want = verdicts.get(parametrization, "cannot tell"), expected.get(parametrization)
        if verdict == "cannot tell":
            code = code or (FAILED if options["strict"] else CANNOT_TELL)
        elif want is not None and verdict != want:
            say(f"{parametrization}: the verdict is {verdict!r}, expected {want!r}")
            code = FAILED if code in (OK, CANNOT_TELL) else code
    raise typer.Exit(code)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given, as the keys and values of a SweepSpec."""
    apart = {
        "config",
        "file",
        "device",
        "jobs",
        "engine",
        "out",
        "fresh",
        "dry_run",
        "json",
        "strict",
        "expect",
        "every",
    }
    given = {KEYS.get(name, name): value for name, value in options.items() if value is not None and name not in apart}
    for key, convert in (("widths", int), ("record", int), ("parametrizations", str)):
        if key in given:
            given[key] = list_of(key, given[key], convert)
    return given


def _environment(kind: str) -> dict[str, Any]:
    """Return what MUPCHECK_* variables set for a sweep of `kind`: `run` has no options of its own for it."""
    app = typer.Typer()
    app.command()(coord if kind == "coord" else lr_sweep)
    return _given(typer.main.get_command(app).make_context("", []).params)


def _expected(sweep: Any, option: str | None) -> dict[str, str | None]:
    """Return the verdict that each parametrization is expected to get; a learning-rate sweep expects none by itself."""
    from mupcheck.spec.sweep import VERDICTS, expected_verdict

    if option is not None:
        one_of("--expect", option, VERDICTS[sweep.kind])
    names = [table.name for table in sweep.tables]
    return {name: expected_verdict(sweep.kind, name, of_file=sweep.expect, option=option) for name in names}


def _command_line() -> str:
    return shlex.join(["mupcheck", *(part for part in sys.argv[1:] if part != "--fresh")])
