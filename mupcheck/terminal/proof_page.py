"""Whether identities hold, and what became of planted faults."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from mupcheck.terminal.console import console, number, print_json, styled, table_of

if TYPE_CHECKING:
    from mupcheck.proof.caught import Caught, Repeated
    from mupcheck.proof.identities import Identity


MOST_SAID = 160  # characters
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


def print_selftest(caught: Sequence["Caught"], repeated: Sequence["Repeated"], *, as_json: bool) -> None:
    """Print kind by kind what became of planted faults, which were missed, and how often a correct table failed."""
    from mupcheck.proof.caught import count_kinds, not_planted

    counts = count_kinds(caught)
    if as_json:
        faults = [_as_json(each) for each in caught]
        kinds = [asdict(count) for count in counts]
        print_json({"faults": faults, "kinds": kinds, "repeated": [asdict(each) for each in repeated]})
        return
    out = console()
    grid = table_of("kind of fault", "planted", "caught", "named", "cannot be seen", "seen all the same")
    for count in counts:
        numbers = (count.planted, count.caught, count.named, count.unseen, count.seen)
        grid.add_row(count.kind, *(str(number or "") if i > 2 else str(number) for i, number in enumerate(numbers)))
    out.print(grid)
    planted, unseen = ([each for each in caught if getattr(each.fault, name)] for name in ("planted", "unseen"))
    _print_list("missed", [each for each in planted if not each.caught])
    _print_list("caught and not named", [each for each in planted if each.caught and not each.named])
    _print_list("seen, and listed as what cannot be", [each for each in unseen if each.caught])
    _print_list("not planted, as no number changed", not_planted(caught))
    reasons = dict.fromkeys(each.fault.unseen for each in unseen if not each.caught)
    for i, reason in enumerate(reasons):
        names = dict.fromkeys(each.fault.name for each in unseen if each.fault.unseen == reason and not each.caught)
        if not i:
            out.print("no check of sizes and optima can see:")
        out.print(f"  {', '.join(names)} ({reason})", soft_wrap=True)
    for check in repeated:
        verdicts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(check.verdicts.items()))
        out.print(f"gdn-mup ({check.optimizer}, {check.mode}) with fresh seeds: {verdicts}", soft_wrap=True)
        for reason in check.reasons:
            out.print(f"  failed: {reason}", soft_wrap=True)
    for each in {(e.fault.optimizer, e.fault.mode): e for e in caught if e.clean == "fail"}.values():
        out.print(f"FALSE ALARM: the correct check beside {each.fault.name} fails", soft_wrap=True)
    harmless = [each for each in caught if each.fault.harmless]
    alarms = sum(len(check.reasons) for check in repeated) + sum(not each.caught for each in harmless)
    n_repeated = sum(sum(check.verdicts.values()) for check in repeated)
    n_caught, n_named = sum(each.caught for each in planted), sum(bool(each.named) for each in planted)
    out.print(
        f"\n{len(planted)} faults: {n_caught} caught, {n_named} named; false alarms: {alarms} of {n_repeated} "
        f"repetitions and {len(harmless)} harmless changes",
        soft_wrap=True,
    )


def _print_list(title: str, faults: Sequence["Caught"]) -> None:
    """Print what was said of some faults, a line each."""
    out = console()
    for i, each in enumerate(faults):
        if not i:
            out.print(f"{title}:")
        where = f"{each.fault.kind}, {each.fault.optimizer}, {each.fault.mode}"
        said = "; ".join(each.said) or "nothing"
        out.print(f"  {each.fault.name} ({where}): {each.verdict}: {said[:MOST_SAID]}", soft_wrap=True)


def _as_json(each: "Caught") -> dict[str, Any]:
    """Return what became of a fault, without the functions that planted it."""
    fault = {name: value for name, value in vars(each.fault).items() if name not in ("patch", "edit")}
    fault |= {"named": " or ".join(each.fault.named), "where": asdict(each.fault.where)}
    fault["planted_in"] = "code" if each.fault.patch else "numbers" if each.fault.edit else "table or settings"
    return {name: value for name, value in vars(each).items() if name != "fault"} | {"fault": fault}
