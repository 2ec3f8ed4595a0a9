"""Names as codes: they say what text says, and no answer depends on how names are held."""

import numpy as np
import pandas as pd
import pytest
from planted_figures import planted_coords
from planted_gates import planted

from mupcheck.coordinates.coded import NAMES, beside, coded, keys, numbered, places, spelled
from mupcheck.coordinates.slopes import fit_slopes
from mupcheck.coordinates.validity import examine
from mupcheck.theory.parametrization import TABLES


def test_what_is_coded_can_be_spelled_again():
    _, coords = planted_coords()
    names = coded(coords)
    assert all(isinstance(names[name].dtype, pd.CategoricalDtype) for name in NAMES)
    pd.testing.assert_frame_equal(spelled(names), coords)
    pd.testing.assert_frame_equal(spelled(names[::3]), coords[::3])
    pd.testing.assert_frame_equal(spelled(coords), coords)
    assert coded(names).equals(names)


@pytest.mark.parametrize("held", [coded, spelled])
def test_runs_stand_beside_their_rows_as_a_merge_puts_them(held):
    runs, coords = planted_coords()
    some = runs.iloc[[4, 1, 7]]
    found = beside(held(coords), some, ("width", "seed", "parametrization"))
    merged = coords.merge(some[["run_id", "width", "seed", "parametrization"]], on="run_id")
    pd.testing.assert_frame_equal(spelled(found).reset_index(drop=True), merged)
    assert beside(held(coords), runs[:0], ("width",)).empty
    nameless = held(coords.assign(run_id=[None, *coords["run_id"][1:]]))
    assert len(beside(nameless, runs, ("width",))) == len(coords) - 1


@pytest.mark.parametrize("pooled", [False, True])
def test_slopes_and_findings_do_not_depend_on_how_names_are_held(pooled):
    for runs, coords in (planted_coords(0.4, names=("sp", "gdn-mup")), planted(-0.5)):
        text, codes = (fit_slopes(runs, held, pooled=pooled) for held in (coords, coded(coords)))
        pd.testing.assert_frame_equal(text, codes)


def test_findings_do_not_depend_on_how_names_are_held():
    runs, coords = planted_coords()
    alike = coords[coords["run_id"] == runs["run_id"].iloc[0]]
    # seeds that are the same, a weight of zeros, an eps that takes part: something is found
    copies = [alike.assign(run_id=run_id) for run_id in runs["run_id"]]
    low = alike.iloc[:1].assign(kind="diagnostic", stat="o_norm_eps_ratio", site="o_raw", value=2.0)
    nothing = alike.iloc[:1].assign(kind="weight", site="k_proj", value=np.nan)
    coords = pd.concat([*copies, low, nothing], ignore_index=True)
    text, codes = (examine(runs, held, table=TABLES["gdn-mup"]) for held in (coords, coded(coords)))
    assert {"copied seeds", "o_norm eps", "no number"} <= {finding.name for finding in text}
    assert text == codes


@pytest.mark.parametrize("held", [coded, spelled])
@pytest.mark.parametrize("fault", ["none", "a name is missing", "a layer is no integer", "numbers are too far apart"])
def test_rows_are_numbered_as_pandas_groups_them(held, fault):
    _, coords = planted_coords()
    coords = coords.sample(frac=1.0, random_state=0).reset_index(drop=True)
    if fault == "a name is missing":
        coords.loc[3, "site"] = None
    elif fault == "a layer is no integer":
        coords["layer"] = coords["layer"] + 0.5
    elif fault == "numbers are too far apart":
        coords.loc[[0, 1], "step"] = [-(2**60), 2**61]
    rows, columns = held(coords), ["kind", "site", "layer", "step"]
    assert (keys(rows, columns) is None) == (fault != "none")
    numbers, first = numbered(rows, columns)
    groups = coords.groupby(columns)
    assert numbers.tolist() == groups.ngroup().fillna(-1).tolist()
    found = spelled(rows[columns].iloc[first]).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, groups.size().index.to_frame(index=False), check_dtype=False)
    assert first.tolist() == [at[0] for at in map(list, groups.indices.values())]
    assert [at.tolist() for at in places(rows, columns).values()] == [list(at) for at in groups.indices.values()]
    assert list(places(rows, columns)) == list(groups.indices)


def test_no_rows_have_no_numbers():
    _, coords = planted_coords()
    numbers, first = numbered(coords[:0], ["kind", "step"])
    assert not len(numbers)
    assert not len(first)


@pytest.mark.parametrize("held", [coded, spelled])
def test_a_row_without_a_name_is_of_no_quantity(held):
    runs, coords = planted_coords()
    nameless = coords.iloc[-1:].assign(site=None, value=12345.0)
    with_it = fit_slopes(runs, held(pd.concat([coords, nameless], ignore_index=True)))
    pd.testing.assert_frame_equal(with_it, fit_slopes(runs, held(coords)), check_dtype=False)
