"""What a person or a script sees of two results side by side: a line a group, then tables of what moved."""

from typing import TYPE_CHECKING

from mupcheck.terminal.console import MAX_LINES, console, print_json, table_of

if TYPE_CHECKING:
    from mupcheck.gate.difference import Difference, Pair

STYLES = {"moved": "red", "same": "green", "cannot tell": "yellow"}


def print_difference(difference: "Difference", *, every: bool) -> None:
    """Print in what both were measured differently, a line a group, and of each what moved, or with `every` all."""
    from rich.text import Text

    out = console()
    out.print(f"A {difference.a}", soft_wrap=True)
    out.print(f"B {difference.b}", soft_wrap=True)
    for line in difference.lines:
        out.print(line, soft_wrap=True)
    for each in difference.pairs:
        out.print(Text(each.headline, STYLES[each.outcome]), soft_wrap=True)
        for line in difference.lines_of(each):
            out.print(f"  {line}", soft_wrap=True)
    for each in difference.pairs:
        _print_moves(each, every=every)
    if not difference.pairs:
        out.print("nothing is in both: no group of A has a kind, table, optimizer and mode of B", soft_wrap=True)
    hidden = any(len(each.worth) > MAX_LINES or len(each.worth) < len(each.moves) for each in difference.pairs)
    more = "; --all prints every quantity" if hidden and not every else ""
    out.print(
        f"{len(difference.pairs)} in both:",
        Text(difference.outcome, STYLES[difference.outcome]),
        f"(mupcheck explain diff){more}",
        soft_wrap=True,
    )


def _print_moves(pair: "Pair", *, every: bool) -> None:
    """Print the quantities of a group worth a look, and count the others."""
    from mupcheck.gate.diff_words import HEAD, row_of, shown

    moves = shown(pair, every=every)
    if not moves:
        return
    out = console()
    out.print(f"\n{pair.title}, {'slopes' if pair.kind == 'coord' else 'learning rates'}:", soft_wrap=True)
    table = table_of(*HEAD)
    table.padding = (0, 1, 0, 0)  # seven columns in the width of a pipe
    for move in moves if every else moves[:MAX_LINES]:
        table.add_row(*row_of(move))
    out.print(table)
    left = 0 if every else len(moves) - MAX_LINES
    out.print(f"  {pair.counted}" + (f"; {left} rows more with --all" if left > 0 else ""), soft_wrap=True)


def print_difference_json(difference: "Difference") -> None:
    """Print the difference as one JSON document."""
    from mupcheck.gate.diff_words import document_of_difference

    print_json(document_of_difference(difference))
