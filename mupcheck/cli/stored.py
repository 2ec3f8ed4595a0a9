"""plot, report and gates: what stored results show."""

from pathlib import Path
from typing import Annotated

import typer

from mupcheck.cli.exits import CANNOT_TELL, FAILED
from mupcheck.cli.options import Json, Stored, Strict, option
from mupcheck.cli.stores import read_from, send_pictures
from mupcheck.results.stores.address import check_no_address, is_address, place_of
from mupcheck.terminal.console import print_json, say


def plot(
    path: Annotated[Path, Stored] = Path("results"),
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the figures. (default: figures/ in each sweep's folder)", show_default=False)] = None,
    only: Annotated[str | None, option("--only", "Figures by name or pattern, such as loss_vs_lr,coords_*. (default: the few that answer)")] = None,
    style: Annotated[str, option("--style", "page, or paper: as wide as a paper's column and as two, captions as .txt. (default: page)", metavar="NAME")] = "page",
    formats: Annotated[str | None, option("--format", "Files of each figure: of png,svg,pdf. (default: png,svg, in the style paper pdf,png)", metavar="LIST")] = None,
    every: Annotated[bool, typer.Option("--all", help="Draw every figure there is, not only the few that answer.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Draw figures (PNG, SVG, PDF) of what is found under PATH, and print the files written.

    Without options the few that answer: slopes and sizes against width, loss against lr, the best lr against width.

    Example: mupcheck plot results/
    """
    from mupcheck.plots import plot_results
    from mupcheck.results.status import say_first

    if out is not None:
        check_no_address(out, "--out")
    read = read_from(path)
    written = plot_results(read, out, only=only, every=every, formats=formats, style=style, tell=say)
    for line in say_first(read):
        say(line)
    if out is None:
        send_pictures(path)
    if json:
        print_json([str(file) for file in written])
    else:
        for file in written:
            print(file)


def report(
    path: Annotated[Path, Stored] = Path("results"),
    out: Annotated[Path | None, typer.Option("--out", help="File of the page. (default: report.html in PATH)", metavar="FILE", show_default=False)] = None,
    watch: Annotated[bool, option("--watch", "Write it again every 10 s while a sweep runs; the page refreshes itself. (default: once)")] = False,
    against: Annotated[Path | None, option("--against", "Other results, A: the page says too what moved since. (default: none)", metavar="PATH", parser=place_of)] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Write one HTML page of what is found under PATH: its answers, charts that can be asked, how it was measured.

    It opens from a disk, fetches nothing, and can be sent on as it is.

    Example: mupcheck report results/ --out report.html
    """
    from mupcheck.report import watch_report, write_report
    from mupcheck.results.status import say_first

    if out is not None:
        check_no_address(out, "--out")
    elif is_address(path):
        raise ValueError(f"{path} is an address, and the page is a file of this machine; add --out FILE")
    read = read_from(path)
    make = watch_report if watch else lambda *given, **more: iter([write_report(*given, **more)])
    pages = make(read, out, against=against)
    written = next(pages)
    for line in say_first(read):
        say(line)
    if json:
        print_json(str(written))
    else:
        print(written, flush=True)
    for _ in pages:
        pass  # until no sweep runs


def gates(
    path: Annotated[Path, Stored] = Path("results"),
    json: Json = False, strict: Strict = False,
) -> None:  # fmt: skip
    """Say how the gates' gradients grow with width, and which rule for their learning rate that speaks for.

    Example: mupcheck gates results/coord
    """
    from mupcheck.coordinates.gates import fit_gates
    from mupcheck.results.reading import load_results
    from mupcheck.results.status import say_first
    from mupcheck.terminal.gates_page import print_gates

    path = read_from(path)
    results = load_results(path, tables=("runs", "coords"))
    each, pooled = fit_gates(results.runs, results.coords), fit_gates(results.runs, results.coords, pooled=True)
    for line in say_first(path):
        say(line)
    print_gates(each, pooled, as_json=json)
    if not any(gate.near for gate in (*each, *pooled)):
        raise typer.Exit(FAILED if strict else CANNOT_TELL)
