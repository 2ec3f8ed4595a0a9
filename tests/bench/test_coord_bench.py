"""A coordinate check measured: ours from nothing to its verdict, and a peer's in turn with it."""

import pytest

from mupcheck.bench import coord, mup_check
from mupcheck.bench.peers import mup_version


@pytest.fixture
def clock(monkeypatch):
    """Stop the clock; a check moves it."""
    now = [0.0]
    monkeypatch.setattr(coord.time, "perf_counter", lambda: now[0])
    return now


def taking(clock, seconds, numbers, log, name):
    def check(*_, **__):
        clock[0] += seconds if log.count(name) else 100.0  # the first time it imports
        log.append(name)
        return numbers

    return check


@pytest.fixture
def two(clock, monkeypatch):
    """Let ours take 2 s for 100 numbers and a peer 1 s for 10; return what ran."""
    log = []
    monkeypatch.setattr(coord, "mup_version", lambda: "1.0.0")
    monkeypatch.setattr(coord, "_ours", taking(clock, 2.0, 100, log, "ours"))
    monkeypatch.setattr(mup_check, "base_shapes", lambda widths: None)
    monkeypatch.setattr(mup_check, "check", taking(clock, 1.0, 10, log, "peer"))
    return log


def test_both_take_turns_and_the_first_round_does_not_count(two):
    ours, peer = coord.measure_checks("cpu", [16], rounds=2, peers=True)
    assert two == ["ours", "peer"] * 3
    assert (ours.own, peer.own, peer.backend) == (True, False, "mup 1.0.0, output l1")
    assert (ours.times["check"].median, peer.times["check"].median) == (2.0, 1.0)
    assert (ours.times["number"].median, peer.times["number"].median) == (0.02, 0.1)
    assert ours.facts == {"numbers": 100}


def test_no_peers(two):
    assert [row.backend for row in coord.measure_checks("cpu", [16], rounds=1, peers=False)] == ["mupcheck coord"]
    assert set(two) == {"ours"}


def test_a_peer_that_breaks_is_named(two, monkeypatch):
    def broken(*_, **__):
        raise KeyError("no such module")

    monkeypatch.setattr(mup_check, "check", broken)
    ours, peer = coord.measure_checks("cpu", [16], rounds=1, peers=True)
    assert ours.times and not peer.times
    assert "no such module" in peer.refused


def test_ours_is_a_whole_check(monkeypatch):
    monkeypatch.setattr(coord, "SEEDS", 2)
    monkeypatch.setattr(coord, "STEPS", 2)
    judged = []
    right = coord.judge
    monkeypatch.setattr(coord, "judge", lambda results: judged.append(right(results)))
    assert coord._ours("cpu", [16, 32, 64]) > 1000
    assert judged[0][0].verdict in ("pass", "fail", "cannot tell")


@pytest.mark.skipif(mup_version() is None, reason="mup is not installed")
def test_mup_s_check_records_a_number_a_module():
    shapes = mup_check.base_shapes([16, 32])
    numbers = mup_check.check([16, 32], shapes, seeds=1, steps=2, on_gpu=False)
    modules = sum(1 for _ in mup_check.Model(16).modules())
    assert numbers >= 2 * 2 * (modules - 10)
