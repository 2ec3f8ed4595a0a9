"""What a library's own init does with width: measured, as it is nowhere declared."""

from collections import defaultdict
from collections.abc import Sequence
from math import exp, log, sqrt

import torch
from torch import Tensor, nn

from mupcheck.roles.infer import Slice
from mupcheck.roles.names import pattern_of, uses_of
from mupcheck.theory.parametrization import Role

EXPONENTS = (0.0, -0.5, -1.0)  # of what its role counts by, as libraries draw: std fixed, 1/sqrt(fan-in), 1/fan-in
ERRORS = 5.0  # standard errors of an rms within which it is one of these
VECTORS = (Role.NORM_GAIN, Role.HEAD_NORM_GAIN, Role.GATE_SCALAR)


def own_exponents(model: nn.Module, base: nn.Module, slices: Sequence[Slice]) -> dict[tuple[str, str], float]:
    """Return rms(here) / rms(base) of each kind of slice, over all layers, as the power of m that it is meant to be.

    Where it is none of EXPONENTS the ratio is returned as measured. Vectors count as 1: gains start at a constant.

    Raises:
        ValueError: if a weight starts at 0 at one width alone.
    """
    now, before = ({u[0].name: p for p, u in uses_of(each).items()} for each in (model, base))
    sums: dict[tuple[str, str], list[tuple[float, int, float, int]]] = defaultdict(list)
    kinds: dict[tuple[str, str], Slice] = {}
    for each in slices:
        key = pattern_of(each.name), each.part
        kinds.setdefault(key, each)
        if each.role in VECTORS:
            continue
        here = _squares(now[each.name], each.rows)
        there = _squares(before[each.name], each.base_rows)
        sums[key].append((*here, *there))
    return {key: _own(sums[key], each) if key in sums else 1.0 for key, each in kinds.items()}


def _own(sums: Sequence[tuple[float, int, float, int]], each: Slice) -> float:
    here, n, there, n_base = (sum(column) for column in zip(*sums, strict=True))
    if not here and not there:
        return 1.0
    if not here or not there:
        where = "here" if not here else "at the base width"
        raise ValueError(f"{each.title} starts at 0 {where} alone; initialise both widths in one way")
    measured = 0.5 * (log(here / n) - log(there / n_base))
    error = sqrt(1 / (2 * n) + 1 / (2 * n_base))
    nearest = min((exponent * log(each.m) for exponent in EXPONENTS), key=lambda value: abs(value - measured))
    return exp(nearest) if abs(nearest - measured) <= ERRORS * error else exp(measured)


@torch.no_grad()
def _squares(parameter: Tensor, rows: Sequence[tuple[int, int]]) -> tuple[float, int]:
    """Return the sum of squares and the number of values of some rows."""
    parts = [parameter[start:stop] for start, stop in rows] if rows else [parameter]
    return sum(float(part.double().square().sum()) for part in parts), sum(part.numel() for part in parts)
