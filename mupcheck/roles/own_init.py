"""What a library's own init does with width: measured, as it is nowhere declared."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import exp, log, sqrt

import torch
from torch import Tensor, nn

from mupcheck.roles.infer import Slice
from mupcheck.roles.names import kind_of, uses_of
from mupcheck.theory.parametrization import Role

EXPONENTS = (0.0, -0.5, -1.0)  # of what its role counts by, as libraries draw: std fixed, 1/sqrt(fan-in), 1/fan-in
ERRORS = 5.0  # standard errors of an rms within which it is one of these
BY_FAN_IN = (Role.HIDDEN, Role.GATE, Role.READOUT)
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
        key = kind_of(each.name), each.part
        kinds.setdefault(key, each)
        if each.role in VECTORS or each.m == 1:
            continue
        here = _squares(now[each.name], each.rows)
        there = _squares(before[each.name], each.base_rows)
        sums[key].append((*here, *there))
    measurements = {key: _measured(values, kinds[key]) for key, values in sums.items()}
    found = {key: each for key, each in measurements.items() if each is not None}
    usual: dict[bool, Counter[float]] = defaultdict(Counter)
    for key, (measured, error) in found.items():
        fitting = _fitting(measured, error, kinds[key].m)
        if len(fitting) == 1:
            usual[kinds[key].role in BY_FAN_IN][fitting[0]] += 1
    owns = dict.fromkeys(kinds, 1.0)
    for key, (measured, error) in found.items():
        m, counts = kinds[key].m, usual[kinds[key].role in BY_FAN_IN]
        fitting = _fitting(measured, error, m)
        # a weight of few values may fit several: what others have, then the nearest
        best = min(fitting, key=lambda e: (-counts[e], abs(e * log(m) - measured)), default=None)
        owns[key] = exp(measured) if best is None else m**best
    return owns


def _measured(sums: Sequence[tuple[float, int, float, int]], each: Slice) -> tuple[float, float] | None:
    """Return log(rms here / rms at the base width) and its standard error, as if values were normal; None of zeros."""
    here, n, there, n_base = (sum(column) for column in zip(*sums, strict=True))
    if not here and not there:
        return None
    if not here or not there:
        where = "here" if not here else "at the base width"
        raise ValueError(f"{each.title} starts at 0 {where} alone; initialise both widths in one way")
    return 0.5 * (log(here / n) - log(there / n_base)), sqrt(1 / (2 * n) + 1 / (2 * n_base))


def _fitting(measured: float, error: float, m: float) -> list[float]:
    return [exponent for exponent in EXPONENTS if abs(exponent * log(m) - measured) <= ERRORS * error]


@torch.no_grad()
def _squares(parameter: Tensor, rows: Sequence[tuple[int, int]]) -> tuple[float, int]:
    """Return the sum of squares and the number of values of some rows."""
    parts = [parameter[start:stop] for start, stop in rows] if rows else [parameter]
    # a norm is taken without a copy; float32 is enough to tell powers of width
    wide = (part if part.itemsize > 2 else part.float() for part in parts)
    return sum(float(torch.linalg.vector_norm(part)) ** 2 for part in wide), sum(part.numel() for part in parts)
