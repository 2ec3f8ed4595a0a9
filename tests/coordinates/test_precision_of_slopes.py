"""Whether another dtype moves a slope: a small check in both, and slopes that are moved by hand."""

from dataclasses import replace

import pytest
from tiny_sweeps import tiny_coord, trained

from mupcheck.coordinates.judge import judge
from mupcheck.coordinates.precision import compare_checks, compare_slopes


@pytest.fixture(scope="module")
def in_both(tmp_path_factory):
    out = tmp_path_factory.mktemp("both")
    options = {"widths": (16, 32, 64), "parametrizations": ("gdn-mup",), "seeds": 3, "record": (0, 1)}
    one, _ = trained(tiny_coord(**options), out, jobs=1)
    other, _ = trained(tiny_coord(**options, name="other", dtype="float64"), out, jobs=1)
    return one, other


def test_float64_moves_no_slope_of_float32(in_both):
    (answer,) = compare_checks(*in_both)
    assert (answer.verdict, answer.n_moved) == ("holds", 0)
    assert answer.n_slopes > 50
    assert (answer.dtype, answer.other) == ("float32", "float64")
    assert "float64 moves no slope further than it is known" in answer.sentence


def test_a_slope_that_is_moved_is_found_and_named(in_both):
    (one,), (other,) = map(judge, in_both)
    pooled = other.pooled.copy()
    row = pooled[(pooled["kind"] == "effective_update") & (pooled["site"] == "q_proj")].index[-1]
    pooled.loc[row, "slope"] += 1.5
    answer = compare_slopes(one, replace(other, pooled=pooled))
    assert (answer.verdict, answer.n_moved) == ("moves", 1)
    assert "effective_update" in answer.worst
    assert "q_proj" in answer.worst
    assert "by +1.5" in answer.worst


def test_a_slope_without_an_interval_leaves_it_open(in_both):
    (one,), (other,) = map(judge, in_both)
    row = one.pooled[one.pooled["verdict"] != "info"].index[0]
    pooled = one.pooled.copy()
    pooled.loc[row, "ci_low"] = float("nan")
    assert compare_slopes(replace(one, pooled=pooled), other).verdict == "cannot tell"


def test_checks_that_are_not_the_same_are_refused(in_both):
    one, other = in_both
    with pytest.raises(ValueError, match="both judgements are in float32"):
        list(compare_checks(one, one))
    with pytest.raises(ValueError, match="no two runs"):
        list(compare_checks(one, replace(other, runs=other.runs.assign(seed=99))))
    (mine,), (theirs,) = map(judge, in_both)
    with pytest.raises(ValueError, match="differ in seeds"):
        compare_slopes(mine, replace(theirs, measured=theirs.measured | {"seeds": (7,)}))


def test_of_a_check_that_was_topped_up_the_runs_in_common_are_compared(in_both):
    one, other = in_both
    some = replace(other, runs=other.runs[other.runs["seed"] < 2])
    (answer,) = compare_checks(one, some)
    assert answer.verdict in ("holds", "cannot tell")
