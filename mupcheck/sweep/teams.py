"""Runs that several devices share: whether they can."""

from collections.abc import Sequence

from mupcheck.spec.sweep import SweepSpec
from mupcheck.sweep.machine import cores
from mupcheck.training.parts import check_parts


def at_a_time(sweep: SweepSpec, devices: Sequence[str], gpus_per_run: int) -> int:
    """Return how many groups train at a time if nobody says it.

    Args:
        devices: "cpu", or GPUs.
        gpus_per_run: devices that train each run together; on a CPU processes.
    Raises:
        ValueError: if there are not so many devices, or a batch does not divide over them.
    """
    on_cpu = devices[0] == "cpu"
    there = cores() if on_cpu else len(devices)
    if not isinstance(gpus_per_run, int) or gpus_per_run < 1:
        raise ValueError(f"gpus_per_run={gpus_per_run!r} is no number of devices; give 1 or more")
    if gpus_per_run > there and not on_cpu:
        names = ", ".join(devices)
        raise ValueError(f"gpus_per_run={gpus_per_run} is more than there are ({names}); give {there} or fewer")
    check_parts(sweep.batch_size, sweep.accumulation, gpus_per_run)
    return max(there // gpus_per_run, 1)
