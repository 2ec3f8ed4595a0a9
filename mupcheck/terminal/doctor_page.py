"""What a machine offers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mupcheck.terminal.console import console, print_json

if TYPE_CHECKING:
    pass


def print_findings(findings: Sequence[tuple[str, bool | None, str]], *, as_json: bool) -> None:
    """Print what `doctor` found: a name, whether it works (None: a fact), and what was seen."""
    if as_json:
        print_json([{"name": name, "works": works, "seen": seen} for name, works, seen in findings])
        return
    from rich.text import Text

    out = console()
    for name, works, seen in findings:
        mark = {True: [Text("works", "green")], False: [Text("no", "yellow")], None: []}[works]
        out.print(f"{name:<24}", *mark, seen, soft_wrap=True)
