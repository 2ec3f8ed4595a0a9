"""From the pattern of slopes to the likely cause."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A likely cause of a failed check; causes come ranked, the likeliest first.

    Attributes:
        text: one sentence: what seems wrong, and which slopes say so.
        row: where to look in the table, such as "gate_scalar, lr (sgd)" or "multiplier mixer_out".
        change: exponent by which that entry seems off.
    """

    text: str
    row: str
    change: float
