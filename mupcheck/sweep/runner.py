"""A sweep from plan to files: train what is missing, round by round, and tell how far it is."""

import gc
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mupcheck.results.claims import Claims
from mupcheck.results.files import StoreError
from mupcheck.results.path import path_of
from mupcheck.results.printing import said
from mupcheck.results.reading import Results, finished_runs, load_results
from mupcheck.spec.sweep import SweepSpec
from mupcheck.sweep.checkpoints import forget_checkpoints
from mupcheck.sweep.cost import group_bytes
from mupcheck.sweep.described import lacking, made_up_for, write_failed, write_plan
from mupcheck.sweep.described import not_alone as not_alone  # where commands ask for it
from mupcheck.sweep.engines import local
from mupcheck.sweep.engines.elsewhere import Elsewhere, Engine, devices_of, engine_of, opened, planned
from mupcheck.sweep.failures import failure_of, forget_tracebacks, keep_traceback
from mupcheck.sweep.group import run_group
from mupcheck.sweep.groups import Group, group_cost
from mupcheck.sweep.kernels import PRELOAD
from mupcheck.sweep.limits import NO_LIMITS, Limits
from mupcheck.sweep.machine import memory_kept, size_text
from mupcheck.sweep.pace import Pace, Progress
from mupcheck.sweep.path import PathTask, compare_path, kept_paths, path_task, write_path
from mupcheck.sweep.plan import Plan, check_fits, find_devices, plan_sweep
from mupcheck.sweep.provenance import provenance
from mupcheck.sweep.rounds import rounds
from mupcheck.sweep.shared_run import over_devices
from mupcheck.sweep.sharing import Shared, joined, tell
from mupcheck.sweep.warm import shapes_to_come, warm_up
from mupcheck.training.data.corpus import Corpus


def run_sweep(
    sweep: SweepSpec,
    *,
    out: str | Path = "results",
    device: str = "auto",
    jobs: int | None = None,
    fresh: bool = False,
    force: bool = False,
    exact: bool = False,
    gpus_per_run: int = 1,
    limits: Limits = NO_LIMITS,
    retry_failed: bool = True,
    engine: Literal["local"] | Elsewhere = "local",
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] = print,
) -> Results:
    """Train what is missing of a sweep, and return all its runs; within limits, those that are there then.

    In a script, a notebook or a prompt alike: processes that it starts do not run the script again, which so needs no
    `if __name__ == "__main__":`.

    Args:
        sweep: what to train, as `make_sweep` or `load_sweep` return it.
        out: results folder, or the address of one in a store (s3://bucket/results); the sweep goes into
            `out`/`sweep.name`.
        device: "auto", "cpu", "cuda" (every GPU) or "cuda:i".
        jobs: processes at a time (default: one per core on a CPU, one per GPU).
        fresh: train finished runs again.
        force: try where the estimate of memory says that it does not fit.
        exact: train each run alone: on a GPU, replicas may round otherwise in another group.
        gpus_per_run: GPUs (on a CPU, processes) that train each run together, a part of its weights on each.
        limits: seconds and runs that this call may take.
        retry_failed: train runs again that failed before.
        engine: where: "local" is this machine; `Slurm(...)` and `Ray(...)` are a cluster that sees `out`, and say which
            device and how many jobs it has.
        on_progress: called with each Progress.
        on_note: called with lines that such a cluster is worth.
    Raises:
        ValueError: if the sweep's data, device or folder cannot be used, it does not fit into memory, or is no sweep;
            or if another process trains another sweep of this name.
        StoreError: if a run could not be trained or written; the others are stored.
    """
    if not isinstance(sweep, SweepSpec):
        hint = f"; try run_sweep(load_sweep({str(sweep)!r}))" if isinstance(sweep, str | Path) else ""
        hint = "; try run_sweep(make_sweep(...))" if isinstance(sweep, Mapping) else hint
        raise ValueError(f"run_sweep() takes a SweepSpec, not {said(sweep)}{hint}")
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise ValueError(f"jobs={jobs!r} is no number of processes; give 1 or more, or None for one per core")
    elsewhere = engine_of(engine, device=device, jobs=jobs, fresh=fresh)
    if multiprocessing.current_process().daemon and elsewhere is None:
        if jobs not in (None, 1):
            raise ValueError(f"jobs={jobs} in a worker of a pool, which may start no processes; give jobs=1")
        if limits.group_seconds is not None:
            raise ValueError(
                "a limit on group_seconds in a worker of a pool, which may start no processes; leave it out"
            )
        if gpus_per_run > 1:
            raise ValueError(f"gpus_per_run={gpus_per_run} in a worker of a pool, which may start no processes; give 1")
        jobs = 1
    how: dict[str, Any] = {"fresh": fresh, "jobs": jobs, "exact": exact, "retry_failed": retry_failed, "limits": limits}
    how["gpus_per_run"] = gpus_per_run
    if elsewhere is not None and gpus_per_run > 1:
        raise ValueError(f"gpus_per_run={gpus_per_run} is of engine 'local'; leave one out")
    devices = find_devices(device) if elsewhere is None else devices_of(elsewhere)
    first = plan_sweep(sweep, out=out, device=devices, here=elsewhere is None, **how)
    if elsewhere is not None:
        first = planned(first, elsewhere)
    if not force:
        check_fits(first)
    opening: Any = nullcontext() if elsewhere is None else opened(elsewhere, say=on_note)
    with joined(first) as claims, opening as through:
        for plan in rounds(replace(first, claims=claims), fresh=fresh):
            errors = []
            for progress in execute(plan, jobs=jobs, **({} if through is None else {"engine": through})):
                if progress.error and not progress.retried:
                    errors.append(progress.error)
                if on_progress is not None:
                    on_progress(progress)
            if errors and not made_up_for(plan):
                if not (failed := len(lacking(plan))):
                    raise StoreError(errors[0])
                raise StoreError(f"{failed} of {len(plan.runs)} runs failed, the rest is in {plan.folder}: {errors[0]}")
    return load_results(first.folder)


def execute(plan: Plan, *, jobs: int | None = None, engine: Engine | None = None) -> Iterator[Progress]:
    """Train what is missing and write each run as it ends; yield how far it is.

    What another process trains by now is left to it, and counts when it is there.

    A group that is killed or runs out of memory is split in two and tried again, down to single runs. The groups of a
    GPU that is lost go to the others. What fails for good is reported in `error` and in `sweep.json`, and the rest goes
    on; of an error that nobody expected the traceback is kept in a file that `error` names. Where something is trained,
    its backend is compared with the reference beside it, once a sweep.

    Args:
        jobs: as in `run_sweep`.
        engine: where groups execute (default: on this machine).
    Raises:
        ValueError: as of `joined`, where the plan has no claims, or if it has an address that may not be written.
        StoreError: if results cannot be written.
    """
    claims = plan.claims
    if claims is None:
        with joined(plan) as claims:
            yield from execute(replace(plan, claims=claims), jobs=jobs, engine=engine)
        return
    if not plan.address:
        write_plan(plan)
        yield from _execute(plan, jobs, engine)
        return
    from mupcheck.results.stores.beside import pushing, say_wait
    from mupcheck.results.stores.push import send_sweep

    progress = Pace(plan, places=1).now()
    waits = say_wait(plan.address) if plan.missing else ""
    if notes := [*plan.said, *filter(None, [waits])]:
        yield replace(progress, note="; ".join(notes))
    with pushing(plan.folder, plan.address, alone=plan.missing > 0) as pusher:
        write_plan(plan)
        send_sweep(pusher.mirror)
        for progress in _execute(plan, jobs, engine):
            note = pusher.note()
            yield replace(progress, note="; ".join(filter(None, (progress.note, note)))) if note else progress
        if left := pusher.finish():
            yield replace(progress, note="", error=left, retried=False)


def _execute(plan: Plan, jobs: int | None, engine: Engine | None) -> Iterator[Progress]:
    """Train as `execute` says, in the folder."""
    claims = plan.claims
    assert claims is not None
    if engine is not None:
        yield from tell(claims, _follow(plan, jobs or plan.jobs, claims, partial(engine, plan), ahead=False))
        return
    shared = Shared(claims, again=plan.fresh, ends=lambda: plan.limits.out_of_time)
    corpus = None if plan.sweep.data.startswith("tokens:") else plan.corpus
    if plan.gpus_per_run > 1:
        messages = partial(shared.messages, partial(over_devices(plan, corpus), take=shared.take))
        yield from tell(claims, _follow(plan, len(plan.teams), claims, messages, ahead=False))
        return
    work = work_of(plan.folder, plan.sweep.name, corpus, **({} if plan.gpus else {"device": plan.device}))
    warming = partial(warm_up, corpus=corpus)
    at_a_time = jobs or plan.jobs

    def here(waiting: deque[tuple[Any, ...]]) -> Iterator[local.Message]:
        processes = max(min(at_a_time, len(waiting)), 1)
        how: dict[str, Any] = {"jobs": processes, "devices": plan.gpus, "seconds": plan.limits.group_seconds}
        return local.execute(waiting, work, preload=PRELOAD, contain=True, take=shared.take, **how)

    # from group to group as well, where they are worked through in this process
    kept = nullcontext() if plan.gpus else memory_kept()
    with kept, local.beside(shapes_to_come(plan), warming, device=(plan.gpus or ("",))[-1], preload=PRELOAD):
        yield from tell(claims, _follow(plan, at_a_time, claims, partial(shared.messages, here)))


def work_of(folder: Path, sweep: str, corpus: Corpus | None, **device: str) -> local.Work:
    """Return what to do with a group of a sweep's runs, or with the task to compare their backend.

    Args:
        folder: the sweep's.
        sweep: its name.
        corpus: what it trains on; None where each process opens it.
        device: `device`, where it is not the worker's own.
    """
    where: dict[str, Any] = {"folder": folder, "corpus": corpus, "provenance": provenance(), **device}
    return partial(_work, training=partial(run_group, sweep=sweep, **where), comparing=partial(compare_path, **where))


def _follow(
    plan: Plan,
    jobs: int,
    claims: Claims,
    start: Callable[[deque[tuple[Any, ...]]], Iterator[local.Message]],
    *,
    ahead: bool = True,
) -> Iterator[Progress]:
    """Work through the groups of a plan as `execute` says.

    Args:
        jobs: groups at a time.
        claims: of this process.
        start: takes what waits, and yields what happens.
        ahead: whether this process trains too, so that initial values are drawn ahead.
    """
    compared: list[tuple[Any, ...]] = [(path_task(plan),)] if plan.missing else []
    waiting: deque[tuple[Any, ...]] = deque([*compared, *plan.groups])
    at_a_time = max(min(jobs, len(waiting)), 1)
    pace = Pace(plan, places=at_a_time)
    drawing = at_a_time if plan.limits.group_seconds is None else 2  # a group with a limit trains in another process
    if ahead:
        draw_next(plan, waiting, jobs=drawing)
    begun: Group | None = None
    failed: list[dict[str, Any]] = []
    lost_with: list[tuple[Any, ...]] = []
    for message in start(waiting):
        trains = bool(message.group) and not isinstance(message.group[0], PathTask) and message.error is None
        if plan.limits.out_of_time and (begun is not None or (trains and not message.elsewhere)):
            waiting.clear()  # one group trains in any case, so that calls come to an end
        if message.elsewhere:
            pace.pass_over(message.group)
            yield pace.now(note=message.note)
            continue
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
                if ahead:
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
                    needed = group_bytes(group[0], len(group), devices=plan.gpus_per_run)
                    error += f"; it was estimated to need {size_text(needed)}"
                failed += [failure_of(run, error) for run in group]
            pace.fail(group, again=bool(again))
        if again and not plan.limits.out_of_time:
            ordered = sorted([*waiting, *again], key=lambda each: _first(each, plan.device))
            waiting.clear()
            waiting.extend(ordered)
        yield pace.now(error=error, retried=bool(again), note="; ".join(notes), width=group[0].width)
    if failed:
        # elsewhere a group may have failed in part, and another process may have trained what failed here
        there = set() if plan.fresh else finished_runs(plan.folder)
        write_failed(plan, [each for each in failed if each["run_id"] not in there])
    if not claims.others():
        forget_tracebacks(plan.folder)
        forget_checkpoints(plan.folder)


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
