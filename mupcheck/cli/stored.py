"""plot and gates: what stored results show."""

from pathlib import Path
from typing import Annotated

import typer

from mupcheck.cli.exits import CANNOT_TELL, FAILED
from mupcheck.cli.options import Json, Strict
from mupcheck.terminal.console import print_json


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
        print_json([str(file) for file in written])
    else:
        for file in written:
            print(file)


def gates(
    path: Annotated[Path, typer.Argument(help="Results folder, or one sweep's folder in it.")] = Path("results"),
    json: Json = False, strict: Strict = False,
) -> None:  # fmt: skip
    """Say how the gates' gradients grow with width, and which rule for their learning rate that speaks for.

    Example: mupcheck gates results/coord
    """
    from mupcheck.coordinates.gates import fit_gates
    from mupcheck.results.reading import load_results
    from mupcheck.terminal.gates_page import print_gates

    results = load_results(path, tables=("runs", "coords"))
    each, pooled = fit_gates(results.runs, results.coords), fit_gates(results.runs, results.coords, pooled=True)
    print_gates(each, pooled, as_json=json)
    if not any(gate.near for gate in (*each, *pooled)):
        raise typer.Exit(FAILED if strict else CANNOT_TELL)
