"""Finished runs sent to a store beside training, in a thread, as long as it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mupcheck.results.files import StoreError, one_line
from mupcheck.results.stores.lease import STALE, Lease, say_holder, take
from mupcheck.results.stores.mirror import Mirror, open_mirror
from mupcheck.results.stores.push import push, send_sweep, to_send

EVERY = 1.0  # seconds between two looks at what is new
LONGEST = 30.0  # seconds between two tries at a store that does not answer
PATIENCE = 60.0  # seconds that it is tried for once training ended
HASTE = 3.0  # likewise after Ctrl-C


class Pusher:
    """Sends what is new in a sweep's folder until it is told to finish.

    A store that does not answer is asked again, at longer and longer intervals; training does not wait for it.
    """

    def __init__(self, mirror: Mirror, lease: Lease) -> None:
        self.mirror, self.lease = mirror, lease
        self.ending, self.ended = threading.Event(), threading.Event()
        self.until = float("inf")  # by time.monotonic(); no try begins after it
        self.trouble: Exception | None = None
        self.said = False
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        try:
            self._push_until_told()
        finally:
            self.ended.set()

    def _push_until_told(self) -> None:
        wait = EVERY
        while True:
            last = self.ending.is_set()
            try:
                push(self.mirror)
                self.lease.renew()
                self.trouble, wait = None, EVERY
            except (ValueError, OSError) as error:
                self.trouble, wait = error, min(2 * wait, LONGEST)
            if last and (self.trouble is None or time.monotonic() + wait > self.until):
                return
            if last:
                time.sleep(wait)
            else:
                self.ending.wait(wait)

    def note(self) -> str:
        """Return what is to be said while it trains, once."""
        if self.trouble is None or self.said:
            return ""
        self.said = True
        return f"finished runs wait here, and training goes on: {one_line(self.trouble)}"

    def finish(self, patience: float | None = None) -> str:
        """Send the rest; return in one line what could not be sent, "" where all is there."""
        patience = PATIENCE if patience is None else patience
        self.until = time.monotonic() + patience
        self.ending.set()
        # a try that hangs on a dead connection is left to itself
        ended = self.ended.wait(patience + min(patience, HASTE))
        self.lease.release(answers=ended and self.trouble is None)
        why = "it is not as it was written here" if ended else "there was no answer in time"
        return say_left(self.mirror, why if self.trouble is None else one_line(self.trouble))


def say_left(mirror: Mirror, why: str) -> str:
    """Say what of a sweep is not in its store, and why; "" where all is."""
    left = to_send(mirror)
    if not left:
        return ""
    runs = sum("runs/" in name for name in left)
    what = f"{runs} run{'s' * (runs != 1)}" if runs else f"{len(left)} file{'s' * (len(left) != 1)}"
    where = f"not in {mirror.store.address} yet and kept in {mirror.folder}"
    return f"{what} {'is' if what.startswith('1 ') else 'are'} {where}, the same command again sends them: {why}"


@contextmanager
def pushing(folder: Path, address: str, *, alone: bool = True) -> Iterator[Pusher]:
    """Send what is new in a sweep's folder, the mirror of an address, while a block trains, which no other call may.

    The block calls `finish` where it ended well; where it did not, what is finished is sent in haste.

    Args:
        folder: the sweep's here.
        address: the sweep's in the store.
        alone: whether no other call may do so meanwhile.
    Raises:
        ValueError: if the store may not be written, or another call trains the sweep.
        StoreError: if it does not answer.
    """
    mirror = open_mirror(address)
    if mirror.folder != folder:
        raise ValueError(f"{folder} is not the mirror of {address}")
    lease = take(mirror.store) if alone else Lease(mirror.store, "")
    if not lease.key:
        send_sweep(mirror)  # tells whether it may be written, before anything is trained
    pusher = Pusher(mirror, lease)
    try:
        yield pusher
    finally:
        if not pusher.ending.is_set():
            pusher.finish(HASTE)


def say_wait(address: str) -> str:
    """Say what `pushing` waits for at an address, "" where it need not; raises as it does."""
    holder = say_holder(open_mirror(address).store)
    return (
        f"another call may train this sweep ({holder}); waiting up to {STALE:.0f} s for a sign of it" if holder else ""
    )


def push_now(address: str, *, tries: int = 3) -> None:
    """Send what is new in the mirror of a sweep's address.

    Raises:
        StoreError: if that failed, in one line with what is left.
    """
    mirror, trouble = open_mirror(address), None
    for attempt in range(tries):
        try:
            push(mirror)
            return
        except (ValueError, OSError) as error:
            trouble = error
            if isinstance(error, ValueError):
                break
            time.sleep(EVERY * 2**attempt)
    if left := say_left(mirror, one_line(trouble) if trouble is not None else ""):
        raise StoreError(left)
