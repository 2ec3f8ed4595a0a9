"""How long a folder of thousands of runs takes to scan and to load, before and after it was compacted."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mupcheck.proof.stored import write_stored
from mupcheck.results.compact import compact
from mupcheck.results.mend import find_damaged
from mupcheck.results.reading import finished_runs, load_results


class Took(NamedTuple):
    """A step: what was done, on the clock and of the processor's time in seconds."""

    what: str
    seconds: float
    cpu_seconds: float

    def __str__(self) -> str:
        """Return the figure as a line."""
        return f"{self.what}: {self.seconds:.2f} s ({self.cpu_seconds:.2f} s of CPU)"


def time_folder(folder: Path, n_runs: int, *, n_steps: int = 100, n_coords: int = 0) -> Iterator[Took]:
    """Write a sweep of so many runs, and yield what each way to read it takes.

    Args:
        folder: the sweep's; it must not be there.
        n_steps: rows of each run's steps.
        n_coords: rows of its coords.
    """
    how: dict[str, Any] = {"n_steps": n_steps, "n_coords": n_coords, "durable": False}
    yield _timed("write", lambda: write_stored(folder, n_runs, **how))
    import pandas  # noqa: F401  it is not the folder that takes a second then

    yield _timed("scan for resume", lambda: finished_runs(folder))
    yield _timed("load", lambda: load_results(folder))
    yield _timed("check each file", lambda: find_damaged(folder))
    yield _timed("compact", lambda: compact(folder))
    yield _timed("scan for resume, compacted", lambda: finished_runs(folder))
    yield _timed("load, compacted", lambda: load_results(folder))
    yield _timed("check each file, compacted", lambda: find_damaged(folder))
    yield _timed("compact again", lambda: compact(folder))


def _timed(what: str, call: Callable[[], object]) -> Took:
    start, cpu = time.perf_counter(), time.process_time()
    call()
    return Took(what, time.perf_counter() - start, time.process_time() - cpu)
