"""The command line: read options, call one function, print its answer.

Nothing heavy is imported here: a command imports what it runs, so that `--help` answers at once.
"""

import shlex
import signal
import sys
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from mupcheck.terminal import console as terminal

app = typer.Typer(
    help="Does the learning rate found on a small Gated DeltaNet model hold on a large one?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

OK, FAILED, USAGE, CANNOT_TELL, STORAGE, BUG, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 70, 130, 143


def _option(names: str, text: str, **more: Any) -> Any:
    """Return a typer option that MUPCHECK_<NAME> can set too."""
    first = names.split()[0].split("/")[0]
    variable = "MUPCHECK_" + first.removeprefix("--").replace("-", "_").upper()
    return typer.Option(*names.split(), help=text, envvar=variable, show_envvar=False, show_default=False, **more)


# fmt: off
Config = Annotated[Path | None, _option("--config", "Sweep file (TOML); options win over it.")]
Widths = Annotated[str | None, _option("--widths", "Model widths, such as 256,512,1024. (default: coord 64,128,256,512, on a GPU 256,512,1024,2048; lr-sweep 32,64,128, on a GPU 256,512,1024)")]
BaseWidth = Annotated[int | None, _option("--base-width", "Width where all tables are the same model. (default: smallest width)")]
Tables = Annotated[str | None, _option("--parametrization -p", "Tables, by name or .toml file, such as sp,gdn-mup. (default: coord gdn-mup; lr-sweep sp-fanin,gdn-mup)")]
Opt = Annotated[str | None, _option("--opt", "adamw or sgd (Nesterov momentum). (default: adamw)")]
Momentum = Annotated[float | None, _option("--momentum", "SGD's Nesterov momentum. (default: 0.9)")]
Mode = Annotated[str | None, _option("--mode", "What grows with width: head-dim (K and V) or heads (H). (default: head-dim)")]
Layers = Annotated[int | None, _option("--layers", "Blocks. (default: coord 2; lr-sweep 1, on a GPU 4)")]
Heads = Annotated[int | None, _option("--heads", "Heads at the base width. (default: coord 4; lr-sweep 2, on a GPU 4)")]
Seeds = Annotated[int | None, _option("--seeds", "Number of seeds. (default: coord 8; lr-sweep 5, on a GPU 3)")]
Steps = Annotated[int | None, _option("--steps", "Optimizer steps. (default: on a CPU 60 (adamw) or 120 (sgd), on a GPU 500)")]
BatchSize = Annotated[int | None, _option("--batch-size", "Sequences a step. (default: coord 1; lr-sweep 8, on a GPU 16)")]
SeqLen = Annotated[int | None, _option("--seq-len", "Tokens a sequence. (default: coord 16; lr-sweep 48, on a GPU 512)")]
Data = Annotated[str | None, _option("--data", "stdlib, synthetic, text:PATH, tokens:GLOB or hf:NAME. (default: stdlib)")]
VocabSize = Annotated[int | None, _option("--vocab-size", "Vocabulary of tokens:GLOB data, where it is needed. (default: 256, that of bytes)")]
Tied = Annotated[bool | None, _option("--tied/--untied", "Readout shares the embedding's weight. (default: untied)")]
WeightDecay = Annotated[float | None, _option("--weight-decay", "Weight decay at the base width. (default: 0)")]
DecayMode = Annotated[str | None, _option("--decay-mode", "coupled (torch's, fades as lr does) or independent. (default: coupled)")]
Device = Annotated[str, _option("--device", "auto, cpu, cuda or cuda:i. (default: auto)")]
Dtype = Annotated[str | None, _option("--dtype", "float32, bfloat16 or float64. (default: float32)")]
Backend = Annotated[str | None, _option("--backend", "Of the delta rule: auto, reference, chunk or triton. (default: auto)")]
Jobs = Annotated[int | None, _option("--jobs", "Processes at a time. (default: one per core on a CPU, 1 on a GPU)", min=1)]
Engine = Annotated[str, _option("--engine", "Where runs execute: local. (default: local)")]
Name = Annotated[str | None, _option("--name", "Folder under --out. (default: the file's name, or coord or lr)")]
Out = Annotated[Path, _option("--out", "Results folder. (default: results)")]
Fresh = Annotated[bool, _option("--fresh/--resume", "Train finished runs again. (default: resume)")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print runs, sizes and an estimate of time; train nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as one JSON document on stdout.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 instead of 3 where it cannot tell.")]
Lr = Annotated[str | None, _option("--lr", "Learning rate at the base width. (default: 2^-12 (adamw) or 2^-6 (sgd))")]
CoordSteps = Annotated[int | None, _option("--steps", "Optimizer steps. (default: the last step to record)")]
Record = Annotated[str | None, _option("--record", "Steps to record. (default: 0,1,2,3,4,8)")]
Expect = Annotated[str | None, _option("--expect", "Verdict that exits with 0: pass or fail of a coordinate check, transfers or drifts of an lr sweep. (default: the file's, or pass; an lr sweep expects none)")]
TopUp = Annotated[bool | None, _option("--top-up/--no-top-up", "Add seeds (64 at most), then larger widths (2 at most), until every verdict is decided. (default: no-top-up)")]
Budget = Annotated[float | None, _option("--budget", "Minutes after which --top-up adds no more. (default: 10)")]
All = Annotated[bool, typer.Option("--all", help="Print every quantity, not only those worth a look.")]
Lrs = Annotated[str | None, _option("--lrs", "Learning rates at the base width: a list, or FROM:TO:FACTOR. (default: 2^-10:2^-4:2 (adamw) or 2^-7:2^-2:1.4142135623730951 (sgd))")]
Refine = Annotated[bool | None, _option("--refine/--no-refine", "Add learning rates around and beyond each optimum until it is bracketed. (default: no-refine)")]
Precision = Annotated[float | None, _option("--precision", "Octaves of lr on either side of a bracketed optimum. (default: 0.25)")]
Schedule = Annotated[str | None, _option("--schedule", "constant, cosine or linear. (default: linear)")]
Warmup = Annotated[int | None, _option("--warmup", "Steps of linear warm-up. (default: a tenth of the steps)")]
Clip = Annotated[float | None, _option("--clip", "Largest global gradient norm, 0 for none. (default: 0)")]
EvalTokens = Annotated[int | None, _option("--eval-tokens", "Held-out tokens for val_loss. (default: 8192, on a GPU 262144)")]
# fmt: on

# option -> key of a SweepSpec, where they differ
KEYS = {
    "tables": "parametrizations",
    "opt": "optimizer",
    "layers": "n_layers",
    "heads": "n_heads",
    "warmup": "warmup_steps",
    "lr": "lrs",
}


@app.command()
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


@app.command()
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


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="Sweep file (TOML).")], device: Device = "auto", jobs: Jobs = None,
    engine: Engine = "local", out: Out = Path("results"), fresh: Fresh = False, dry_run: DryRun = False,
    json: Json = False, expect: Expect = None, strict: Strict = False, every: All = False,
) -> None:  # fmt: skip
    """Run a sweep file, a coordinate check or a learning-rate sweep; all that is not an option here stands in the file.

    Example: mupcheck run sweeps/demo_lr.toml
    """
    _sweep(None, {**locals(), "config": file})


@app.command()
def plot(
    path: Annotated[Path, typer.Argument(help="Results folder, or one sweep's folder in it.")] = Path("results"),
    json: Json = False,
) -> None:
    """Draw the figures (PNG and SVG) of everything found under PATH, and print the files written.

    Example: mupcheck plot results/
    """
    from mupcheck.plots import plot_results

    written = plot_results(path)
    if json:
        terminal.print_json([str(file) for file in written])
    else:
        for file in written:
            print(file)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="Results folder, or one sweep's folder in it.")] = Path("results"),
    baseline: Annotated[Path | None, _option("--baseline", "Stored slopes to compare coordinate checks with. (default: none)")] = None,
    update_baseline: Annotated[bool, typer.Option("--update-baseline", help="Write --baseline FILE from what is there, if it is as expected.")] = False,
    junit: Annotated[Path | None, _option("--junit", "Write JUnit XML here. (default: none)")] = None,
    markdown: Annotated[Path | None, _option("--markdown", "Add Markdown to this file, such as $GITHUB_STEP_SUMMARY. (default: none)")] = None,
    expect: Expect = None, json: Json = False, strict: Strict = False, every: All = False,
) -> None:  # fmt: skip
    """Judge everything under PATH against theory and, with a baseline, against stored slopes; exit with 1 if it fails, 3 if it cannot tell.

    Example: mupcheck check results/ --baseline sweeps/baseline.txt
    """
    from mupcheck.gate.baseline import read_baseline
    from mupcheck.gate.check import check as check_folder
    from mupcheck.gate.check import is_one_sweep, renew_baseline
    from mupcheck.terminal import check_page

    if update_baseline and baseline is None:
        raise ValueError("--update-baseline needs to know which file; add --baseline FILE")
    if update_baseline and baseline is not None and baseline.exists():
        read_baseline(baseline)  # what is no baseline is not overwritten, and said before anything else
    report = check_folder(path, baseline=None if update_baseline else baseline, expect=expect)
    if json:
        check_page.print_report_json(report)
    else:
        check_page.print_report(report, every=every)
    check_page.write_report(report, junit=junit, markdown=markdown, baseline=baseline, strict=strict)
    if update_baseline and baseline is not None:
        terminal.say(renew_baseline(baseline, report, keep_other_sweeps=is_one_sweep(path)))
    code = {"ok": OK, "failed": FAILED, "cannot tell": FAILED if strict else CANNOT_TELL}[report.outcome]
    raise typer.Exit(code)


@app.command()
def rules(
    tables: Annotated[str | None, _option("--parametrization -p", "Tables, by name or .toml file. (default: all shipped)")] = None,
    opt: Annotated[str | None, _option("--opt", "adamw or sgd. (default: both)")] = None,
    mode: Annotated[str | None, _option("--mode", "head-dim or heads. (default: both)")] = None,
    width: Annotated[int | None, typer.Option("--width", help="Print the values each parameter gets at this width.")] = None,
    base_width: Annotated[int, _option("--base-width", "Width where all factors are 1. (default: 256)")] = 256,
    heads: Annotated[int, _option("--heads", "Heads at the base width. (default: 4)")] = 4,
    tied: Tied = None, json: Json = False,
) -> None:  # fmt: skip
    """Print the parametrization tables: exponents of m = width / base width, with their sources.

    Example: mupcheck rules -p gdn-mup --opt adamw --width 1024 --base-width 256
    """
    from mupcheck.theory.parametrization import TABLES, find_table

    names = _list("parametrizations", tables, str) if tables else list(TABLES)
    chosen = [find_table(name) for name in names]
    optimizers, modes = _optimizers_and_modes(opt, mode)
    if width is None:
        terminal.print_tables(chosen, optimizers, modes, as_json=json)
        return
    from mupcheck.model.build import parameter_values
    from mupcheck.spec.sweep import make_sweep

    answers = []
    for optimizer in optimizers:
        for each in modes:
            spec = {"kind": "coord", "widths": [width], "base_width": base_width, "seeds": 1, "parametrizations": names}
            spec |= {"optimizer": optimizer, "mode": each, "n_heads": heads, "n_layers": 1, "tied": tied or False}
            sweep = make_sweep(spec)
            for run in sweep.runs(vocab_size=256, data_hash=""):
                answers.append((run, parameter_values(run)))
    terminal.print_values(answers, as_json=json)


@app.command()
def doctor(json: Json = False) -> None:
    """Say what this machine offers: torch, triton, GPU, and the backends that pass a self-test.

    Example: mupcheck doctor
    """
    from mupcheck.sweep.doctor import examine

    terminal.print_findings(examine(), as_json=json)


@app.command()
def identities(
    tables: Annotated[str | None, _option("--parametrization -p", "Tables, by name or .toml file. (default: gdn-mup)")] = None,
    opt: Annotated[str | None, _option("--opt", "adamw or sgd. (default: both)")] = None,
    mode: Annotated[str | None, _option("--mode", "head-dim or heads. (default: both)")] = None,
    json: Json = False, strict: Strict = False,
) -> None:  # fmt: skip
    """Check on small models what must hold for every table: that the code applies it as written, and nothing else.

    Example: mupcheck identities -p sp,gdn-mup --opt adamw
    """
    from mupcheck.proof.identities import check_identities
    from mupcheck.terminal.explain_page import print_identities
    from mupcheck.theory.parametrization import find_table

    names = _list("parametrizations", tables, str) if tables else ["gdn-mup"]
    for name in names:
        find_table(name)  # a wrong name is said before anything is trained
    settings = [(name, optimizer, each) for name in names for optimizer, each in _settings(opt, mode)]
    found = [i for name, optimizer, each in settings for i in check_identities(name, optimizer=optimizer, mode=each)]
    print_identities(found, as_json=json)
    if any(identity.holds is False for identity in found):
        raise typer.Exit(FAILED)
    if any(identity.holds is None for identity in found):
        raise typer.Exit(FAILED if strict else CANNOT_TELL)


@app.command()
def gates(
    path: Annotated[Path, typer.Argument(help="Results folder, or one sweep's folder in it.")] = Path("results"),
    json: Json = False, strict: Strict = False,
) -> None:  # fmt: skip
    """Say how the gates' gradients grow with width, and which rule for their learning rate that speaks for.

    Example: mupcheck gates results/coord
    """
    from mupcheck.coordinates.gates import fit_gates
    from mupcheck.results.reading import load_results
    from mupcheck.terminal.explain_page import print_gates

    results = load_results(path, tables=("runs", "coords"))
    each, pooled = fit_gates(results.runs, results.coords), fit_gates(results.runs, results.coords, pooled=True)
    print_gates(each, pooled, as_json=json)
    if not any(gate.near for gate in (*each, *pooled)):
        raise typer.Exit(FAILED if strict else CANNOT_TELL)


@app.command()
def explain(
    site: Annotated[str, typer.Argument(help="An activation or a parameter, such as z_beta, mixer_out or o_proj.")],
    tables: Annotated[str | None, _option("--parametrization -p", "Tables whose rows are shown, by name or .toml file. (default: none)")] = None,
    opt: Annotated[str | None, _option("--opt", "adamw or sgd. (default: both)")] = None,
    mode: Annotated[str | None, _option("--mode", "head-dim or heads. (default: both)")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Say what a quantity is, where it sits in the model, which slope is required of it and why, and what is wrong if not.

    Example: mupcheck explain z_beta -p gdn-mup --opt sgd
    """
    from mupcheck.terminal.explain_page import print_explanations
    from mupcheck.theory.explain import explain
    from mupcheck.theory.parametrization import find_table

    chosen = [find_table(name) for name in _list("parametrizations", tables, str)] if tables else []
    optimizers, modes = _optimizers_and_modes(opt, mode)
    answers = explain(site, optimizers=optimizers, modes=modes, tables=chosen)
    print_explanations(answers, as_json=json)


@app.command()
def selftest(
    opt: Annotated[str | None, _option("--opt", "adamw or sgd. (default: both)")] = None,
    mode: Annotated[str | None, _option("--mode", "head-dim or heads. (default: both)")] = None,
    repetitions: Annotated[int, _option("--repetitions", "Checks of gdn-mup with fresh seeds, under each optimizer in each mode. (default: 1)", min=0)] = 1,
    jobs: Jobs = None, json: Json = False,
) -> None:  # fmt: skip
    """Plant faults and see whether the judge catches and names each, and whether it leaves a correct table alone.

    Exits with 1 if it does not. Takes some minutes on two cores. Example: mupcheck selftest --opt sgd --mode heads
    """
    from mupcheck.proof.faults import FAULTS
    from mupcheck.proof.selftest import plant_faults, repeat
    from mupcheck.terminal.explain_page import print_selftest

    settings = _settings(opt, mode)
    faults = [fault for fault in FAULTS if (fault.optimizer, fault.mode) in settings]
    caught = []
    for each in plant_faults(faults, jobs=jobs):
        caught.append(each)
        terminal.say(f"{len(caught)} of {len(faults)}: {each.fault.name} ({each.fault.optimizer}, {each.fault.mode})")
    repeated = list(repeat(repetitions, settings, jobs=jobs)) if repetitions else []
    print_selftest(caught, repeated, as_json=json)
    if not all(each.caught and each.named is not False for each in caught) or any(each.reasons for each in repeated):
        raise typer.Exit(FAILED)


def _optimizers_and_modes(opt: str | None, mode: str | None) -> tuple[list[str], list[str]]:
    """Return the optimizers and modes that two options name; all where they are left out."""
    from mupcheck.theory.parametrization import MODES, OPTIMIZERS

    optimizers = [_one_of("--opt", opt, OPTIMIZERS)] if opt else list(OPTIMIZERS)
    return optimizers, [_one_of("--mode", mode, MODES)] if mode else list(MODES)


def _settings(opt: str | None, mode: str | None) -> list[tuple[str, str]]:
    """Return every (optimizer, mode) of them."""
    return list(product(*_optimizers_and_modes(opt, mode)))


def _sweep(kind: str | None, options: dict[str, Any]) -> None:
    """Run one sweep from options to answer, and exit with its code."""
    from mupcheck.results.reading import finished_runs
    from mupcheck.spec.sweep import load_sweep, make_sweep
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
        terminal.print_plan(plan, estimate(plan), as_json=options["json"])
        if sweep.top_up:
            terminal.say(f"the top-up adds up to 64 seeds and 2 widths, in {sweep.budget:g} minutes, not counted here")
        if sweep.refine:
            terminal.say(
                "the refinement adds some 2 to 4 lrs at each width, with every seed, which are not counted here"
            )
        return
    if sweep.kind == "coord" and plan.missing:
        terminal.say(f"{sweep.name}: {terminal.resolution_of(plan)}")
    code = OK
    errors: list[str] = []
    try:
        for plan in runner.rounds(grid, fresh=options["fresh"]):
            errors = terminal.follow(runner.execute(plan, jobs=options["jobs"]), plan)
            if errors:
                break
    except KeyboardInterrupt:
        terminal.say(f"interrupted; finished runs are kept, the same command goes on from them: {_command_line()}")
        raise typer.Exit(INTERRUPTED) from None
    if errors:
        code = STORAGE
        if finished_runs(plan.folder).isdisjoint(run.run_id for run in plan.runs):
            raise typer.Exit(code)  # nothing to judge
    verdicts = terminal.print_answer(
        plan.folder, sweep.kind, as_json=options["json"], every=options.get("every", False)
    )
    if sweep.top_up and not errors and "cannot tell" in verdicts.values():
        why = f"its budget ({sweep.budget:g} minutes) is used, or more seeds and widths would not decide it"
        terminal.say(f"the top-up ended undecided: {why}")
    for parametrization in (table.name for table in sweep.tables):
        verdict, want = verdicts.get(parametrization, "cannot tell"), expected.get(parametrization)
        if verdict == "cannot tell":
            code = code or (FAILED if options["strict"] else CANNOT_TELL)
        elif want is not None and verdict != want:
            terminal.say(f"{parametrization}: the verdict is {verdict!r}, expected {want!r}")
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
            given[key] = _list(key, given[key], convert)
    return given


def _environment(kind: str) -> dict[str, Any]:
    """Return what MUPCHECK_* variables set for a sweep of `kind`: `run` has no options of its own for it."""
    command = typer.main.get_command(app).commands["coord" if kind == "coord" else "lr-sweep"]  # type: ignore[attr-defined]
    return _given(command.make_context("", []).params)


def _list(key: str, text: str, convert: type) -> list[Any]:
    try:
        return [convert(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"{key} = {text!r} is not a list of whole numbers, such as 256,512,1024") from None


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{name} {value!r} is unknown; known: {', '.join(known)}")
    return value


def _expected(sweep: Any, option: str | None) -> dict[str, str | None]:
    """Return the verdict that each parametrization is expected to get; a learning-rate sweep expects none by itself."""
    from mupcheck.spec.sweep import VERDICTS, expected_verdict

    if option is not None:
        _one_of("--expect", option, VERDICTS[sweep.kind])
    names = [table.name for table in sweep.tables]
    return {name: expected_verdict(sweep.kind, name, of_file=sweep.expect, option=option) for name in names}


def _command_line() -> str:
    return shlex.join(["mupcheck", *(part for part in sys.argv[1:] if part != "--fresh")])


def _terminate(_signal: int, _frame: Any) -> NoReturn:
    raise SystemExit(TERMINATED)


def main() -> NoReturn:
    """Run the command line; every fault a user can cause is one line and an exit code of contract."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(standalone_mode=False)
    except ValueError as error:
        code = _fault(error, USAGE)
    except OSError as error:
        code = _fault(error, STORAGE)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        # typer's usage errors carry their own one-line message; its class is not public in every version
        if not hasattr(error, "format_message"):
            terminal.say("this is a bug in mupcheck; please report it with the lines below")
            sys.excepthook(*sys.exc_info())
            sys.exit(BUG)
        code = _fault(error.format_message(), USAGE) if error.format_message() else USAGE  # none: it printed the help
    sys.stdout.flush()
    sys.exit(code or OK)


def _fault(error: object, code: int) -> int:
    terminal.say("error: " + " ".join(str(error).split()))
    return code
