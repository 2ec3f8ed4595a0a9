"""status, ls, progress as events, and what a second process on one folder is told."""

import json
import os
import re

import pytest
from commands import mupcheck
from foreign_owners import foreign
from small_sweeps import HERE, tree

from mupcheck.cli import exits
from mupcheck.results.owners import machine, process_start
from mupcheck.results.reading import read_sweep
from mupcheck.results.version import version
from mupcheck.terminal import console


def living(folder, **fields):
    """Let this process drive a sweep."""
    foreign(folder, machine=machine(), host="node7", pid=os.getpid(), started=process_start(os.getpid()), **fields)


def cut(copied, name, n):
    """Take away n runs of a sweep, and return the command that trained it."""
    for file in sorted((copied / "results" / name / "runs").glob("*.parquet"))[:n]:
        file.unlink()
    return read_sweep(copied / "results" / name)["command"]


# --- status and ls ----------------------------------------------------------------------------------------------------


def test_status_says_where_each_sweep_stands(copied):
    command = cut(copied, "lr", 2)
    before = tree(copied)
    answer = mupcheck("status", copied / "results")
    assert answer.code == exits.OK and answer.err == ""
    coord, lr = answer.out.split("\n\nlr (")
    assert coord.startswith("coord (coordinate check): complete, 9 of 9 runs are there\n")
    assert lr.startswith("learning-rate sweep): interrupted, 4 of 6 runs are there\n")
    assert lr.rstrip().endswith(f"2 of 6 runs of lr are missing; to complete it: {command}")
    assert re.search(r"^ +all +6 +4 +0 +0 +2 +0$", lr, re.MULTILINE)
    tables = [line for line in answer.out.splitlines() if line.startswith(" ")]
    assert max(map(len, tables)) <= 80
    assert tree(copied) == before, "it only reads"


def test_status_for_other_programs(copied):
    command = cut(copied, "lr", 2)
    (record,) = mupcheck("status", copied / "results" / "lr", "--json").json
    assert {key: record[key] for key in ("sweep", "kind", "state", "planned", "done", "waiting", "running")} == {
        "sweep": "lr",
        "kind": "lr",
        "state": "interrupted",
        "planned": 6,
        "done": 4,
        "waiting": 2,
        "running": 0,
    }
    assert record["command"] == command and record["failures"] == record["owners"] == []
    assert [at["width"] for at in record["widths"]] == [16, 32]
    living(copied / "results" / "lr", said={"seconds_left": 90.0})
    (record,) = mupcheck("status", copied / "results" / "lr", "--json").json
    assert (record["state"], record["seconds_left"]) == ("running", 90.0)
    assert record["owners"][0]["host"] == "node7"
    page = mupcheck("status", copied / "results" / "lr").out
    assert "running, 4 of 6 runs are there, about 2 min left" in page
    assert f"node7:{os.getpid()} drives it, mupcheck 1, since 2026-01-01T00:00:00 UTC" in page


def test_ls_has_a_line_for_each_sweep(copied):
    cut(copied, "lr", 2)
    answer = mupcheck("ls", copied / "results")
    rows = [line.split()[:4] for line in answer.out.splitlines() if "/" in line]
    assert rows == [["coord", "coord", "9/9", "complete"], ["lr", "lr", "4/6", "interrupted"]]
    assert max(map(len, answer.out.splitlines())) <= 80
    records = mupcheck("ls", copied / "results", "--json").json
    assert [record["state"] for record in records] == ["complete", "interrupted"]


@pytest.mark.parametrize("command", ["status", "ls"])
def test_where_there_is_no_sweep(command, tmp_path):
    answer = mupcheck(command, tmp_path)
    assert answer.code == exits.USAGE and "there is no sweep in" in answer.err and answer.err.count("\n") == 1
    assert mupcheck(command, tmp_path / "none").code == exits.USAGE


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "plot"])
def test_who_reads_a_cut_sweep_hears_first_what_completes_it(command, copied, monkeypatch):
    monkeypatch.setattr("mupcheck.plots.plot_results", lambda *_, **__: [])
    trained_by = cut(copied, "lr", 2)
    answer = mupcheck(command, copied / "results" / "lr")
    line = f"2 of 6 runs of lr are missing; to complete it: {trained_by}"
    assert answer.err.splitlines()[0] == line
    if command == "check":
        assert line in answer.out and answer.code == exits.CANNOT_TELL
    assert "missing" not in mupcheck(command, copied / "results" / "coord").err


# --- two processes ----------------------------------------------------------------------------------------------------


def test_another_sweep_of_the_name_is_refused_while_one_is_driven(copied):
    folder = copied / "results" / "lr"
    living(folder)
    before = tree(folder)
    answer = mupcheck("run", copied / "lr.toml", "--out", copied / "results", *HERE)
    assert answer.code == exits.USAGE
    assert answer.err == (
        f"error: {folder} is in use: node7:{os.getpid()} trains another sweep of this name (mupcheck run x.toml); "
        "wait for it, or give another --name\n"
    )
    assert tree(folder) == before


def test_fresh_and_another_version_are_refused_while_the_sweep_is_driven(copied, monkeypatch):
    monkeypatch.setattr("mupcheck.sweep.sharing.asks_of", lambda plan: "a")
    folder = copied / "results" / "lr"
    living(folder, mupcheck=version())
    command = ("run", copied / "lr.toml", "--out", copied / "results", *HERE)
    answer = mupcheck(*command, "--fresh")
    assert answer.code == exits.USAGE and answer.err.count("\n") == 1
    assert "trains this sweep (mupcheck run x.toml); wait for it, or leave --fresh out" in answer.err
    assert mupcheck(*command).code == exits.CANNOT_TELL, "beside it all is well"
    living(folder, mupcheck="99.0")
    answer = mupcheck(*command)
    assert answer.code == exits.USAGE and answer.err.count("\n") == 1
    assert f"by mupcheck 99.0, and this one is {version()}; let both be the same" in answer.err


# --- events -----------------------------------------------------------------------------------------------------------


def test_progress_as_events(copied):
    command = ("run", copied / "lr.toml", "--out", copied / "again", *HERE, "--progress", "json")
    answer = mupcheck(*command)
    events = [json.loads(line) for line in answer.err.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "start" and "progress" in kinds
    assert kinds.index("end") > kinds.index("progress")
    start, end = events[0], events[kinds.index("end")]
    assert (start["sweep"], start["runs"], start["runs_finished"], start["runs_missing"]) == ("lr", 6, 0, 6)
    assert (end["runs_finished"], end["failures"]) == (6, 0) and end["seconds"] > 0
    progress = [event for event in events if event["event"] == "progress"]
    assert progress[-1]["runs_finished"] == 6 and progress[-1]["share"] == pytest.approx(1)
    assert {event["width"] for event in progress} <= {16, 32} and progress[-1]["steps"] > 0
    assert set(progress[-1]) == {
        *("event", "sweep", "folder", "runs", "runs_finished", "width", "steps", "share", "seconds_left")
    }
    assert mupcheck("status", copied / "none").err.startswith("error: "), "the next command speaks plainly"


def test_what_is_said_beside_it_is_an_event_too(capsys):
    console.events(True)
    console.say("a line")
    console.say_event("progress", seconds_left=float("nan"))
    console.events(False)
    console.say("another")
    message, progress, plain = capsys.readouterr().err.splitlines()
    assert json.loads(message) == {"event": "message", "text": "a line"}
    assert json.loads(progress) == {"event": "progress", "seconds_left": None}
    assert plain == "another"


def test_progress_can_be_nothing_and_is_checked(copied):
    command = ("run", copied / "lr.toml", "--out", copied / "again", *HERE, "--progress")
    assert "runs to train" not in mupcheck(*command, "none").err
    assert "runs are there already" in mupcheck(*command, "plain").err
    answer = mupcheck(*command, "loud")
    assert answer.code == exits.USAGE
    assert answer.err == "error: --progress 'loud' is unknown; known: auto, rich, plain, json, none\n"
