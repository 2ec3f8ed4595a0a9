"""What was compacted is a cache: quicker, and never another number than the runs' own files give."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from commands import mupcheck
from small_results import example_coords, example_run, example_steps, files_under, refusal, write_example

from mupcheck.results import cache
from mupcheck.results import compact as module
from mupcheck.results.aside import bring_back, set_aside
from mupcheck.results.checked import Stamp
from mupcheck.results.compact import compact, compact_many
from mupcheck.results.files import TMP_SUFFIX, StoreError
from mupcheck.results.reading import load_results
from mupcheck.results.tables import SCHEMAS
from mupcheck.results.writing import write_run, write_sweep


@pytest.fixture
def folder(tmp_path):
    for at, run_id in enumerate(("ab", "cd", "ef")):
        write_run(tmp_path, example_run(run_id, lr=0.1 * at), example_steps(at + 1, loss=at), example_coords(2 * at))
    write_run(tmp_path, example_run("gh", diverged_step=3, reason="nan", clip=1.0), example_steps(2))
    return tmp_path


@pytest.fixture
def opened(monkeypatch):
    """The run files that are read on their own."""
    files = []
    monkeypatch.setattr("mupcheck.results.checked.read_bytes", spied(files, "mupcheck.results.checked", "read_bytes"))
    return files


def spied(files, module, name):
    real = getattr(sys.modules[module], name)

    def spy(file):
        files.append(str(file.relative_to(file.parents[1])))
        return real(file)

    return spy


def assert_same(one, other):
    for name in SCHEMAS:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=True)
    assert one.sweeps == other.sweeps


def test_what_was_compacted_reads_alike_and_no_other_file_is_opened(folder, opened):
    before, files = load_results(folder), files_under(folder)
    done = compact(folder)
    assert (done.n_runs, done.n_new, done.damaged) == (4, 4, ())
    assert set(files) < set(files_under(folder)), "the runs' own files stay"
    del opened[:]
    assert_same(load_results(folder), before)
    assert opened == []
    assert list(load_results(folder, tables="runs").coords.columns) == list(before.coords.columns)
    assert list(pd.read_parquet(folder / "runs").columns) == SCHEMAS["runs"].names
    assert len(pd.read_parquet(folder / "steps")) == len(before.steps)


def test_what_came_since_is_read_beside_it_in_the_same_order(folder, opened):
    compact(folder)
    write_example(folder, "aa", lr=0.5)
    write_example(folder, "de", lr=0.6)
    del opened[:]
    together = load_results(folder)
    assert sorted(opened) == sorted(f"{name}/{run_id}.parquet" for name in SCHEMAS for run_id in ("aa", "de"))
    shutil.rmtree(folder / cache.FOLDER)
    assert_same(together, load_results(folder))
    compact(folder)
    write_example(folder, "xy")
    assert compact(folder).n_new == 1
    assert len(list((folder / cache.FOLDER).iterdir())) == 3, "one file a table, the old ones gone"
    assert compact(folder).n_new == 0


@pytest.mark.parametrize("same_size", [False, True])
def test_a_run_trained_anew_is_read_from_its_own_file(folder, same_size):
    compact(folder)
    n = 3 if same_size else 9
    write_run(folder, example_run("ef", lr=0.25), example_steps(n, loss=7.5), example_coords(4 if same_size else 7))
    results = load_results(folder)
    assert results.runs.set_index("run_id").lr["ef"] == 0.25
    assert list(results.steps[results.steps.run_id == "ef"].loss) == [7.5] * n
    (folder / "runs" / "ab.parquet").unlink()
    assert set(load_results(folder).runs.run_id) == {"cd", "ef", "gh"}


def test_a_copied_folder_keeps_its_cache_by_the_bytes_of_its_runs(folder, tmp_path_factory, opened):
    compact(folder)
    copy = tmp_path_factory.mktemp("copy") / "s"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    del opened[:]
    assert_same(load_results(copy), load_results(folder))
    assert opened == []
    compact(copy)
    stamps = [entry.stamp for entry in cache.read_held(copy, "steps", tell=print).entries.values()]
    assert stamps == [Stamp.of(file.stat()) for file in sorted((copy / "steps").iterdir())]


def test_runs_of_another_spec_come_and_go(folder):
    compact(folder)
    before = load_results(folder)
    set_aside(folder, keep=["ab"])
    assert list(load_results(folder).runs.run_id) == ["ab"]
    bring_back(folder, ["cd", "ef", "gh"])
    assert_same(load_results(folder), before)
    write_sweep(folder, {"run_ids": ["cd", "gh"]})
    assert set(load_results(folder).steps.run_id) == {"cd", "gh"}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_damaged_cache_is_passed_over_with_a_note(folder, name):
    before = load_results(folder)
    compact(folder)
    (file,) = (folder / cache.FOLDER).glob(f"{name}-*")
    data = file.read_bytes()
    for damaged in (b"", data[:-9], data[:200] + bytes([data[200] ^ 4]) + data[201:], b"noise"):
        file.write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"{file} is damaged and not used; mupcheck compact {folder} writes it"):
            assert_same(load_results(folder), before)
    file.unlink()
    file.mkdir()
    with pytest.warns(UserWarning, match=f"cannot read {file}"):
        assert_same(load_results(folder), before)
    file.rmdir()
    assert compact(folder).n_new == (4 if name == "runs" else 0)
    assert_same(load_results(folder), before)


def test_a_cache_of_another_version_is_not_used(folder, monkeypatch, opened):
    before = load_results(folder)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "FORMAT", cache.FORMAT + 1)
        compact(folder)
    del opened[:]
    assert_same(load_results(folder), before)
    assert len(opened) == 4 + 4 + 3
    with monkeypatch.context() as patch:  # a column that came later, which the rows' own files have
        patch.setitem(SCHEMAS, "runs", SCHEMAS["runs"].remove(SCHEMAS["runs"].get_field_index("eps")))
        compact(folder)
    assert_same(load_results(folder), before)


def test_a_damaged_run_is_named_and_left_out(folder):
    compact(folder)
    (folder / "steps" / "ab.parquet").write_bytes(b"noise")
    (folder / "runs" / "cd.parquet").write_bytes(b"noise")
    answer = mupcheck("compact", folder, "--json")
    assert answer.code == 4
    (document,) = answer.json
    assert document["n_runs"] == 2
    assert [str(folder / part) in line for part, line in zip(("runs/cd", "steps/ab"), document["damaged"], strict=True)]
    assert str(folder / "runs" / "cd.parquet") in refusal(load_results, folder)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_at_any_point_leaves_the_cache_that_was_or_none(folder, monkeypatch, failing):
    owner = {"fsync": os, "replace": Path}[failing]
    real, failures = getattr(owner, failing), 0
    for had_cache in (False, True):
        for last_good in range(9):
            shutil.rmtree(folder / cache.FOLDER, ignore_errors=True)
            if had_cache:
                compact(folder)
                write_example(folder, "new", lr=last_good)
            expected = load_results(folder)
            calls = iter(range(20))

            def fail_later(*args, calls=calls, last_good=last_good):
                if next(calls) >= last_good:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(*args)

            with monkeypatch.context() as patch:
                patch.setattr(owner, failing, fail_later)
                try:
                    compact(folder)
                except StoreError as error:
                    failures += 1
                    assert "it is only a cache" in str(error) and os.strerror(errno.ENOSPC) in str(error)  # noqa: PT017
            assert not any(TMP_SUFFIX in file for file in files_under(folder))
            assert_same(load_results(folder), expected)
    assert failures == {"fsync": 6 + 6, "replace": 3 + 3}[failing]


def test_readers_and_compactions_beside_a_writer_see_whole_runs(folder):
    before, faults, end = load_results(folder), [], threading.Event()

    def repeated(call):
        while not end.is_set():
            try:
                call()
            except Exception as error:
                faults.append(error)

    def read():
        results = load_results(folder)
        losses = results.steps[results.steps.run_id == "zz"]
        run = results.runs[results.runs.run_id == "zz"]
        assert len(losses) == (len(run) and int(run.steps.iloc[0])) and set(losses.loss) <= set(run.val_loss)
        assert len(results.runs) - len(run) == len(before.runs)

    threads = [threading.Thread(target=repeated, args=(call,)) for call in (read, lambda: compact(folder))]
    for thread in threads:
        thread.start()
    for n in range(60):
        write_run(folder, example_run("zz", steps=n % 7, val_loss=float(n)), example_steps(n % 7, loss=float(n)))
    end.set()
    for thread in threads:
        thread.join()
    assert faults == []


def test_a_run_that_stays_at_odds_with_its_steps_is_refused(folder):
    (folder / "steps" / "cd.parquet").unlink()
    assert "cd.parquet is missing" in refusal(load_results, folder)


def test_many_runs_are_compacted_by_themselves(folder, monkeypatch):
    assert compact_many(folder) == ""
    monkeypatch.setattr(module, "MANY", 3)
    assert compact_many(folder) == "", "most of them are read as fast"
    monkeypatch.setattr(module, "REST", 2)
    assert compact_many(folder) == f"{folder}: 4 runs compacted in compact/, so that they load at once"
    assert compact_many(folder) == ""
    shutil.rmtree(folder / cache.FOLDER)
    (folder / cache.FOLDER).touch()
    assert "is not compacted: cannot write" in compact_many(folder)


def test_the_command_says_what_it_wrote_and_what_it_cannot(folder, tmp_path_factory):
    answer = mupcheck("compact", folder)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"{folder}: 4 runs in {folder}/compact, 0.") and answer.out.endswith("MB, 4 new\n")
    empty = tmp_path_factory.mktemp("empty")
    answer = mupcheck("compact", empty)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    shutil.rmtree(folder / cache.FOLDER)
    (folder / cache.FOLDER).touch()
    answer = mupcheck("compact", folder)
    assert (answer.code, answer.err.count("\n")) == (4, 1)
    assert f"cannot write {folder}/compact/" in answer.err


def test_a_note_is_one_line_in_a_terminal(folder):
    compact(folder)
    (file,) = (folder / cache.FOLDER).glob("steps-*")
    file.write_bytes(b"noise")
    command = [sys.executable, "-m", "mupcheck", "check", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert f"{file} is damaged and not used; mupcheck compact {folder} writes it anew\n" in done.stderr
    assert "UserWarning" not in done.stderr
