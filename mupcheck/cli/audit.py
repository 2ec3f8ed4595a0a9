"""audit: a coordinate check of a user's own model."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mupcheck.cli.answer import code_of, print_answer
from mupcheck.cli.exits import STORAGE
from mupcheck.cli.options import All, Json, Ladder, Progress, Strict, list_of, one_of, option
from mupcheck.cli.own import print_trials, unless_interrupted
from mupcheck.cli.stores import kept_in
from mupcheck.cli.typed import called
from mupcheck.results.stores.address import is_address, mirror_of, place_of
from mupcheck.terminal.console import say
from mupcheck.terminal.progress import follow_as


def audit(
    file: Annotated[str, typer.Argument(metavar="MODEL", help="Python file with build(width), and where the defaults do not fit optimizer(model), loss(model, batch), batch(seed); or a family that needs no file, such as transformers:qwen3_next.")],
    widths: Annotated[str | None, option("--widths", "Model widths, such as 64,128,256,512. (default: 64,128,256, or those of a ladder's file)", metavar="LIST")] = None,
    ladder: Ladder = None,
    table: Annotated[str | None, option("--table -p", "Apply a table by parametrize(), by name or .toml file, such as mup; the base width is the smallest. (default: none, the library's own init and one lr)", metavar="TABLE")] = None,
    opt: Annotated[str | None, option("--opt --optimizer", "adamw or sgd, of a model without an optimizer of its own. (default: adamw)", metavar="NAME")] = None,
    seeds: Annotated[int | None, option("--seeds", "Number of seeds. (default: 4)", min=1)] = None,
    record: Annotated[str, option("--record", "Steps to record. (default: 0,1,2,3)", metavar="LIST")] = "0,1,2,3",
    lr: Annotated[float | None, option("--lr", "Learning rate, given to an optimizer(model, lr=...). (default: the file's own, or 2^-10)", metavar="LR")] = None,
    top_up: Annotated[bool | None, option("--top-up/--no-top-up", "Add seeds, then larger widths, until every verdict is decided; with --seeds only if asked for. (default: top-up)")] = None,
    budget: Annotated[float, option("--budget", "Minutes after which --top-up adds no more. (default: 10)", metavar="MINUTES")] = 10.0,
    device: Annotated[str | None, option("--device", "Where model and batch are put: cpu, cuda (every GPU there is) or cuda:i. (default: where the file makes them)", metavar="NAME")] = None,
    jobs: Annotated[int | None, option("--jobs", "Processes at a time, of one thread each. (default: one per core or GPU, where the work is worth it)", min=1)] = None,
    fresh: Annotated[bool, option("--fresh/--resume", "Train finished runs again. (default: resume)")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Time a step of each width, print runs and time; write nothing. (default: no)", show_default=False)] = False,
    name: Annotated[str | None, option("--name", "Folder under --out. (default: the file's name)", metavar="NAME")] = None,
    out: Annotated[Path, option("--out", "Results folder, or its address in a store, such as s3://bucket/results. (default: results)", metavar="FOLDER", parser=place_of)] = Path("results"),
    expect: Annotated[str, option("--expect", "Verdict that exits with 0: pass or fail. (default: pass)", metavar="VERDICT")] = "pass",
    progress: Progress = "auto", json: Json = False, strict: Strict = False, every: All = False,
) -> None:  # fmt: skip
    """Coordinate check of your own torch model, or of a library's: build it at each width, train it a few steps, judge every parameter's update.

    Example: mupcheck audit sweeps/own_model.py --widths 32,64,128
    """
    from mupcheck.theory.parametrization import OPTIMIZERS

    one_of(called("--expect"), expect, ("pass", "fail"))
    follow = follow_as(progress, called("--progress"))
    sizes = None if widths is None else list_of(called("--widths"), widths, int)
    steps = list_of(called("--record"), record, int)
    optimizer = None if opt is None else one_of(called("--opt", "--optimizer"), opt, OPTIMIZERS)

    from mupcheck.audit.cells import seeded
    from mupcheck.audit.families import model_named
    from mupcheck.audit.run import WIDTHS, check_growth, plan_audit, run_one
    from mupcheck.audit.run import audit as train
    from mupcheck.audit.tabled import audited, with_optimizer
    from mupcheck.results.files import check_writable

    check_writable(mirror_of(out) if is_address(out) else out)
    seeded(0, 0)  # as in every process that reads it
    model = model_named(file, ladder)
    sizes = list(sizes or model.user.offers or WIDTHS)
    user = with_optimizer(model.user, optimizer, table, min(sizes))
    name = model.name_with(table, optimizer) if name is None else name
    with kept_in(out, name, sends=not dry_run) as kept:
        plan = plan_audit(
            user, widths=sizes, seeds=seeds, record=steps, lr=lr, top_up=top_up, budget=budget, out=kept.out,
            device=device, name=name, jobs=jobs, fresh=fresh,
            source=partial(audited, file, ladder, optimizer, table, min(sizes)),
        )  # fmt: skip
        if dry_run:
            print_trials(plan, run_one, check_growth(user, plan.widths), as_json=json)
            if plan.top_up:
                say(f"the top-up adds seeds and widths in {budget:g} minutes, which are not counted here")
            return
        with unless_interrupted(plan.folder):
            errors = train(plan, follow=follow)
    if errors:
        raise typer.Exit(STORAGE)
    verdicts = print_answer(plan.folder, "coord", as_json=json, every=every)
    (verdict,) = verdicts.values()
    code = code_of({plan.name: verdict}, {plan.name: expect}, costs=None, strict=strict)
    raise typer.Exit(STORAGE if kept.trouble else code)
