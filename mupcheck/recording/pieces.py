"""What is measured of a parameter as one: the whole, or of a fused one each of its parts, some of its rows."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mupcheck.recording.names import place_of
from mupcheck.recording.uses import Use
from mupcheck.results.tables import ROWS

Rows = Sequence[tuple[int, int]]


class Piece(NamedTuple):
    """A parameter's name, site and layer; `shape` is that of the whole, `rows` those of a part, None for all."""

    name: str
    site: str
    layer: int
    shape: torch.Size
    rows: Tensor | None

    def of(self, x: Tensor) -> Tensor:
        """Return what belongs to this piece of the parameter, of its gradient or change."""
        return x if self.rows is None else x[self.rows]

    def uses(self, of_whole: Sequence[Use]) -> list[Use]:
        """Return the uses of this piece among those of the parameter."""
        if self.rows is None:
            return list(of_whole)
        return [part for use in of_whole if (part := use.of_rows(self.rows, self.shape)) is not None]

    @property
    def n_values(self) -> int:
        """Return how many numbers it has."""
        return self.shape.numel() if self.rows is None else self.shape.numel() // self.shape[0] * len(self.rows)


def pieces_of(name: str, parameter: Tensor, parts: Mapping[str, Rows]) -> list[Piece]:
    """Return a parameter as one piece, or one for each of its parts, which are lists of rows (start, stop).

    Raises:
        ValueError: if a row is in no part or in two.
    """
    site, layer = place_of(name)
    if not parts:
        return [Piece(name, site, layer, parameter.shape, None)]
    found = {part: torch.cat([torch.arange(start, stop) for start, stop in rows]) for part, rows in parts.items()}
    rows = torch.cat([*found.values()])
    if not torch.equal(rows.sort().values, torch.arange(parameter.shape[0])):
        raise ValueError(f"rows of {name} are not each of its {parameter.shape[0]} rows once")
    return [
        Piece(name, f"{site}{ROWS}{part}", layer, parameter.shape, rows.to(parameter.device))
        for part, rows in found.items()
    ]
