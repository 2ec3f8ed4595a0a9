"""Whether another dtype moves the best lr, from runs whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from planted_curves import sweep

from mupcheck.learning_rates.precision import compare_precision
from mupcheck.results.reading import Results


def results(runs):
    lr_runs = runs.assign(lr=2.0 ** runs["log2_lr"])
    return Results(lr_runs, pd.DataFrame(), pd.DataFrame(), {})


def both(*, shift=0.0, rounding=0.0, seeds=4, widths=(64,), **options):
    """A sweep in bfloat16, and in float32, where the optimum may lie elsewhere and losses are rounded otherwise."""
    one = sweep(widths=widths, seeds=seeds, **options).assign(dtype="bfloat16", backend="triton")
    other = sweep(widths=widths, seeds=seeds, centre=-6.2 + shift, **options).assign(dtype="float32", backend="triton")
    rng = np.random.default_rng(1)
    for name in ("val_loss", "train_loss"):
        other[name] += rounding * rng.normal(size=len(other))
    return results(one), results(other)


def test_rounding_alone_does_not_move_the_best_lr_further_than_it_is_known():
    (answer,) = compare_precision(*both(rounding=1e-4))
    assert answer.verdict == "holds"
    assert (answer.dtype, answer.other, answer.width, answer.n_pairs) == ("bfloat16", "float32", 64, 32)
    assert abs(answer.shift) < 0.01
    # the seeds' noise, some 0.1 octaves, is in both alike and cancels
    assert answer.ci_high - answer.ci_low < 0.2 * answer.interval
    assert "float32 moves the best lr no further than it is known" in answer.sentence


@pytest.mark.parametrize("shift", [0.6, -0.6])
def test_a_planted_shift_is_found_with_its_sign(shift):
    (answer,) = compare_precision(*both(shift=shift, rounding=1e-4))
    assert answer.verdict == "moves"
    assert answer.shift == pytest.approx(shift, abs=0.1)
    assert answer.ci_low < shift < answer.ci_high
    assert "p at width 64: float32 moves the best lr: by" in answer.sentence


def test_it_cannot_tell_what_rounding_hides():
    # losses that another dtype scatters as far as the curve is deep leave the shift open
    (answer,) = compare_precision(*both(rounding=0.3))
    assert answer.verdict == "cannot tell"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": 1}, "1 seed give no interval"),
        ({"shift": 5.0}, "the optimum in float32 is at the edge of the lr grid"),
    ],
)
def test_it_cannot_tell_without_an_interval_or_beyond_the_grid(options, said):
    (answer,) = compare_precision(*both(**options))
    assert answer.verdict == "cannot tell"
    assert said in answer.reason


def test_widths_that_both_have_are_compared_and_others_left_out():
    one, other = both(widths=(32, 64, 128), rounding=1e-4)
    some = results(other.runs[other.runs["width"] != 64])
    assert [answer.width for answer in compare_precision(one, some)] == [32, 128]


def test_runs_that_differ_in_more_are_refused():
    one, other = both()
    with pytest.raises(ValueError, match="differ in steps"):
        compare_precision(one, results(other.runs.assign(steps=7)))
    with pytest.raises(ValueError, match="one dtype each, and two together, not"):
        compare_precision(one, one)
    with pytest.raises(ValueError, match="no two runs"):
        compare_precision(one, results(other.runs.assign(seed=99)))
