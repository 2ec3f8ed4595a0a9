"""Whether identities hold, and what became of planted faults."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

from mupcheck.terminal.console import console, number, print_json, styled, table_of

if TYPE_CHECKING:
    from mupcheck.proof.identities import Identity
    from mupcheck.proof.selftest import Caught, Repeated


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
