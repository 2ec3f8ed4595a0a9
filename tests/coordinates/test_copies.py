"""Widths that are another's, whole or at one site, planted in stored numbers of trained checks."""

from dataclasses import replace
from functools import cache

import pandas as pd
import pytest
from planted_code import SETTINGS, check_of, judged, train_check

from mupcheck.coordinates.copies import copied_seeds, copied_widths


@cache
def trained(optimizer, mode):
    return train_check(optimizer=optimizer, mode=mode)


def copied(results, *, source, target, sites=None):
    """Give the runs of one width the sizes of another's, of all sites or of some."""
    runs = results.runs.sort_values("seed")
    of = {width: list(runs.loc[runs["width"] == width, "run_id"]) for width in (source, target)}
    theirs = dict(zip(of[source], of[target], strict=True))
    chosen = results.coords["site"].isin(sites) if sites else True
    taken = results.coords["run_id"].isin(of[source]) & chosen
    kept = results.coords[~(results.coords["run_id"].isin(of[target]) & chosen)]
    mine = results.coords[taken]
    return replace(results, coords=pd.concat([kept, mine.assign(run_id=mine["run_id"].map(theirs))], ignore_index=True))


@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
def test_a_width_that_is_another_s_is_found(optimizer, mode):
    results = trained(optimizer, mode)
    assert list(copied_widths(check_of(results))) == []
    for source, target in ((32, 64), (64, 32), (64, 128)):
        planted = copied(results, source=source, target=target)
        (finding,) = copied_widths(check_of(planted))
        assert (finding.name, finding.effect) == ("copied width", "fail")
        assert finding.widths == (max(source, target), min(source, target)) and finding.sites == ()
        assert judged(planted).verdict == "fail"


@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
@pytest.mark.parametrize("site", ["q_proj", "residual", "readout", "k_conv1d"])
def test_one_site_that_is_another_width_s_is_named(site, optimizer, mode):
    planted = copied(trained(optimizer, mode), source=64, target=128, sites=[site])
    (finding,) = copied_widths(check_of(planted))
    assert finding.sites == (site,) and finding.widths == (128, 64)
    assert f"the sizes of {site} at width 128 are those at width 64" in finding.text


@pytest.mark.parametrize(
    "changes",
    [
        {"embedding_std": 0.02, "base_width": 64},
        {"lrs": [2.0**-8], "mode": "heads", "seq_len": 4},
        {"readout_std": 0.0},
        {"seeds": 1},
        {"tied": True, "dtype": "bfloat16"},
        {"dtype": "bfloat16", "optimizer": "sgd", "seeds": 3},
    ],
)
def test_what_is_the_same_by_rights_is_no_copy(changes):
    """Adam's steps, norms' outputs, gains and gate scalars are the same numbers at several widths."""
    assert list(copied_widths(check_of(train_check(**changes)))) == []


@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
def test_seeds_that_do_not_reach_the_weights_are_found_though_batches_differ(optimizer, mode):
    results = trained(optimizer, mode)
    assert list(copied_seeds(check_of(results))) == []
    coords = results.coords
    width = coords["run_id"].map(results.runs.set_index("run_id")["width"])
    start = (coords["kind"] == "weight") & (coords["step"] == 0)
    first = coords[start].groupby([width, "site", "layer", "stat"])["value"].transform("first")
    planted = replace(results, coords=coords.assign(value=first.reindex(coords.index).fillna(coords["value"])))
    (finding,) = copied_seeds(check_of(planted))
    assert finding.name == "copied seeds" and "initial weights" in finding.text
    assert judged(planted).verdict != "pass"


def test_a_run_with_two_rows_of_one_quantity_is_refused():
    results = trained(*SETTINGS[0])
    with pytest.raises(ValueError, match=r"two rows of .* of run [0-9a-f]{16}; remove one of them"):
        judged(replace(results, coords=pd.concat([results.coords, results.coords.tail(1)], ignore_index=True)))
