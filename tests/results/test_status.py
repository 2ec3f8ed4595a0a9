"""Where a sweep stands, told by its folder alone."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from foreign_owners import foreign
from tiny_sweeps import tiny, trained

from mupcheck.results import status
from mupcheck.results.claims import Claims
from mupcheck.results.files import STALE_SECONDS
from mupcheck.results.owners import Owner, machine, process_start
from mupcheck.results.status import say_first, status_of, sweeps_in
from mupcheck.sweep import described
from mupcheck.sweep.described import write_failed
from mupcheck.sweep.failures import failure_of, keep_traceback
from mupcheck.sweep.plan import plan_sweep


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep of 8 runs."""
    out = tmp_path_factory.mktemp("whole")
    trained(tiny(), out, jobs=1)
    return out


@pytest.fixture
def cut(whole, tmp_path):
    """The sweep, of which 3 runs of width 32 are there no more, and its plan."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    plan = plan_sweep(tiny(), out=tmp_path)
    for run in [run for run in plan.runs if run.width == 32][:3]:
        (plan.folder / "runs" / f"{run.run_id}.parquet").unlink()
    return plan_sweep(tiny(), out=tmp_path)


def counts(found, *names):
    return [tuple(getattr(at, name) for name in names) for at in found.widths]


def test_a_cut_sweep_is_interrupted_and_says_what_goes_on(cut):
    found = status_of(cut.folder)
    assert (found.name, found.kind, found.state, found.owners) == ("tiny", "lr", "interrupted", ())
    assert counts(found, "width", "planned", "done", "diverged", "waiting") == [(16, 4, 4, 0, 0), (32, 4, 1, 0, 3)]
    assert (found.total.planned, found.total.done, found.seconds_left) == (8, 5, None)
    assert found.incomplete == "3 of 8 runs of tiny are missing; to complete it: run the same command again"
    with Claims(cut.folder, command="mupcheck run tiny.toml") as claims:
        write_failed(replace(cut, claims=claims), [])
    assert say_first(cut.folder.parent) == [
        "3 of 8 runs of tiny are missing; to complete it: mupcheck run tiny.toml"
    ], "by the command that began it"


def test_a_whole_sweep_is_complete(whole):
    found = status_of(whole / "tiny")
    assert (found.state, found.total.done, found.incomplete) == ("complete", 8, "")
    assert 0 <= found.age_seconds < 3600
    assert say_first(whole) == []
    assert status_of(whole / "tiny", read=False).total.diverged is None, "which it would have to read"


def test_diverged_runs_are_there_and_counted(tmp_path):
    trained(tiny(lrs=(2.0**-6, 1e30), steps=6), tmp_path, jobs=1)
    found = status_of(tmp_path / "tiny")
    assert found.state == "complete" and found.total.diverged == 4


def test_who_trains_is_seen_from_this_machine_at_once(cut):
    run_ids = [run.run_id for group in cut.groups for run in group]
    with Claims(cut.folder) as claims:
        claims.take(run_ids[:2])
        claims.said = {"seconds_left": 40.0}
        claims._renew()
        start = time.monotonic()
        found = status_of(cut.folder, patience=30)
        assert time.monotonic() - start < 5
    assert (found.state, found.total.running, found.total.waiting) == ("running", 2, 1)
    assert found.seconds_left == 40.0
    assert [owner.pid for owner in found.owners] == [os.getpid()]
    assert found.incomplete.endswith(f"{found.owners[0]} trains them")
    assert status_of(cut.folder).state == "interrupted"


def test_who_trains_elsewhere_is_seen_by_a_sign_of_life(cut):
    run_id = cut.groups[0][0].run_id
    foreign(cut.folder, runs=[run_id])
    assert status_of(cut.folder, patience=0.3).state == "interrupted", "it is silent"
    threading.Timer(0.2, lambda: foreign(cut.folder, beats=4)).start()
    found = status_of(cut.folder, patience=30)
    assert (found.state, found.total.running) == ("running", 1)
    assert str(found.owners[0]) == f"node7:{os.getpid()}"


def test_who_may_train_elsewhere_is_named_without_waiting_for_a_sign(cut):
    foreign(cut.folder, runs=[cut.groups[0][0].run_id])
    start = time.monotonic()
    (line,) = say_first(cut.folder.parent)
    assert time.monotonic() - start < 5
    assert line.startswith(f"3 of 8 runs of tiny are missing; node7:{os.getpid()} may be training them")
    assert line.endswith("if not, to complete it: run the same command again")
    (owner,) = (cut.folder / "claims").glob("*.owner")
    long_ago = time.time() - 2 * STALE_SECONDS
    os.utime(owner, (long_ago, long_ago))
    assert "may be" not in say_first(cut.folder.parent)[0], "a sign of long ago is none"


def test_who_trains_in_the_store_is_told_by_it(cut):
    found = status_of(cut.folder, elsewhere=[Owner("key", host="node7", pid=3)])
    assert (found.state, [str(owner) for owner in found.owners]) == ("running", ["node7:3"])
    assert found.incomplete.endswith("; node7:3 trains them")


def test_what_two_processes_say_of_failures_at_once_is_kept(cut, monkeypatch):
    """Each reads sweep.json, adds what failed to it, and writes it: never both at once."""
    write = described.write_sweep

    def slowly(*arguments):
        time.sleep(0.2)
        write(*arguments)

    monkeypatch.setattr(described, "write_sweep", slowly)
    missing = [run for group in cut.groups for run in group]
    with Claims(cut.folder) as one, Claims(cut.folder) as other:
        threads = [
            threading.Thread(target=write_failed, args=(replace(cut, claims=claims), [failure_of(run, "why")]))
            for claims, run in zip((one, other), missing, strict=False)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {each.run_id for each in status_of(cut.folder).failures} == {run.run_id for run in missing[:2]}


def test_a_dead_process_trains_nothing(cut):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    foreign(cut.folder, runs=[cut.groups[0][0].run_id], machine=machine(), pid=gone.pid)
    start = time.monotonic()
    assert status_of(cut.folder, patience=30).total.running == 0
    assert time.monotonic() - start < 5
    assert process_start(gone.pid) is None and process_start(os.getpid())


def test_what_failed_has_its_reason_and_file(cut):
    run = cut.groups[0][0]
    reason = keep_traceback(cut.folder, [run.run_id], "1 runs of width 32: KeyError: a bug", "Traceback ...")
    with Claims(cut.folder) as claims:
        write_failed(replace(cut, claims=claims), [failure_of(run, reason)])
    found = status_of(cut.folder)
    assert (found.state, found.total.failed, found.total.waiting) == ("failed", 1, 2)
    (failure,) = found.failures
    assert failure.reason == reason and failure.width == 32
    assert failure.traceback == str(cut.folder / "failed" / f"{run.run_id}.txt")


def test_a_broken_folder_is_read_as_far_as_it_goes(cut):
    there = next((cut.folder / "runs").glob("*.parquet"))
    there.write_bytes(there.read_bytes()[:-9])
    found = status_of(cut.folder)
    assert (found.total.planned, found.total.done) == (8, 5)
    assert found.total.diverged is None and str(there) in found.damaged
    (cut.folder / "sweep.json").write_text("{")
    found = status_of(cut.folder)
    assert found.total.planned == found.total.done == 5 and "sweep.json is damaged" in found.damaged
    assert found.state == "damaged"  # nobody knows what is missing


@pytest.mark.parametrize("change", [{"widths": None}, {"widths": [1]}, {"widths": "x"}, {"failed": 3}, {"spec": 7}])
def test_other_versions_of_sweep_json_are_read(cut, change):
    document = json.loads((cut.folder / "sweep.json").read_text()) | change
    for name in ("sha256", "schema_version"):  # which older versions did not write
        document.pop(name)
    (cut.folder / "sweep.json").write_text(json.dumps(document))
    found = status_of(cut.folder)
    assert (found.total.planned, found.total.done, found.total.waiting) == (8, 5, 3)


def test_where_there_is_no_sweep_it_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    for path, said in (("none", "does not exist"), ("file", "is not a folder"), (".", "there is no sweep in")):
        with pytest.raises(ValueError, match=said):
            sweeps_in(tmp_path / path)
    with pytest.raises(ValueError, match="there is no sweep in"):
        status_of(tmp_path)
    assert say_first(tmp_path) == []


def test_several_that_train_take_less_time_together():
    assert status._together([10.0, 10.0, None]) == 5.0
    assert status._together([None]) is None
