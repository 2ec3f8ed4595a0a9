"""Claims on runs: one owner at a time, none that outlives its owner."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from foreign_owners import foreign

from mupcheck.results.claims import Claims, held
from mupcheck.results.files import StoreError
from mupcheck.results.owners import Watch, is_gone, machine, owners

RUNS = [f"{i:012x}" for i in range(24)]


def test_a_run_has_one_owner_until_it_is_given_back(tmp_path):
    with Claims(tmp_path) as one, Claims(tmp_path) as two:
        assert one.take(RUNS[:3]) == RUNS[:3]
        assert two.take(RUNS[:5]) == RUNS[3:5]
        assert one.take(RUNS[:3]) == RUNS[:3], "what it has it keeps"
        assert set(two.holders(RUNS)) == set(RUNS[:3])
        assert {str(owner) for owner in two.holders(RUNS).values()} == {f"{os.uname().nodename}:{os.getpid()}"}
        one.release(RUNS[:1])
        assert two.take(RUNS[:3]) == RUNS[:1]
    assert list(tmp_path.iterdir()) == [], "nothing is left of either"


def race(folder, together, taken):
    with Claims(folder) as mine:
        together.wait(60)
        for run_id in RUNS:
            if mine.take([run_id]):
                taken.put(run_id)
        together.wait(60)  # nobody gives back while another still takes


@pytest.mark.parametrize("dead", [False, True])
def test_of_processes_that_take_at_once_one_wins_each_run(tmp_path, dead):
    """Also runs of an owner that is dead, which all of them judge so at the same moment."""
    if dead:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        foreign(tmp_path, runs=RUNS, machine=machine(), pid=gone.pid)
        gone.wait()
    context = get_context("fork")
    taken = context.Queue()
    together = context.Barrier(4)
    processes = [context.Process(target=race, args=(tmp_path, together, taken)) for _ in range(4)]
    for each in processes:
        each.start()
    found = sorted(taken.get(timeout=20) for _ in RUNS)
    for each in processes:
        each.join()
    assert found == RUNS and taken.empty()
    assert not (tmp_path / "claims").exists()


def test_a_dead_process_of_this_machine_holds_nothing(tmp_path):
    script = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from mupcheck.results.claims import Claims
with Claims({str(tmp_path)!r}) as mine:
    mine.take({RUNS[:4]!r})
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.Popen([sys.executable, "-c", script])
    while not held(tmp_path):
        time.sleep(0.01)
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # a zombie is dead as well
    (owner,) = owners(tmp_path)
    assert is_gone(owner) and owner.pid == killed.pid
    with Claims(tmp_path) as mine:
        assert mine.take(RUNS[:2]) == RUNS[:2]
        assert held(tmp_path)[RUNS[0]] == (2, mine.token)
        mine.release(RUNS[:2])
        assert set(held(tmp_path)) == set(RUNS[2:4])
    killed.wait()
    assert not (tmp_path / "claims").exists(), "what the dead left goes with the last"


def test_a_number_that_another_process_has_by_now_is_no_sign_of_life(tmp_path):
    foreign(tmp_path, runs=RUNS[:1], machine=machine(), pid=os.getpid(), started="1")
    with Claims(tmp_path) as mine:
        assert mine.take(RUNS[:1]) == RUNS[:1]


def test_an_owner_elsewhere_is_dead_after_a_lease_of_the_watcher_s_own_clock(tmp_path):
    def behind(**fields):
        """Write the owner, by a clock that is some minutes behind."""
        foreign(tmp_path, **fields)
        then = time.time() - 1800
        os.utime(tmp_path / "claims" / f"{'f' * 16}.owner", (then, then))

    behind(runs=RUNS[:1])
    now = [1e6]
    with Claims(tmp_path, lease=60) as mine:
        mine.watch = Watch(tmp_path, lease=60, clock=lambda: now[0])
        assert mine.take(RUNS[:1]) == []
        now[0] += 59
        assert mine.take(RUNS[:1]) == []
        behind(beats=4)
        now[0] += 59
        assert mine.take(RUNS[:1]) == [], "it gave a sign of life"
        now[0] += 59
        assert mine.take(RUNS[:1]) == []
        now[0] += 1
        assert mine.take(RUNS[:1]) == RUNS[:1]


def test_an_owner_elsewhere_that_is_hours_old_is_dead_at_once(tmp_path):
    foreign(tmp_path, runs=RUNS[:1])
    then = time.time() - 3 * 3600
    os.utime(tmp_path / "claims" / f"{'f' * 16}.owner", (then, then))
    with Claims(tmp_path) as mine:
        assert mine.others() == []
        assert mine.take(RUNS[:1]) == RUNS[:1]
    assert not (tmp_path / "claims").exists()


@pytest.mark.parametrize("content", [b"", b"\0\xff", b"../../x", b"f" * 15])
def test_a_claim_that_names_nobody_holds_for_a_lease(tmp_path, content):
    (tmp_path / "claims").mkdir()
    for run_id in RUNS[:2]:
        (tmp_path / "claims" / f"{run_id}.1").write_bytes(content)
    now = [0.0]
    with Claims(tmp_path) as mine:
        mine.watch = Watch(tmp_path, lease=60, clock=lambda: now[0])
        assert mine.take(RUNS[:1]) == []
        now[0] = 60.0
        assert mine.take(RUNS[:2]) == RUNS[:1], "the other one is seen for the first time"


def test_a_stopped_process_loses_its_runs_and_believes_it(tmp_path):
    with Claims(tmp_path) as stopped, Claims(tmp_path, lease=0.0) as other:
        stopped.take(RUNS[:2])
        assert other.take(RUNS[:1]) == []  # seen for the first time
        assert other.take(RUNS[:1]) == RUNS[:1]
        assert stopped.take(RUNS[:2]) == RUNS[1:2]
        stopped.release(RUNS[:2])
        assert held(tmp_path)[RUNS[0]] == (2, other.token), "what another holds by now is not given back"


def test_it_says_that_it_lives_and_how_far_it_is(tmp_path):
    with Claims(tmp_path, command="mupcheck run a.toml", asks="x", beat=0.02) as mine:
        mine.said = {"steps": 7}
        watch = Watch(tmp_path, lease=0.2)
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            assert watch.alive(mine.token)
            time.sleep(0.01)
        (owner,) = owners(tmp_path)
        assert (owner.command, owner.asks, owner.said, owner.pid) == (
            "mupcheck run a.toml",
            "x",
            {"steps": 7},
            os.getpid(),
        )
        assert owner.beats > 5
    assert owners(tmp_path) == []


def test_damaged_and_newer_files_of_owners_are_no_error(tmp_path):
    foreign(tmp_path, "a" * 16, more="of a later version")
    for token, text in (("b" * 16, "{"), ("c" * 16, "[]"), ("d" * 16, '{"pid": "x"}'), ("e" * 16, "\0")):
        (tmp_path / "claims" / f"{token}.owner").write_text(text)
    (tmp_path / "claims" / "notes.txt").write_text("")
    assert [owner.token[0] for owner in owners(tmp_path)] == ["b", "c", "d", "e", "a"]
    with Claims(tmp_path) as mine:
        assert len(mine.others()) == 5


def test_a_folder_that_takes_no_claims_is_named(tmp_path, monkeypatch):
    (tmp_path / "claims").write_text("")
    with (
        pytest.raises(StoreError, match=r"cannot write .*claims: Not a directory; give another folder"),
        Claims(tmp_path),
    ):
        pass
    (tmp_path / "claims").unlink()

    def refuse(path, *_):
        raise OSError(95, "Operation not supported", str(path))

    with Claims(tmp_path) as mine:
        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(StoreError, match=rf"cannot write .*{RUNS[0]}.1: Operation not supported"):
            mine.take(RUNS[:1])
        monkeypatch.undo()


def test_a_claim_takes_less_than_a_millisecond(tmp_path):
    with Claims(tmp_path) as mine:
        each = 1.0
        for group in range(50):  # the best of them, as others work on this machine too
            runs = [f"{group}-{i}" for i in range(8)]
            start = time.perf_counter()
            assert mine.take(runs) == runs
            mine.release(runs)
            each = min(each, (time.perf_counter() - start) / 8)
    print(f"a claim takes {1e3 * each:.3f} ms")
    assert each < 1e-3


def test_a_copy_of_a_process_gives_nothing_back(tmp_path):
    with Claims(tmp_path) as mine:
        mine.take(RUNS[:1])
        if (child := os.fork()) == 0:
            mine.__exit__()
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        assert held(tmp_path) == {RUNS[0]: (1, mine.token)}
        assert Path(tmp_path / "claims" / f"{mine.token}.owner").exists()


def _comes_and_goes(folder, seconds, failures):
    end, failed = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        try:
            with Claims(folder):
                pass
        except StoreError:
            failed += 1
    failures.put(failed)


def test_one_may_come_while_the_last_one_goes(tmp_path):
    """Who ends last removes the folder, which the next one is just writing into."""
    context = get_context("fork")
    failures = context.Queue()
    processes = [context.Process(target=_comes_and_goes, args=(tmp_path, 2.0, failures)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [failures.get(timeout=30) for _ in processes] == [0, 0, 0]
    for process in processes:
        process.join()
