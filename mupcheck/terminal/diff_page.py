"""What a person or a script sees of two results side by side: a line a group, then tables of what moved."""

from typing import TYPE_CHECKING

from mupcheck.terminal.console import MAX_LINES, STYLES, console, print_json
from mupcheck.terminal.grid import Column, print_grid
from mupcheck.terminal.prose import print_prose

if TYPE_CHECKING:
    from mupcheck.gate.difference import Difference, Pair


def print_difference(difference: "Difference", *, every: bool) -> None:
    """Print in what both were measured differently, a line a group, and of each what moved, or with `every` all."""
    for line in (f"A {difference.a}", f"B {difference.b}", *difference.lines):
        print_prose(line)
    for each in difference.pairs:
        print_prose(each.headline, style=STYLES[each.outcome])
        for line in difference.lines_of(each):
            print_prose(line, indent=2)
    for each in difference.pairs:
        _print_moves(each, every=every)
    if not difference.pairs:
        print_prose("nothing is in both: no group of A has a kind, table, optimizer and mode of B")
    hidden = any(len(each.worth) > MAX_LINES or len(each.worth) < len(each.moves) for each in difference.pairs)
    more = "; --all prints every quantity" if hidden and not every else ""
    said = f"{len(difference.pairs)} in both: {difference.outcome} (mupcheck explain diff){more}"
    print_prose(said, verdicts=(difference.outcome,))


def _print_moves(pair: "Pair", *, every: bool) -> None:
    """Print the quantities of a group worth a look, and count the others."""
    from mupcheck.gate.diff_words import HEAD, row_of, shown

    moves = shown(pair, every=every)
    if not moves:
        return
    console().print()
    print_prose(f"{pair.title}, {'slopes' if pair.kind == 'coord' else 'learning rates'}:")
    columns = [Column(heading, right=2 <= i < len(HEAD) - 1) for i, heading in enumerate(HEAD)]
    print_grid(columns, [row_of(move) for move in (moves if every else moves[:MAX_LINES])])
    left = 0 if every else len(moves) - MAX_LINES
    print_prose(pair.counted + (f"; {left} rows more with --all" if left > 0 else ""), indent=2)


def print_difference_json(difference: "Difference") -> None:
    """Print the difference as one JSON document."""
    from mupcheck.gate.diff_words import document_of_difference

    print_json(document_of_difference(difference))
