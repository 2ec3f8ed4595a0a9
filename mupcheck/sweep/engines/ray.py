"""Run groups as tasks of a Ray cluster, an existing one or one of this machine's cores.

Ray lives in a process of its own (ray_driver.py): it ends a process that loses its cluster, waits two minutes for an
address that nobody answers, and prints to stdout, of which the first costs a sweep, the second patience and the third
its answer. What a group did is in the sweep's folder, which every node has to see: the group is done when its runs are
there, and Ray's word says only when to look.
"""

import json
import os
import queue
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from typing import IO, Any

from mupcheck.results.reading import finished_runs
from mupcheck.sweep.engines.local import Message
from mupcheck.sweep.machine import cores
from mupcheck.sweep.path import PathTask
from mupcheck.sweep.plan import Plan
from mupcheck.sweep.portion import Part, Portion, forget_done, write_portion
from mupcheck.sweep.sharing import asks_of

LOCAL = "local"  # the address of a cluster of this machine's cores, which ends with who asked
DRIVER = "mupcheck.sweep.engines.ray_driver"
START_SECONDS = 90.0  # for Python to start and import Ray, and for a cluster of this machine to start
ANSWER_SECONDS = 15.0  # for the cluster at an address to answer
CLIENT_SECONDS = 60.0  # at ray://, where it first starts a process for who asks
END_SECONDS = 5.0  # for the driver to end by itself
LATE_SECONDS = 10.0  # that a file of another machine may come later than the word of it
BETWEEN_LOOKS = 0.5
TOKEN = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what `ray get-auth-token` prints on the cluster's head"


@dataclass(frozen=True)
class Ray:
    """How to ask Ray.

    Attributes:
        address: of the cluster: "auto", "host:port" or "ray://host:port"; "" is that of the variable RAY_ADDRESS, and
            a cluster of this machine's cores where it is not set, as is "local".
        cpus: of each group.
        gpus: of each group; 0 trains on the CPU, 0.5 lets two groups share one.
        jobs: groups at a time, None for as many as the cluster has room for.
    """

    address: str = ""
    cpus: float = 1
    gpus: float = 0
    jobs: int | None = None

    @property
    def where(self) -> str:
        """Return the address that holds."""
        return self.address or os.environ.get("RAY_ADDRESS", "") or LOCAL


@dataclass
class Cluster:
    """The process that speaks to Ray: lines of JSON in, lines of JSON out."""

    process: "subprocess.Popen[str]"
    log: IO[str]
    ray: Ray
    said: "queue.Queue[dict[str, Any] | None]" = field(default_factory=queue.Queue)
    slots: int = 1

    def tell(self, **what: Any) -> None:
        """Send one line; a driver that is gone is seen by who listens."""
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):
            print(json.dumps(what), file=self.process.stdin, flush=True)

    def hear(self, seconds: float) -> dict[str, Any] | None:
        """Return what was said next, {} if nothing was in time, None where nothing will be."""
        try:
            return self.said.get(timeout=seconds)
        except queue.Empty:
            return {}

    def text(self) -> str:
        """Return the end of the driver's log."""
        self.log.seek(0)
        return self.log.read()[-20_000:]

    def last_words(self) -> str:
        """Return the last line of the driver's log that says something."""
        lines = [line.strip() for line in self.text().splitlines() if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"


def check_ray(ray: Ray, *, starts: bool = True) -> None:
    """Refuse what cannot be, before anything is started.

    Args:
        ray: the settings.
        starts: whether Ray has to be here.
    Raises:
        ValueError: if Ray is not installed, or a setting is none.
    """
    found = find_spec("ray")
    if starts and (found is None or found.origin is None):
        raise ValueError("engine 'ray' needs Ray, which is not installed here; try pip install 'mupcheck[ray]'")
    if not 0 < ray.cpus < 10_000:
        raise ValueError(f"ray_cpus = {ray.cpus:g} is no number of cores; give 1, or as many as a group may have")
    if not 0 <= ray.gpus < 10_000 or (ray.gpus > 1 and ray.gpus != int(ray.gpus)):
        raise ValueError(f"ray_gpus = {ray.gpus:g} is no share of a GPU nor a number of them; give 1, 2 or 0.5")
    if ray.where not in (LOCAL, "auto") and not ray.where.removeprefix("ray://").rpartition(":")[2].isdecimal():
        raise ValueError(f"ray_address {ray.where!r} is no address; give auto, host:6379 or ray://host:10001")


@contextmanager
def connected(ray: Ray) -> Iterator[Cluster]:
    """Start the process that speaks to Ray, and end it, its tasks and a cluster of its own at the end.

    Raises:
        ValueError: if there is no Ray, or no cluster at its address that answers in time.
    """
    check_ray(ray)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        command = [sys.executable, "-m", DRIVER, ray.where, str(ray.cpus), str(ray.gpus)]
        command.append(str(cores() if ray.where == LOCAL else 0))
        # a session of its own: Ctrl-C is for who asked, and ends this by closing its stdin
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        cluster = Cluster(process, log, ray)
        threading.Thread(target=_listen, args=(cluster,), daemon=True).start()
        try:
            _wait_for_answer(cluster)
            yield cluster
        finally:
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.close()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listen(cluster: Cluster) -> None:
    assert cluster.process.stdout is not None
    with suppress(ValueError):
        for line in cluster.process.stdout:
            cluster.said.put(json.loads(line))
    cluster.said.put(None)


def _wait_for_answer(cluster: Cluster) -> None:
    where = cluster.ray.where
    seconds = START_SECONDS
    while True:
        heard = cluster.hear(seconds)
        if heard is None:
            raise ValueError(f"Ray does not start at {where}: {cluster.last_words()}")
        if "AuthToken" in heard.get("fault", "" if heard else cluster.text()):
            raise ValueError(f"Ray at {where} asks for its token; {TOKEN}")
        if not heard:
            raise ValueError(
                f"no Ray answers at {where} within {seconds:g} s; is it the address that `ray start` said, and "
                "reached from here? RAY_ADDRESS or --ray-address gives another"
            )
        if "fault" in heard:
            # a client is told no more than that
            hint = f"; if it asks for a token, {TOKEN}" if "connection timeout" in heard["fault"] else ""
            raise ValueError(heard["fault"] + hint)
        if "slots" in heard:
            cluster.slots = heard["slots"]
            return
        # it has imported Ray, and calls now
        remote = CLIENT_SECONDS if where.startswith("ray://") else ANSWER_SECONDS
        seconds = START_SECONDS if where == LOCAL else remote


def execute(
    plan: Plan, waiting: deque[Part], *, cluster: Cluster, say: Callable[[str], None] = print
) -> Iterator[Message]:
    """Let the groups that wait be trained by a cluster, and yield how each ended, once its runs are in the folder.

    A group whose node died goes to another, whole; one whose process was killed twice may be too large where it was,
    and is the caller's to halve. It may be tried where it ran to its end already: runs that are there are passed over.

    Args:
        plan: of the sweep.
        waiting: its groups that are missing, the longest first; may be given more.
        cluster: where, as `connected` gives it.
        say: takes lines on what the cluster lacks.
    Raises:
        ValueError: if a node does not see the folder.
        StoreError: if what to do cannot be written.
    """
    handed_out = _HandedOut(plan)
    running: dict[int, Part] = {}  # by the number of its task
    ended: dict[int, tuple[Part, dict[str, Any], float]] = {}  # told of, and when; not seen in the folder yet
    looked_at, number = 0.0, 0
    while waiting or running or ended:
        # one more than there is room for, so that a cluster that grows on demand does
        room = cluster.ray.jobs or cluster.slots + (cluster.ray.where != LOCAL)
        while waiting and len(running) < room and not (running and plan.limits.out_of_time):
            part = waiting.popleft()
            key, task = handed_out.place_of(part, waiting)
            number += 1
            running[number] = part
            cluster.tell(number=number, folder=str(plan.folder.absolute()), key=key, task=task, **_how(plan))
            if not isinstance(part[0], PathTask):
                yield Message(part, steps=0)  # from now on its time counts
        heard = cluster.hear(BETWEEN_LOOKS)
        if heard is None:
            why = f"Ray at {cluster.ray.where} is lost: {cluster.last_words()}"
            left = [*running.values(), *waiting, *(part for part, _, _ in ended.values())]
            waiting.clear()
            there = finished_runs(plan.folder)
            yield from (Message(part, error=None if _is_there(part, there) else why) for part in left)
            return
        cluster.slots = heard.get("slots", cluster.slots)
        if "fault" in heard:
            handed_out.forget()
            raise ValueError(heard["fault"])
        if "note" in heard:
            say(f"{plan.folder.name}: {heard['note']}")
        if "number" in heard:
            ended[heard["number"]] = (running.pop(heard["number"]), heard, time.monotonic())
        if not ended or (heard and time.monotonic() - looked_at < BETWEEN_LOOKS):
            continue
        looked_at = time.monotonic()
        there = finished_runs(plan.folder)
        for each, (part, how, since) in list(ended.items()):
            compares = isinstance(part[0], PathTask)
            error = how.get("error", "")
            if not compares:  # who is told says that too
                error = error.removeprefix(f"{len(part)} runs of width {part[0].width}: ")
            if (compares and not error) or (not compares and _is_there(part, there)):
                message = Message(part)
            elif error:
                message = Message(part, error=error, retry=how.get("killed", False), traceback=how.get("traceback", ""))
            elif looked_at - since > LATE_SECONDS:
                message = Message(part, error=f"node {how['node']} says that it trained them, and they are not there")
            else:
                continue
            del ended[each]
            yield message
    handed_out.forget()


def _how(plan: Plan) -> dict[str, Any]:
    return {"device": "cuda" if plan.gpus else "cpu", "seconds": plan.limits.group_seconds}


def _is_there(part: Part, there: set[str]) -> bool:
    return not isinstance(part[0], PathTask) and all(run.run_id in there for run in part)


class _HandedOut:
    """Portions that tell nodes what to train, a group a task; written as groups come up, so that halves are in one."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.folders = plan, list[Path]()
        self.places: dict[int, tuple[Part, str, int]] = {}  # by the id of a group, which is kept for that
        forget_done(plan.folder)

    def place_of(self, part: Part, others: deque[Part]) -> tuple[str, int]:
        """Return the portion and the task that a group is; where it is none, write it, with those that wait."""
        if id(part) not in self.places:
            parts = [part, *(each for each in others if id(each) not in self.places)]
            tasks = tuple((i,) for i in range(len(parts)))
            key, asks = secrets.token_hex(6), asks_of(self.plan)
            portion = Portion(self.plan.folder, key, self.plan.sweep.name, tuple(parts), tasks, asks)
            write_portion(portion)
            self.folders.append(portion.place)
            self.places |= {id(each): (each, portion.key, i) for i, each in enumerate(parts)}
        return self.places[id(part)][1:]

    def forget(self) -> None:
        """Remove what was written: nobody reads it any more."""
        for folder in self.folders:
            rmtree(folder, ignore_errors=True)
        forget_done(self.plan.folder)
