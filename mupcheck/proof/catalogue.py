"""THE list of planted faults: of tables and settings, of the training code, of stored numbers.

Those that no coordinate check can see are in it too, with the reason; the selftest shows that they are not caught.
"""

from collections.abc import Collection, Sequence
from typing import Any

from mupcheck.proof.code_faults import CODE_FAULTS
from mupcheck.proof.faults import Fault
from mupcheck.proof.number_faults import NUMBER_FAULTS
from mupcheck.proof.sweeps import SWEEP_FAULTS
from mupcheck.proof.tables import TABLE_FAULTS

FAULTS: tuple[Fault, ...] = (*TABLE_FAULTS, *CODE_FAULTS, *NUMBER_FAULTS, *SWEEP_FAULTS)


def choose(
    *, kinds: Sequence[str] = (), settings: Collection[tuple[str, str]] = (), quick: bool = False
) -> list[Fault]:
    """Return the faults of some kinds and settings (optimizer, mode); () is all.

    Args:
        quick: of each kind the first under each optimizer, and the first that cannot be seen.
    Raises:
        ValueError: if there is no such kind.
    """
    known = tuple(dict.fromkeys(fault.kind for fault in FAULTS))
    if strange := [kind for kind in kinds if kind not in known]:
        raise ValueError(f"{strange[0]!r} is no kind of planted fault; known: {', '.join(known)}")
    chosen = [fault for fault in FAULTS if not kinds or fault.kind in kinds]
    chosen = [fault for fault in chosen if not settings or (fault.optimizer, fault.mode) in settings]
    if not quick:
        return chosen
    first: dict[Any, Fault] = {}
    for fault in chosen:
        where = "" if fault.unseen else fault.optimizer
        first.setdefault((fault.kind, bool(fault.unseen), where), fault)
    return list(first.values())
