"""What the commands that train a user's own model share: what would be trained, and Ctrl-C."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import typer

from mupcheck.cli.answer import code_of, print_answer
from mupcheck.cli.exits import INTERRUPTED, OK, STORAGE
from mupcheck.cli.options import list_of, one_of
from mupcheck.cli.stores import kept_in
from mupcheck.cli.typed import command_line
from mupcheck.results.stores.address import is_address, mirror_of
from mupcheck.terminal.console import console, duration_text, print_json, say, table_of
from mupcheck.terminal.progress import follow_as

START_SECONDS = 3.0  # of processes that read torch and the file
# what a sweep of a user's own model takes from the options of lr-sweep, by their keys
OF_PLAN = ("seeds", "steps", "schedule", "warmup_steps", "clip", "refine", "precision", "batch_size", "seq_len")
OF_OWN = {*OF_PLAN, "model", "widths", "lrs", "device", "jobs", "fresh", "dry_run", "name", "out", "expect", "cost"}
OF_OWN |= {"strict", "json", "progress", "every"}


def sweep_own(options: Mapping[str, Any], names: Mapping[str, str]) -> int:
    """Sweep the learning rate of a user's own model, print the answer, and return the exit code.

    Args:
        options: of lr-sweep.
        names: what they were called.

    Raises:
        ValueError: if one is of mupcheck's own models alone, or as `audit.lr_sweep` does.
    """
    from mupcheck.spec.defaults import sweep_defaults
    from mupcheck.spec.lrs import parse_lrs
    from mupcheck.spec.sweep import VERDICTS

    path, unset = options["model"], (None, False, "auto", "local")
    for key, value in options.items():
        # a variable may be set for other sweeps
        asked = not value if key == "retry_failed" else value not in unset
        if key not in OF_OWN and asked and names[key].startswith("-"):
            name = "--keep-failed" if key == "retry_failed" else names[key]
            raise ValueError(f"{name} is of mupcheck's own models; with --model, {path.name} says what is trained")
    if (expect := options["expect"]) is not None:
        one_of(names["expect"], expect, VERDICTS["lr"])
    if (cost := options["cost"]) is not None and not 0 < cost < 100:
        raise ValueError(f"{names['cost']} {cost:g} is no percent of the loss between 0 and 100; give one such as 1")
    defaults = sweep_defaults({"kind": "lr"}, device="cuda" if options["device"].startswith("cuda") else "cpu")
    given = {key: defaults[key] for key in ("widths", "lrs", "seeds", "steps", "batch_size", "seq_len")}
    given |= {key: options[key] for key in OF_PLAN if options[key] is not None}
    if options["widths"] is not None:
        given["widths"] = list_of(names["widths"], options["widths"], int)
    given["lrs"] = parse_lrs(given["lrs"] if options["lrs"] is None else options["lrs"])

    from mupcheck.audit.cells import seeded
    from mupcheck.audit.lr_sweep import check_reach, lr_sweep, plan_lr_sweep, train_one
    from mupcheck.audit.run import check_growth
    from mupcheck.audit.user_file import read_model_file
    from mupcheck.results.files import check_writable

    out = options["out"]
    check_writable(mirror_of(out) if is_address(out) else out)
    seeded(0, 0)  # as in every process that reads it
    user = read_model_file(path)
    device = None if options["device"] == "auto" else options["device"]
    where = {"device": device, **{key: options[key] for key in ("jobs", "fresh")}}
    name = f"{path.stem}_lr" if options["name"] is None else options["name"]
    with kept_in(out, name, sends=not options["dry_run"]) as kept:
        plan = plan_lr_sweep(user, name=name, out=kept.out, source=partial(read_model_file, path), **where, **given)
        if options["dry_run"]:
            on = check_growth(user, plan.widths)
            check_reach(plan)
            print_trials(plan, train_one, on, as_json=options["json"])
            return OK
        with unless_interrupted(plan.folder):
            errors = lr_sweep(plan, follow=follow_as(options["progress"], names["progress"]))
    if errors:
        return STORAGE
    costs: dict[str, str] = {}
    looks = {"as_json": options["json"], "every": options["every"]}
    verdicts = print_answer(plan.folder, "lr", **looks, cost=cost, costs=costs)
    (verdict,), decided = verdicts.values(), None
    if cost is not None:
        (found,) = costs.values()
        decided = {plan.name: found}
    code = code_of({plan.name: verdict}, {plan.name: expect}, costs=decided, strict=options["strict"])
    return STORAGE if kept.trouble else code


@contextmanager
def unless_interrupted(folder: Path) -> Iterator[None]:
    """Say on Ctrl-C what is kept and how it goes on, and exit."""
    try:
        yield
    except KeyboardInterrupt:
        missing = "nothing trained yet"
        if (folder / "sweep.json").exists():
            from mupcheck.results.reading import finished_runs, read_sweep

            planned = read_sweep(folder)["run_ids"]
            missing = f"{len(set(planned) - finished_runs(folder))} of {len(planned)} runs missing"
        say(f"interrupted with {missing}; finished runs are kept, this goes on from them: {command_line()}")
        raise typer.Exit(INTERRUPTED) from None


def print_trials(plan: Any, train: Any, model_device: str, *, as_json: bool) -> None:
    """Time two steps of each width, and print what would be trained and how long it takes."""
    from mupcheck.audit.cells import done_before, jobs_of, queue_of, try_out
    from mupcheck.sweep.groups import makespan

    cells = plan.cells
    queue = queue_of(plan, cells, done=done_before(plan))
    trials = {}
    try_out(plan, min(cells, key=lambda cell: cell.width), train)  # what is slow for the first time alone
    for width in sorted(plan.widths):
        trials[width] = try_out(plan, next(cell for cell in cells if cell.width == width), train)
    jobs = min(jobs_of(plan, queue, trials[min(trials)], model_device=model_device), max(len(queue.groups), 1))
    seconds = makespan([trials[cell.width].of(cell.n_steps) for (cell,) in queue.groups], jobs)
    seconds += START_SECONDS if jobs > 1 else 0.0
    rows = [
        {
            "width": width,
            "runs": sum(cell.width == width for cell in cells),
            "missing": sum(cell.width == width for (cell,) in queue.groups),
            "steps": cells[0].n_steps,
            "step_seconds": trial.step,
            "run_seconds": trial.of(cells[0].n_steps),
        }
        for width, trial in trials.items()
    ]
    if as_json:
        print_json({"sweep": plan.name, "widths": rows, "runs": len(cells), "missing": queue.missing, "jobs": jobs, "seconds": seconds})  # fmt: skip
        return
    out = console()
    table = table_of("width", "runs", "missing", "steps", "s/step", "s/run")
    for column in table.columns:
        column.justify = "right"
    for row in rows:
        counts = (str(row[key]) for key in ("width", "runs", "missing", "steps"))
        table.add_row(*counts, f"{row['step_seconds']:.2g}", f"{row['run_seconds']:.2g}")
    out.print(table)
    where = plan.device or model_device
    processes = f"{jobs} process{'es' * (jobs > 1)}"
    about = f"about {duration_text(seconds)} by steps that were timed, {processes} on {where}; nothing was written"
    out.print(f"{plan.name}: {queue.missing} of {len(cells)} runs to train into {plan.folder}, {about}", soft_wrap=True)
