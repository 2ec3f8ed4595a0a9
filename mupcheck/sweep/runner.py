"""A sweep from plan to files: train what is missing, round by round, and tell how far it is."""

import gc
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

from mupcheck.results.aside import kept_runs, set_aside
from mupcheck.results.files import StoreError
from mupcheck.results.path import path_of
from mupcheck.results.printing import said
from mupcheck.results.reading import Results, load_results
from mupcheck.results.writing import write_sweep
from mupcheck.spec.run import RunSpec
from mupcheck.spec.sweep import SweepSpec
from mupcheck.sweep.cost import group_bytes
from mupcheck.sweep.described import describe, not_tried, write_plan
from mupcheck.sweep.described import not_alone as not_alone  # where commands ask for it
from mupcheck.sweep.engines import local
from mupcheck.sweep.estimate import estimate
from mupcheck.sweep.failures import forget_tracebacks, keep_traceback
from mupcheck.sweep.group import run_group
from mupcheck.sweep.groups import Group, group_cost
from mupcheck.sweep.kernels import PRELOAD
from mupcheck.sweep.limits import NO_LIMITS, Limits, first_runs
from mupcheck.sweep.machine import memory_kept, size_text
from mupcheck.sweep.pace import Pace, Progress
from mupcheck.sweep.path import PathTask, compare_path, kept_paths, path_task, write_path
from mupcheck.sweep.plan import Plan, check_fits, extend, find_devices, plan_sweep
from mupcheck.sweep.provenance import provenance
from mupcheck.sweep.warm import shapes_to_come, warm_up


def run_sweep(
    sweep: SweepSpec,
    *,
    out: str | Path = "results",
    device: str = "auto",
    jobs: int | None = None,
    fresh: bool = False,
    force: bool = False,
    exact: bool = False,
    limits: Limits = NO_LIMITS,
    retry_failed: bool = True,
    on_progress: Callable[[Progress], None] | None = None,
) -> Results:
    """Train what is missing of a sweep, and return all its runs; within limits, those that are there then.

    In a script, a notebook or a prompt alike: processes that it starts do not run the script again, which so needs no
    `if __name__ == "__main__":`.

    Args:
        sweep: what to train, as `make_sweep` or `load_sweep` return it.
        out: results folder; the sweep goes into `out`/`sweep.name`.
        device: "auto", "cpu", "cuda" (every GPU) or "cuda:i".
        jobs: processes at a time (default: one per core on a CPU, one per GPU).
        fresh: train finished runs again.
        force: try where the estimate of memory says that it does not fit.
        exact: train each run alone: on a GPU, replicas may round otherwise in another group.
        limits: seconds and runs that this call may take.
        retry_failed: train runs again that failed before.
        on_progress: called with each Progress.
    Raises:
        ValueError: if the sweep's data, device or folder cannot be used, it does not fit into memory, or is no sweep.
        StoreError: if a run could not be trained or written; the others are stored.
    """
    if not isinstance(sweep, SweepSpec):
        hint = f"; try run_sweep(load_sweep({str(sweep)!r}))" if isinstance(sweep, str | Path) else ""
        hint = "; try run_sweep(make_sweep(...))" if isinstance(sweep, Mapping) else hint
        raise ValueError(f"run_sweep() takes a SweepSpec, not {said(sweep)}{hint}")
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise ValueError(f"jobs={jobs!r} is no number of processes; give 1 or more, or None for one per core")
    if multiprocessing.current_process().daemon:
        if jobs not in (None, 1):
            raise ValueError(f"jobs={jobs} in a worker of a pool, which may start no processes; give jobs=1")
        if limits.group_seconds is not None:
            raise ValueError(
                "a limit on group_seconds in a worker of a pool, which may start no processes; leave it out"
            )
        jobs = 1
    how: dict[str, Any] = {"fresh": fresh, "jobs": jobs, "exact": exact, "retry_failed": retry_failed, "limits": limits}
    first = plan_sweep(sweep, out=out, device=find_devices(device), **how)
    if not force:
        check_fits(first)
    for plan in rounds(first, fresh=fresh):
        errors, finished = [], plan.n_there
        for progress in execute(plan, jobs=jobs):
            finished = progress.runs_finished
            if progress.error and not progress.retried:
                errors.append(progress.error)
            if on_progress is not None:
                on_progress(progress)
        if errors:
            failed = len(plan.runs) - finished
            raise StoreError(f"{failed} of {len(plan.runs)} runs failed, the rest is in {plan.folder}: {errors[0]}")
    return load_results(first.folder)


def rounds(plan: Plan, *, fresh: bool = False) -> Iterator[Plan]:
    """Yield plans to execute, one after the other: the sweep's grid, then what its refinement or top-up adds.

    What to add is judged from the results in the folder, so the same sweep goes the same way again and an interrupted
    one goes on. Rounds whose runs are all there are passed over; one that leaves runs out is the last. When all ended,
    runs that the sweep does not ask for are set aside.

    Args:
        plan: of the sweep's grid.
        fresh: train the runs of every round again, as `plan_sweep` had it for the grid.
    """
    start = time.monotonic()
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
    set_aside(plan.folder, keep=[run.run_id for run in plan.runs])


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
    while True:
        runs = load_results(plan.folder, tables=("runs",)).runs
        searches = next_round(runs, lrs=plan.sweep.lrs, precision=plan.sweep.precision)
        wanted = {(s.parametrization, s.width): tuple(2.0**x for x in s.log2_lrs) for s in searches if s.log2_lrs}
        if not wanted:
            return
        added |= {key: added.get(key, ()) + lrs for key, lrs in wanted.items()}
        yield plan.sweep.runs(**plan.source, added=added)


def _topped_up(plan: Plan) -> Iterator[list[RunSpec]]:
    """Yield all runs of a coordinate check with the seeds and widths that its top-up adds, round by round."""
    from mupcheck.coordinates.folder import judge_folder
    from mupcheck.coordinates.top_up import next_round

    runs = {run.run_id: run for run in plan.runs}
    entries = {table.name: entry for table, entry in zip(plan.sweep.tables, plan.sweep.parametrizations, strict=True)}
    while True:
        more = next_round(judge_folder(plan.folder)[1], widths=plan.sweep.widths)
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


def execute(plan: Plan, *, jobs: int | None = None) -> Iterator[Progress]:
    """Train what is missing and write each run as it ends; yield how far it is.

    A group that is killed or runs out of memory is split in two and tried again, down to single runs. The groups of a
    GPU that is lost go to the others. What fails for good is reported in `error` and in `sweep.json`, and the rest goes
    on; of an error that nobody expected the traceback is kept in a file that `error` names. Where something is trained,
    its backend is compared with the reference beside it, once a sweep.

    Args:
        jobs: as in `run_sweep`.
    Raises:
        StoreError: if results cannot be written.
    """
    write_plan(plan)
    where: dict[str, Any] = {
        "folder": plan.folder,
        "corpus": None if plan.sweep.data.startswith("tokens:") else plan.corpus,
        "provenance": provenance(),
    }
    where |= {} if plan.gpus else {"device": plan.device}
    work = partial(
        _work, training=partial(run_group, sweep=plan.sweep.name, **where), comparing=partial(compare_path, **where)
    )
    warming = partial(warm_up, corpus=where["corpus"])
    # from group to group as well, where they are worked through in this process
    kept = nullcontext() if plan.gpus else memory_kept()
    with kept, local.beside(shapes_to_come(plan), warming, device=(plan.gpus or ("",))[-1], preload=PRELOAD):
        yield from _follow(plan, work, jobs or plan.jobs)


def _follow(plan: Plan, work: local.Work, jobs: int) -> Iterator[Progress]:
    """Work through the groups of a plan as `execute` says."""
    compared: list[tuple[Any, ...]] = [(path_task(plan),)] if plan.missing else []
    waiting: deque[tuple[Any, ...]] = deque([*compared, *plan.groups])
    at_a_time = max(min(jobs, len(waiting)), 1)
    pace = Pace(plan, places=at_a_time)
    how: dict[str, Any] = {
        "jobs": at_a_time,
        "devices": plan.gpus,
        "contain": True,
        "seconds": plan.limits.group_seconds,
    }
    drawing = at_a_time if plan.limits.group_seconds is None else 2  # a group with a limit trains in another process
    draw_next(plan, waiting, jobs=drawing)
    begun: Group | None = None
    failed: list[dict[str, Any]] = []
    lost_with: list[tuple[Any, ...]] = []
    for message in local.execute(waiting, work, preload=PRELOAD, **how):
        if plan.limits.out_of_time and begun is not None:  # one group trains in any case, so that calls come to an end
            waiting.clear()
        notes = [f"{message.lost} is lost and not used any more: {message.error}"] if message.lost else []
        # a group that takes a second GPU with it would take them all
        first_loss = bool(message.lost) and not any(each is message.group for each in lost_with)
        if message.lost:
            lost_with.append(message.group)
            pace.places -= 1
        if isinstance(message.group[0], PathTask):
            if first_loss:
                waiting.appendleft(message.group)
            else:
                notes += filter(None, [_note_of_path(plan, message)])
            if notes:
                yield pace.now(note="; ".join(notes))
            continue
        group: Group = message.group
        error, again = None, []
        if message.steps is not None:
            if group is not begun:
                begun = group
                draw_next(plan, waiting, jobs=drawing)
            pace.advance(group, message.steps)
        elif message.error is None:
            pace.finish(group)
        else:
            error = f"{len(group)} runs of width {group[0].width}: {message.error}"
            if message.traceback:
                error = keep_traceback(plan.folder, [run.run_id for run in group], error, message.traceback)
            if first_loss:
                again = [group]
            elif message.retry and len(group) > 1:
                again = [group[: len(group) // 2], group[len(group) // 2 :]]
            else:
                if message.retry:
                    error += f"; it was estimated to need {size_text(group_bytes(group[0], len(group)))}"
                failed += [_failure(run, error) for run in group]
            pace.fail(group, again=bool(again))
        if again and not plan.limits.out_of_time:
            ordered = sorted([*waiting, *again], key=lambda each: _first(each, plan.device))
            waiting.clear()
            waiting.extend(ordered)
        yield pace.now(error=error, retried=bool(again), note="; ".join(notes))
    if failed:
        write_sweep(plan.folder, describe(plan) | {"failed": [*not_tried(plan), *failed]})
    forget_tracebacks(plan.folder)


def draw_next(plan: Plan, waiting: Iterable[tuple[Any, ...]], *, jobs: int | None = None) -> None:
    """Let the initial values of the group that is next be drawn, while this process waits for its one GPU or prints."""
    group = next((group for group in waiting if not isinstance(group[0], PathTask)), None)
    if group is None or len(plan.gpus) == 0 or (jobs or plan.jobs) > 1:
        return
    from mupcheck.model.build import draw_ahead

    draw_ahead(group, plan.gpus[0])


def _first(group: tuple[Any, ...], device: str) -> float:
    """Return what to sort groups by, the costliest first."""
    return -float("inf") if isinstance(group[0], PathTask) else -group_cost(group, device)


def _failure(run: RunSpec, error: str) -> dict[str, Any]:
    """Return what `sweep.json` says of a run that could not be trained."""
    return {"run_id": run.run_id, "width": run.width, "estimated_bytes": group_bytes(run, 1), "reason": error}


def _work(
    group: tuple[Any, ...],
    *,
    training: Callable[..., Iterator[int]],
    comparing: Callable[..., Iterator[int]],
    **where: str,
) -> Iterator[int]:
    """Do the work of a group of runs, or of the task to compare their backend; `where` is the worker's device."""
    if where:
        import torch

        # what a group before held that ran out of memory is free by now, but the allocator has it in other sizes
        gc.collect()
        torch.cuda.empty_cache()
    return (comparing if isinstance(group[0], PathTask) else training)(group, **where)


def _note_of_path(plan: Plan, message: local.Message) -> str:
    """Return what to say when the comparison ended, "" where all is well; one that was killed is written down here."""
    if message.error is not None:
        run = plan.runs[0]
        entry = {"backend": run.backend, "dtype": run.dtype, "reason": message.error}
        with suppress(StoreError, ValueError):
            write_path(plan.folder, entry | {"run_ids": message.group[0].run_ids})
        return str(path_of(entry))
    paths = map(path_of, kept_paths(plan.folder, message.group[0].run_ids)[-1:])
    return "; ".join(path.strain if path.agrees else str(path) for path in paths)
