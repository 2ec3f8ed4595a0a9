"""How the gates' gradients grow with width, and which rule that speaks for."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

from mupcheck.results.comparable import group_of
from mupcheck.terminal.console import console, interval_text, number, print_json, table_of
from mupcheck.theory.parametrization import write_exponent

if TYPE_CHECKING:
    from mupcheck.coordinates.gates import GateSlope


def print_gates(each: Sequence["GateSlope"], pooled: Sequence["GateSlope"], *, as_json: bool) -> None:
    """Print the slope of every layer and step, then of all together with what it says of the rules."""
    from mupcheck.coordinates.gates import ADAMW_NOTE

    if as_json:
        print_json({"slopes": [asdict(gate) for gate in each], "pooled": [asdict(gate) for gate in pooled]})
        return

    out = console()
    together = {key: list(gates) for key, gates in groupby(pooled, key=group_of)}
    for key, gates in groupby(each, key=group_of):
        sweep, parametrization, optimizer, mode = key
        columns = (
            "gradient",
            "layer",
            "step",
            "slope",
            "90% interval",
            "as it is",
            "lr gates",
            "lr scalars",
            "reading",
        )
        grid = table_of(*columns)
        for gate in gates:
            grid.add_row(gate.site, str(gate.layer), str(gate.step), *_numbers(gate))
        for gate in together[key]:
            grid.add_row(gate.site, "all", "later" if gate.step else "0", *_numbers(gate))
        out.print(f"{sweep}: {parametrization} ({optimizer}, {mode})", soft_wrap=True, style="bold")
        out.print(grid)
        for line in _conclusions(together[key]):
            out.print(line, soft_wrap=True)
        if optimizer == "adamw":
            out.print(ADAMW_NOTE, soft_wrap=True)
        out.print(
            "slope: of rms(dL/dz) relative to the gradient that enters the mixer, which is taken to have -1; as it is: "
            "without that.\nlr: the exponents that SGD needs at this slope, -1 - slope for W_alpha and W_beta, -slope "
            "for A_log and dt_bias.\naligned, independent: dL/dz sums V ~ width terms of one sign, or of random signs; "
            "plain: their number does not grow.\n",
            soft_wrap=True,
        )


def _numbers(gate: "GateSlope") -> list[str]:
    rest = [number(value, "+.2f") for value in (gate.gradient_slope, gate.gate_lr, gate.scalar_lr)]
    # why it cannot be told is said once, below
    return [number(gate.slope, "+.2f"), interval_text(gate.ci_low, gate.ci_high), *rest, gate.reading.partition(":")[0]]


def _conclusions(gates: Sequence["GateSlope"]) -> list[str]:
    """Return a line for each slope, one for all where they cannot be told for the same reason."""
    readings = {gate.reading for gate in gates if gate.reading.startswith("cannot tell")}
    if len(readings) == 1 and not any(gate.near for gate in gates):
        return list(readings)
    return [_conclusion(gate) for gate in gates]


def _conclusion(gate: "GateSlope") -> str:
    """Say which tables' rule for the gates one slope over all layers speaks for."""
    from mupcheck.coordinates.gates import ALIGNMENTS

    said = f"{gate.site} {'at later steps' if gate.step else 'at step 0'}: {gate.reading}"
    if len(gate.near) > 1:
        return f"{said}; more seeds or widths can decide"
    if not gate.near:
        return said
    (exponent,) = (alignment.exponent for alignment in ALIGNMENTS if alignment.name in gate.near)
    rule = f"lr exponent {write_exponent(-1 - exponent)} for W_alpha and W_beta under SGD"
    assumed = f"the rule of {', '.join(gate.rules)}" if gate.rules else f"no muP table's rule in {gate.mode} mode"
    return f"{said}; {assumed}: {rule}"
