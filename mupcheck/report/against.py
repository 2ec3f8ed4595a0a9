"""What the page of a result says of another one, A: per sweep what moved since, as `mupcheck diff` says it."""

from dataclasses import dataclass

from mupcheck.gate.diff_words import HEAD, LEFT_OUT, N_ROWS, row_of
from mupcheck.gate.difference import Difference, Pair
from mupcheck.report.tables import Grid


@dataclass(frozen=True)
class Against:
    """What moved in one sweep of B since A.

    Attributes:
        name: of A.
        lines: in what it was measured differently, and what is not in both.
        groups: outcome and headline of each.
        grids: what moved, a table a group.
    """

    name: str
    lines: tuple[str, ...]
    groups: tuple[tuple[str, str], ...]
    grids: tuple[Grid, ...]


def against(difference: Difference, key: tuple[str, ...]) -> Against:
    """Return what moved in one sweep.

    Args:
        difference: with the page's results as B.
        key: sweep, optimizer, mode and kind, of B.
    """
    pairs = [each for each in difference.pairs if (each.b[0], *each.b[2:], each.kind) == key]
    lines = list(difference.lines)
    for each in pairs:
        lines += [f"{each.title}: {line}" for line in difference.lines_of(each)]
    if not pairs:
        lines.append("no group of this sweep is in A")
    groups = tuple((each.outcome, each.headline) for each in pairs)
    return Against(difference.a, tuple(lines), groups, tuple(_grid(each) for each in pairs if each.worth))


def _grid(pair: Pair) -> Grid:
    moves = pair.worth[:N_ROWS]
    more = f" {LEFT_OUT}" if len(pair.worth) > N_ROWS else ""
    return Grid(
        caption=f"{pair.title}: what moved",
        about=f"{pair.counted}.{more}",
        head=HEAD,
        rows=tuple(row_of(move) for move in moves),
        marked=frozenset(i for i, move in enumerate(moves) if move.turned),
    )
