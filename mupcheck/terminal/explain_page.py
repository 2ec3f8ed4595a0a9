"""Printing what theory says, as tables or one JSON document: identities, the gates' slopes, explanations of a site."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

from mupcheck.results.comparable import group_of
from mupcheck.terminal.console import console, interval_text, number, print_json, range_text, styled, table_of
from mupcheck.theory.parametrization import write_exponent

if TYPE_CHECKING:
    from rich.console import Console

    from mupcheck.coordinates.gates import GateSlope
    from mupcheck.proof.identities import Identity
    from mupcheck.proof.selftest import Caught, Repeated
    from mupcheck.theory.explain import Cell, Explanation

MOST_SAID = 32  # characters; a longer one is a whole reason, of which `named` is the word that tells
HOLDS = {True: "pass", False: "fail", None: "cannot tell"}


def print_identities(found: Sequence["Identity"], *, as_json: bool) -> None:
    """Print whether each identity holds, what was compared, and what to do where one breaks."""
    if as_json:
        print_json([asdict(identity) for identity in found])
        return
    out = console()
    for name, of_table in groupby(found, key=lambda identity: identity.parametrization):
        rows = list(of_table)
        grid = table_of("identity", "optimizer", "mode", "largest relative difference", "allowed", "verdict")
        for row in rows:
            measured, allowed = (number(value, ".1e") if value else "0" for value in (row.measured, row.tolerance))
            grid.add_row(row.name, row.optimizer, row.mode, measured, allowed, styled(HOLDS[row.holds]))
        out.print(grid)
        for identity, compared in dict.fromkeys((row.name, row.compared) for row in rows):
            out.print(f"{identity}: {compared}", soft_wrap=True)
        holding = sum(row.holds is True for row in rows)
        out.print(f"\n{name}: {holding} of {len(rows)} hold", soft_wrap=True)
        for row in rows:
            if row.next_step:
                where = f"{row.name} ({row.optimizer}, {row.mode})"
                out.print(f"  {where}: {row.next_step}", soft_wrap=True)


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


def print_explanations(answers: Sequence["Explanation"], *, as_json: bool) -> None:
    """Print what a site is, what is required of it, and what a deviation means."""
    if as_json:
        print_json([asdict(answer) for answer in answers])
        return
    out = console()
    for answer in answers:
        out.print(f"{answer.site}, {_article(answer.thing)}: {answer.what}", soft_wrap=True, style="bold")
        out.print(f"  {answer.where}", soft_wrap=True)
        if answer.thing == "activation" and answer.weights:
            out.print(f"  made by {', '.join(answer.weights)}", soft_wrap=True)
        for role, meaning in answer.roles:
            out.print(f"  role {role}: {meaning}", soft_wrap=True)
        _print_rules(out, answer)
        _print_expectations(out, answer)
        out.print("What a deviation usually means", style="bold")
        for kind, text in answer.signs:
            out.print(f"  {kind}: {text}", soft_wrap=True)
        out.print()


def _print_rules(out: "Console", answer: "Explanation") -> None:
    """Print the rows of the tables that were asked for."""
    if answer.rules:
        grid = table_of("table", "role", "optimizer", "mode", "init std", "lr", "eps", "multiplier", "source")
        for row in answer.rules:
            exponents = [write_exponent(value) for value in (row.init, row.lr, row.eps, row.multiplier)]
            grid.add_row(row.parametrization, row.role, row.optimizer, row.mode, *exponents, row.source)
        out.print(grid)
    for name, mode, exponent in answer.multipliers:
        out.print(f"  {name}, {mode} mode: forward multiplier m^({write_exponent(exponent)}) here", soft_wrap=True)


def _print_expectations(out: "Console", answer: "Explanation") -> None:
    """Print the required slope of every kind, a column for each mode."""
    modes = [cell.mode for cell in answer.expectations[0].cells]
    grid = table_of("slope of", "steps", "of runs with", *modes, "why")
    for row in answer.expectations:
        optimizer = row.optimizers if len(row.optimizers) == 1 else ()
        readout = row.readouts if len(row.readouts) == 1 else ()
        steps = "all" if len(row.steps) > 1 else row.steps[0]
        slopes = [_slope(cell) for cell in row.cells]
        quantity = f"{row.kind} {', '.join(row.stats)}"
        grid.add_row(quantity, steps, ", ".join((*optimizer, *readout)) or "any", *slopes, _why(row.cells))
    out.print(grid)
    for kind, meaning in answer.kinds:
        out.print(f"  {kind}: {meaning}", soft_wrap=True)
    out.print(
        "  slope: p of size ~ width^p; a check is judged by what is required here, what is not judged is only shown",
        soft_wrap=True,
    )
    if any(cell.implied for row in answer.expectations for cell in row.cells):
        name = answer.rules[0].parametrization
        out.print(f"  implied: what {name} entails, its exponents propagated through the model", soft_wrap=True)
    out.print()


def _slope(cell: "Cell") -> str:
    text = range_text(cell.required.low, cell.required.high) if cell.required else "not judged"
    return text if cell.implied is None else f"{text}; implied {range_text(*cell.implied)}"


def _why(cells: Sequence["Cell"]) -> str:
    """Return the reason, by mode where modes differ."""
    if len({cell.why for cell in cells}) == 1:
        return cells[0].why
    return "; ".join(f"{cell.mode}: {cell.why}" for cell in cells)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def print_selftest(caught: Sequence["Caught"], repeated: Sequence["Repeated"], *, as_json: bool) -> None:
    """Print what became of each planted fault, and how often a correct table failed."""
    if as_json:
        faults = [asdict(each) for each in caught]
        print_json({"faults": faults, "repeated": [asdict(each) for each in repeated]})
        return
    out = console()
    grid = table_of("planted fault", "optimizer", "mode", "verdict", "first named", "")
    for each in caught:
        good = "harmless" if each.fault.harmless else "caught" if each.named is False else "caught and named"
        bad = "FALSE ALARM" if each.fault.harmless else "MISSED"
        said = each.said[0] if len(each.said[0]) <= MOST_SAID else each.fault.named
        grid.add_row(
            each.fault.name,
            each.fault.optimizer,
            each.fault.mode,
            styled(each.verdict),
            said,
            good if each.caught else bad,
        )
    out.print(grid)
    for check in repeated:
        counts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(check.verdicts.items()))
        out.print(f"gdn-mup ({check.optimizer}, {check.mode}) with fresh seeds: {counts}", soft_wrap=True)
        for reason in check.reasons:
            out.print(f"  failed: {reason}", soft_wrap=True)
    planted = [each for each in caught if not each.fault.harmless]
    n_caught, n_named = sum(each.caught for each in planted), sum(bool(each.named) for each in planted)
    harmless = [each for each in caught if each.fault.harmless]
    alarms = sum(len(check.reasons) for check in repeated) + sum(not each.caught for each in harmless)
    n_repeated = sum(sum(check.verdicts.values()) for check in repeated)
    out.print(
        f"\n{len(planted)} faults: {n_caught} caught, {n_named} named; false alarms: {alarms} of {n_repeated} "
        f"repetitions and {len(harmless)} harmless changes",
        soft_wrap=True,
    )
