"""Where processes come from: a fork server that has imported torch, and may begin to before the first is asked for."""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from types import ModuleType
from typing import Any

_ready: set[int | None] = set()  # fork servers that have imported what they should
_MAIN = threading.Lock()  # held while sys.modules["__main__"] is not the script


def context_of(preload: Sequence[str]) -> Any:
    """Return where processes come from: a fork server that has imported what they need, where there is one.

    Args:
        preload: the modules that it imports once, so that no child has to; the first call decides for all.
    """
    context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(list(preload))
    return context


def start_ahead(preload: Sequence[str]) -> None:
    """Let the fork server import what processes are going to need, while this one plans what they do.

    Args:
        preload: as of `context_of`.
    """
    if sys.platform != "linux":
        return
    context_of(preload)
    with _script_left_alone(), _uninterrupted():
        forkserver.ensure_running()
    atexit.unregister(end_server)
    atexit.register(end_server)  # where nothing is to be done after all, it is still importing


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


def start_process(process: Any) -> None:
    """Start a process of `context_of`, which does not run the script that asked for it.

    Who interrupts or ends this one meanwhile does not wait until the fork server has torch; from then on a process gets
    all that it is given before a signal counts, or it would end with a traceback for want of the rest.
    """
    with _script_left_alone():
        _start(process)


def _start(process: Any) -> None:
    if sys.platform != "linux":
        with _uninterrupted():
            process.start()
        return
    with _uninterrupted():
        forkserver.ensure_running()
    server = _server()
    if server in _ready:
        with _signals_later():
            process.start()
        return
    try:
        process.start()  # which waits for its imports
    except (KeyboardInterrupt, SystemExit):
        end_server()
        raise
    _ready.add(server)


def _server() -> int | None:
    """Return the process of the fork server, which has no public name; None where there is none."""
    return getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)


def end_server() -> None:
    """End the fork server, which else imports on before it looks whether its parent is there."""
    if server := _server():
        with suppress(ProcessLookupError):
            os.kill(server, signal.SIGTERM)


@contextmanager
def _signals_later() -> Iterator[None]:
    """Let signals that end this process count once the block is done.

    A mask of this thread would not do: Python takes note of a signal in any thread, and acts on it in the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:  # whatever the block failed of, it may be by that signal
            handlers[came[0]](came[0], None)


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
