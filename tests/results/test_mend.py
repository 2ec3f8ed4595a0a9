"""Damaged files are set aside, named, and what they held is made anew; files of a newer mupcheck are left alone."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import mupcheck
from small_results import files_under, refusal, write_example
from small_sweeps import HERE, LR, tree
from tiny_sweeps import assert_same, numbers, tiny, tiny_coord, trained

from mupcheck.results import writing
from mupcheck.results.aside import set_aside
from mupcheck.results.compact import compact
from mupcheck.results.files import StoreError
from mupcheck.results.mend import DAMAGED, mend
from mupcheck.results.reading import finished_runs, load_results, read_sweep
from mupcheck.results.tables import SCHEMA_VERSION
from mupcheck.results.writing import write_sweep
from mupcheck.sweep.runner import run_sweep

LAST_DIGIT = 1e-6  # of grad_norm, which depends on the runs beside a run


def cut(file):
    file.write_bytes(file.read_bytes()[:-50])


def flip(file):
    data = bytearray(file.read_bytes())
    data[max(data.find(file.stem.encode()), 0)] ^= 8  # of a value: of a description it would do no harm
    file.write_bytes(data)


def empty(file):
    file.write_bytes(b"")


def noise(file):
    file.write_bytes(b"noise")


def other_run(file):
    file.write_bytes(next(other for other in file.parent.iterdir() if other != file).read_bytes())


def gone(file):
    file.unlink()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    results, _ = trained(tiny_coord(seeds=1), out, jobs=1)
    return {name: data for name, data in tree(out).items() if data is not None}, results


@pytest.fixture
def out(made, tmp_path):
    for name, data in made[0].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "harm", "compacted"),
    [
        *(("runs", cut, False), ("runs", flip, False), ("runs", other_run, False), ("steps", flip, False)),
        *(("steps", gone, False), ("coords", empty, False), ("runs", flip, True), ("coords", other_run, True)),
    ],
)
def test_a_damaged_run_is_named_set_aside_and_trained_again(made, out, name, harm, compacted):
    folder = out / "tiny"
    if compacted:
        compact(folder)
    file = sorted((folder / name).iterdir())[0]
    harm(file)
    if not compacted or name == "runs":
        assert str(file) in refusal(load_results, folder)
    with pytest.warns(UserWarning, match=file.name) as said:
        results, progress = trained(tiny_coord(seeds=1), out, jobs=1)
    (line,) = (str(each.message) for each in said)
    assert str(file) in line and f"set aside in {folder / DAMAGED}/ and its run is trained anew" in line
    assert progress[-1].runs_finished == 4 and len({each.runs_finished for each in progress}) == 2, "only that one"
    assert_same(numbers(results), numbers(made[1]), rtol=LAST_DIGIT)
    kept = [each for each in ("coords", "runs", "steps") if not (harm is gone and each == name)]
    assert files_under(folder / DAMAGED) == [f"{each}-{file.name}" for each in kept]
    assert mend(folder) == []


def test_what_is_whole_is_left_alone(out):
    before = tree(out)
    assert mend(out / "tiny") == []
    assert tree(out) == before
    compact(out / "tiny")
    assert mend(out / "tiny") == []
    assert mend(out / "not there") == []


def test_a_file_that_was_compacted_and_has_not_changed_is_not_read_again(out, monkeypatch):
    compact(out / "tiny")
    monkeypatch.setattr("mupcheck.results.checked.read_bytes", lambda file: pytest.fail(f"{file} was read"))
    assert mend(out / "tiny") == []


def test_damaged_runs_of_an_earlier_spec_do_not_come_back(out, made):
    folder = out / "tiny"
    set_aside(folder, keep=())
    file = sorted((folder / "earlier" / "steps").iterdir())[0]
    flip(file)
    with pytest.warns(UserWarning, match=rf"earlier/steps/{file.name} is not as it was written"):
        results, _ = trained(tiny_coord(seeds=1), out, jobs=1)
    assert_same(numbers(results), numbers(made[1]), rtol=LAST_DIGIT)


@pytest.mark.parametrize("harm", [cut, flip, noise, empty])
def test_a_damaged_sweep_file_is_set_aside_and_written_anew(made, out, harm):
    file = out / "tiny" / "sweep.json"
    before = read_sweep(out / "tiny")
    harm(file)
    damaged = file.read_bytes()
    assert str(file) in refusal(load_results, out)
    with pytest.warns(UserWarning, match=rf"{file} is .* set aside in {out}/tiny/damaged/ and it is written anew"):
        results, _ = trained(tiny_coord(seeds=1), out, jobs=1)
    assert (out / "tiny" / DAMAGED / "sweep.json").read_bytes() == damaged
    assert read_sweep(out / "tiny").keys() == before.keys()
    assert_same(numbers(results), numbers(made[1]), rtol=LAST_DIGIT)


def test_the_hash_of_a_sweep_file_is_of_its_values(tmp_path):
    write_sweep(tmp_path, {"lrs": [0.1, 2**-8, 1e300], "name": "μP", "by": {"16": None}, "n": 2**60})
    read = read_sweep(tmp_path)
    file = tmp_path / "sweep.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document))
    assert read_sweep(tmp_path) == read, "written another way it says the same"
    file.write_text(json.dumps(document | {"lrs": [0.2]}))
    assert "does not match its hash" in refusal(read_sweep, tmp_path)
    del document["sha256"], document["schema_version"]
    file.write_text(json.dumps(document))
    assert read_sweep(tmp_path) == read, "of an earlier version, which had none"


def test_the_command_names_each_file_and_says_no_more_than_ten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lr.toml").write_text(LR)
    first = mupcheck("run", "lr.toml", *HERE)
    files = sorted(Path("results/lr/steps").iterdir())
    for file in files[:2]:
        flip(file)
    check = mupcheck("check", "results")
    assert (check.code, check.err.count("\n")) == (2, 1)
    assert f"error: {files[0]} is not as it was written" in check.err and "run the sweep again" in check.err
    answer = mupcheck("run", "lr.toml", *HERE)
    assert [str(file) in line for file, line in zip(files[:2], answer.err.splitlines(), strict=False)] == [True] * 2
    assert "lr: 2 of 6 runs to train" in answer.err
    assert (answer.code, answer.out) == (first.code, first.out)
    for at in range(13):
        (Path("results/lr/runs") / f"{at:x}.parquet").write_bytes(b"noise")
    assert mend("results/lr")[-1] == "... and 3 more files, likewise"


def test_nothing_that_was_set_aside_is_written_over(tmp_path):
    for text in (b"one", b"two"):
        write_example(tmp_path)
        (tmp_path / "runs" / "ab.parquet").write_bytes(text)
        mend(tmp_path)
    assert (tmp_path / DAMAGED / "runs-ab.parquet").read_bytes() == b"one"
    assert (tmp_path / DAMAGED / "runs-ab-2.parquet").read_bytes() == b"two"


def test_where_it_cannot_be_moved_that_is_said(tmp_path):
    write_example(tmp_path)
    noise(tmp_path / "runs" / "ab.parquet")
    (tmp_path / DAMAGED).touch()
    with pytest.raises(StoreError, match=rf"cannot move {tmp_path}/runs/ab.parquet to {tmp_path}/damaged: "):
        mend(tmp_path)


# Two versions of mupcheck on one folder


def of_newer_version(folder):
    """Make the run files of a folder a newer mupcheck's: another version, another column, its own hash."""
    for file in (folder / "runs").iterdir():
        table = pq.read_table(file).drop_columns(["row_sha256", "schema_version"])
        table = table.append_column("schema_version", pa.array([SCHEMA_VERSION + 1], pa.int32()))
        table = table.append_column("novelty", pa.array([1.5]))
        seal = writing.row_sha256_of(table.to_pylist()[0])
        pq.write_table(table.append_column("row_sha256", pa.array([seal])), file)


@pytest.mark.parametrize("newer", ["runs", "sweep.json"])
def test_a_folder_of_a_newer_schema_is_refused_in_one_line_and_not_touched(out, monkeypatch, newer):
    folder = out / "tiny"
    if newer == "runs":
        of_newer_version(folder)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(writing, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
            write_sweep(folder, read_sweep(folder) | {"novelty": 1})
    before = tree(out)
    said = f"has schema version {SCHEMA_VERSION + 1}, this mupcheck reads {SCHEMA_VERSION}; update it"
    assert said in refusal(run_sweep, tiny_coord(seeds=1), out=out, device="cpu", jobs=1)
    for command in ("check", "plot", *(("compact",) if newer == "runs" else ())):
        answer = mupcheck(command, out)
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1), command
        assert said in answer.err
    if newer == "sweep.json":
        assert said in refusal(run_sweep, tiny_coord(seeds=1), out=out, device="cpu", jobs=1, fresh=True)
    assert tree(out) == before


def test_another_version_of_the_same_schema_reads_and_goes_on(out, monkeypatch):
    folder = out / "tiny"
    monkeypatch.setattr("mupcheck.results.version.version", lambda: "99.0")
    (folder / "runs" / sorted(finished_runs(folder))[0]).with_suffix(".parquet").unlink()
    results, _ = trained(tiny_coord(seeds=1), out, jobs=1)
    assert len(results.runs) == 4 and mend(folder) == []


def test_refinement_meets_no_damaged_run(tmp_path):
    sweep = tiny(widths=(16,), parametrizations=("sp",), refine=True)
    whole, _ = trained(sweep, tmp_path, jobs=1)
    grid = len(sweep.lrs)
    assert len(whole.runs) > grid
    added = whole.runs[~whole.runs.lr.isin(sweep.lrs)].run_id.iloc[0]
    cut(tmp_path / "tiny" / "runs" / f"{added}.parquet")
    with pytest.warns(UserWarning, match=added):
        again, _ = trained(sweep, tmp_path, jobs=1)
    assert_same(numbers(again), numbers(whole), rtol=LAST_DIGIT)
