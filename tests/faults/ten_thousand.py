"""A sweep of ten thousand runs: how long resuming and reading wait for its folder."""

from collections.abc import Iterator
from pathlib import Path

from lines import Line

from mupcheck.proof.many_runs import time_folder

N_RUNS = 10_000
ASKED = {"scan for resume": 0.5, "load": 15.0, "load, compacted": 1.0}  # seconds


def measure(place: Path, *, n_runs: int = N_RUNS) -> Iterator[Line]:
    """Write a folder of so many runs; yield a line for each way to read it that has a limit."""
    for took in time_folder(place / "many", n_runs):
        if (limit := ASKED.get(took.what)) is not None:
            measured = f"{took.seconds:.2f} s ({took.cpu_seconds:.2f} s of a core)"
            yield Line(f"{n_runs:,} runs: {took.what}", f"at most {limit:g} s", measured, took.seconds <= limit)
