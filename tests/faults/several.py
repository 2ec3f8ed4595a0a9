"""Two, four and eight processes that drive one sweep."""

from collections.abc import Iterator
from pathlib import Path

from drivers import check_drivers, shared
from lines import Line
from tiny_sweeps import numbers, trained

DRIVERS = (2, 4, 8)


def measure(place: Path, *, drivers: tuple[int, ...] = DRIVERS) -> Iterator[Line]:
    """Let so many processes drive a sweep; yield a line for each number."""
    alone = numbers(trained(shared(), place / "alone", jobs=1, exact=True)[0])
    for n in drivers:
        try:
            measured, faults = check_drivers(n, place / str(n), alone), ()
        except AssertionError as error:
            measured, faults = "not so", (str(error),)
        yield Line(f"{n} processes drive one sweep", "each run once, the same table", measured, not faults, faults)
