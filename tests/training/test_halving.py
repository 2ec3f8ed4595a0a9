"""Which runs halving gives up: those far above the best one of their table and seed, and never the better half."""

import numpy as np
import pytest
from tiny_sweeps import tiny

from mupcheck.training.halving import MARGINS, give_up, is_stopped, rungs

LRS = tuple(2.0**-power for power in (9, 8, 7, 6))


def runs_of(**fields):
    sweep = tiny(widths=(16,), lrs=LRS, seeds=(0,), parametrizations=("sp",), steps=40, halving=True, **fields)
    return sweep.runs(vocab_size=32, data_hash="")


def rows(*ends, steps=20):
    """Losses [step, R] that fall to these ends, flat over their last tenth."""
    return [[5.0 - (5.0 - end) * min(step / (0.8 * steps), 1.0) for end in ends] for step in range(steps)]


def test_off_there_are_no_rungs_and_run_ids_are_what_they_were():
    (plain, *_), (halved, *_) = (
        tiny(widths=(16,), lrs=LRS, steps=40, halving=on).runs(vocab_size=32, data_hash="") for on in (False, True)
    )
    assert rungs(plain) == {}
    assert rungs(halved) == {10: MARGINS[0.25], 20: MARGINS[0.5]}
    assert plain.run_id != halved.run_id  # a run that may be given up is never taken for one that may not


def test_of_the_worse_half_those_beyond_the_margin_are_given_up():
    after = give_up(runs_of(), rows(3.0, 2.0, 2.1, 2.9), [None] * 4, margin=0.3)
    assert [is_stopped(reason) for reason in after] == [True, False, False, True]
    assert after[0] == "stopped: 1.00 nats above lr 2^-8 after 20 steps"


@pytest.mark.parametrize(
    "ends",
    [
        (2.29, 2.0, 2.1, 2.2),  # within the margin
        (2.0, 2.0, 2.0, 2.0),
        (5.0, 2.0, 5.0, 5.0),  # the better half goes on however bad it is, so that a curve is left
    ],
)
def test_what_is_near_the_best_or_of_the_better_half_goes_on(ends):
    after = give_up(runs_of(), rows(*ends), [None] * 4, margin=0.3)
    far = sum(end > 2.3 for end in ends)
    assert sum(map(is_stopped, after)) == min(far, 2)
    assert after[int(np.argmin(ends))] is None


def test_tables_and_seeds_are_not_compared_with_each_other():
    sweep = tiny(widths=(16,), lrs=LRS[:1], seeds=(0, 1), parametrizations=("sp", "mup"), steps=40, halving=True)
    runs = sweep.runs(vocab_size=32, data_hash="")
    assert give_up(runs, rows(2.0, 3.0, 4.0, 5.0), [None] * 4, margin=0.3) == [None] * 4


def test_what_diverged_is_left_as_it_is_and_leads_no_comparison():
    losses = rows(np.nan, 2.0, 2.1, 3.0)
    after = give_up(runs_of(), losses, ["loss or gradient is not finite", None, None, None], margin=0.3)
    assert after == ["loss or gradient is not finite", None, None, after[3]]
    assert is_stopped(after[3])
    assert not is_stopped(after[0])
    assert not is_stopped(None)
