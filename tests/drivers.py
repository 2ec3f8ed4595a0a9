"""Several processes that drive one sweep, and a journal of the runs that they start."""

import os
import signal
import time
from collections import Counter
from functools import partial
from multiprocessing import get_context
from queue import Empty

from tiny_sweeps import assert_same, numbers, tiny

from mupcheck.results.reading import load_results
from mupcheck.sweep import runner, sharing
from mupcheck.sweep.kernels import PRELOAD

N = 24  # runs of the sweep


def shared(**changes):
    """Return a sweep of 24 tiny runs."""
    lrs = tuple(2.0**-i for i in range(4, 10))
    return tiny(
        **{"name": "shared", "lrs": lrs, "steps": 3, "seq_len": 8, "batch_size": 1, "eval_tokens": 32} | changes
    )


def drive(out, pause, lease, sweep, begin, answers):
    """Drive the sweep as soon as all may; of this process alone, so that its modules may be changed."""
    train, join = runner.run_group, runner.joined

    def journalled(group, **where):
        with (out / "journal").open("a") as journal:
            journal.write("".join(f"{os.getpid()} {run.run_id}\n" for run in group))
        for steps in train(group, **where):
            time.sleep(pause)
            yield steps

    runner.run_group, runner.joined = journalled, partial(join, beat=lease / 10, lease=lease)
    sharing.SECONDS_BETWEEN_LOOKS = 0.2
    begin.wait(60)
    try:
        answers.put(len(runner.run_sweep(sweep, out=out, device="cpu", jobs=1, exact=True).runs))
    except BaseException as error:
        answers.put(repr(error))
        raise


def start(n, out, *, pause=0.0, lease=60.0, sweep=None):
    """Start drivers of one folder, a process each, all at the same moment; return them and what they will answer."""
    out.mkdir(parents=True, exist_ok=True)
    context = get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, "mupcheck.results.reading"])
    begin, answers = context.Barrier(n), context.Queue()
    drivers = [
        context.Process(target=drive, args=(out, pause, lease, sweep or shared(), begin, answers)) for _ in range(n)
    ]
    for driver in drivers:
        driver.start()
    answers.begin = begin  # which a process that starts late opens by name
    return drivers, answers


def ended(drivers, answers, *, seconds=120):
    """Wait for drivers, and return how many runs each says that there are; end those that do not end."""
    try:
        return [answers.get(timeout=seconds) for _ in drivers]
    except Empty:
        return f"{[driver.exitcode for driver in drivers]} after {seconds} s"
    finally:
        for driver in drivers:
            driver.join(5)
            driver.kill()


def starts(out):
    """Return how often each run was started, by all drivers, and by which processes."""
    lines = [line.split() for line in (out / "journal").read_text().splitlines()]
    return Counter(run_id for _, run_id in lines), Counter(int(pid) for pid, _ in lines)


def some_started(out, n, drivers):
    """Wait until so many runs were started, some by each driver."""
    end = time.monotonic() + 60
    while True:
        if (out / "journal").exists():
            runs, by = starts(out)
            if sum(runs.values()) >= n and len(by) == len(drivers):
                return
        assert time.monotonic() < end
        time.sleep(0.01)


def stop(driver, how=signal.SIGKILL):
    os.kill(driver.pid, how)


def check_drivers(n, out, alone):
    """Let n drivers train one sweep, check that each run was trained once and is what it is, and return the figure.

    Args:
        n: processes.
        out: an empty folder.
        alone: numbers of the sweep where one process drove it that nobody disturbed.
    """
    begun = time.monotonic()
    assert ended(*start(n, out, pause=0.01)) == [N] * n
    runs, by = starts(out)
    took = time.monotonic() - begun
    assert len(runs) == N and set(runs.values()) == {1}
    assert_same(numbers(load_results(out / "shared")), alone)
    assert not (out / "shared" / "claims").exists()
    return f"{sum(runs.values())} starts of {N} runs, {sorted(by.values())} by each, {took:.1f} s"
