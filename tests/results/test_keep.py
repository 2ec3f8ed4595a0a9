"""What is kept of a sweep takes a part of its size and is judged as the sweep is."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from commands import mupcheck
from tiny_sweeps import numbers, tiny, tiny_coord, trained

from mupcheck.results.reading import load_results

SPEC = importlib.util.spec_from_file_location("keep", Path(__file__).parents[2] / "sweeps" / "keep.py")
keep = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(keep)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    trained(tiny(steps=30, eval_every=7), out, jobs=1)
    trained(tiny_coord(name="check"), out, jobs=1)
    return out


def without(name, value):
    """Return JSON without what is called so, at any depth."""
    if isinstance(value, dict):
        return {key: without(name, each) for key, each in value.items() if key != name}
    return [without(name, each) for each in value] if isinstance(value, list) else value


def test_what_was_kept_is_judged_as_it_was(results, tmp_path):
    kept = tmp_path / "kept"
    files = [keep.keep(results / name, kept, rows=5) for name in ("tiny", "check")]
    assert [file.name for file in files] == ["tiny.tar.xz", "check.tar.xz"]
    sizes = [sum(each.stat().st_size for each in (results / name).rglob("*.parquet")) for name in ("tiny", "check")]
    shares = [file.stat().st_size / size for file, size in zip(files, sizes, strict=True)]
    assert max(shares) < 0.3, shares  # what runs have in common is most of them, the more runs the more
    assert [each.name for each in keep.lay_out(kept, tmp_path / "out")] == ["check", "tiny"]
    answers = [mupcheck("check", where, "--json").json for where in (results, tmp_path / "out")]
    # whether wider is better is told from the steps that are left
    whole, small = (without("wider_is_better", answer) for answer in answers)
    assert whole == small and len(whole["groups"]) == 4
    whole, small = load_results(results), load_results(tmp_path / "out")
    for one, other in zip(numbers(whole), numbers(small), strict=True):
        # runs and sizes are whole; of steps there are some
        assert one.equals(other) or "grad_norm" in one
    steps = small.steps[small.steps["run_id"].isin(small.runs.loc[small.runs["kind"] == "lr", "run_id"])]
    of_one = steps[steps["run_id"] == steps["run_id"].iloc[0]]
    assert of_one["step"].to_list() == [0, 6, 7, 13, 14, 20, 22, 27, 29]
    assert of_one["val_loss"].notna().sum() == 5
    merged = steps.merge(whole.steps, on=["run_id", "step"], suffixes=("", "_whole"))
    assert len(merged) == len(steps) and merged["loss"].equals(merged["loss_whole"])


def test_the_same_results_give_the_same_bytes(results, tmp_path):
    one, other = (keep.keep(results / "tiny", tmp_path / name).read_bytes() for name in "ab")
    assert one == other


def test_what_is_damaged_is_not_kept(results, tmp_path):
    shutil.copytree(results / "tiny", tmp_path / "tiny")
    file = next((tmp_path / "tiny" / "steps").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        keep.keep(tmp_path / "tiny", tmp_path / "kept")
