"""The local engine, its processes, and their end."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from mupcheck.results.owners import process_start
from mupcheck.results.reading import load_results
from mupcheck.sweep import runner
from mupcheck.sweep.engines import forking, local

# --- the engine -------------------------------------------------------------------------------------------------------


def counting(group):
    for _ in group:
        time.sleep(0.06)
        yield 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_engine_reports_steps_and_ends(jobs):
    groups = [("a", "b", "c"), ("d",), ("e", "f")]
    messages = list(local.execute(groups, counting, jobs=jobs, preload=runner.PRELOAD))
    ends = [message for message in messages if message.steps is None]
    assert sorted(message.group for message in ends) == sorted(groups)
    assert not any(message.error for message in messages)
    steps = Counter()
    for message in messages:
        steps[message.group] += message.steps or 0
    # a child collects its steps and may end before it sent the last of them
    assert all(steps[group] <= len(group) for group in groups)
    assert steps[groups[0]] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads signal masks in /proc")
def test_an_early_interrupt_does_not_reach_the_process_that_starts_the_others():
    # a process of its own, whose fork server is as new as that of a command
    code = "import signal; from multiprocessing import forkserver; from mupcheck.sweep.engines import forking\n"
    code += "forking.start_ahead(())\n"
    code += "print(open(f'/proc/{forkserver._forkserver._forkserver_pid}/status').read())\n"
    code += "print('free', signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (blocked,) = [int(line.split()[1], 16) for line in done.stdout.splitlines() if line.startswith("SigBlk")]
    assert blocked >> (signal.SIGINT - 1) & 1
    assert "free True" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_what_was_started_ahead_is_gone_where_nothing_was_to_be_done():
    code = "from multiprocessing import forkserver; from mupcheck.sweep.engines.forking import start_ahead\n"
    code += "start_ahead(('torch',))\nprint(forkserver._forkserver._forkserver_pid, flush=True)"
    # it has this end of the pipe too: what reads to the end would wait for it
    with subprocess.Popen([sys.executable, "-c", code + "\n"], stdout=subprocess.PIPE, text=True) as done:
        server = int(done.stdout.readline())
        done.wait()
        time.sleep(0.1)  # it would import for a second and more
        assert process_start(server) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_counts_once_a_process_has_all_that_it_is_given(number):
    came = []
    before = signal.signal(number, lambda *_: came.append("now"))
    try:
        with forking._signals_later():
            os.kill(os.getpid(), number)
            came.append("started")
    finally:
        signal.signal(number, before)
    assert came == ["started", "now"]


def test_a_signal_counts_where_the_process_could_not_be_started_for_it():
    def start():
        with forking._signals_later():
            os.kill(os.getpid(), signal.SIGINT)  # which ended the fork server too
            raise BrokenPipeError

    with pytest.raises(KeyboardInterrupt):
        start()


def wait_for_children(marks):
    """Run two children that sleep and a quick one; return the engine when the quick one ended and the others sleep."""
    engine = local.execute(
        [*((str(mark),) for mark in marks), ("quick",)], sleeping_or_quick, jobs=3, preload=runner.PRELOAD
    )
    assert next(engine).group == ("quick",)
    assert wait_until(lambda: all(mark.exists() for mark in marks))
    return engine


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("how", ["left", "killed"])
def test_children_end_with_the_engine_that_started_them(tmp_path, how):
    marks = [tmp_path / "a", tmp_path / "b"]
    if how == "left":
        engine = wait_for_children(marks)
    else:
        code = "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_local as t; "
        code += "engine = t.wait_for_children([Path(mark) for mark in sys.argv[2:]]); time.sleep(600)"
        driver = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), *map(str, marks)])
        assert wait_until(lambda: all(mark.exists() for mark in marks) or driver.poll() is not None)
    children = [int(mark.read_text()) for mark in marks]
    assert all(is_running(pid) for pid in children)
    if how == "left":
        engine.close()
    else:
        driver.kill()
        driver.wait()
    try:
        assert wait_until(lambda: not any(is_running(pid) for pid in children), seconds=20)
    finally:
        for pid in filter(is_running, children):
            os.kill(pid, signal.SIGKILL)


def sleeping_or_quick(group):
    if group[0] != "quick":
        mark = Path(group[0])
        mark.with_suffix(".tmp").write_text(str(os.getpid()))
        mark.with_suffix(".tmp").rename(mark)
        time.sleep(600)
    yield 1


def wait_until(condition, seconds=60.0):
    """Poll until the condition holds, and say whether it did; a loaded machine needs patience, an idle one none."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def stat(pid):
    """Return (state, session) of a process from /proc, None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[3])


def is_running(pid):
    found = stat(pid)
    return found is not None and found[0] != "Z"


def session_members(session):
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in pids if (found := stat(pid)) and found[0] != "Z" and found[1] == session]


LONG_SWEEP = (
    *("--data", "synthetic", "--widths", "16", "-p", "gdn-mup", "--lrs", "1e-5:1e-1:1.02", "--seeds", "1"),
    *("--steps", "40", "--batch-size", "2", "--seq-len", "16", "--eval-tokens", "32", "--device", "cpu", "--jobs", "2"),
)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for orphans in /proc")
@pytest.mark.parametrize(("ending", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupted_sweep_leaves_finished_runs_and_no_processes(tmp_path, ending, code):
    process = subprocess.Popen(
        [sys.executable, "-m", "mupcheck", "lr-sweep", *LONG_SWEEP, "--out", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # where the tests run in the background of a shell, SIGINT is ignored, and a child inherits that
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    runs = tmp_path / "lr" / "runs"
    try:
        assert wait_until(lambda: (runs.is_dir() and any(runs.glob("*.parquet"))) or process.poll() is not None)
        assert process.poll() is None, process.stderr.read()
        if ending == "SIGINT":  # Ctrl-C reaches all of the terminal's processes
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(getattr(signal, ending))
        _, said = process.communicate(timeout=60)
        assert process.returncode == code
        assert "Traceback" not in said
        if ending == "SIGINT":
            assert "interrupted" in said
            assert " ".join(LONG_SWEEP) in said  # the line to resume
        assert wait_until(lambda: not session_members(process.pid)), session_members(process.pid)
    finally:
        for pid in session_members(process.pid):
            os.kill(pid, signal.SIGKILL)
    results = load_results(tmp_path / "lr")  # every file is whole
    assert 0 < len(results.runs) < 466
    assert set(results.steps.groupby("run_id").size()) == {40}
