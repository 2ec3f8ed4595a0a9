"""What is kept of a sweep takes a part of its size, and is judged as the sweep is."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from small_results import files_under, refusal
from tiny_sweeps import HASHES, tiny, tiny_coord, trained

from mupcheck.coordinates.judge import judge
from mupcheck.learning_rates.drift import transfer
from mupcheck.results.reading import load_results, read_sweep
from mupcheck.results.writing import write_sweep

SPEC = importlib.util.spec_from_file_location("keep", Path(__file__).parents[2] / "sweeps" / "keep.py")
keep = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(keep)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    trained(tiny(steps=30, eval_every=7), out, jobs=1)
    trained(tiny_coord(name="check"), out, jobs=1)
    return out


@pytest.fixture(scope="module")
def kept(results, tmp_path_factory):
    out = tmp_path_factory.mktemp("kept")
    for name in ("tiny", "check"):
        keep.keep(results / name, out, rows=5)
    return out


@pytest.fixture(scope="module")
def laid_out(kept, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert [each.name for each in keep.lay_out(kept, out)] == ["check", "tiny"]
    return out


def by(frame, *keys):
    """Return a frame in the order of its keys, which tell its rows apart."""
    assert len(frame) > 0 and not frame.duplicated(list(keys)).any()
    return frame.sort_values(list(keys)).reset_index(drop=True)


def test_it_takes_a_part_of_the_size(results, kept):
    for name in ("tiny", "check"):
        size = sum(each.stat().st_size for each in (results / name).rglob("*.parquet"))
        # what runs have in common is most of them, the more runs the more
        assert (kept / f"{name}.tar.xz").stat().st_size < 0.3 * size


def test_every_row_of_a_run_is_whole_but_for_its_seals(results, laid_out):
    runs = [by(load_results(each).runs.drop(columns=list(HASHES)), "run_id") for each in (results, laid_out)]
    assert runs[0].equals(runs[1]) and set(runs[0]["kind"]) == {"coord", "lr"}


def test_of_steps_there_are_some_the_ends_and_all_with_a_held_out_loss(results, laid_out):
    runs, steps, small = (load_results(results).runs, *(load_results(each).steps for each in (results, laid_out)))
    for run_id, rows in steps[steps["run_id"].isin(runs.loc[runs["kind"] == "lr", "run_id"])].groupby("run_id"):
        left = by(small[small["run_id"] == run_id], "step")
        assert left["step"].to_list() == [0, 6, 7, 13, 14, 20, 22, 27, 29]
        assert left["val_loss"].count() == rows["val_loss"].count() == 5
        assert left.equals(by(rows[rows["step"].isin(left["step"])], "step"))


def test_every_size_is_there_to_its_last_bit(results, laid_out):
    keys = ["run_id", "step", "layer", "site", "kind", "stat"]
    whole, small = (by(load_results(each).coords, *keys) for each in (results, laid_out))
    assert whole.equals(small)


def test_it_is_judged_as_it_was(results, laid_out):
    whole, small = (load_results(each) for each in (results, laid_out))
    for one, other in zip(transfer(whole), transfer(small), strict=True):
        # whether wider is better is told from the steps that are left
        assert one.optima == other.optima and one.sentence == other.sentence and one.how_measured == other.how_measured
    judged, again = judge(whole), judge(small)
    assert len(judged) == len(again) == 2
    for one, other in zip(judged, again, strict=True):
        assert (one.verdict, one.reason, one.findings) == (other.verdict, other.reason, other.findings)
        assert one.how_measured == other.how_measured and one.pooled.equals(other.pooled)


def test_a_smaller_sweep_is_kept_and_asks_for_no_more(results, tmp_path):
    whole = load_results(results / "check").runs
    (table, *_), seeds = sorted(set(whole["parametrization"])), sorted(set(whole["seed"]))
    keep.keep(results / "check", tmp_path / "kept", seeds=len(seeds) - 1, names=[table])
    (folder,) = keep.lay_out(tmp_path / "kept", tmp_path / "out")
    found = load_results(folder)
    chosen = (whole["parametrization"] == table) & (whole["seed"] != seeds[-1])
    assert set(found.runs["run_id"]) == set(whole["run_id"][chosen]) and 0 < chosen.sum() < len(whole)
    (sweep,) = found.sweeps.values()
    assert set(sweep["run_ids"]) == set(found.runs["run_id"]) and sweep["spec"]["parametrizations"] == [table]
    assert set(sweep["spec"]["expect"]) <= {table}
    assert "missing" not in judge(found)[0].reason


def test_a_table_with_more_seeds_keeps_them(results, tmp_path):
    whole = load_results(results / "check").runs
    (name, other), seeds = sorted(set(whole["parametrization"])), sorted(set(whole["seed"]))
    folder = tmp_path / "check"
    shutil.copytree(results / "check", folder)
    sweep = read_sweep(folder)
    said = {"seeds": seeds[:1], "seeds_of": {name: seeds}, "expect": {name: "fail", other: "fail"}}
    write_sweep(folder, sweep | {"spec": sweep["spec"] | said})
    for asked, kept, of_table in ((None, seeds, {name: seeds}), (1, seeds[:1], {})):
        keep.keep(folder, tmp_path / "kept", names=[name], seeds=asked)
        (laid,) = keep.lay_out(tmp_path / "kept", tmp_path / f"out{asked}")
        assert set(load_results(laid).runs["seed"]) == set(kept) and len(seeds) > 1
        spec = read_sweep(laid)["spec"]
        assert (spec["seeds_of"], spec["expect"]) == (of_table, {name: "fail"})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"seeds": 0}, "--seeds is 0; give how many"),
        ({"seeds": -1}, "--seeds is -1; give how many"),
        ({"names": ["gdn-mup", "none"]}, "has no table none; it has sp, gdn-mup"),
    ],
)
def test_what_is_not_there_is_not_kept(results, tmp_path, asked, said):
    with pytest.raises(ValueError, match=said):
        keep.keep(results / "check", tmp_path, **asked)


def test_the_same_results_give_the_same_bytes(results, kept, laid_out, tmp_path):
    for name in ("tiny", "check"):
        assert keep.keep(results / name, tmp_path, rows=5).read_bytes() == (kept / f"{name}.tar.xz").read_bytes()
    before = {name: (laid_out / name).read_bytes() for name in files_under(laid_out)}
    list(keep.lay_out(kept, laid_out))
    assert {name: (laid_out / name).read_bytes() for name in files_under(laid_out)} == before


def test_what_is_damaged_is_not_kept(results, tmp_path):
    shutil.copytree(results / "tiny", tmp_path / "tiny")
    file = next((tmp_path / "tiny" / "steps").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    assert "damaged" in refusal(keep.keep, tmp_path / "tiny", tmp_path / "kept")
    (tmp_path / "tiny" / "sweep.json").unlink()
    assert "sweep.json" in refusal(keep.keep, tmp_path / "tiny", tmp_path / "kept")
    assert "sweep.json" in refusal(keep.keep, results, tmp_path / "kept"), "two sweeps are not one"
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "flipped", "renamed"])
def test_a_damaged_archive_is_refused_in_one_line_and_nothing_is_written(kept, tmp_path, damage):
    data = bytearray((kept / "tiny.tar.xz").read_bytes())
    data[len(data) // 2] ^= 0xFF
    file = tmp_path / ("tini.tar.xz" if damage == "renamed" else "tiny.tar.xz")
    whole = (kept / "tiny.tar.xz").read_bytes()
    broken = {"cut": whole[:-100], "empty": b"", "other": b"no archive" * 99, "flipped": bytes(data), "renamed": whole}
    file.write_bytes(broken[damage])
    said = refusal(list, keep.lay_out(tmp_path, tmp_path / "out"))
    assert said.startswith(f"{file} is damaged (") and said.endswith("; write it again with sweeps/keep.py")
    assert not (tmp_path / "out").exists()


def test_what_it_cannot_do_is_one_line(kept, tmp_path, monkeypatch):
    (tmp_path / "full").write_bytes(b"")
    monkeypatch.setattr(keep, "KEPT", kept)
    for given, said in ((["--lay-out", "full/out"], "cannot write"), (["none"], "none")):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["keep.py", *given])
        with pytest.raises(SystemExit) as ended:
            keep.main()
        assert str(ended.value).startswith("error: ") and said in str(ended.value) and "\n" not in str(ended.value)
