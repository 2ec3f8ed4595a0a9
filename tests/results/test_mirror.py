"""The mirror of a store: the same files, sent in an order that leaves runs whole; nothing damaged is believed."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from faulty_store import register
from fsspec.implementations.memory import MemoryFileSystem
from small_results import example_coords, example_run, example_steps

from mupcheck.results.aside import bring_back, set_aside
from mupcheck.results.files import StoreError, check_writable
from mupcheck.results.reading import finished_runs, load_results
from mupcheck.results.stores import beside
from mupcheck.results.stores.address import check_address, mirror_of, place_of
from mupcheck.results.stores.at_once import at_once
from mupcheck.results.stores.mirror import STATE, open_mirror
from mupcheck.results.stores.pull import pull_results, pull_sweep
from mupcheck.results.stores.push import push, to_send
from mupcheck.results.writing import write_run, write_sweep

ADDRESS = "faulty://bucket/results/s"
RUNS = ("aa", "ab", "ac")


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Return an empty store; this machine is `one`."""
    machine(monkeypatch, tmp_path, "one")
    monkeypatch.setattr("os.fsync", lambda handle: None)  # a loss of power here is not what is tested
    return register()


def machine(monkeypatch, tmp_path, name):
    """Be another machine from here on: one with a mirror of its own."""
    monkeypatch.setenv("MUPCHECK_CACHE", str(tmp_path / name))


def write(run_id, loss=2.5):
    """Train a run, as it were."""
    folder = mirror_of(ADDRESS)
    write_run(folder, example_run(run_id), example_steps(loss=loss), example_coords())
    write_sweep(folder, {"run_ids": list(RUNS)})
    return folder


def tables(path):
    results = load_results(path)
    return [
        frame.sort_values(list(frame)[:6]).reset_index(drop=True)
        for frame in vars(results).values()
        if hasattr(frame, "columns")
    ]


def objects(store):
    return {key.removeprefix("/bucket/results/s/"): value.getvalue() for key, value in store.store.items()}


def damage(store, name, data):
    MemoryFileSystem.pipe_file(store(), f"/bucket/results/s/{name}", data)


# --- addresses --------------------------------------------------------------------------------------------------------


def test_addresses_and_their_mirrors(monkeypatch, tmp_path):
    machine(monkeypatch, tmp_path, "here")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    assert str(place_of("results/lr")) == "results/lr"
    assert str(place_of("file:///tmp/results")) == "/tmp/results"
    assert place_of("s3://bucket/results/") == "s3://bucket/results"
    assert mirror_of("s3://bucket/results/lr") == tmp_path / "here" / "s3" / "bucket" / "results" / "lr"
    inside = mirror_of("s3://bucket/../../../etc/a b?c")
    assert inside.resolve().is_relative_to(tmp_path / "here")
    assert ".." not in inside.parts
    plain = mirror_of("s3://bucket/results")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://elsewhere")
    assert mirror_of("s3://bucket/results") != plain
    monkeypatch.delenv("MUPCHECK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert mirror_of("gs://b/r").parts[:4] == ("/", "cache", "mupcheck", "gs")


def test_a_path_that_is_no_address_imports_nothing():
    code = "import sys; import mupcheck.cli.app, mupcheck.results.reading\n"
    code += (
        "from mupcheck.cli.stores import read_from; read_from('results'); print({'fsspec', 's3fs'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_what_cannot_be_used_is_one_line():
    with pytest.raises(ValueError, match=r"^cannot use nonsense://a/b: Protocol not known: nonsense$"):
        pull_results("nonsense://a/b")
    with pytest.raises(ValueError, match=r"names no bucket; give an address such as s3://bucket/results$"):
        check_address("s3://")


# --- there and back ---------------------------------------------------------------------------------------------------


def test_another_machine_reads_what_one_sent(store, monkeypatch, tmp_path):
    for run_id in RUNS:
        folder = write(run_id)
    push(open_mirror(ADDRESS))
    sent = objects(store)
    assert sent == {name: (folder / name).read_bytes() for name in sent}
    assert len(sent) == 10
    here = tables(folder)
    machine(monkeypatch, tmp_path, "other")
    for address in (ADDRESS, "faulty://bucket/results"):
        for one, other in zip(tables(address), here, strict=True):
            pd.testing.assert_frame_equal(one, other)
    assert store.gets == 10, "what is there already is not fetched again"
    assert to_send(open_mirror(ADDRESS)) == []


def test_nothing_is_sent_twice_and_what_was_not_sent_is(store):
    write("aa")
    push(open_mirror(ADDRESS))
    before = store.changes
    push(open_mirror(ADDRESS))
    assert store.changes == before
    write("ab")
    assert to_send(open_mirror(ADDRESS)) == ["runs/ab.parquet", "sweep.json"]
    (mirror_of(ADDRESS) / STATE).unlink()  # killed before it was taken down: bytes are compared
    pull_sweep(ADDRESS)
    assert to_send(open_mirror(ADDRESS)) == ["runs/ab.parquet"]


def changed(step):
    """Do to the mirror what sweeps do: runs, one again, runs set aside and back."""
    if step == 0:
        for run_id in RUNS:
            write(run_id)
    elif step == 1:
        write("ab", loss=1.5)
    elif step == 2:
        set_aside(mirror_of(ADDRESS), keep={"aa"})
    else:
        bring_back(mirror_of(ADDRESS), RUNS)


@pytest.mark.parametrize("torn", [False, True])
def test_wherever_it_is_cut_what_is_read_is_whole_and_goes_on(store, monkeypatch, tmp_path, torn):
    monkeypatch.setattr("mupcheck.results.stores.at_once.THREADS", 1)
    for n in range(0, 60, 5 if torn else 1):
        store.start()
        machine(monkeypatch, tmp_path, f"{torn} {n}")
        store.torn = torn
        rest, cut = n, False
        for step in range(4):
            changed(step)
            store.fails_after = store.changes + rest
            try:
                push(open_mirror(ADDRESS))
                rest -= store.changes - (store.fails_after - rest)
            except StoreError:
                cut = True
                break
        store.fails_after = None
        machine(monkeypatch, tmp_path, f"{torn} {n} other")
        folder, lines = pull_sweep(ADDRESS)
        assert torn or lines == [], "a put is whole or not at all"
        for place in (folder, folder / "earlier"):
            if finished_runs(place):
                (place / "sweep.json").unlink(missing_ok=True)
                load_results(place)  # raises for whatever is not as it was written
        machine(monkeypatch, tmp_path, f"{torn} {n}")
        for later in range(step if cut else 4, 4):
            if later > step:
                changed(later)
            push(open_mirror(ADDRESS))
        folder = mirror_of(ADDRESS)
        assert finished_runs(folder) == set(RUNS)
        assert objects(store) == {name: (folder / name).read_bytes() for name in objects(store)}
        assert len(objects(store)) == 10
        if not cut:
            break
    assert n > 25, "there are that many calls to be cut at"


# --- what is not believed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["runs/ab.parquet", "steps/ab.parquet", "coords/ab.parquet", "sweep.json"])
def test_what_is_damaged_is_named_and_does_not_get_here(store, monkeypatch, tmp_path, name):
    for run_id in RUNS:
        write(run_id)
    push(open_mirror(ADDRESS))
    whole = objects(store)[name]
    flipped = whole[:9] + bytes([whole[9] ^ 1]) + whole[10:]
    cuts = (whole[:-2], whole[: len(whole) // 2], b"")
    for number, data in enumerate(cuts if name == "sweep.json" else (*cuts, flipped)):
        damage(store, name, data)
        machine(monkeypatch, tmp_path, f"other {number}")
        folder, lines = pull_sweep(ADDRESS)
        assert len(lines) == 1
        assert lines[0].startswith(f"{ADDRESS}/{name} is damaged")
        if name == "sweep.json":
            with pytest.raises(ValueError, match=r"sweep\.json is damaged; run the same sweep again"):
                pull_results(ADDRESS)
        assert finished_runs(folder) == (set(RUNS) if name == "sweep.json" else {"aa", "ac"})
    # the machine that has it whole sends it again
    machine(monkeypatch, tmp_path, "one")
    _, lines = pull_sweep(ADDRESS)
    assert len(lines) == 1
    push(open_mirror(ADDRESS))
    assert objects(store)[name] == whole
    machine(monkeypatch, tmp_path, "last")
    assert pull_sweep(ADDRESS)[1] == []


def test_a_run_under_another_name_is_foreign(store, monkeypatch, tmp_path):
    write("aa")
    push(open_mirror(ADDRESS))
    for table in ("steps", "coords", "runs"):
        store.store[f"/bucket/results/s/{table}/zz.parquet"] = store.store[f"/bucket/results/s/{table}/aa.parquet"]
    machine(monkeypatch, tmp_path, "other")
    folder, lines = pull_sweep(ADDRESS)
    assert finished_runs(folder) == {"aa"}
    assert "runs/zz.parquet is damaged (it does not match its hash or name)" in lines[0]


def test_names_lead_nowhere_else(store, monkeypatch, tmp_path):
    write("aa")
    push(open_mirror(ADDRESS))
    row = store.store["/bucket/results/s/runs/aa.parquet"]
    for name in ("../../runs/aa.parquet", ".hidden/runs/aa.parquet", "runs/.aa.parquet", "runs/x/runs/aa.parquet"):
        store.store[f"/bucket/results/s/{name}"] = row
    machine(monkeypatch, tmp_path, "other")
    folder, lines = pull_sweep(ADDRESS)
    assert lines == []
    assert sorted(file.name for file in folder.parent.rglob("*") if file.is_file()) == sorted(
        [STATE, "aa.parquet", "aa.parquet", "aa.parquet", "sweep.json"]
    )


def test_the_store_is_the_truth_of_what_it_once_had(store, monkeypatch, tmp_path):
    for run_id in RUNS[:2]:
        write(run_id)
    push(open_mirror(ADDRESS))
    write("ac")  # never sent
    del store.store["/bucket/results/s/runs/aa.parquet"]
    folder, _ = pull_sweep(ADDRESS)
    assert finished_runs(folder) == {"ab", "ac"}
    store.store.clear()
    with pytest.raises(ValueError, match=f"there are no results at {ADDRESS} any more"):
        pull_results(ADDRESS)
    assert finished_runs(folder) == {"ac"}
    with pytest.raises(ValueError, match="there are no results at faulty://bucket/other"):
        pull_results("faulty://bucket/other")


# --- beside training --------------------------------------------------------------------------------------------------


def test_an_outage_is_waited_out(store, monkeypatch):
    monkeypatch.setattr(beside, "EVERY", 0.01)
    folder = write("aa")
    with beside.pushing(folder, ADDRESS) as pusher:
        store.fails_after = 0
        write("ab")
        while not (note := pusher.note()):
            pass
        assert note.startswith("finished runs wait here, and training goes on: ")
        assert pusher.note() == ""
        store.fails_after = None
        assert pusher.finish() == ""
    assert {"runs/aa.parquet", "runs/ab.parquet"} <= set(objects(store))


def test_what_cannot_be_sent_is_said_kept_and_sent_by_the_next(store, monkeypatch):
    monkeypatch.setattr(beside, "EVERY", 0.01)
    folder = write("aa")
    with beside.pushing(folder, ADDRESS) as pusher:
        store.fails_after = 0
        write("ab")
        said = pusher.finish(0.1)
    assert said.startswith("2 runs are not in")
    assert str(folder) in said
    assert "does not answer" in said
    assert "\n" not in said
    store.fails_after = None
    pull_sweep(ADDRESS)
    assert finished_runs(folder) == {"aa", "ab"}
    beside.push_now(ADDRESS)
    assert {"runs/aa.parquet", "runs/ab.parquet"} <= set(objects(store))


def test_a_store_that_takes_nothing_is_told_before_training(store):
    folder = write("aa")
    store.fails_after = 0
    with pytest.raises(OSError, match="does not answer: no answer; try again"), beside.pushing(folder, ADDRESS):
        raise AssertionError("trained")


def test_at_once_keeps_order_and_raises_the_first():
    assert at_once(lambda x: x * x, range(50)) == [x * x for x in range(50)]
    assert at_once(str, []) == []
    with pytest.raises(ZeroDivisionError):
        at_once(lambda x: 1 // (x - 7), range(50))


def test_a_folder_that_was_an_address_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"the folder 's3:/bucket/x' is an address, and this takes a path"):
        check_writable(Path("s3://bucket/x"))
    check_writable("c:/x")  # one letter is a drive
