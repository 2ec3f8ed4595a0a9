"""What is damaged, foreign or renamed is named and never becomes another number."""

import random
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_results import example_coords, example_run, example_steps, files_under, refusal, without, write_example

from mupcheck.results import reading, writing
from mupcheck.results.files import StoreError
from mupcheck.results.reading import SCHEMA_VERSION, SCHEMAS, finished_runs, load_results, read_sweep
from mupcheck.results.tables import ADDED
from mupcheck.results.writing import write_run, write_sweep

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
    assert file.stat().st_size < 200_000
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


# Columns that came later


def test_a_file_from_before_the_added_columns_is_read_with_null_there(tmp_path):
    write_example(tmp_path, eps=1e-8, mupcheck="1")
    new = load_results(tmp_path).runs
    assert new[["eps", "mupcheck"]].iloc[0].tolist() == [1e-8, "1"]
    without(ADDED, tmp_path)
    old = load_results(tmp_path).runs
    assert list(old.columns) == list(new.columns)
    assert old[list(ADDED)].isna().all(axis=None)
    kept = [name for name in old if name not in ADDED and name != "row_sha256"]
    pd.testing.assert_frame_equal(old[kept], new[kept])


def test_the_seal_of_a_file_from_before_is_still_checked(tmp_path):
    write_example(tmp_path)
    without(ADDED, tmp_path)
    file = tmp_path / "runs" / "ab.parquet"
    table = pq.read_table(file)
    at = table.schema.get_field_index("lr")
    pq.write_table(table.set_column(at, table.schema.field("lr"), pa.array([0.7])), file)
    assert "its row does not match its hash" in refusal(load_results, tmp_path)


def test_a_column_of_the_first_files_must_be_there(tmp_path):
    write_example(tmp_path)
    without(["lr"], tmp_path)
    assert "columns missing: lr" in refusal(load_results, tmp_path)
