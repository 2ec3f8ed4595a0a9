"""Run groups as job arrays of Slurm, through the commands that every cluster has: sbatch and squeue.

The sweep's folder is the truth, Slurm's state only says what to wait for: a group is done when its runs are there. Each
submission is a portion with a name that no other has, which is the name of its job: a number would not do, as a
controller that is killed forgets a job and gives its number to the next one (ecosystem.md). So who calls again, here or
elsewhere, finds what is queued or running by name, submits the rest, and follows both.
"""

import secrets
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mupcheck.results.files import alone, write_text
from mupcheck.results.reading import finished_runs
from mupcheck.sweep.engines.local import Message
from mupcheck.sweep.engines.sbatch import Slurm, State, array_size, ask, ended, hand_in, name_of, script_of
from mupcheck.sweep.groups import group_cost
from mupcheck.sweep.path import PathTask, kept_paths
from mupcheck.sweep.plan import Plan
from mupcheck.sweep.portion import FOLDER, JOB, Part, Portion, forget_done, read_portion, read_report, write_portion
from mupcheck.sweep.sharing import asks_of

ABSENT = 3  # polls in a row without a task before it counts as gone: files of another machine come late
SECONDS_BETWEEN_NOTES = 60.0


# --- submitting -------------------------------------------------------------------------------------------------------


def submit(
    plan: Plan, groups: Sequence[Part], slurm: Slurm, *, say: Callable[[str], None] = print
) -> tuple[list[Portion], list[Portion]]:
    """Submit what is neither there nor in the queue; return portions that were in the queue, and new ones.

    Raises:
        ValueError: if Slurm does not answer or refuses; the message is Slurm's.
        StoreError: if what to do cannot be written.
    """
    wanted = {run.run_id for group in groups for run in group if not isinstance(group[0], PathTask)}
    with alone(plan.folder / FOLDER, "lock"):
        earlier = _portions(plan.folder)
        alive = ask([portion.key for portion in earlier])
        if isinstance(alive, str):
            raise ValueError(f"squeue does not answer, so nothing was submitted: {alive}; try again")
        keys = {key for key, _ in alive}
        forget_done(plan.folder, keys)
        earlier = [portion for portion in earlier if portion.key in keys and wanted & set(_run_ids(portion))]
        queued = _members(earlier, alive)
        parts: list[Part] = []
        for group in groups:
            if isinstance(group[0], PathTask):
                left: Part = () if _path_key(group[0]) in queued or _compared(plan, group[0]) else group
            else:
                left = tuple(run for run in group if run.run_id not in queued)
            if left:
                parts.append(left)
        new = []
        for portion in _packed(plan, parts, slurm):
            job = _submit(portion, slurm, cuda=bool(plan.gpus))
            new.append(portion)
            n_runs = sum(len(part) for part in portion.groups if not isinstance(part[0], PathTask))
            what = f"{n_runs} runs in {len(portion.tasks)} task{'s' * (len(portion.tasks) > 1)}"
            say(f"{plan.folder.name}: submitted {what} as job {job}, {name_of(portion)}")
    if earlier:
        n_queued = len(wanted & set(queued))
        say(f"{plan.folder.name}: {n_queued} runs are in the queue already, {', '.join(map(name_of, earlier))}")
    return earlier, new


def _packed(plan: Plan, parts: Sequence[Part], slurm: Slurm) -> Iterator[Portion]:
    """Yield portions of as many tasks as an array takes, each of groups that cost about as much together."""
    comparing = [part for part in parts if isinstance(part[0], PathTask)]
    training = [part for part in parts if not isinstance(part[0], PathTask)]
    n_tasks = -(-len(training) // slurm.groups)
    tasks: list[list[Part]] = [[] for _ in range(n_tasks)]
    costs = [0.0] * n_tasks
    for part in sorted(training, key=lambda part: group_cost(part, plan.device), reverse=True):
        least = min(range(n_tasks), key=lambda task: (len(tasks[task]) >= slurm.groups, costs[task]))
        tasks[least].append(part)
        costs[least] += group_cost(part, plan.device)
    if comparing:
        # it takes a second, and is not worth a task of its own
        tasks = [[*comparing, *(tasks[0] if tasks else ())], *tasks[1:]]
    size = array_size()
    for first in range(0, len(tasks), size):
        groups: list[Part] = []
        indices: list[tuple[int, ...]] = []
        for task in tasks[first : first + size]:
            indices.append(tuple(range(len(groups), len(groups) + len(task))))
            groups += task
        key = secrets.token_hex(6)
        yield Portion(plan.folder, key, plan.sweep.name, tuple(groups), tuple(indices), asks_of(plan))


def _submit(portion: Portion, slurm: Slurm, *, cuda: bool) -> str:
    """Write a portion and its script, submit it, and return the job's number."""
    write_portion(portion)
    script = portion.place / "array.sh"
    write_text(script, script_of(portion, slurm, cuda=cuda))
    try:
        job = hand_in(script)
    except ValueError:
        shutil.rmtree(portion.place, ignore_errors=True)
        raise
    write_text(portion.place / JOB, job + "\n")
    return job


# --- following --------------------------------------------------------------------------------------------------------


def execute(
    plan: Plan, waiting: deque[Part], *, slurm: Slurm, say: Callable[[str], None] = print, wait: bool = True
) -> Iterator[Message]:
    """Submit the groups that wait, and yield how each ended, as its runs appear in the folder.

    What a task could not do is an error of its groups, and is submitted again by the next call.

    Args:
        plan: of the sweep.
        waiting: its groups that are missing.
        slurm: how to ask for them.
        say: takes lines on what was submitted, and on the queue.
        wait: whether to follow what was submitted.
    Raises:
        ValueError: if Slurm does not answer or refuses.
        StoreError: if what to do cannot be written.
    """
    groups = list(waiting)
    waiting.clear()
    earlier, new = submit(plan, groups, slurm, say=say)
    if not wait:
        return
    portions = [*earlier, *new]
    keys = [portion.key for portion in portions]
    absent: Counter[int] = Counter()  # polls without a task of a group, by its index
    notes = _Notes(plan.folder.name, say)
    left = dict(enumerate(groups))
    while left:
        # first the queue: the files of a task that is gone by then are there
        alive = ask(keys)
        notes.tell(alive)
        there = finished_runs(plan.folder)
        members = {} if isinstance(alive, str) else _members(portions, alive)
        for index, group in list(left.items()):
            if isinstance(group[0], PathTask):
                lacking, error = [_path_key(group[0])], _path_end(group[0], portions)
                done = error is not None or _compared(plan, group[0])
            else:
                lacking = [run.run_id for run in group if run.run_id not in there]
                done, error = not lacking, None
            if done:
                del left[index]
                yield Message(group, error=error or None)
            elif isinstance(alive, str) or any(member in members for member in lacking):
                absent[index] = 0
            else:
                absent[index] += 1
                if absent[index] >= ABSENT:
                    del left[index]
                    yield Message(group, error=_why(portions, lacking))
        if left:
            time.sleep(slurm.poll)
    if not isinstance(alive := ask(keys), str):
        forget_done(plan.folder, {key for key, _ in alive})


class _Notes:
    """Says how many tasks run and wait, once in a while, when that changed."""

    def __init__(self, sweep: str, say: Callable[[str], None]) -> None:
        self.sweep, self.say, self.said, self.at = sweep, say, "", -SECONDS_BETWEEN_NOTES

    def tell(self, alive: State | str) -> None:
        """Say what the queue holds."""
        if isinstance(alive, str):
            text = f"squeue does not answer ({alive}); waiting"
        else:
            states = [
                f"{state.lower()} ({reason})" if state == "PENDING" else state.lower()
                for state, reason in alive.values()
            ]
            counted = ", ".join(f"{n} {state}" for state, n in sorted(Counter(states).items()))
            text = f"tasks: {counted or 'none in the queue'}"
            if any("held" in reason.lower() for _, reason in alive.values()):
                text += "; what is held waits for scontrol release, or scancel and this command again"
        if text != self.said and time.monotonic() - self.at >= SECONDS_BETWEEN_NOTES:
            self.say(f"{self.sweep}: {text}")
            self.said, self.at = text, time.monotonic()


def _portions(folder: Path) -> list[Portion]:
    """Return the earlier portions of a sweep."""
    found = []
    for place in sorted((folder / FOLDER).iterdir()):
        with suppress(ValueError):  # of another version, or killed before it was written
            found.append(read_portion(folder, place.name))
    return found


def _run_ids(portion: Portion) -> list[str]:
    return [run.run_id for part in portion.groups if not isinstance(part[0], PathTask) for run in part]


def _members(portions: Sequence[Portion], alive: State) -> dict[str, tuple[Portion, int]]:
    """Return the run_ids (and the comparison's key) that a queued or running task has, with the portion and task."""
    return {
        member: (portion, task)
        for portion in portions
        for task, indices in enumerate(portion.tasks)
        if (portion.key, task) in alive
        for index in indices
        for member in _ids(portion.groups[index])
    }


def _ids(part: Part) -> list[str]:
    return [_path_key(part[0])] if isinstance(part[0], PathTask) else [run.run_id for run in part]


def _path_key(task: PathTask) -> str:
    return "path " + " ".join(task.run_ids)


def _compared(plan: Plan, task: PathTask) -> bool:
    """Say whether the backend of a sweep was compared already."""
    entries = kept_paths(plan.folder, task.run_ids)
    return not task.again and any(each.get("run_ids") == task.run_ids and not each.get("reason") for each in entries)


def _path_end(task: PathTask, portions: Sequence[Portion]) -> str | None:
    """Return the error of a comparison that ended, "" where it ended well, None where nothing is known yet."""
    for portion in portions:
        for index, part in enumerate(portion.groups):
            if isinstance(part[0], PathTask) and part[0].run_ids == task.run_ids:
                said = read_report(portion, index)
                if said is not None:
                    return "; ".join(said)
    return None


def _why(portions: Sequence[Portion], lacking: Sequence[str]) -> str:
    """Say why runs are not there whose task is gone: what it wrote, what Slurm says of it, where its log is."""
    for portion in reversed(portions):
        for index, part in enumerate(portion.groups):
            if not set(lacking) & set(_ids(part)):
                continue
            task = portion.task_of(index)
            job = ""
            with suppress(OSError):
                job = (portion.place / JOB).read_text(encoding="utf-8").strip()
            how = ended(job, task)
            said = "; ".join(read_report(portion, index) or ())
            log = portion.place / f"task-{task}.log"
            last = said or _last_error(log)
            text = f"task {job}_{task} ended{f' as {how}' if how else ''} before they were there"
            return f"{text}{f': {last}' if last else ''}; its log is {log}"
    return "it was not submitted"


def _last_error(log: Path) -> str:
    """Return the last error that a log has."""
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace")[-20_000:].splitlines()
        errors = [line.strip() for line in lines if "error:" in line]
        return errors[-1][:300] if errors else ""
    return ""
