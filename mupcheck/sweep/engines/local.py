"""Run groups on this machine: in this process, one short-lived process a group, or one lasting process a GPU.

A process per group costs 0.03 s behind a fork server that has imported torch, and shows a killed worker as an exit
code of that group alone; a pool would turn it into the loss of every task (ecosystem.md). On a GPU a process costs
seconds (context, kernels), so there it works through group after group. The fork server must not touch CUDA before it
forks: it is a process of its own, which imports the preloaded modules and does nothing else.
"""

import os
import re
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any

from mupcheck.sweep.engines.forking import context_of, start_process

SECONDS_BETWEEN_MESSAGES = 0.1
NO_START = "a worker ended while it started"
OUT_OF_MEMORY = re.compile("out of memory|allocate memory|ALLOC_FAILED", re.IGNORECASE)
# A GPU that does not answer any more, or not to this process. What went wrong in a capture is a bug in the step.
LOST = re.compile(
    r"CUDA error|CUDA driver error|Triton Error \[CUDA\]|device-side assert|unspecified launch failure|no longer",
    re.IGNORECASE,
)
IN_CAPTURE = re.compile("captur", re.IGNORECASE)
Group = tuple[Any, ...]
Work = Callable[..., Iterator[int]]
# of a Message: steps, error, retry, whether the device is lost, and the traceback
Event = tuple[int | None, str | None, bool, bool, str]
WELL: Event = (None, None, False, False, "")


@dataclass(frozen=True)
class Message:
    """What became of a group: `steps` more done, or, with `steps` None, its end; `error` None is success.

    `retry` says that the group may fit where it did not: its process was killed, or ran out of memory. `lost` names the
    device that went with it, which gets no other group. `traceback` is that of an error nobody expected. `elsewhere`
    says that another process did it, or, with a `note`, that nothing happens but what that says.
    """

    group: Group
    steps: int | None = None
    error: str | None = None
    retry: bool = False
    lost: str = ""
    traceback: str = ""
    elsewhere: bool = False
    note: str = ""


@dataclass(frozen=True)
class _Worker:
    process: Any
    pipe: Connection

    def end(self, *, at_once: bool = False) -> None:
        """End the process, by force where it does nothing else any more."""
        (self.process.kill if at_once else self.process.terminate)()
        self.process.join()


def execute(
    groups: Sequence[Group],
    work: Work,
    *,
    jobs: int,
    preload: Sequence[str],
    devices: Sequence[str] = (),
    contain: bool = False,
    seconds: float | None = None,
    take: Callable[[Group], Group] = lambda group: group,
) -> Iterator[Message]:
    """Work through the groups, `jobs` at a time, and yield what happens as it happens.

    Args:
        groups: tuples of runs, the longest first; a deque may be given more while it is worked through.
        work: a picklable generator function of a group that yields the number of steps done since the last yield; of a
            module, as a child does not import the script that it was started from.
        jobs: processes at a time; 1 works in this process.
        preload: the modules that the fork server imports once, so that no child has to.
        devices: of the workers, in turn; `work` takes its own as `device`, and a worker stays for many groups. A device
            is lost with a worker that is killed or cannot reach it; when none is left, the groups that wait fail.
        contain: whether an error that nobody expected ends its group alone, instead of being raised.
        take: asked of each group before it starts, what of it this call is to do; nothing starts where that is ().
        seconds: that a group may take; one that takes longer is ended, and so works in a process where `jobs` is 1 too.
    """
    waiting = groups if isinstance(groups, deque) else deque(groups)
    if jobs == 1 and seconds is None:
        yield from _execute_here(waiting, work, devices[0] if devices else "", contain, take)
        return
    context = context_of(preload)
    free: deque[tuple[str, _Worker | None]] = deque(
        (devices[i % len(devices)] if devices else "", None) for i in range(jobs)
    )
    running: dict[Any, tuple[_Worker, str, Group]] = {}
    begun: dict[Any, float] = {}  # when, by the pipe
    why = ""
    try:
        while waiting or running:
            if waiting and not free and not running:
                yield from _fail(waiting, why)
                return
            while waiting and free:
                if not (group := take(waiting.popleft())):
                    continue
                device, worker = free.popleft()
                if worker is None or not worker.process.is_alive():
                    try:
                        worker = _start(context, work, device, contain)
                    except BrokenPipeError:  # it could not even take in what it was given
                        if not contain:
                            raise RuntimeError(f"{NO_START}; its traceback is above") from None
                        free.append((device, None))
                        yield Message(group, error=NO_START)
                        continue
                with suppress(BrokenPipeError):  # one that just died is seen below
                    worker.pipe.send(group)
                running[worker.pipe] = (worker, device, group)
                begun[worker.pipe] = time.monotonic()
            if not running:
                continue
            first = min(begun[pipe] for pipe in running)
            left = None if seconds is None else max(first + seconds - time.monotonic(), 0)
            ready: Any = wait(list(running), left)
            late = [] if seconds is None else [each for each in running if time.monotonic() - begun[each] > seconds]
            for pipe in [*ready, *(each for each in late if each not in ready)]:
                worker, device, group = running[pipe]
                try:
                    steps, error, retry, lost, said = pipe.recv() if pipe in ready else _too_late(worker, seconds)
                except (EOFError, ConnectionResetError):
                    steps, error, retry, lost, said = _ended(worker.process, device, contain)
                if steps is None:
                    del running[pipe]
                    if lost:
                        why = f"{device}: {error}"
                        free = deque(each for each in free if each[0] != device)
                        worker.process.terminate()
                    else:
                        stays = device and not said and pipe in ready
                        free.append((device, worker if stays else None))
                        if said:
                            worker.end()  # who knows what state it is in
                    if lost or not device:
                        worker.process.join()
                yield Message(group, steps, error, retry, device if lost else "", said)
    finally:
        started = [worker for worker, _, _ in running.values()] + [worker for _, worker in free if worker is not None]
        for worker in started:
            worker.process.terminate()
        for worker in started:
            worker.process.join()


@contextmanager
def beside(groups: Sequence[Group], work: Work, *, device: str, preload: Sequence[str]) -> Iterator[None]:
    """Work through groups in a process on a device, beside what is done within; nobody asks how it goes.

    Args:
        groups: as in `execute`; none start no process.
        work: as in `execute`, with little to yield.
        device: that `work` takes.
        preload: as in `execute`.
    """
    if not groups:
        yield
        return
    worker = _start(context_of(preload), work, device)
    try:
        for group in (*groups, None):  # None ends it, and gives back what it has of the device
            worker.pipe.send(group)
        yield
    finally:
        worker.process.terminate()
        worker.process.join()


def _too_late(worker: _Worker, seconds: float | None) -> Event:
    """End a worker whose group took too long, whatever it does, and return the end of that."""
    worker.end(at_once=True)
    return None, f"it took longer than {seconds:g} s and was ended", False, False, ""


def _execute_here(
    waiting: deque[Group], work: Work, device: str, contain: bool, take: Callable[[Group], Group]
) -> Iterator[Message]:
    """Work through the groups in this process."""
    while waiting:
        group, why = take(waiting.popleft()), ""
        if not group:
            continue
        for steps, error, retry, lost, said in _events(work, group, device, contain):
            why = f"{device}: {error}" if lost else why
            yield Message(group, steps, error, retry, device if lost else "", said)
        if why:
            yield from _fail(waiting, why)


def _fail(waiting: deque[Group], why: str) -> Iterator[Message]:
    """Say of every group that waits that there is no device left to work on."""
    while waiting:
        yield Message(waiting.popleft(), error=f"no GPU is left, the last was {why}")


def _start(context: Any, work: Work, device: str, contain: bool = False) -> _Worker:
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(work, device, there, contain), daemon=True)
    start_process(process)
    there.close()
    return _Worker(process, here)


def _child(work: Work, device: str, pipe: Connection, contain: bool) -> None:
    # Ctrl-C reaches the whole terminal's group; the parent decides, and ends its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    inbox: SimpleQueue[Group | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, inbox), daemon=True).start()
    while (group := inbox.get()) is not None:
        unsent, sent_at = 0, time.monotonic()
        for steps, *end in _events(work, group, device, contain):
            unsent += steps or 0
            if steps is None:
                pipe.send((None, *end))
            elif time.monotonic() - sent_at > SECONDS_BETWEEN_MESSAGES:
                pipe.send((unsent, *end))
                unsent, sent_at = 0, time.monotonic()
        if not device:
            return


def _events(work: Work, group: Group, device: str, contain: bool) -> Iterator[Event]:
    """Do the work and yield of its Messages; what is neither memory, device, storage nor input: raised, or told."""
    try:
        for steps in work(group, device=device) if device else work(group):
            yield steps, None, False, False, ""
    except Exception as error:
        event = _event_of(error, device)
        if event[-1] and not contain:
            raise
    else:
        event = WELL
    yield event  # here, where the error and all that its frames hold are gone


def _event_of(error: Exception, device: str) -> Event:
    """Return the end that an error makes; of one that nobody expected it has the traceback."""
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, MemoryError | RuntimeError):
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            return None, f"out of memory: {said}", True, False, ""
        if device and LOST.search(str(error)) and not IN_CAPTURE.search(str(error)):
            return None, said, False, True, ""
    elif isinstance(error, ValueError | OSError):
        return None, str(error), False, False, ""
    name = type(error).__name__
    return None, said if said == name else f"{name}: {said}", False, False, "".join(traceback.format_exception(error))


def _ended(process: Any, device: str, contain: bool) -> Event:
    """Return the end of a child that could not tell it itself: killed, or, by an error of our own, a bug."""
    process.join()
    if process.exitcode >= 0:
        said = f"a worker ended with exit code {process.exitcode}"
        if not contain:
            raise RuntimeError(f"{said}; its traceback is above")
        return None, said, False, False, ""
    name = signal.Signals(-process.exitcode).name
    said = f"its process was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return None, said, not device, bool(device), ""


def _listen(pipe: Connection, inbox: "SimpleQueue[Group | None]") -> None:
    """Take in groups, and end this process when the other end closes, so that a killed sweep leaves nothing running.

    PR_SET_PDEATHSIG would not do it: Linux counts the fork server as parent, and that lives as long as its children.
    """
    with suppress(EOFError, OSError):
        while True:
            inbox.put(pipe.recv())
    os.kill(os.getpid(), signal.SIGTERM)
