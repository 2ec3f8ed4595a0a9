"""identities and selftest: can the code and the judge be trusted."""

from typing import Annotated

import typer

from mupcheck.cli.exits import CANNOT_TELL, FAILED
from mupcheck.cli.options import Jobs, Json, Mode, Opt, Strict, Tables, list_of, option, settings, tables_of
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
    only: Annotated[str | None, option("--only", "Kinds of faults, separated by commas, such as update,decay. (default: all)", metavar="KINDS")] = None,
    quick: Annotated[bool, option("--quick", "Plant one fault of each kind under each optimizer. (default: all)")] = False,
    repetitions: Annotated[int, option("--repetitions", "Checks of gdn-mup with fresh seeds, under each optimizer in each mode. (default: 1)", min=0)] = 1,
    jobs: Jobs = None, json: Json = False,
) -> None:  # fmt: skip
    """Plant faults and see whether the judge catches and names each, and whether it leaves a correct table alone.

    Exits with 1 if it does not. Takes some minutes on two cores. Example: mupcheck selftest --opt sgd --mode heads
    """
    from mupcheck.proof.catalogue import choose
    from mupcheck.proof.caught import holds
    from mupcheck.proof.selftest import plant_faults, repeat
    from mupcheck.terminal.proof_page import print_selftest

    chosen = settings(opt, mode)
    kinds = list_of("--only", only, str) if only is not None else []
    faults = choose(kinds=kinds, settings=chosen, quick=quick)
    caught = []
    for each in plant_faults(faults, jobs=jobs):
        caught.append(each)
        missed = "" if each.good else ", MISSED" if each.fault.planted else ", not as expected"
        where = f"{each.fault.kind}, {each.fault.optimizer}, {each.fault.mode}"
        say(f"{len(caught)} of {len(faults)}: {each.fault.name} ({where}): {each.verdict}{missed}")
    repeated = list(repeat(repetitions, chosen, jobs=jobs)) if repetitions else []
    print_selftest(caught, repeated, as_json=json)
    if not holds(caught, repeated):
        raise typer.Exit(FAILED)
