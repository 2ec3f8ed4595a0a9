"""Engines of other machines behind one door: a record says which and how, and what it opens takes groups of a plan."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from mupcheck.results.printing import said
from mupcheck.sweep.engines import ray, slurm
from mupcheck.sweep.engines.local import Message
from mupcheck.sweep.engines.ray import Ray, check_ray
from mupcheck.sweep.engines.sbatch import Slurm, check_slurm
from mupcheck.sweep.plan import Plan
from mupcheck.sweep.portion import Part

Elsewhere = Slurm | Ray
# Where the groups of a plan execute: takes what waits, and yields what happens.
Engine = Callable[[Plan, deque[Part]], Iterator[Message]]


def check(how: Elsewhere, *, starts: bool = True) -> None:
    """Refuse what cannot be, before anything is written or started.

    Args:
        how: which engine, and how to ask it.
        starts: whether it is going to be asked, so that its commands have to be here.
    Raises:
        ValueError: if the engine is not here, or a setting is none.
    """
    if isinstance(how, Slurm):
        check_slurm(how, submits=starts)
    else:
        check_ray(how, starts=starts)


def devices_of(how: Elsewhere) -> tuple[str, ...]:
    """Return what groups train on, as `plan_sweep` takes it; of a GPU elsewhere nothing but that is known."""
    return ("cuda:0",) if how.gpus else ("cpu",)


def planned(plan: Plan, how: Elsewhere) -> Plan:
    """Return a plan that says how many groups or tasks work at a time, as far as that is known."""
    per_task = how.groups if isinstance(how, Slurm) else 1
    return replace(plan, jobs=how.jobs or max(-(-len(plan.groups) // per_task), 1))


@contextmanager
def opened(how: Elsewhere, *, say: Callable[[str], None] = print, wait: bool = True) -> Iterator[Engine]:
    """Yield what takes the groups of plans, one plan after another.

    Args:
        how: which engine, and how to ask it.
        say: takes lines on how it goes.
        wait: whether to follow what was submitted, to Slurm.
    Raises:
        ValueError: if it cannot be reached.
    """
    what: dict[str, Any] = {"say": say}
    if isinstance(how, Slurm):
        yield partial(slurm.execute, slurm=how, wait=wait, **what)
        return
    with ray.connected(how) as cluster:
        yield partial(ray.execute, cluster=cluster, **what)


def engine_of(engine: object, *, device: str, jobs: int | None, fresh: bool) -> Elsewhere | None:
    """Return the engine of other machines that `run_sweep` is given, None where there is none; raises as it does.

    Args:
        engine: that it was given.
        device, jobs, fresh: as of `run_sweep`.
    """
    if engine == "local":
        return None
    if not isinstance(engine, Elsewhere):
        raise ValueError(f"engine={said(engine)} is none; give 'local', mupcheck.Ray(...) or mupcheck.Slurm(...)")
    for name, given in (("device", device != "auto"), ("jobs", jobs is not None)):
        if given:
            raise ValueError(f"{name} is this machine's; {type(engine).__name__}(...) says what a cluster is asked for")
    if fresh:
        raise ValueError(f"fresh is not for {type(engine).__name__}(...), where runs that are there are done")
    check(engine)
    return engine
