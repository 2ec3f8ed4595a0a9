"""How much of a sweep one call may do: seconds of a group, seconds of all, runs. What is left, the next call does."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mupcheck.sweep.groups import Group


@dataclass(frozen=True)
class Limits:
    """What a call may take; None is no limit.

    Attributes:
        group_seconds: that runs which train together may take; a group that takes longer is ended and its runs fail.
        seconds: after which no more groups start; those that train then are finished.
        max_runs: that are trained.
        since: when the seconds began, by time.monotonic().
    """

    group_seconds: float | None = None
    seconds: float | None = None
    max_runs: int | None = None
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        for name in ("group_seconds", "seconds", "max_runs"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name}={value!r} is not above 0; leave it out for no limit")

    @property
    def out_of_time(self) -> bool:
        """Say whether no more groups start."""
        return self.seconds is not None and time.monotonic() - self.since >= self.seconds


NO_LIMITS = Limits()


def first_runs(groups: Sequence[Group], n_runs: int) -> tuple[Group, ...]:
    """Return groups of so many runs, those that come first; the last of them is cut where it has more."""
    kept: list[Group] = []
    for group in groups:
        if n_runs <= 0:
            break
        kept.append(group[:n_runs])
        n_runs -= len(kept[-1])
    return tuple(kept)
