"""recommend: from a stored learning-rate sweep to the lr, and every parameter's values, at a width."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mupcheck.cli.exits import CANNOT_TELL
from mupcheck.cli.options import Json, Stored, one_of, option, tables_of
from mupcheck.cli.stores import read_from
from mupcheck.cli.typed import called

if TYPE_CHECKING:
    from mupcheck.learning_rates.drift import Transfer
    from mupcheck.learning_rates.recommend import Recommendation
    from mupcheck.results.reading import Results
    from mupcheck.spec.run import RunSpec


def recommend(
    path: Annotated[Path, Stored],
    width: Annotated[int, typer.Option("--width", help="Width to be trained.", show_default=False)],
    tables: Annotated[str | None, option("--parametrization --parametrizations -p", "Tables of the sweep, by name. (default: all of it)", metavar="LIST")] = None,
    form: Annotated[str, option("--format", "table, json or python: torch's parameter groups, to paste. (default: table)", metavar="NAME")] = "table",
    json: Json = False,
) -> None:  # fmt: skip
    """Say which lr to train a width with, what that rests on, and what every parameter gets; exit with 3 if no interval.

    Example: mupcheck recommend results/lr --width 4096 -p gdn-mup
    """
    from mupcheck.learning_rates.drift import transfer
    from mupcheck.learning_rates.forecast import check_target
    from mupcheck.learning_rates.recommend import recommend as recommend_lr
    from mupcheck.results.reading import load_results
    from mupcheck.terminal.recommend_page import FORMATS, print_recommendations

    form = "json" if json else one_of(called("--format"), form, FORMATS)
    results = load_results(read_from(path), tables=("runs",))
    answers = _chosen(transfer(results), tables_of(tables) if tables is not None else [])
    if form == "python" and len(answers) > 1:
        names = ", ".join(f"{answer.parametrization} of {answer.sweep}" for answer in answers)
        raise ValueError(f"--format python writes one table, and there are {names}; give one with -p and its folder")
    pages = []
    for answer in answers:
        spec = _spec_of(results, answer)
        check_target(width, [optimum.width for optimum in answer.optima], spec, name=called("--width"))
        pages.append(_page(results, answer, recommend_lr(answer, width, spec=spec), spec))
    print_recommendations(pages, form)
    found = [page.recommendation for page in pages]
    if any(None in (each.lr, each.lr_low, each.lr_high) for each in found):
        raise typer.Exit(CANNOT_TELL)


def _chosen(answers: list["Transfer"], names: list[str]) -> list["Transfer"]:
    """Return the answers of these tables, all where none is named.

    Raises:
        ValueError: if one is not there.
    """
    known = list(dict.fromkeys(answer.parametrization for answer in answers))
    if strange := next((name for name in names if name not in known), None):
        name = called("--parametrization", "--parametrizations", "-p")
        raise ValueError(f"{name} {strange!r} is not in this sweep; there are {', '.join(known)}")
    return [answer for answer in answers if not names or answer.parametrization in names]


def _spec_of(results: "Results", answer: "Transfer") -> dict[str, Any]:
    spec = results.sweeps.get(answer.sweep, {}).get("spec")
    if "imported" in results.sweeps.get(answer.sweep, {}):
        raise ValueError(
            f"{answer.sweep} was measured by others and does not say what its model is, so that no parameter's lr is "
            "known; mupcheck judge FILE --target WIDTH predicts the best lr"
        )
    if not isinstance(spec, dict):
        raise ValueError(f"{answer.sweep} has no sweep.json that says what its model is; run the sweep again")
    return spec


def _page(results: "Results", answer: "Transfer", found: "Recommendation", spec: dict[str, Any]) -> Any:
    from mupcheck.model.build import applied_values
    from mupcheck.terminal.recommend_page import Page

    if found.lr is None:
        return Page(found, None, {}, spec)
    rows, sites = applied_values(_run_at(results, answer, found, spec))
    return Page(found, rows, sites, spec)


def _run_at(results: "Results", answer: "Transfer", found: "Recommendation", spec: dict[str, Any]) -> "RunSpec":
    """Return the run that a sweep would make of a width and an lr, by the rules that its runs followed."""
    from mupcheck.results.comparable import find_rules, group_of
    from mupcheck.spec.model import Shape
    from mupcheck.spec.run import RunSpec, Training

    runs, resolved = results.runs, results.sweeps[answer.sweep]
    columns = ["sweep", "parametrization", "optimizer", "mode"]
    table = find_rules(runs[(runs[columns] == list(group_of(answer))).all(axis=1)], resolved.get("tables", {}))
    if table is None:
        raise ValueError(f"the rules of {answer.parametrization} are not in the sweep.json of {answer.sweep}")
    known = {name: spec[name] for name in (*Shape.model_fields, *Training.model_fields) if name in spec}
    return RunSpec(
        **known, width=found.width, base_width=found.base_width, vocab_size=int(resolved.get("vocab_size") or 256),
        parametrization=answer.parametrization, table=table, lr=float(found.lr or 0.0), seed=0,
    )  # fmt: skip
