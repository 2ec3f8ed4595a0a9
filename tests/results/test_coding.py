"""Names read as codes are the names as text, coded: the same rows and categories, of files compacted or not."""

import pandas as pd
import pytest
from small_results import example_coords, example_run, example_steps

from mupcheck.coordinates.coded import coded, spelled
from mupcheck.results.coding import NAMES, in_order
from mupcheck.results.compact import compact
from mupcheck.results.reading import load_results
from mupcheck.results.writing import write_run


@pytest.fixture
def folder(tmp_path):
    for at, run_id in enumerate(("ef", "ab", "cd")):
        write_run(tmp_path, example_run(run_id, lr=0.1 * at), example_steps(at + 1), example_coords(2 * at))
    write_run(tmp_path, example_run("gh", diverged_step=3, reason="nan", clip=1.0), example_steps(2))
    return tmp_path


@pytest.mark.parametrize("compacted", ["no run", "every run", "some runs"])
@pytest.mark.parametrize("run_ids", [None, ["ef"], ["gh"]])
def test_coded_rows_are_the_rows_as_text(folder, compacted, run_ids):
    if compacted != "no run":
        compact(folder)
    if compacted == "some runs":
        write_run(folder, example_run("bb"), example_steps(1), example_coords(3))
    plain, read = load_results(folder, run_ids=run_ids), load_results(folder, run_ids=run_ids, coded=True)
    assert not any(isinstance(dtype, pd.CategoricalDtype) for dtype in plain.coords.dtypes)
    assert all(isinstance(read.coords[name].dtype, pd.CategoricalDtype) for name in NAMES["coords"])
    pd.testing.assert_frame_equal(read.coords, coded(plain.coords), check_exact=True)
    pd.testing.assert_frame_equal(spelled(read.coords), plain.coords, check_exact=True)
    for name in ("runs", "steps"):
        pd.testing.assert_frame_equal(getattr(read, name), getattr(plain, name), check_exact=True)


@pytest.mark.parametrize("names", [["b", "a", "b"], ["a", None, "c"], []])
def test_categories_are_in_order_and_each_is_there(names):
    given = pd.Series(pd.Categorical(names, categories=["c", "b", "unused", "a"]))
    expected = pd.Series(names, dtype=object).astype("category")
    made = in_order(given)
    assert made.cat.categories.tolist() == expected.cat.categories.tolist()
    assert made.cat.codes.tolist() == expected.cat.codes.tolist()
