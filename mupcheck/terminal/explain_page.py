"""What a site is, what is required of it, and what a deviation means."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from mupcheck.terminal.console import console, print_json, range_text, table_of
from mupcheck.theory.parametrization import write_exponent

if TYPE_CHECKING:
    from rich.console import Console

    from mupcheck.theory.explain import Cell, Explanation


def print_explanations(answers: Sequence["Explanation"], *, as_json: bool) -> None:
    """Print what a site is, what is required of it, and what a deviation means."""
    if as_json:
        print_json([asdict(answer) for answer in answers])
        return
    out = console()
    for answer in answers:
        out.print(f"{answer.site}, {_article(answer.thing)}: {answer.what}", soft_wrap=True, style="bold")
        out.print(f"  {answer.where}", soft_wrap=True)
        if answer.thing == "activation" and answer.weights:
            out.print(f"  made by {', '.join(answer.weights)}", soft_wrap=True)
        for role, meaning in answer.roles:
            out.print(f"  role {role}: {meaning}", soft_wrap=True)
        _print_rules(out, answer)
        _print_expectations(out, answer)
        out.print("What a deviation usually means", style="bold")
        for kind, text in answer.signs:
            out.print(f"  {kind}: {text}", soft_wrap=True)
        out.print()


def _print_rules(out: "Console", answer: "Explanation") -> None:
    """Print the rows of the tables that were asked for."""
    if answer.rules:
        grid = table_of("table", "role", "optimizer", "mode", "init std", "lr", "eps", "multiplier", "source")
        for row in answer.rules:
            exponents = [write_exponent(value) for value in (row.init, row.lr, row.eps, row.multiplier)]
            grid.add_row(row.parametrization, row.role, row.optimizer, row.mode, *exponents, row.source)
        out.print(grid)
    for name, mode, exponent in answer.multipliers:
        out.print(f"  {name}, {mode} mode: forward multiplier m^({write_exponent(exponent)}) here", soft_wrap=True)


def _print_expectations(out: "Console", answer: "Explanation") -> None:
    """Print the required slope of every kind, a column for each mode."""
    modes = [cell.mode for cell in answer.expectations[0].cells]
    grid = table_of("slope of", "steps", "of runs with", *modes, "why")
    for row in answer.expectations:
        optimizer = row.optimizers if len(row.optimizers) == 1 else ()
        readout = row.readouts if len(row.readouts) == 1 else ()
        steps = "all" if len(row.steps) > 1 else row.steps[0]
        slopes = [_slope(cell) for cell in row.cells]
        quantity = f"{row.kind} {', '.join(row.stats)}"
        grid.add_row(quantity, steps, ", ".join((*optimizer, *readout)) or "any", *slopes, _why(row.cells))
    out.print(grid)
    for kind, meaning in answer.kinds:
        out.print(f"  {kind}: {meaning}", soft_wrap=True)
    out.print(
        "  slope: p of size ~ width^p; a check is judged by what is required here, what is not judged is only shown",
        soft_wrap=True,
    )
    if any(cell.implied for row in answer.expectations for cell in row.cells):
        name = answer.rules[0].parametrization
        out.print(f"  implied: what {name} entails, its exponents propagated through the model", soft_wrap=True)
    out.print()


def _slope(cell: "Cell") -> str:
    text = range_text(cell.required.low, cell.required.high) if cell.required else "not judged"
    return text if cell.implied is None else f"{text}; implied {range_text(*cell.implied)}"


def _why(cells: Sequence["Cell"]) -> str:
    """Return the reason, by mode where modes differ."""
    if len({cell.why for cell in cells}) == 1:
        return cells[0].why
    return "; ".join(f"{cell.mode}: {cell.why}" for cell in cells)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
