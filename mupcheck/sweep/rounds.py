"""Rounds of a sweep: its grid, then the runs that its refinement or top-up adds, judged from what is in its folder."""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice

from mupcheck.results.aside import kept_runs, set_aside
from mupcheck.results.compact import compact_many
from mupcheck.results.mend import mend
from mupcheck.results.reading import load_results
from mupcheck.spec.run import RunSpec
from mupcheck.spec.sweep import SweepSpec
from mupcheck.sweep.checkpoints import forget_checkpoints
from mupcheck.sweep.described import write_plan
from mupcheck.sweep.estimate import estimate
from mupcheck.sweep.groups import group_cost
from mupcheck.sweep.limits import first_runs
from mupcheck.sweep.plan import Plan, extend


def rounds(plan: Plan, *, fresh: bool = False, tell: Callable[[str], object] | None = None) -> Iterator[Plan]:
    """Yield plans to execute, one after the other: the sweep's grid, then what its refinement or top-up adds.

    Runs that are there and damaged are set aside first, so that the first plan has them. A sweep of many runs is
    compacted after each round.

    What to add is judged from the results in the folder, so the same sweep goes the same way again and an interrupted
    one goes on. Rounds whose runs are all there are passed over; one that leaves runs out is the last. When all ended,
    runs that the sweep does not ask for are set aside.

    Args:
        plan: of the sweep's grid.
        fresh: train the runs of every round again, as `plan_sweep` had it for the grid.
        tell: called with what to say of damaged files, else a warning, and of what was compacted.
    Raises:
        ValueError: if the folder holds files that cannot be read, or of a newer mupcheck.
        StoreError: if a damaged file cannot be moved.
    """
    for each in _rounds(mended(plan, fresh=fresh, tell=tell), fresh=fresh):
        yield each
        said = compact_many(plan.folder)
        if said and tell is not None:
            tell(said)


def mended(plan: Plan, *, fresh: bool, tell: Callable[[str], object] | None) -> Plan:
    """Return a plan in which runs that were there and damaged are missing; arguments and errors as of `rounds`."""
    if not fresh:
        compact_many(plan.folder)  # reads as much as is to be checked
    lines = mend(plan.folder, runs=not fresh)
    for line in lines:
        (tell or warnings.warn)(line)
    return extend(plan, plan.runs, finished=kept_runs(plan.folder)) if lines and not fresh else plan


def _rounds(plan: Plan, *, fresh: bool) -> Iterator[Plan]:
    """Yield the plans of `rounds`."""
    start = time.monotonic()
    if fresh:
        forget_checkpoints(plan.folder, all_of_them=True)
    limits = plan.limits  # of all rounds together
    plan, may = _within(plan, limits.max_runs)
    yield plan
    if plan.left_out or limits.out_of_time:
        return
    trained = {run.run_id for run in plan.runs}
    cost = sum(group_cost(group, plan.device) for group in plan.groups)
    more = _refined(plan) if plan.sweep.refine else _topped_up(plan) if plan.sweep.top_up else iter(())
    for runs in more:
        plan = extend(plan, runs, finished=trained if fresh else kept_runs(plan.folder))
        trained |= {run.run_id for run in plan.runs}
        if not plan.missing:
            write_plan(plan)
            continue
        added = sum(group_cost(group, plan.device) for group in plan.groups)
        minutes = (time.monotonic() - start) / 60
        predicted = minutes * added / cost if cost else estimate(plan).seconds / 60
        if plan.sweep.top_up and (minutes + predicted > plan.sweep.budget or not plan.fits):
            break
        cost += added
        plan, may = _within(plan, may)
        yield plan
        if plan.left_out or limits.out_of_time:
            return
    if plan.claims is None or not plan.claims.others():  # who may be in a round that did not begin here
        set_aside(plan.folder, keep=[run.run_id for run in plan.runs])
    if plan.address:
        from mupcheck.results.stores.beside import push_now

        push_now(plan.address)


def _within(plan: Plan, max_runs: int | None) -> tuple[Plan, int | None]:
    """Return a plan that trains at most so many runs, and how many more there may be after it."""
    if max_runs is None:
        return plan, None
    groups = first_runs(plan.groups, max_runs)
    kept = sum(map(len, groups))
    return replace(plan, groups=groups, left_out=plan.left_out + plan.missing - kept), max_runs - kept


def _refined(plan: Plan) -> Iterator[list[RunSpec]]:
    """Yield all runs of a learning-rate sweep with the lrs that its refinement adds, round by round."""
    # the judging half, met through what was written; it needs pandas, which no other sweep waits for
    from mupcheck.learning_rates.refine import next_round

    added: dict[tuple[str, int], tuple[float, ...]] = {}
    runs = list(plan.runs)
    while True:
        # not all that sweep.json lists: another process may be in another round
        there = load_results(plan.folder, tables=("runs",), run_ids={run.run_id for run in runs}).runs
        searches = next_round(there, lrs=plan.sweep.lrs, precision=plan.sweep.precision)
        wanted = {(s.parametrization, s.width): tuple(2.0**x for x in s.log2_lrs) for s in searches if s.log2_lrs}
        if not wanted:
            return
        added |= {key: added.get(key, ()) + lrs for key, lrs in wanted.items()}
        runs = plan.sweep.runs(**plan.source, added=added)
        yield runs


def _topped_up(plan: Plan) -> Iterator[list[RunSpec]]:
    """Yield all runs of a coordinate check with the seeds and widths that its top-up adds, round by round."""
    from mupcheck.coordinates.folder import judge_folder
    from mupcheck.coordinates.top_up import next_round

    runs = {run.run_id: run for run in plan.runs}
    entries = {table.name: entry for table, entry in zip(plan.sweep.tables, plan.sweep.parametrizations, strict=True)}
    while True:
        more = next_round(judge_folder(plan.folder, run_ids=set(runs))[1], widths=plan.sweep.widths)
        if more is None:
            return
        unused = (seed for seed in count() if seed not in plan.sweep.seeds)
        seeds = (*plan.sweep.seeds, *islice(unused, more.n_seeds - len(plan.sweep.seeds)))
        grid = {name: getattr(plan.sweep, name) for name in SweepSpec.model_fields}
        grid |= {"widths": more.widths, "seeds": seeds, "expect": {}}
        grid |= {"parametrizations": tuple(entries[name] for name in more.parametrizations)}
        grid |= {"base_width": plan.sweep.base_width or min(plan.sweep.widths)}
        runs |= {run.run_id: run for run in SweepSpec(**grid).runs(**plan.source)}
        yield list(runs.values())
