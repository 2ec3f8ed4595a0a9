"""identities and selftest: can the code and the judge be trusted."""

from typing import Annotated

import typer

from mupcheck.cli.exits import CANNOT_TELL, FAILED
from mupcheck.cli.options import Jobs, Json, Mode, Opt, Strict, Tables, option, settings, tables_of
from mupcheck.terminal.console import say


def identities(
    tables: Tables = None,
    opt: Opt = None, mode: Mode = None,
    json: Json = False, strict: Strict = False,
) -> None:  # fmt: skip
    """Check on small models what must hold for every table: that the code applies it as written, and nothing else.

    Example: mupcheck identities -p sp,gdn-mup --opt adamw
    """
    from mupcheck.proof.identities import check_identities
    from mupcheck.terminal.proof_page import print_identities
    from mupcheck.theory.rules_file import find_table

    names = tables_of(tables) if tables else ["gdn-mup"]
    for name in names:
        find_table(name)  # a wrong name is said before anything is trained
    chosen = [(name, optimizer, each) for name in names for optimizer, each in settings(opt, mode)]
    found = [i for name, optimizer, each in chosen for i in check_identities(name, optimizer=optimizer, mode=each)]
    print_identities(found, as_json=json)
    if any(identity.holds is False for identity in found):
        raise typer.Exit(FAILED)
    if any(identity.holds is None for identity in found):
        raise typer.Exit(FAILED if strict else CANNOT_TELL)


def selftest(
    opt: Opt = None, mode: Mode = None,
    repetitions: Annotated[int, option("--repetitions", "Checks of gdn-mup with fresh seeds, under each optimizer in each mode. (default: 1)", min=0)] = 1,
    jobs: Jobs = None, json: Json = False,
) -> None:  # fmt: skip
    """Plant faults and see whether the judge catches and names each, and whether it leaves a correct table alone.

    Exits with 1 if it does not. Takes some minutes on two cores. Example: mupcheck selftest --opt sgd --mode heads
    """
    from mupcheck.proof.faults import FAULTS
    from mupcheck.proof.selftest import plant_faults, repeat
    from mupcheck.terminal.proof_page import print_selftest

    chosen = settings(opt, mode)
    faults = [fault for fault in FAULTS if (fault.optimizer, fault.mode) in chosen]
    caught = []
    for each in plant_faults(faults, jobs=jobs):
        caught.append(each)
        say(f"{len(caught)} of {len(faults)}: {each.fault.name} ({each.fault.optimizer}, {each.fault.mode})")
    repeated = list(repeat(repetitions, chosen, jobs=jobs)) if repetitions else []
    print_selftest(caught, repeated, as_json=json)
    if not all(each.caught and each.named is not False for each in caught) or any(each.reasons for each in repeated):
        raise typer.Exit(FAILED)
