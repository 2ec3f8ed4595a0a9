import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mupcheck.results import files, reading, writing
from mupcheck.results.files import StoreError, check_writable, write_text
from mupcheck.results.reading import SCHEMA_VERSION, SCHEMAS, finished_runs, load_results, read_sweep
from mupcheck.results.writing import write_run, write_sweep

# contract.md, "Files"
CONTRACT = {
    "runs": """schema_version run_id sweep kind parametrization rules_hash optimizer mode width base_width seed lr
        log2_lr weight_decay decay_mode momentum schedule warmup_steps clip clipped_fraction n_layers n_heads head_k_dim
        head_v_dim tied vocab_size batch_size seq_len steps data data_hash dtype backend n_params status diverged_step
        reason train_loss val_loss best_val_loss tokens wall_seconds tokens_per_second peak_memory_bytes device commit
        torch triton python started_at""",
    "steps": "run_id step tokens loss val_loss grad_norm lr_scale",
    "coords": "run_id step layer site kind stat value",
}
STARTED = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)


def example_run(run_id="ab", **changes):
    """A row with a value in every column that must have one."""
    examples = {"string": "x", "double": 0.1, "bool": True, "timestamp[us, tz=UTC]": STARTED}
    row = {f.name: examples.get(str(f.type), 7) for f in SCHEMAS["runs"] if not f.nullable}
    set_by_store = ("schema_version", "steps_sha256", "row_sha256")
    return {k: v for k, v in row.items() if k not in set_by_store} | {"run_id": run_id, "sweep": "s"} | changes


def example_steps(n=3, loss=2.5):
    return {
        "step": np.arange(n),
        "tokens": np.arange(n) * 64,
        "loss": [loss] * n,
        "val_loss": [None] * n,
        "grad_norm": np.ones(n, dtype=np.float32),
        "lr_scale": [1.0] * n,
    }


def example_coords(n=4):
    names = {"site": ["q_proj"] * n, "kind": ["weight"] * n, "stat": ["rms"] * n}
    return names | {"step": [0] * n, "layer": [-1] * n, "value": np.linspace(0, 1, n)}


def write_example(folder, run_id="ab", **changes):
    write_run(folder, example_run(run_id, **changes), example_steps(), example_coords())


def files_under(folder):
    return sorted(str(file.relative_to(folder)) for file in Path(folder).rglob("*") if file.is_file())


def refusal(call, *args, **kwargs):
    """The message of the ValueError, which must be one line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
    package = str(Path(files.__file__).parents[2])
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": package}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3  # kills
    # Some were killed in the midst of a write, or the test has tested nothing.
    assert any(files.TMP_SUFFIX in file for file in files_under(tmp_path))
    assert finished_runs(tmp_path) == set(load_results(tmp_path).runs.run_id)


def kill_writers(folder, seconds=0.8, most=100):
    """Kill writers of the same few runs at random moments, and read everything after each kill."""
    delays = random.Random(0)
    write_example(folder, "0")
    end = time.monotonic() + seconds
    kills = 0
    while kills < most and time.monotonic() < end:
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


# Bad input for load_results


def test_paths_without_runs_are_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "sweep" / "runs").mkdir(parents=True)
    (tmp_path / "sweep" / "runs" / ".a.parquet").touch()
    for path, reason in {"none": "does not exist", "file": "not a folder", "sweep": "no runs", ".": "no runs"}.items():
        message = refusal(load_results, tmp_path / path)
        assert reason in message
        assert str(tmp_path / path) in message
    assert "'run'" in refusal(load_results, tmp_path, tables=("run",))


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "not text", "folder"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    write_example(tmp_path / "good")
    write_example(tmp_path / "s", "cd")
    file = tmp_path / "s" / name / "cd.parquet"
    data = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        misspelt = data.replace(b"run_id", b"\xffun_id")
        damaged = {"truncated": data[:-100], "empty": b"", "text": b"not Parquet\n", "not text": misspelt}
        file.write_bytes(damaged[damage])
    assert str(file) in refusal(load_results, tmp_path)
    if name != "runs":
        assert len(load_results(tmp_path, tables=("runs",)).runs) == 2, "only what is asked for is read"


@pytest.mark.parametrize("name", ["steps", "coords"])
def test_steps_and_coords_that_are_not_the_run_s_are_refused(tmp_path, name):
    write_example(tmp_path, "ab")
    write_run(tmp_path, example_run("cd"), example_steps(9), example_coords(9))
    mine, other = (tmp_path / name / f"{run_id}.parquet" for run_id in ("ab", "cd"))
    shutil.copy(other, mine)
    assert "not as it was written" in refusal(load_results, tmp_path)
    mine.unlink()
    message = refusal(load_results, tmp_path)
    assert f"{mine} is missing" in message
    assert f"delete {tmp_path / 'runs' / 'ab.parquet'}" in message


def rewrite_row(file, **changes):
    """Change a stored row as another tool would, the schema kept but for the columns that change."""
    table = pq.read_table(file)
    for name, value in changes.items():
        field = pa.field(name, pa.array([value]).type)
        at = table.schema.get_field_index(name)
        column = pa.array([value])
        table = table.append_column(field, column) if at < 0 else table.set_column(at, field, column)
    pq.write_table(table, file)


def test_an_edited_or_renamed_row_is_refused(tmp_path):
    write_example(tmp_path)
    file = tmp_path / "runs" / "ab.parquet"
    rewrite_row(file)
    assert len(load_results(tmp_path).runs) == 1, "rewriting alone changes no value"
    rewrite_row(file, val_loss=1.0)
    assert "does not match its hash" in refusal(load_results, tmp_path)
    write_example(tmp_path)
    file.rename(file.with_name("cd.parquet"))
    assert "hash or name" in refusal(load_results, tmp_path, tables=("runs",))


def test_foreign_files_are_named_with_what_they_lack(tmp_path):
    write_example(tmp_path)
    file = tmp_path / "runs" / "foreign.parquet"
    for n_rows in (0, 1, 5, 2_000):
        pq.write_table(pa.table({"colour": ["red"] * n_rows, "lr": [0.1] * n_rows}), file)
        message = refusal(load_results, tmp_path)
        assert str(file) in message
        assert "columns missing: schema_version, run_id" in message or n_rows > reading.MAX_ROWS["runs"]
    shutil.copy(tmp_path / "runs" / "ab.parquet", file)
    rewrite_row(file, lr="0.1")
    assert "lr is string, not double" in refusal(load_results, tmp_path)


def test_a_newer_schema_version_is_refused_and_added_columns_are_not(tmp_path):
    write_example(tmp_path)
    file = tmp_path / "runs" / "ab.parquet"
    table = pq.read_table(file).drop_columns("row_sha256").append_column("added", pa.array([1]))
    seal = writing.row_sha256_of(table.to_pylist()[0])
    pq.write_table(table.append_column("row_sha256", pa.array([seal])), file)
    assert list(load_results(tmp_path).runs.columns) == SCHEMAS["runs"].names
    rewrite_row(file, schema_version=SCHEMA_VERSION + 1)
    pq.write_table(pq.read_table(file).drop_columns("mode"), file)
    assert f"schema version {SCHEMA_VERSION + 1}" in refusal(load_results, tmp_path)


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused_unread(tmp_path, monkeypatch):
    write_example(tmp_path)
    file = tmp_path / "runs" / "aa.parquet"
    pq.write_table(pa.table({name: pa.nulls(10**6) for name in SCHEMAS["runs"].names}), file)
    assert file.stat().st_size < 100_000
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: pytest.fail("was unpacked"))
    assert "1000000 rows" in refusal(load_results, tmp_path)


def test_flipped_bits_never_become_other_numbers(tmp_path):
    write_run(tmp_path, example_run(), example_steps(50), example_coords(50))
    written = load_results(tmp_path)
    flips = random.Random(0)
    unseen_by_default = 0
    messages = []
    for name in ("runs", "steps", "coords"):
        file = tmp_path / name / "ab.parquet"
        data = file.read_bytes()
        values = pq.read_table(file)
        for _ in range(40):
            at = flips.randrange(len(data))
            file.write_bytes(data[:at] + bytes([data[at] ^ 1 << flips.randrange(8)]) + data[at + 1 :])
            try:
                read = getattr(load_results(tmp_path, tables=(name,)), name)
            except ValueError as error:
                messages.append(str(error))
                assert str(file) in messages[-1]
                try:
                    unseen_by_default += not pq.read_table(file).equals(values)
                except (pa.ArrowException, OSError, UnicodeDecodeError):
                    continue
            else:
                # A bit of a description, or of the padding.
                pd.testing.assert_frame_equal(read, getattr(written, name))
        file.write_bytes(data)
    assert unseen_by_default > 0, "the flips were harmless, and the test has tested nothing"
    assert any("CRC" in message for message in messages), "pages have checksums, for readers without the hash too"


# Several sweeps


def test_a_results_folder_gives_all_its_sweeps(tmp_path):
    for name, run_ids in {"first": ("a", "b"), "runs": ("c",)}.items():  # a sweep may be called runs
        write_sweep(tmp_path / name, {"name": name})
        for run_id in run_ids:
            write_example(tmp_path / name, run_id, sweep=name)
    write_sweep(tmp_path / "not-begun", {"name": "not-begun"})
    results = load_results(tmp_path)
    assert list(results.runs.sweep) == ["first", "first", "runs"]
    assert set(results.coords.run_id) == {"a", "b", "c"}
    assert results.sweeps == {"first": {"name": "first"}, "runs": {"name": "runs"}}
    assert list(load_results(str(tmp_path / "runs")).runs.run_id) == ["c"]


def test_tables_not_asked_for_are_empty(tmp_path):
    write_example(tmp_path)
    results = load_results(tmp_path, tables=("coords",))
    assert (len(results.runs), len(results.steps), len(results.coords)) == (1, 0, 4)
    assert results.sweeps == {}


def test_a_run_shared_by_two_sweeps_is_merged_once_and_a_copied_sweep_refused(tmp_path):
    for sweep in ("first", "second"):
        write_example(tmp_path / sweep, sweep=sweep)
    results = load_results(tmp_path)
    assert len(results.runs) == 2
    assert len(results.runs.merge(results.coords, on="run_id")) == 2 * 4
    shutil.copytree(tmp_path / "first", tmp_path / "first-copy")
    message = refusal(load_results, tmp_path)
    assert "first-copy" in message
    assert "same run" in message


# sweep.json


def test_sweep_json_round_trip(tmp_path):
    folder = tmp_path / "new" / "sweep"
    write_sweep(folder, {"widths": [64, 128], "question": "μP?", "clip": None})
    write_sweep(folder, {"widths": [64, 256], "question": "μP?", "clip": None})
    assert read_sweep(folder) == {"widths": [64, 256], "question": "μP?", "clip": None}
    assert files_under(folder) == ["sweep.json"]


def test_a_text_takes_the_place_of_the_file_and_not_of_a_link_to_it(tmp_path):
    link = tmp_path / "link.txt"
    link.symlink_to("sub/real.txt")
    for text in ("first\n", "µP\n"):
        write_text(link, text)
        assert link.is_symlink() and (tmp_path / "sub" / "real.txt").read_bytes() == text.encode()
    assert [file.name for file in (tmp_path / "sub").iterdir()] == ["real.txt"]


def test_a_text_that_cannot_be_written_is_named_as_given_and_leaves_the_old_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text("kept.txt", "old")
    (tmp_path / "folder").mkdir()
    for path in ("folder", "kept.txt/below"):
        with pytest.raises(StoreError, match=rf"^cannot write {path}: .*; give another file$"):
            write_text(path, "new")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(StoreError, match=r"^cannot write kept.txt: No space left on device; give another file$"):
        write_text("kept.txt", "new")
    assert Path("kept.txt").read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "kept.txt"]


def test_bad_sweep_json_is_refused(tmp_path):
    assert "JSON" in refusal(write_sweep, tmp_path, {"lr": float("nan")})
    assert files_under(tmp_path) == []
    assert "sweep.json" in refusal(read_sweep, tmp_path)
    for text in (b'{"name": ', b"[1]", b"\xff"):
        (tmp_path / "sweep.json").write_bytes(text)
        assert str(tmp_path / "sweep.json") in refusal(read_sweep, tmp_path)
    (tmp_path / "sweep.json").unlink()
    (tmp_path / "sweep.json").mkdir()
    with pytest.raises(StoreError, match=r"sweep\.json"):
        write_sweep(tmp_path, {})


if __name__ == "__main__":
    kill_writers(sys.argv[1])


def test_a_sweep_is_the_runs_its_spec_names(tmp_path):
    for run_id in ("old", "new"):
        write_example(tmp_path, run_id)
    assert set(load_results(tmp_path).runs["run_id"]) == {"old", "new"}
    write_sweep(tmp_path, {"run_ids": ["new", "to come"]})
    results = load_results(tmp_path)
    assert list(results.runs["run_id"]) == ["new"]
    assert set(results.steps["run_id"]) == set(results.coords["run_id"]) == {"new"}
    assert finished_runs(tmp_path) == {"old", "new"}
    write_sweep(tmp_path, {"run_ids": ["to come"]})
    assert "no run of the sweep" in refusal(load_results, tmp_path)


def test_a_sweep_file_that_is_not_ours_is_refused(tmp_path):
    write_example(tmp_path)
    (tmp_path / "sweep.json").write_text('{"run_ids": 5}')
    assert "a list of run_ids" in refusal(load_results, tmp_path)
