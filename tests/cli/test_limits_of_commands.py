"""Limits of a call, and runs that fail: what the command says of them, its exit code, and that the next one goes on."""

import os
import signal
from pathlib import Path

import pytest
from commands import mupcheck
from small_sweeps import HERE, LR

from mupcheck.cli import exits
from mupcheck.cli.limits import seconds_of
from mupcheck.results.reading import finished_runs
from mupcheck.sweep import runner
from mupcheck.sweep.group import run_group


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("2h", 7200), ("90s", 90), ("1.5 h", 5400), ("10", 600)])
def test_a_time_is_written_as_a_person_does(text, seconds):
    assert seconds_of("--budget", text) == seconds


@pytest.mark.parametrize("text", ["0", "0s", "-1m", "soon", "", "5w", "1e3", "nan", "inf", "9" * 400, "٣m"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match=r"--budget .* is no time above 0; give one such as 90s, 30m or 2h"):
        seconds_of("--budget", text)


def sweep(*options):
    Path("lr.toml").write_text(LR)
    return mupcheck("run", "lr.toml", *HERE, *options)


def test_a_sweep_of_two_runs_at_a_time_says_what_is_left_and_goes_on():
    for left in (4, 2):
        answer = sweep("--max-runs", 2)
        assert answer.code == exits.CANNOT_TELL
        assert f"lr: --max-runs 2 ended it with {left} of 6 runs left\n" in answer.err
        again = "mupcheck run lr.toml --device cpu --jobs 1"  # all of the rest
        assert f"cannot tell: {left} of 6 runs of lr are missing; to complete it: {again}\n" in answer.err
        assert f"reason: {left} of 6 runs of lr are missing" in mupcheck("check", "results").out
    assert sweep("--max-runs", 2, "--strict").code == exits.FAILED
    answer = sweep("--max-runs", 2)
    assert "results/lr: all 6 runs are there already" in answer.err and "ended it" not in answer.err


def test_a_budget_ends_it_whatever_the_verdict_would_be():
    answer = sweep("--budget", "0.001s", "--expect", "drifts")
    assert answer.code == exits.CANNOT_TELL
    assert "lr: --budget 0.001s ended it with 3 of 6 runs left" in answer.err
    assert "are missing" not in sweep("--budget", "1h").err


def raising(group, **options):
    if group[0].width == 32:
        raise ZeroDivisionError("planted")
    yield from run_group(group, **options)


def killed(group, **options):
    if group[0].width == 32:
        os.kill(os.getpid(), signal.SIGKILL)
    yield from run_group(group, **options)


@pytest.mark.parametrize(
    ("work", "options", "reason"),
    [
        (raising, (), "3 runs of width 32: ZeroDivisionError: planted"),
        (killed, ("--run-timeout", "1m"), "1 runs of width 32: its process was ended by SIGKILL"),
    ],
)
def test_runs_that_failed_are_said_left_out_or_trained_again(monkeypatch, work, options, reason):
    with monkeypatch.context() as patch:
        patch.setattr(runner, "run_group", work)
        answer = sweep(*options)
    assert answer.code == exits.STORAGE
    assert f"failed: {reason}" in answer.err and "Traceback" not in answer.err + answer.out
    assert f"3 of 6 runs of lr are missing, 3 of them failed ({reason}" in answer.err
    assert f"3 of them failed ({reason}" in mupcheck("check", "results/lr").out
    kept = [Path(word) for word in answer.err.split() if word.endswith(".txt")]
    assert bool(kept) == (work is raising)
    assert all("ZeroDivisionError: planted" in file.read_text() for file in kept)

    answer = sweep("--keep-failed")
    assert answer.code == exits.CANNOT_TELL
    assert "3 runs that failed before are left out; --retry-failed trains them again" in answer.err
    assert "results/lr: 3 of 6 runs are there already" in answer.err
    assert answer.err.splitlines()[-1].endswith("; to complete it: mupcheck run lr.toml --device cpu --jobs 1")
    assert len(finished_runs("results/lr")) == 3
    assert "are missing" not in sweep().err
    assert len(finished_runs("results/lr")) == 6
    assert not any(file.exists() for file in kept)


def test_where_nothing_can_be_judged_the_command_says_how_to_go_on(monkeypatch):
    def all_fail(group, **options):
        raise KeyError("planted")
        yield

    monkeypatch.setattr(runner, "run_group", all_fail)
    answer = sweep()
    assert (answer.code, answer.out) == (exits.STORAGE, "")
    assert answer.err.splitlines()[-1].startswith("lr: none of 6 runs is there; this trains them: mupcheck run lr.toml")


def test_a_pipe_of_its_own_that_breaks_is_not_a_reader_that_left(monkeypatch):
    def broken(*arguments, **options):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(runner, "execute", broken)
    answer = sweep()
    assert (answer.code, answer.out) == (exits.STORAGE, "")
    assert answer.err.splitlines()[-1] == "error: a process that mupcheck wrote to is gone"


def test_a_model_of_ones_own_has_no_such_limits():
    Path("mine.py").write_text("def build(width): ...")
    for option in (("--budget", "1m"), ("--run-timeout", "1m"), ("--max-runs", 1), ("--keep-failed",)):
        answer = mupcheck("lr-sweep", "--model", "mine.py", *option)
        assert answer.code == exits.USAGE and option[0] in answer.err
