"""--gpus-per-run: what is said of it beforehand, what refuses it, that it trains, and that Ctrl-C ends it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import mupcheck
from ranked import server_of_ranks

from mupcheck.cli import exits
from mupcheck.results.reading import load_results

TINY = ("--widths", "16,32", "--data", "synthetic", "--seq-len", 8, "--seeds", 1, "--layers", 1, "--device", "cpu")
LR = ("lr-sweep", *TINY, "-p", "gdn-mup", "--lrs", "2^-8", "--warmup", 0, "--eval-tokens", 16, "--steps")


def test_beforehand_it_says_what_each_run_takes():
    answer = mupcheck(*LR, 2, "--batch-size", 4, "--gpus-per-run", 2, "--jobs", 3, "--dry-run")
    assert answer.code == exits.OK
    assert "float32, chunk backend, 2 processes a run" in answer.out
    assert "2 runs of 2 processes at a time need" in answer.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--batch-size", 3),
            "error: --batch-size 3 does not divide over --gpus-per-run 2, each .*; try --batch-size 4$",
        ),
        (
            ("--engine", "slurm", "--slurm-gpus", 2, "--device", "auto"),
            "error: --gpus-per-run 2 is of engine local; leave one out$",
        ),
    ],
)
def test_what_does_not_go_with_it_is_refused_in_one_line(options, said, monkeypatch):
    monkeypatch.setattr("mupcheck.sweep.engines.sbatch.check_slurm", lambda *_, **__: None)
    answer = mupcheck(*LR, 2, "--gpus-per-run", 2, *options)
    assert answer.code == exits.USAGE and answer.err.count("\n") == 1
    assert re.search(said, answer.err)


def test_a_model_of_ones_own_is_not_shared():
    Path("mine.py").write_text("")
    answer = mupcheck("lr-sweep", "--model", "mine.py", "--gpus-per-run", 2)
    assert answer.code == exits.USAGE
    assert answer.err.startswith("error: --gpus-per-run is of mupcheck's own models; ")


def test_a_sweep_is_trained_and_goes_on_with_another_number():
    server_of_ranks()
    sweep = (*LR, 2, "--batch-size", 4, "--expect", "drifts")
    mupcheck(*sweep, "--gpus-per-run", 2, "--max-runs", 1)
    mupcheck(*sweep)
    runs = load_results(Path("results/lr")).runs
    assert sorted(runs["devices"]) == [1, 2] and (runs["status"] == "ok").all()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_interrupt_ends_every_rank():
    command = [sys.executable, "-m", "mupcheck", *map(str, LR), "100000", "--batch-size", "4", "--gpus-per-run", "2"]
    log = Path("said.txt")
    with log.open("w") as file:
        driver = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        end = time.monotonic() + 50
        while len(of_session(driver.pid)) < 5 and time.monotonic() < end:  # two ranks, and what started them
            time.sleep(0.1)
        assert len(of_session(driver.pid)) >= 5, log.read_text()
        time.sleep(2)  # at work, or on the way
        os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
        assert driver.wait(timeout=10) == exits.INTERRUPTED
        assert "2 of 2 runs missing" in log.read_text() and "Traceback" not in log.read_text()
        end = time.monotonic() + 15  # its fork server, which ends when it notices, has much to let go of
        while of_session(driver.pid) and time.monotonic() < end:
            time.sleep(0.05)
        assert not {process: Path(f"/proc/{process}/stat").read_text() for process in of_session(driver.pid)}
    finally:
        for process in of_session(driver.pid):
            os.kill(process, signal.SIGKILL)
        driver.wait()


def of_session(session: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(of) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found
