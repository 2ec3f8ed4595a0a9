"""Runs that several processes train together: what is written of them, a rank that dies, and no process left behind."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fake_gpus import on_gpus
from ranked import server_of_ranks
from tiny_sweeps import tiny, tiny_coord, trained

from mupcheck.results.reading import load_results
from mupcheck.sweep import runner, shared_run
from mupcheck.sweep.engines import team
from mupcheck.sweep.plan import check_fits, plan_sweep
from mupcheck.sweep.runner import execute
from mupcheck.sweep.shared_run import train_rank

PAIR = (("cpu", "cpu"),)
# float32 after a few steps of another order of sums
CLOSE = 1e-5


@pytest.fixture(autouse=True, scope="module")
def _server_of_ranks():
    server_of_ranks()


# --- a sweep ----------------------------------------------------------------------------------------------------------


def test_a_shared_sweep_is_the_sweep(tmp_path):
    sweep = tiny(widths=(16,), lrs=(2.0**-7,))
    one, _ = trained(sweep, tmp_path / "one", jobs=1)
    two, _ = trained(sweep, tmp_path / "two", gpus_per_run=2)
    assert (one.runs["devices"] == 1).all() and (two.runs["devices"] == 2).all()
    columns = ["run_id", "n_params", "tokens", "status"]
    assert (
        one.runs.sort_values("run_id")[columns].values.tolist()
        == two.runs.sort_values("run_id")[columns].values.tolist()
    )
    one, two = (each.steps.sort_values(["run_id", "step"]) for each in (one, two))
    for column in ("loss", "val_loss", "grad_norm"):
        assert np.allclose(one[column], two[column], rtol=CLOSE, atol=0, equal_nan=True)
    # who goes on with another number of devices trains nothing again
    assert plan_sweep(sweep, out=tmp_path / "two").missing == 0


def test_a_shared_check_has_the_sizes(tmp_path):
    sweep = tiny_coord(widths=(16,), seeds=1, parametrizations=("gdn-mup",), dtype="float64")
    tables = [trained(sweep, tmp_path / str(n), gpus_per_run=n, jobs=1)[0].coords for n in (1, 2)]
    key = ["run_id", "step", "layer", "site", "kind", "stat"]
    one, two = (table.sort_values(key).reset_index(drop=True) for table in tables)
    assert one[key].equals(two[key]) and len(one) > 200
    assert np.allclose(one["value"], two["value"], rtol=1e-6, atol=1e-9, equal_nan=True)


# --- what does not go together ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "devices", "n", "said"),
    [
        ({}, "cpu", 0, "gpus_per_run=0 is no number of devices; give 1 or more"),
        ({}, "cpu", "2", "gpus_per_run='2' is no number of devices; give 1 or more"),
        ({"batch_size": 3}, "cpu", 2, "batch_size=3 does not divide over gpus_per_run=2, each .*; try batch_size=4"),
        ({}, ("cuda:0", "cuda:1"), 3, r"gpus_per_run=3 is more than there are \(cuda:0, cuda:1\); give 2 or fewer"),
    ],
)
def test_what_cannot_be_shared_is_refused_in_one_line(tmp_path, changes, devices, n, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        plan_sweep(tiny(**changes), out=tmp_path, device=devices, gpus_per_run=n)


def test_a_machine_has_as_many_teams_as_there_are_devices_for(tmp_path):
    five = tuple(f"cuda:{i}" for i in range(5))
    plan = on_gpus(tiny(backend="chunk"), tmp_path, five, gpus_per_run=2)
    assert plan.teams == (("cuda:0", "cuda:1"), ("cuda:2", "cuda:3"))
    plan = plan_sweep(tiny(), out=tmp_path, jobs=3, gpus_per_run=2)
    assert plan.teams == (("cpu", "cpu"),) * 3
    assert all(len(group) == 1 for group in plan.groups)


def test_what_does_not_fit_one_device_may_fit_several(tmp_path):
    sweep = tiny(widths=(2048,), batch_size=8, n_layers=8)
    one, eight = (plan_sweep(sweep, out=tmp_path, jobs=1, gpus_per_run=n) for n in (1, 8))
    gpus = {"device": "cuda:0", "available_bytes": one.needed_bytes // 2}
    with pytest.raises(ValueError, match="does not fit"):
        check_fits(replace(one, devices=("cuda:0",), **gpus))
    check_fits(replace(eight, devices=tuple(f"cuda:{i}" for i in range(8)), **gpus))


# --- ranks that pretend -----------------------------------------------------------------------------------------------


def pretending(group, device, rank, size, meeting):
    """Do as a group says, on the rank that it names; the others wait for it, as in a collective."""
    how, who, folder = group
    Path(folder, f"{how} {rank} {os.getpid()}").touch()
    if rank == who:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "full":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if how == "bug":
            raise ZeroDivisionError("planted")
        yield 1
        return
    if how != "well":
        time.sleep(0.1 if how == "alone" else 60)
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1")
    time.sleep(0.2)
    yield 1


def place(rank, size, meeting):
    return partial(pretending, rank=rank, size=size, meeting=meeting)


def ends(groups, teams=PAIR, **options):
    how = {"teams": teams, "preload": runner.PRELOAD, "contain": True} | options
    return {m.group[0]: m for m in team.execute(groups, place, **how) if m.steps is None}


def pids(folder):
    return [int(file.name.split()[-1]) for file in Path(folder).iterdir() if file.name[0].islower()]


def are_gone(processes, seconds=5.0):
    end = time.monotonic() + seconds
    while (living := any(map(lives, processes))) and time.monotonic() < end:
        time.sleep(0.02)
    return not living


def lives(pid) -> bool:
    """Say whether a process does anything; one that ended may wait for init to take note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_rank_that_dies_ends_its_run_and_no_other(tmp_path):
    groups = [("killed", 1, tmp_path), ("full", 0, tmp_path), ("bug", 1, tmp_path), ("well", 0, tmp_path)]
    start = time.monotonic()
    found = ends(groups, teams=PAIR * 2)
    assert time.monotonic() - start < 45  # the others wait for 60
    assert found["killed"].error == "its process was ended by SIGKILL (out of memory?)" and found["killed"].retry
    assert found["full"].error.startswith("out of memory: CUDA out of memory") and found["full"].retry
    assert found["bug"].error == "ZeroDivisionError: planted" and "planted" in found["bug"].traceback
    assert found["well"].error is None
    assert len(pids(tmp_path)) >= 7 and are_gone(pids(tmp_path))


def test_what_is_said_is_the_cause_and_not_the_lost_connection(tmp_path):
    assert "Connection closed" in ends([("alone", 2, tmp_path)])["alone"].error  # where nothing else is known
    assert "ZeroDivisionError" in ends([("bug", 1, tmp_path)])["bug"].error


def test_a_run_that_takes_too_long_is_ended(tmp_path):
    found = ends([("slow", 5, tmp_path), ("well", 0, tmp_path)], seconds=4.0)
    assert found["slow"].error == "it took longer than 4 s and was ended" and found["well"].error is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_who_stops_listening_leaves_no_process(tmp_path):
    engine = team.execute([("well", 0, tmp_path), ("slow", 5, tmp_path)], place, teams=PAIR * 2, preload=runner.PRELOAD)
    next(engine)
    engine.close()
    assert are_gone(pids(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_driver_that_is_killed_leaves_no_process(tmp_path):
    code = f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}\n"
    code += f"import test_teams\ntest_teams.ends([('slow', 5, {str(tmp_path)!r})])"
    driver = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 90
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    assert len(pids(tmp_path)) == 2 and are_gone(pids(tmp_path))


def dying(group, *, rank=0, **options):
    """Train, but die as rank 1 of one run in the middle."""
    for steps in train_rank(group, rank=rank, **options):
        if rank == 1 and group[0].lr == 2.0**-6:
            os.kill(os.getpid(), signal.SIGKILL)
        yield steps


def test_of_a_sweep_the_run_of_a_dead_rank_alone_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_run, "train_rank", dying)
    plan = plan_sweep(tiny(widths=(16,), parametrizations=("sp",)), out=tmp_path, jobs=1, gpus_per_run=2)
    errors = [progress.error for progress in execute(plan) if progress.error]
    assert len(errors) == 1 and "1 runs of width 16: its process was ended by SIGKILL" in errors[0]
    assert load_results(plan.folder).runs["lr"].tolist() == [2.0**-8]
