"""judge: losses or sizes that others measured."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mupcheck.cli.exits import CANNOT_TELL, FAILED, OK, STORAGE
from mupcheck.cli.options import All, Json, Strict, one_of, option
from mupcheck.cli.stores import kept_in
from mupcheck.cli.typed import called
from mupcheck.results.stores.address import below, is_address, place_of
from mupcheck.terminal.console import say

if TYPE_CHECKING:
    from mupcheck.results.reading import Results


def judge(
    file: Annotated[list[str], typer.Argument(help="CSV, JSON lines or Parquet, such as an export of W&B; - is standard input.")],
    columns: Annotated[str | None, option("--columns", "Columns by what they are, such as width=config.d_model,loss=eval/loss; FILE is the file's name. (default: by their names)", metavar="LIST")] = None,
    where: Annotated[str | None, option("--where", "Take the rows that have a value, such as optimizer=adamw. (default: all)", metavar="LIST")] = None,
    kind: Annotated[str | None, option("--kind", "losses or sizes. (default: by the columns)", metavar="NAME")] = None,
    require: Annotated[str | None, option("--require", "Slopes that are required of sizes by name, such as '*=0' or 'logits=-0.5:0,attn*=0'. (default: 0 of effective updates, and what all models share)", metavar="LIST")] = None,
    cost: Annotated[float | None, option("--cost", "Percent of the loss that the best lr of the smallest width may cost the largest; given, a costly one exits with 1. (default: 1, and any cost exits with 0)", metavar="PERCENT")] = None,
    target: Annotated[int | None, option("--target", "Width for which the best lr is predicted. (default: no prediction)", metavar="WIDTH")] = None,
    expect: Annotated[str | None, option("--expect", "Verdict that exits with 0: transfers or drifts of losses, pass or fail of sizes. (default: pass, or either of losses)", metavar="VERDICT")] = None,
    out: Annotated[Path | None, option("--out", "Results folder to keep what was read in, or its address in a store, for plot and check. (default: nothing is kept)", metavar="FOLDER", parser=place_of)] = None,
    name: Annotated[str | None, option("--name", "What it is called, and the folder under --out. (default: the first file's name)", metavar="NAME")] = None,
    json: Json = False, strict: Strict = False, every: All = False,
) -> None:  # fmt: skip
    """Judge losses or sizes that others measured: how far the best lr moves with width, or how sizes grow with it.

    Needed are width, lr and loss, or width, value and name; what else is there is used (mupcheck explain judge).

    Example: mupcheck judge sweeps/losses.csv
    """
    from mupcheck.imported.columns import given_columns
    from mupcheck.imported.read import read_tables

    if kind is not None:
        one_of(called("--kind"), kind, ("losses", "sizes"))
    label = _name_of(file, name)
    imported = read_tables(
        file,
        name=label,
        columns=given_columns(columns) if columns else None,
        where=dict(_pairs("--where", where)),
        holds=kind,
        required={pattern: _slopes(pattern, text) for pattern, text in _pairs("--require", require)},
    )
    _check_options(imported.kind, {"cost": cost, "target": target}, require, expect)
    for line in imported.said:
        say(line)
    results, kept = imported.results, None
    if out is not None:
        from mupcheck.imported.store import store
        from mupcheck.results.reading import load_results

        with kept_in(out, label, sends=True) as kept:
            store(imported, kept.out / label)
        where_kept = below(out, label) if is_address(out) else out / label
        say(f"kept in {where_kept}: mupcheck plot {where_kept}")
        results = load_results(kept.out / label)
    verdicts, costs = _print(results, imported.kind, cost=cost, target=target, as_json=json, every=every)
    code = _code(verdicts, costs if cost is not None else [], imported.kind, expect, strict=strict)
    raise typer.Exit(STORAGE if kept is not None and kept.trouble else code)


def _print(
    results: "Results", kind: str, *, cost: float | None, target: int | None, as_json: bool, every: bool
) -> tuple[list[str], list[str]]:
    """Judge and print; return the verdicts, and of losses those on cost."""
    from mupcheck.terminal.console import print_json

    if kind == "coord":
        from mupcheck.coordinates.judge import judge as judge_sizes
        from mupcheck.terminal.judgement_page import as_document, print_judgement

        judgements = judge_sizes(results)
        if as_json:
            print_json(as_document(judgements))
        for judgement in () if as_json else judgements:
            print_judgement(judgement, every=every)
        return [judgement.verdict for judgement in judgements], []
    from mupcheck.learning_rates.cost import COST_TOLERANCE
    from mupcheck.learning_rates.drift import transfer
    from mupcheck.terminal.transfer_page import as_documents, print_answers

    answers = transfer(results, cost=COST_TOLERANCE if cost is None else cost, target=target)
    if as_json:
        print_json(as_documents(answers))
    else:
        print_answers(answers, every=every)
    return [answer.verdict for answer in answers], [answer.cost.verdict for answer in answers]


def _code(verdicts: list[str], costs: list[str], kind: str, expect: str | None, *, strict: bool) -> int:
    wanted = expect or ("pass" if kind == "coord" else None)
    if any(wanted not in (None, verdict) for verdict in verdicts if verdict != "cannot tell") or "costly" in costs:
        return FAILED
    if "cannot tell" in (*verdicts, *costs):
        return FAILED if strict else CANNOT_TELL
    return OK


def _check_options(kind: str, of_losses: dict[str, Any], require: str | None, expect: str | None) -> None:
    """Raise ValueError where an option is of the other kind of table."""
    from mupcheck.spec.sweep import VERDICTS

    if expect is not None:
        one_of(called("--expect"), expect, VERDICTS[kind])
    for name, value in of_losses.items():
        if value is not None and kind != "lr":
            raise ValueError(f"--{name} belongs to losses, and this is a table of sizes")
    if require and kind == "lr":
        raise ValueError("--require belongs to sizes, and this is a table of losses")


def _pairs(name: str, text: str | None) -> list[tuple[str, str]]:
    """Return name and value of each part of a list, whose names may hold commas and equals signs."""
    pairs = []
    for part in re.split(r",(?=[^,=]+=)", text) if text else ():
        left, equals, right = (piece.strip() for piece in part.rpartition("="))
        if not equals or not left or not right:
            raise ValueError(f"{name} {part.strip()!r} is not NAME=VALUE")
        pairs.append((left, right))
    return pairs


def _slopes(pattern: str, text: str) -> tuple[float, float]:
    """Return the lowest and highest slope of "0" or "-0.5:0"."""
    ends = [part.strip() for part in text.split(":")]
    try:
        low, high = float(ends[0]), float(ends[-1])
    except ValueError:
        low = high = float("nan")
    if len(ends) > 2 or not low <= high:
        raise ValueError(
            f"--require {pattern}={text}: {text!r} is no slope; give one such as 0, or a range such as -0.5:0"
        )
    return low, high


def _name_of(files: list[str], name: str | None) -> str:
    """Return the name of the sweep: the option's, or the first file's.

    Raises:
        ValueError: if it is none that a folder can have.
    """
    stem = "stdin" if files[0] == "-" else Path(files[0]).name.split(".")[0] or "table"
    label = stem if name is None else name
    if not label.strip() or label in (".", "..") or "/" in label or "\0" in label:
        raise ValueError(f"{called('--name')} {label!r} is no folder's name; give one such as published")
    return label
