"""The lease of a sweep in a store: one call has it, a dead one's is taken over, clocks play no part."""

import contextlib
import os
import subprocess
import sys
import time
from threading import Thread, Timer

import pytest
from faulty_store import register

from mupcheck.results.stores import lease
from mupcheck.results.stores.lease import LEASE, living_holder, say_holder, take
from mupcheck.results.stores.objects import get_object, open_store, put_object


@pytest.fixture
def store(monkeypatch):
    register()
    monkeypatch.setattr(lease, "LOOK", 0.01)
    monkeypatch.setattr(lease, "STALE", 0.3)
    monkeypatch.setattr(lease, "RENEWED", 0.02)
    return open_store("faulty://bucket/results/s")


def elsewhere(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "another")


def test_one_call_has_it_and_gives_it_back(store):
    assert say_holder(store) == ""
    mine = take(store)
    assert mine.key
    assert "process" in say_holder(store)
    mine.release()
    assert get_object(store, LEASE) is None
    assert take(store).key


def test_a_call_that_lives_is_not_disturbed(store, monkeypatch):
    mine = take(store)
    elsewhere(monkeypatch)
    ended = []

    def live():
        while not ended:
            mine.renew()
            time.sleep(0.01)

    thread = Thread(target=live)
    thread.start()
    try:
        with pytest.raises(ValueError, match=r"another call trains the sweep at faulty://bucket/results/s \(host"):
            take(store)
    finally:
        ended.append(True)
        thread.join()


def test_a_call_without_a_sign_is_taken_over_and_does_not_take_it_back(store, monkeypatch):
    mine = take(store)
    elsewhere(monkeypatch)
    start = time.monotonic()
    other = take(store)
    assert time.monotonic() - start > 0.3
    time.sleep(0.03)
    mine.renew()
    assert mine.key == ""
    mine.release()
    assert other.key.encode() in get_object(store, LEASE)


def test_who_trains_is_told_by_a_sign_of_life(store, monkeypatch):
    assert living_holder(store) is None
    mine = take(store)
    assert living_holder(store).pid == os.getpid(), "of this machine, at once"
    elsewhere(monkeypatch)
    assert living_holder(store, patience=0.2) is None, "it is silent"
    renewing = Timer(0.1, lambda: [time.sleep(0.03), mine.renew()])
    renewing.start()
    assert living_holder(store, patience=10).token == mine.key
    renewing.join()
    monkeypatch.setattr("socket.gethostname", lambda: "third")  # the sign was given in the other's name
    Timer(0.1, mine.release).start()
    assert living_holder(store, patience=10) is None, "it ended"


def test_a_process_of_this_machine_that_is_gone_holds_nothing(store):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    held = lease._written("key", 3).replace(str(lease.os.getpid()).encode(), str(gone.pid).encode())
    put_object(store, LEASE, held)
    assert say_holder(store) == ""
    start = time.monotonic()
    assert take(store).key
    assert time.monotonic() - start < 0.3


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
def test_what_is_no_lease_holds_nothing(store, data):
    put_object(store, LEASE, data)
    assert take(store).key


def test_without_conditional_puts_there_is_no_lock(store, monkeypatch):
    def refuse(*arguments, **how):
        raise NotImplementedError("mode")

    monkeypatch.setattr(type(store.system), "pipe_file", refuse)
    mine = take(store)
    assert mine.key == ""
    mine.renew()
    mine.release()


def test_of_many_calls_at_once_one_has_it(store):
    got = []

    def call():
        with contextlib.suppress(ValueError):
            got.append(take(store))

    threads = [Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    assert len(got) == 1
    for thread in threads:
        thread.join()
