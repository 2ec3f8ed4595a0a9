"""What a command ends with, and what doing it again does."""

import json
from pathlib import Path

import pandas as pd
import pytest
from commands import mupcheck
from small_sweeps import HERE, LR, tree

from mupcheck.cli import exits
from mupcheck.results.files import StoreError
from mupcheck.sweep import group

# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "verdicts", "expect", "arguments", "code"),
    [
        ("coord", {"sp": "pass"}, "", (), exits.OK),
        ("coord", {"sp": "fail"}, "", (), exits.FAILED),
        ("coord", {"sp": "cannot tell"}, "", (), exits.CANNOT_TELL),
        ("coord", {"sp": "cannot tell"}, "", ("--strict",), exits.FAILED),
        ("coord", {"sp": "fail"}, "", ("--expect", "fail"), exits.OK),
        ("coord", {"sp": "pass"}, "", ("--expect", "fail"), exits.FAILED),
        ("coord", {"sp": "cannot tell"}, "", ("--expect", "fail"), exits.CANNOT_TELL),
        ("coord", {"sp": "cannot tell"}, "", ("--expect", "fail", "--strict"), exits.FAILED),
        ("coord", {"sp": "fail", "mup": "pass"}, 'sp = "fail"', (), exits.OK),
        ("coord", {"sp": "pass", "mup": "pass"}, 'sp = "fail"', (), exits.FAILED),
        ("coord", {"sp": "fail", "mup": "fail"}, 'sp = "fail"', (), exits.FAILED),
        ("coord", {"sp": "fail", "mup": "pass"}, 'sp = "fail"', ("--expect", "pass"), exits.FAILED),
        ("coord", {"sp": "cannot tell", "mup": "fail"}, "", (), exits.FAILED),
        ("coord", {"sp": "fail", "mup": "cannot tell"}, "", (), exits.FAILED),
        ("coord", {"sp": "fail", "mup": "cannot tell"}, 'sp = "fail"', (), exits.CANNOT_TELL),
        ("lr", {"sp": "drifts", "mup": "transfers"}, "", (), exits.OK),
        ("lr", {"sp": "drifts"}, "", ("--strict",), exits.OK),
        ("lr", {"sp": "cannot tell"}, "", (), exits.CANNOT_TELL),
        ("lr", {"sp": "cannot tell"}, "", ("--strict",), exits.FAILED),
        ("lr", {"sp": "drifts", "mup": "transfers"}, 'sp = "drifts", mup = "transfers"', (), exits.OK),
        ("lr", {"sp": "drifts", "mup": "drifts"}, 'sp = "drifts", mup = "transfers"', (), exits.FAILED),
        ("lr", {"sp": "transfers"}, 'sp = "drifts"', (), exits.FAILED),
        ("lr", {"sp": "drifts"}, "", ("--expect", "transfers"), exits.FAILED),
    ],
)
def test_the_exit_code_follows_the_verdicts(monkeypatch, kind, verdicts, expect, arguments, code):
    tables = json.dumps(list(verdicts))
    Path("s.toml").write_text(
        f'kind = "{kind}"\ndata = "synthetic"\nseeds = 2\nparametrizations = {tables}\nexpect = {{ {expect} }}'
    )
    monkeypatch.setattr("mupcheck.sweep.runner.execute", lambda *args, **options: iter(()))
    monkeypatch.setattr("mupcheck.cli.sweeps.print_answer", lambda *args, **options: verdicts)
    answer = mupcheck("run", "s.toml", *HERE, *arguments)
    assert answer.code == code, answer.err
    if code == exits.FAILED and "cannot tell" not in verdicts.values():
        assert "expected" in answer.err


def test_exit_codes_of_a_real_check(made):
    again = ("run", made / "coord.toml", "--out", made / "results", *HERE)
    assert mupcheck(*again).code == exits.FAILED
    assert mupcheck(*again, "--expect", "fail").code == exits.OK
    again = ("run", made / "lr.toml", "--out", made / "results", *HERE)
    assert mupcheck(*again).code == exits.CANNOT_TELL
    assert mupcheck(*again, "--strict").code == exits.FAILED


def test_a_fault_of_the_store_is_exit_code_4_and_the_rest_is_stored(monkeypatch, tmp_path):
    Path("lr.toml").write_text(LR)
    write_run = group.write_run

    def full(folder, run, *tables):
        if run["width"] == 32:
            raise StoreError("cannot write x.parquet: No space left on device")
        write_run(folder, run, *tables)

    monkeypatch.setattr(group, "write_run", full)
    answer = mupcheck("run", "lr.toml", *HERE)
    assert answer.code == exits.STORAGE
    assert "No space left on device" in answer.err and "Traceback" not in answer.err
    assert len(list((tmp_path / "results" / "lr" / "runs").iterdir())) == 3
    assert "gdn-mup" in answer.out  # what there is was judged
    for verdict in ("drifts", "cannot tell"):  # says nothing while runs are missing
        monkeypatch.setattr(
            "mupcheck.cli.sweeps.print_answer", lambda *args, verdict=verdict, **options: {"gdn-mup": verdict}
        )
        assert mupcheck("run", "lr.toml", *HERE, "--expect", "transfers", "--strict").code == exits.STORAGE

    def fuller(folder, run, *tables):
        raise StoreError("cannot write x.parquet: No space left on device")

    monkeypatch.setattr(group, "write_run", fuller)
    answer = mupcheck("run", "lr.toml", *HERE, "--out", "none")
    assert (answer.code, answer.out) == (exits.STORAGE, "")
    assert "run a sweep first" not in answer.err


def test_an_interrupt_is_exit_code_130_wherever_it_comes(made, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    again = ("run", made / "lr.toml", "--out", made / "results", *HERE)
    monkeypatch.setattr("mupcheck.learning_rates.drift.transfer", interrupted)
    monkeypatch.setattr("mupcheck.sweep.doctor.examine", interrupted)
    for arguments in (again, ("doctor",)):
        answer = mupcheck(*arguments)
        assert answer.code == exits.INTERRUPTED
        assert "Traceback" not in answer.err and "bug" not in answer.err
    monkeypatch.setattr("mupcheck.sweep.runner.execute", interrupted)
    answer = mupcheck(*again)
    assert answer.code == exits.INTERRUPTED
    assert " ".join(["mupcheck", *map(str, again)]) in answer.err  # the line that goes on


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), ZeroDivisionError("x"), EOFError(), AssertionError()])
def test_a_bug_is_exit_code_70_and_says_so(made, monkeypatch, error):
    def broken(*args, **options):
        raise error

    monkeypatch.setattr("mupcheck.sweep.doctor.examine", broken)
    monkeypatch.setattr("mupcheck.sweep.runner.run_group", broken)
    answer = mupcheck("doctor")
    assert (answer.code, answer.out) == (exits.BUG, "")
    assert "a bug in mupcheck" in answer.err
    assert "Traceback (most recent call last):\n" in answer.err and type(error).__name__ in answer.err
    # in a sweep it costs the runs it meets, and the traceback is in a file for each group
    answer = mupcheck("run", made / "lr.toml", "--out", "bug", *HERE)
    assert (answer.code, answer.out) == (exits.STORAGE, "")
    assert "Traceback" not in answer.err and f"{type(error).__name__}" in answer.err
    kept = [file.read_text() for file in Path("bug/lr/failed").iterdir()]
    assert len(kept) == 2 and all("Traceback (most recent call last):\n" in text for text in kept)


# --- doing it again ---------------------------------------------------------------------------------------------------


def test_a_finished_sweep_is_judged_without_training(copied, monkeypatch):
    def trained(*args, **options):
        raise AssertionError("something was trained")

    monkeypatch.setattr("mupcheck.sweep.runner.run_group", trained)
    before = tree(copied)
    first = mupcheck("run", copied / "lr.toml", "--out", copied / "results", *HERE)
    assert first.code == exits.CANNOT_TELL
    assert first.err.strip() == f"{copied / 'results' / 'lr'}: all 6 runs are there already"
    assert tree(copied) == before
    assert mupcheck("run", copied / "lr.toml", "--out", copied / "results", *HERE, "--resume") == first


def test_only_what_is_missing_is_trained_and_fresh_trains_all(copied):
    arguments = ("run", copied / "lr.toml", "--out", copied / "results", *HERE)
    runs = copied / "results" / "lr" / "runs"
    before = pd.read_parquet(runs).set_index("run_id").sort_index()
    next(iter(sorted(runs.iterdir()))).unlink()
    answer = mupcheck(*arguments)
    assert "lr: 1 of 6 runs to train" in answer.err
    resumed = pd.read_parquet(runs).set_index("run_id").sort_index()
    assert (resumed["started_at"] > before["started_at"]).sum() == 1
    answer = mupcheck(*arguments, "--fresh")
    assert "lr: 6 of 6 runs to train" in answer.err
    fresh = pd.read_parquet(runs).set_index("run_id").sort_index()
    assert (fresh["started_at"] > resumed["started_at"]).all()
    assert fresh["val_loss"].tolist() == before["val_loss"].tolist()
