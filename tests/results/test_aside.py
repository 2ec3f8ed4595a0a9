"""A second spec under one name: whoever reads all files of a table reads one sweep, and no run is lost."""

from pathlib import Path

import pandas as pd
import pytest
from small_results import write_example
from tiny_sweeps import files, tiny, tiny_coord, trained

from mupcheck.results.aside import EARLIER, bring_back, kept_runs, set_aside
from mupcheck.results.files import StoreError
from mupcheck.results.leftovers import say_leftovers
from mupcheck.results.reading import load_results

READ = ("runs", "steps", "coords")


def of_pandas(folder):
    return {name: set(pd.read_parquet(folder / name)["run_id"]) for name in READ if (folder / name).exists()}


def test_a_table_on_disk_holds_one_spec_and_the_other_comes_back(tmp_path):
    folder, one, other = tmp_path / "tiny", tiny_coord(seeds=1), tiny_coord(seeds=1, lrs=(2.0**-6,))
    first, _ = trained(one, tmp_path, jobs=1)
    before = files(folder)
    second, _ = trained(other, tmp_path, jobs=1)
    assert of_pandas(folder) == {name: set(second.runs["run_id"]) for name in READ}
    assert kept_runs(folder) == set(first.runs["run_id"]) | set(second.runs["run_id"])
    assert "4 runs of an earlier spec (lr 2^-8), not part of this sweep and not judged, set aside" in say_leftovers(
        folder
    )

    again, progress = trained(one, tmp_path, jobs=1)
    assert progress == []  # nothing is trained twice
    assert of_pandas(folder) == {name: set(first.runs["run_id"]) for name in READ}
    assert before.items() <= files(folder).items()
    pd.testing.assert_frame_equal(again.coords, first.coords)


def test_runs_that_both_ask_for_stay(tmp_path):
    narrow, _ = trained(tiny(widths=(16,)), tmp_path, jobs=1)
    wide, _ = trained(tiny(), tmp_path, jobs=1)
    assert set(narrow.runs["run_id"]) < set(wide.runs["run_id"])
    assert not (tmp_path / "tiny" / EARLIER).exists()
    trained(tiny(widths=(16,)), tmp_path, jobs=1)
    assert of_pandas(tmp_path / "tiny")["runs"] == set(narrow.runs["run_id"])


def failing_after(n_moves):
    """Return a rename that works some times and then no more."""
    left, replace = iter(range(n_moves)), Path.replace

    def fragile(path, target):
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        return replace(path, target)

    return fragile


def test_a_crash_between_two_moves_loses_nothing(tmp_path, monkeypatch):
    for run_id in ("aa", "bb"):
        write_example(tmp_path, run_id)
    names = sorted(path.name for path in tmp_path.rglob("*.parquet"))
    for back in (False, True):
        for n_moves in range(len(names)):
            if back:
                set_aside(tmp_path, keep=())
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", failing_after(n_moves))
                with pytest.raises(StoreError, match=r"cannot move .*No space left"):
                    bring_back(tmp_path, ("aa", "bb")) if back else set_aside(tmp_path, keep=())
            assert kept_runs(tmp_path) == {"aa", "bb"}
            bring_back(tmp_path, ("aa", "bb"))
            assert sorted(path.name for path in tmp_path.rglob("*.parquet")) == names
            assert set(load_results(tmp_path).runs["run_id"]) == {"aa", "bb"}  # each file against its hash
    assert not (tmp_path / EARLIER).exists()
