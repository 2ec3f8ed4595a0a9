"""diff: what moved between two results."""

from pathlib import Path
from typing import Annotated

import typer

from mupcheck.cli.exits import CANNOT_TELL, FAILED, OK
from mupcheck.cli.options import All, Json, Markdown, Strict
from mupcheck.cli.stores import read_from
from mupcheck.results.stores.address import place_of
from mupcheck.terminal.console import say

# fmt: off
A = typer.Argument(help="Results before: a results folder, or one sweep's folder in it; either may be an address, such as s3://bucket/results.", parser=place_of, show_default=False)
B = typer.Argument(help="Results after, likewise.", parser=place_of, show_default=False)
# fmt: on


def diff(
    a: Annotated[Path, A],
    b: Annotated[Path, B],
    markdown: Markdown = None,
    json: Json = False, strict: Strict = False, every: All = False,
) -> None:  # fmt: skip
    """Say which slopes, best lrs, drifts and costs moved from A to B beyond their intervals; exit with 1 if any did, 3 if it cannot tell.

    Example: mupcheck diff results/before results/after
    """
    from mupcheck.gate.diff_words import markdown_of_difference
    from mupcheck.gate.difference import diff as diff_results
    from mupcheck.results.files import add_text
    from mupcheck.results.reading import load_results
    from mupcheck.results.status import say_first
    from mupcheck.terminal.diff_page import print_difference, print_difference_json

    read = [read_from(path) for path in (a, b)]
    found = diff_results(*map(load_results, read), names=(str(a), str(b)))
    for path in dict.fromkeys(read):
        for line in say_first(path):
            say(line)
    if json:
        print_difference_json(found)
    else:
        print_difference(found, every=every)
    if markdown is not None:
        add_text(markdown, markdown_of_difference(found, every=every))
    raise typer.Exit({"same": OK, "moved": FAILED}.get(found.outcome, FAILED if strict else CANNOT_TELL))
