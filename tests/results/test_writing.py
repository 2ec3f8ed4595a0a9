import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_results import (
    CONTRACT,
    STARTED,
    example_coords,
    example_run,
    example_steps,
    files_under,
    refusal,
    write_example,
)

from mupcheck.results import files
from mupcheck.results.files import StoreError, check_writable
from mupcheck.results.reading import SCHEMA_VERSION, SCHEMAS, finished_runs, load_results
from mupcheck.results.writing import write_run

# Schemas


@pytest.mark.parametrize("name", SCHEMAS)
def test_columns_are_the_contract_s_and_say_their_unit(name):
    columns = CONTRACT[name].split()
    assert SCHEMAS[name].names[: len(columns)] == columns
    assert all(column.endswith("sha256") for column in SCHEMAS[name].names[len(columns) :])
    for field in SCHEMAS[name]:
        assert field.metadata[b"description"]
        is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        assert bool(field.metadata[b"unit"]) == (is_number or pa.types.is_timestamp(field.type)), field.name
        assert field.type not in (pa.float32(), pa.float16()), "judged values keep their 64 bits"


def test_files_carry_the_units(tmp_path):
    write_example(tmp_path)
    field = pq.read_schema(tmp_path / "steps" / "ab.parquet").field("loss")
    assert field.metadata[b"unit"] == b"nats/token"


# Round trips


def test_what_is_read_is_what_was_written(tmp_path):
    write_run(
        tmp_path,
        example_run(lr=0.1 + 0.2, seed=2**40, train_loss=float("nan"), val_loss=float("inf"), diverged_step=3),
        example_steps(3) | {"loss": [float("nan"), float("-inf"), 1 / 3], "val_loss": [None, 2.0, float("nan")]},
        example_coords(2) | {"value": np.array([np.nan, 1e-300])},
    )
    results = load_results(tmp_path)
    run = results.runs.iloc[0]
    assert (run.lr, run.seed, run.val_loss, run.diverged_step) == (0.1 + 0.2, 2**40, float("inf"), 3)
    assert np.isnan(run.train_loss)
    assert pd.isna(run.reason)
    assert pd.isna(run.peak_memory_bytes)
    assert run.started_at == pd.Timestamp(STARTED)
    assert run.schema_version == SCHEMA_VERSION
    np.testing.assert_array_equal(results.steps.loss, [np.nan, -np.inf, 1 / 3])
    np.testing.assert_array_equal(results.coords.value, [np.nan, 1e-300])
    assert list(results.steps.run_id) == ["ab"] * 3
    assert list(results.coords.layer) == [-1, -1]


def test_not_measured_and_not_a_number_stay_apart_on_disk(tmp_path):
    write_run(tmp_path, example_run(), example_steps(2) | {"val_loss": [None, float("nan")]})
    column = pq.read_table(tmp_path / "steps" / "ab.parquet")["val_loss"]
    assert column.null_count == 1
    assert np.isnan(column[1].as_py())


def test_pandas_reads_the_folders_with_the_same_columns_for_every_sweep(tmp_path):
    full = {"reason": "nan", "diverged_step": 3, "clip": 1.0, "peak_memory_bytes": 10}
    for sweep, changes in {"plain": {}, "full": full}.items():
        write_example(tmp_path / sweep, sweep=sweep, **changes)
    for name in SCHEMAS:
        frames = [pd.read_parquet(tmp_path / sweep / name) for sweep in ("plain", "full")]
        assert list(frames[0].columns) == list(frames[1].columns) == SCHEMAS[name].names
    whole = [load_results(tmp_path / sweep).runs for sweep in ("plain", "full")]
    assert list(whole[0].dtypes.items()) == list(whole[1].dtypes.items())


def test_a_run_without_steps_or_coords_is_read(tmp_path):
    write_run(tmp_path, example_run(status="failed"), example_steps(0))
    results = load_results(tmp_path)
    assert (len(results.runs), len(results.steps), len(results.coords)) == (1, 0, 0)
    assert list(results.coords.columns) == SCHEMAS["coords"].names


def test_writing_a_run_again_replaces_it(tmp_path):
    write_example(tmp_path, lr=0.1)
    write_run(tmp_path, example_run(lr=0.2), example_steps(9), example_coords())
    results = load_results(tmp_path)
    assert list(results.runs.lr) == [0.2]
    assert len(results.steps) == 9


# What must not be written


@pytest.mark.parametrize(
    ("run", "steps", "named"),
    [
        ({"width": 64.5}, {}, "runs.width"),
        ({"width": 2**40}, {}, "runs.width"),
        ({"n_params": 2**70}, {}, "runs.n_params"),
        ({"lr": "0.1"}, {}, "runs.lr"),
        ({"data": 3}, {}, "runs.data"),
        ({"device": None}, {}, "runs.device"),
        ({"started_at": STARTED.replace(tzinfo=None)}, {}, "zone"),
        ({"learning_rate": 1.0}, {}, "learning_rate"),
        ({}, {"loss": [1.0]}, "steps.loss: 1 rows"),
        ({}, {"step": [0, None, 2]}, "steps.step"),
        ({}, {"run_id": ["ab", "cd", "ab"]}, "cd"),
    ],
)
def test_values_that_a_column_cannot_hold_are_refused_and_nothing_is_written(tmp_path, run, steps, named):
    message = refusal(write_run, tmp_path, example_run(**run), example_steps() | steps, example_coords())
    assert named in message
    assert files_under(tmp_path) == []


def test_a_missing_column_is_named(tmp_path):
    run = example_run()
    del run["rules_hash"]
    assert "missing columns ['rules_hash']" in refusal(write_run, tmp_path, run, example_steps())


# Whole or not at all


def test_finished_runs_are_the_non_empty_files_under_final_names(tmp_path):
    assert finished_runs(tmp_path / "none") == set()
    write_example(tmp_path, "ab")
    (tmp_path / "runs" / "empty.parquet").touch()
    (tmp_path / "runs" / ".cd.parquet").write_bytes(b"x")
    (tmp_path / "runs" / f".ef.parquet.1-aa{files.TMP_SUFFIX}").write_bytes(b"x")
    assert finished_runs(tmp_path) == {"ab"}


def test_a_file_that_does_not_fit_leaves_nothing(tmp_path):
    # A real refusal by the kernel, in the midst of the third file: the run's row, some 20 kB.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))
    try:
        with pytest.raises(StoreError) as caught:
            write_example(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = str(caught.value)
    assert str(tmp_path / "runs" / "ab.parquet") in message
    assert os.strerror(errno.EFBIG) in message
    assert "\n" not in message
    assert files_under(tmp_path) == []


# Three files are flushed, then three folders; before that the folder that an old row was removed from.
@pytest.mark.parametrize(
    ("failing", "had_run", "points"),
    [("fsync", False, 6), ("fsync", True, 7), ("replace", False, 3), ("replace", True, 3)],
)
def test_a_failure_at_any_point_leaves_an_earlier_result_or_nothing(tmp_path, monkeypatch, failing, had_run, points):
    owner = {"fsync": os, "replace": Path}[failing]
    real = getattr(owner, failing)
    n_failures = 0
    for last_good in range(20):
        folder = tmp_path / str(last_good)
        if had_run:
            write_example(folder, lr=0.1)
        calls = iter(range(20))

        def fail_later(*args, calls=calls, last_good=last_good):
            if next(calls) >= last_good:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(owner, failing, fail_later)
            try:
                write_run(folder, example_run(lr=0.2), example_steps(9), example_coords(9))
            except StoreError as error:
                n_failures += 1
                assert os.strerror(errno.ENOSPC) in str(error)  # noqa: PT017
                assert not any(files.TMP_SUFFIX in file for file in files_under(folder))
                if not had_run:
                    assert files_under(folder) == []
                elif finished_runs(folder):
                    assert list(load_results(folder).runs.lr) == [0.1]
            else:
                assert list(load_results(folder).runs.lr) == [0.2]
                break
    assert n_failures == points


@pytest.mark.parametrize("had_run", [False, True])
def test_between_any_two_changes_of_names_a_reader_sees_a_whole_run_or_none(tmp_path, monkeypatch, had_run):
    folder = tmp_path / "live"
    if had_run:
        write_example(folder, lr=0.1)
    snapshots = []

    def spied(change):
        def change_then_copy(*args):
            change(*args)
            snapshots.append(shutil.copytree(folder, tmp_path / str(len(snapshots))))

        return change_then_copy

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", spied(Path.replace))
        patch.setattr(Path, "unlink", spied(Path.unlink))
        write_run(folder, example_run(lr=0.2), example_steps(9), example_coords(9))
    seen = [list(load_results(snapshot).runs.lr) if finished_runs(snapshot) else [] for snapshot in snapshots]
    assert seen == [[]] * (2 + had_run) + [[0.2]]


def test_killed_writers_leave_only_whole_runs(tmp_path):
    # A process of its own forks the writers: pytest's may have threads, which do not survive a fork.
    packages = (str(Path(files.__file__).parents[2]), str(Path(__file__).parents[1]))
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": os.pathsep.join(packages)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3  # kills
    # Some were killed in the midst of a write, or the test has tested nothing.
    assert torn(tmp_path)
    assert finished_runs(tmp_path) == set(load_results(tmp_path).runs.run_id)


def torn(folder):
    return any(files.TMP_SUFFIX in file for file in files_under(folder))


def kill_writers(folder, seconds=0.8, longest=30.0):
    """Kill writers of the same few runs at random moments, and read everything after each kill.

    It goes on until one was killed in the midst of a write, which takes longer where others use the machine.
    """
    delays = random.Random(0)
    write_example(folder, "0")
    start = time.monotonic()
    kills = 0
    while (passed := time.monotonic() - start) < seconds or (passed < longest and not torn(folder)):
        writer = os.fork()
        if writer == 0:
            try:
                for n in range(10**6):
                    write_run(folder, example_run(f"{n % 3 + 1}"), example_steps(n % 50), example_coords(n % 70))
            finally:
                os._exit(1)
        time.sleep(delays.uniform(0.005, 0.03))
        os.kill(writer, signal.SIGKILL)
        assert os.waitpid(writer, 0)[1] == signal.SIGKILL, "the writer failed before it was killed"
        kills += 1
        load_results(folder)
    print(kills)


def test_temporary_files_are_passed_over_and_removed_after_an_hour(tmp_path):
    write_example(tmp_path, "ab")
    old, young = (tmp_path / "runs" / f".cd.parquet.1-{age}{files.TMP_SUFFIX}" for age in ("old", "young"))
    for file in (old, young):
        file.write_bytes(b"half a file")
    other = tmp_path / "runs" / ".keep"
    other.touch()
    for file in (old, other):
        os.utime(file, (time.time() - 3700,) * 2)
    assert list(load_results(tmp_path).runs.run_id) == ["ab"]
    assert len(pd.read_parquet(tmp_path / "runs")) == 1
    write_example(tmp_path, "ef")
    assert [file.exists() for file in (old, young, other)] == [False, True, True]


# check_writable


def test_check_writable_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path)
    check_writable(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []


def test_check_writable_refuses_what_cannot_be_a_folder(tmp_path):
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for bad in (file, file / "below" / "it", tmp_path / "dangling", tmp_path / ("n" * 300)):
        assert str(bad) in refusal(check_writable, bad)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc, where root itself cannot make a file")
def test_check_writable_tries_rather_than_asks():
    assert "/proc/results" in refusal(check_writable, "/proc/results")


if __name__ == "__main__":
    kill_writers(sys.argv[1])
