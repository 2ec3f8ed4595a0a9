"""bench: how fast this machine computes what mupcheck computes, beside other libraries."""

from pathlib import Path
from typing import Annotated

import typer

from mupcheck.cli.exits import FAILED
from mupcheck.cli.options import Json, list_of, one_of, option
from mupcheck.cli.typed import called
from mupcheck.terminal.console import say

WHAT = ("all", "op", "step", "coord")


def bench(
    what: Annotated[str, typer.Argument(help="op, step, coord or all. (default: all)")] = "all",
    device: Annotated[str, option("--device", "auto, cpu, cuda or cuda:i. (default: auto)", metavar="NAME")] = "auto",
    backend: Annotated[str | None, option("--backend", "Of the delta rule, the first one is compared with. (default: chunk,reference, on a GPU triton,chunk)", metavar="LIST")] = None,
    shapes: Annotated[str | None, option("--shapes", "Head sizes K x V of the op, such as 32x64,96x192. (default: 32x64, on a GPU seven)", metavar="LIST")] = None,
    widths: Annotated[str | None, option("--widths", "Widths of the step and of the coordinate check. (default: what suits the device)", metavar="LIST")] = None,
    quick: Annotated[bool, option("--quick", "Time each call for a tenth of a second. (default: no)")] = False,
    peers: Annotated[bool, option("--peers/--no-peers", "Measure other libraries where they are installed. (default: peers)")] = True,
    scaling: Annotated[bool, option("--scaling", "The op at two shapes over lengths from 256 to 8192, the step up to width 4096. (default: no)")] = False,
    out: Annotated[Path | None, option("--out", "Folder for bench.json and bench.md. (default: none, only print)", metavar="FOLDER")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Measure the op, a training step and a coordinate check, right first, then how fast, beside other libraries.

    Outputs are compared with float64 before anything is timed; exits with 1 if one of mupcheck's own is wrong.
    Example: mupcheck bench op --device cpu --quick
    """
    one_of("WHAT", what, WHAT)
    backends = list_of(called("--backend"), backend, str) if backend is not None else []
    pairs = [_shape(text) for text in list_of(called("--shapes"), shapes, str)] if shapes is not None else []
    sizes = list_of(called("--widths"), widths, int) if widths is not None else []

    from mupcheck.bench.rows import Bench
    from mupcheck.bench.run import SUITES, pick_device, run_bench, write
    from mupcheck.ops import BACKENDS
    from mupcheck.terminal.bench_page import print_bench, say_row

    for name in backends:
        one_of(called("--backend"), name, BACKENDS)

    def follow(bench: Bench) -> None:
        say_row(bench.rows[-1])
        if out is not None:  # what was found so far, should the rest not come
            write(bench, out)

    found = run_bench(
        SUITES if what == "all" else [what], pick_device(device), backends=backends, shapes=pairs, widths=sizes,
        quick=quick, with_peers=peers, scaling=scaling, follow=follow,
    )  # fmt: skip
    print_bench(found, as_json=json)
    if out is not None:
        say("written to {} and {}".format(*write(found, out)))
    if found.wrong:
        raise typer.Exit(FAILED)


def _shape(text: str) -> tuple[int, int]:
    """Return (K, V) of a text such as 32x64.

    Raises:
        ValueError: if it is no such text.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"{called('--shapes')} {text!r} is not K x V, such as 32x64")
    return int(parts[0]), int(parts[1])
