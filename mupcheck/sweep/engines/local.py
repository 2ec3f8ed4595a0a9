"""Run groups on this machine: in this process, or one short-lived process a group.

A process per group costs 0.03 s behind a fork server that has imported torch, and shows a killed worker as an exit
code of that group alone; a pool would turn it into the loss of every task (ecosystem.md).
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any

SECONDS_BETWEEN_MESSAGES = 0.1
OUT_OF_MEMORY = re.compile("out of memory|allocate memory", re.IGNORECASE)
_MAIN = threading.Lock()  # held while sys.modules["__main__"] is not the script
Group = tuple[Any, ...]
Work = Callable[[Group], Iterator[int]]


@dataclass(frozen=True)
class Message:
    """What became of a group: `steps` more done, or, with `steps` None, its end; `error` None is success.

    `retry` says that the group may fit where it did not: its process was killed, or ran out of memory.
    """

    group: Group
    steps: int | None = None
    error: str | None = None
    retry: bool = False


def execute(groups: Sequence[Group], work: Work, *, jobs: int, preload: Sequence[str]) -> Iterator[Message]:
    """Work through the groups, `jobs` at a time, and yield what happens as it happens.

    Args:
        groups: tuples of runs, the longest first.
        work: a picklable generator function of a group that yields the number of steps done since the last yield; of a
            module, as a child does not import the script that it was started from.
        jobs: processes at a time; 1 works in this process.
        preload: the modules that the fork server imports once, so that no child has to.
    """
    if jobs == 1:
        for group in groups:
            yield from (Message(group, *event) for event in _events(work, group))
        return
    context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(list(preload))
    waiting = deque(groups)
    running: dict[Any, tuple[Any, Group]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                receive, send = context.Pipe()
                group = waiting.popleft()
                process = context.Process(target=_child, args=(work, group, send), daemon=True)
                with _script_left_alone(), _uninterrupted():
                    process.start()
                send.close()
                running[receive] = (process, group)
            ready: Any = wait(list(running))
            for receive in ready:
                process, group = running[receive]
                try:
                    message = Message(group, *receive.recv())
                except EOFError:
                    message = Message(group, *_ended(process))
                if message.steps is None:
                    process.join()
                    del running[receive]
                yield message
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()


@contextmanager
def _script_left_alone() -> Iterator[None]:
    """Start processes that do not run the script again that asked for them, guarded by `if __name__` or not.

    A child imports what sys.modules calls __main__, if that came from a file. Ours need nothing of it, as all that they
    do is in mupcheck's own modules: so for that moment it is a module without a file, as it is in a notebook.
    """
    with _MAIN:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Start processes that a Ctrl-C of the terminal does not reach before they can say so, nor ends with a traceback.

    The fork server imports torch for a second before it looks after signals, and has the mask that it was started with.
    """
    resource_tracker.ensure_running()  # which lets the signal through again when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _child(work: Work, group: Group, send: Connection) -> None:
    # Ctrl-C reaches the whole terminal's group; the parent decides, and ends its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, args=(send,), daemon=True).start()
    unsent, sent_at = 0, time.monotonic()
    for steps, error, retry in _events(work, group):
        unsent += steps or 0
        if steps is None:
            send.send((None, error, retry))
        elif time.monotonic() - sent_at > SECONDS_BETWEEN_MESSAGES:
            send.send((unsent, None, False))
            unsent, sent_at = 0, time.monotonic()


def _events(work: Work, group: Group) -> Iterator[tuple[int | None, str | None, bool]]:
    """Do the work and yield the fields of its Messages; what is neither memory, storage nor input is a bug: raised."""
    try:
        for steps in work(group):
            yield steps, None, False
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        yield None, f"out of memory: {str(error).splitlines()[0]}", True
    except (ValueError, OSError) as error:
        yield None, str(error), False
    else:
        yield None, None, False


def _ended(process: Any) -> tuple[None, str, bool]:
    """Return the end of a child that could not tell it itself: killed, or, by an error of our own, a bug."""
    process.join()
    if process.exitcode >= 0:
        raise RuntimeError(f"a worker ended with exit code {process.exitcode}; its traceback is above")
    name = signal.Signals(-process.exitcode).name
    return None, f"its process was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else ""), True


def _end_with_parent(pipe: Connection) -> None:
    """End this process when the other end of its pipe closes, so that a killed sweep leaves nothing running.

    PR_SET_PDEATHSIG would not do it: Linux counts the fork server as parent, and that lives as long as its children.
    """
    with suppress(EOFError, OSError):
        pipe.recv()  # nothing is ever sent
    os.kill(os.getpid(), signal.SIGTERM)
