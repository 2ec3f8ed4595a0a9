"""One call at a time trains a sweep in a store: it holds an object there, and shows again and again that it lives.

Made by a conditional put, so of two calls one gets it. Whether a holder lives is told by whether the object changes
while one looks, so clocks need not agree. A store that knows no such put has no lock: two calls then may train a run
twice, which harms nothing but their time.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mupcheck.results.files import StoreError
from mupcheck.results.owners import Owner
from mupcheck.results.stores.objects import Store, get_object, put_object, remove_object

LEASE = "driver.json"  # in the sweep's folder of the store
RENEWED = 15.0  # seconds between two signs of life
STALE = 60.0  # seconds without one
LOOK = 1.0  # seconds between two looks at another's

# of this process; one of its own that was left behind holds nothing
_held: set[str] = set()


@dataclass
class Lease:
    """What one call holds; `key` is "" where the store has no lock."""

    store: Store
    key: str
    beats: int = 0
    renewed: float = 0.0

    def renew(self) -> None:
        """Show that this call lives, if the last sign is old; raises as `put_object` does."""
        if not self.key or time.monotonic() - self.renewed < RENEWED:
            return
        if _read(self.store).get("key") != self.key:
            self.key = ""  # taken for dead, and taken over: what two train is the same
            return
        self.beats += 1
        put_object(self.store, LEASE, _written(self.key, self.beats))
        self.renewed = time.monotonic()

    def release(self, *, answers: bool = True) -> None:
        """Let the next call have it; where the store does not answer it waits, or sees that this one is gone."""
        _held.discard(self.key)
        if self.key and answers:
            with suppress(ValueError, StoreError):
                if _read(self.store).get("key") == self.key:
                    remove_object(self.store, LEASE)


def say_holder(store: Store) -> str:
    """Say who seems to train a sweep in a store just now, "" where that is nobody; raises as `get_object` does."""
    held = _read(store)
    return "" if not held or _is_dead(held) else f"host {held.get('host')}, process {held.get('pid')}"


def living_holder(store: Store, *, patience: float = RENEWED + 5) -> Owner | None:
    """Return who trains a sweep in a store just now, None where nobody shows a sign of life; reads only.

    Args:
        store: the sweep's.
        patience: seconds to wait for a sign of a process of another machine.
    Raises:
        ValueError, StoreError: as of `get_object`.
    """
    seen, end = _read(store), time.monotonic() + patience
    if not seen or _is_dead(seen):
        return None
    lives = seen.get("host") == socket.gethostname()
    while not lives:
        if time.monotonic() >= end:
            return None
        time.sleep(min(LOOK, patience / 10))
        before, seen = seen, _read(store)
        if not seen:
            return None
        lives = seen != before
    pid = seen.get("pid")
    return Owner(str(seen.get("key", "")), host=str(seen.get("host", "?")), pid=pid if isinstance(pid, int) else 0)


def take(store: Store) -> Lease:
    """Take the lease of a sweep; one whose holder shows no sign of life is taken over, after a while.

    Raises:
        ValueError: if another call lives, or the store may not be written.
        StoreError: if the store does not answer any more.
    """
    key, since, seen = secrets.token_hex(8), time.monotonic(), b""
    while True:
        try:
            put_object(store, LEASE, _written(key, 0), new=True)
        except FileExistsError:
            pass
        except StoreError:
            return Lease(store, "")  # no conditional put here; whether it may be written, the next put tells
        else:
            _held.add(key)
            return Lease(store, key, renewed=time.monotonic())
        data = get_object(store, LEASE) or b""
        held = _parsed(data)
        if seen not in (b"", data) and held:
            raise ValueError(
                f"another call trains the sweep at {store.address} (host {held.get('host')}, process "
                f"{held.get('pid')}); wait for it, or give another --name"
            )
        seen = data
        if not held or _is_dead(held) or time.monotonic() - since > STALE:
            remove_object(store, LEASE)
            seen, since = b"", time.monotonic()
            continue
        time.sleep(LOOK)


def _is_dead(held: dict[str, Any]) -> bool:
    """Say whether a holder is known to be gone: a process of this machine that is no more, or a lease left behind."""
    if held.get("host") != socket.gethostname() or not isinstance(held.get("pid"), int):
        return False
    if held["pid"] == os.getpid():
        return held.get("key") not in _held
    try:
        os.kill(held["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _written(key: str, beats: int) -> bytes:
    holder = {"key": key, "host": socket.gethostname(), "pid": os.getpid(), "beats": beats}
    return json.dumps(holder).encode() + b"\n"


def _read(store: Store) -> dict[str, Any]:
    return _parsed(get_object(store, LEASE) or b"")


def _parsed(data: bytes) -> dict[str, Any]:
    """Return what a lease says, nothing where it is none."""
    with suppress(ValueError):
        held = json.loads(data)
        return held if isinstance(held, dict) else {}
    return {}
