"""Every file of a sweep cut at each byte, and with a bit of each byte flipped."""

from collections.abc import Iterator
from pathlib import Path

from lines import Line

from mupcheck.proof.damage import damage


def measure(place: Path, *, every: int = 1) -> Iterator[Line]:
    """Damage each kind of file; yield a line for each.

    Args:
        every: bytes from one that is damaged to the next.
    """
    for found in damage(place / "results", every=every):
        says = f"{found.kind} of {found.n_bytes:,} bytes, cut and flipped at " + (
            "each" if every == 1 else f"every {every}th"
        )
        held = f"{len(found.wrong)} wrong of {found.n:,}, {found.refused:,} refused by name"
        yield Line(says, "0 wrong numbers, 0 tracebacks", held, not found.wrong, tuple(found.wrong))
