"""A second spec under one name: the runs of the first are told, and not judged."""

import pytest
from commands import mupcheck
from small_results import write_example

from mupcheck.results.leftovers import say_leftovers
from mupcheck.results.writing import write_sweep


@pytest.fixture
def folder(tmp_path):
    for run_id, changes in {"aa": {"lr": 2.0**-12}, "bb": {"lr": 2.0**-12, "width": 64}, "cc": {"lr": 0.003}}.items():
        write_example(tmp_path, run_id, **{"width": 32} | changes)
    return tmp_path


def test_runs_of_an_earlier_spec_are_counted_with_what_they_differ_in(folder):
    write_sweep(folder, {"run_ids": ["cc", "not there yet"]})
    assert say_leftovers(folder) == (
        f"{folder} also holds 2 runs of an earlier spec (width 32, 64, lr 2^-12), not part of this sweep and not "
        "judged; give another --name to keep sweeps apart"
    )


def test_a_folder_with_nothing_else_says_nothing(folder):
    write_sweep(folder, {"run_ids": ["aa", "bb", "cc"]})
    assert say_leftovers(folder) == ""
    write_sweep(folder, {"run_ids": []})
    assert say_leftovers(folder) == ""


def test_runs_that_differ_in_nothing_shown_or_cannot_be_read_are_counted_all_the_same(folder):
    write_sweep(folder, {"run_ids": ["aa", "cc"]})
    (folder / "runs" / "bb.parquet").write_bytes(b"noise")
    assert "also holds 1 run of an earlier spec (other settings)" in say_leftovers(folder)


def test_a_command_says_it_on_stderr(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = ("coord", "--data", "synthetic", "--widths", "16", "--seeds", "1", "--record", "0,1", "--device", "cpu")
    assert "also holds" not in mupcheck(*tiny, "--jobs", "1").err
    answer = mupcheck(*tiny, "--jobs", "1", "--lr", "2^-10")
    assert "results/coord also holds 1 run of an earlier spec (lr 2^-12), not part of this sweep" in answer.err
    assert "results/coord also holds 1 run" in mupcheck("check", "results/coord").err
    assert "results/coord also holds 1 run" in mupcheck("check", "results").err
