"""What moved since a baseline is found, what did not move is not, and what must not be compared is refused."""

from dataclasses import replace
from math import isnan, nan

import numpy as np
import pytest
from planted_checks import EFFECTIVE, FREE, RESIDUAL, RIGHT, plant

from mupcheck.coordinates.judge import judge
from mupcheck.gate.baseline import store
from mupcheck.gate.compare import DRIFT_TOLERANCE, compare, not_comparable, renew

MOVED = (*EFFECTIVE, "later")


def one(slopes=RIGHT, **changes):
    (judgement,) = judge(plant(slopes, **changes))
    return judgement


def with_slope(key, drift):
    return one(RIGHT | {(*key[:3], int(key[3] == "later")): RIGHT[*key[:3], int(key[3] == "later")] + drift})


def verdicts(judgement, stored):
    return {each.key: each.verdict for each in compare(judgement, stored)}


def test_the_same_results_are_the_same():
    judgement = one()
    comparisons = compare(judgement, store(judgement))
    assert {each.verdict for each in comparisons} == {"same"}
    assert max(abs(each.drift) for each in comparisons) <= 0.0005, "the third decimal of the file"
    assert [each.key for each in comparisons] == [(*RESIDUAL, "0"), (*RESIDUAL, "later"), MOVED]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_drift_is_found_and_nothing_else(sign):
    stored = store(one())
    for drift in (0.5, 0.05, 2 * DRIFT_TOLERANCE):
        found = {each.key: each for each in compare(with_slope(MOVED, sign * drift), stored)}
        assert {key for key, each in found.items() if each.verdict == "drifted"} == {MOVED}
        assert found[MOVED].drift == pytest.approx(sign * drift, abs=0.001)
    assert verdicts(with_slope(MOVED, sign * DRIFT_TOLERANCE / 2), stored)[MOVED] == "same", "rounding does as much"


def test_a_drift_within_the_interval_is_one_all_the_same():
    """With the same seeds the noise is the same, so that its size excuses nothing."""
    stored = store(one(noise=0.2))
    entry = stored.entries[MOVED]
    drift = 0.4 * (entry.ci_high - entry.ci_low) / 2
    assert drift > DRIFT_TOLERANCE
    assert verdicts(one(RIGHT | {(*EFFECTIVE, 1): drift}, noise=0.2), stored)[MOVED] == "drifted"


def test_a_slope_that_theory_does_not_pin_may_move():
    moved = compare(one(RIGHT | {(*FREE, 1): RIGHT[*FREE, 1] + 1.0}), store(one()))
    assert {each.verdict for each in moved} == {"same"}
    assert (*FREE, "later") not in {each.key for each in moved}


def test_a_verdict_that_changed_is_said():
    (each,) = (c for c in compare(with_slope(MOVED, 0.5), store(one())) if c.key == MOVED)
    assert (each.was, each.now) == ("pass", "fail")
    assert each.text.startswith("effective_update rms of a_proj, later steps: +0.49")
    assert each.text.endswith("in the baseline, pass then, fail now")
    (each,) = (c for c in compare(with_slope(MOVED, 0.05), store(one())) if c.key == MOVED)
    assert "then" not in each.text


def test_new_and_gone_slopes_are_told_apart():
    more = RIGHT | {("activation", "rms", "logits", 0): 0.0}
    assert verdicts(one(more), store(one()))["activation", "rms", "logits", "0"] == "new"
    assert verdicts(one(), store(one(more)))["activation", "rms", "logits", "0"] == "gone"


def test_what_has_no_slope_cannot_be_told():
    results = plant()
    coords = results.coords
    coords.loc[(coords["site"] == EFFECTIVE[2]) & coords["run_id"].str.endswith("-256-3"), "value"] = nan
    (broken,) = judge(results)
    assert verdicts(broken, store(one()))[MOVED] == "cannot tell"
    assert verdicts(one(), store(broken))[MOVED] == "cannot tell"
    assert verdicts(broken, store(broken))[MOVED] == "same"
    (each,) = (c for c in compare(broken, store(one())) if c.key == MOVED)
    assert isnan(each.drift) and "no slope now" in each.text


def test_other_seeds_are_compared_by_their_intervals():
    others = {"seeds": tuple(range(4, 12))}
    stored = store(one(noise=0.1, seeds=tuple(range(8))))
    assert set(verdicts(one(noise=0.1, **others), stored).values()) == {"same"}
    assert verdicts(one(RIGHT | {(*EFFECTIVE, 1): 0.5}, noise=0.1, **others), stored)[MOVED] == "drifted"
    noisy = {"noise": 1.0, "seeds": (4, 5, 6)}
    assert set(verdicts(one(**noisy), store(one(noise=1.0))).values()) == {"cannot tell"}


def test_other_seeds_are_rarely_called_a_drift_by_chance():
    """Of 60 pairs of checks that differ by their draws alone, at most one is said to have drifted (nominal: 1%)."""
    rng = np.random.default_rng(0)
    base = one(noise=0.3, seeds=tuple(range(6)))
    alarms = 0
    for trial in range(60):
        # moved by noise of the size that its own interval says
        pooled = base.pooled.assign(
            slope=base.pooled["slope"] + rng.standard_normal(4) * base.pooled["slope_stderr"] * 2**0.5
        )
        pooled = pooled.assign(ci_low=pooled["slope"] - 0.1, ci_high=pooled["slope"] + 0.1)
        again = replace(base, pooled=pooled, measured=base.measured | {"seeds": tuple(range(trial + 6, trial + 12))})
        alarms += "drifted" in verdicts(again, store(base)).values()
    assert alarms <= 1


@pytest.mark.parametrize(
    ("field", "changes", "shown"),
    [
        ("widths", {"widths": (32, 64, 128)}, "32, 64, 128"),
        ("lr", {"lr": 0.5}, "0.5"),
        ("rules_hash", {"rules_hash": "ef56"}, "ef56"),
        ("n_layers", {"n_layers": 2}, "2"),
        ("data", {"data": "stdlib"}, "stdlib"),
        ("data_hash", {"data_hash": "other"}, "other"),
        ("dtype", {"dtype": "float64"}, "float64"),
        ("momentum", {"momentum": 0.9}, "0.9"),
        ("record", {"slopes": {(*key[:3], 2 * key[3]): slope for key, slope in RIGHT.items()}}, "0, 2"),
    ],
)
def test_what_was_measured_in_another_way_is_told_by_the_field_that_differs(field, changes, shown):
    (now,) = judge(plant(**{"slopes": RIGHT} | changes))
    for judgement, stored, theirs in ((now, store(one()), False), (one(), store(now), True)):
        message = not_comparable(judgement, stored, where="b.txt")
        assert message.startswith(f"b.txt has {field} = ")
        assert f"{field} = {shown}" in message if theirs else f"the results have {shown}: " in message
        assert "--update-baseline" in message or "renew" in message
        assert "\n" not in message


def test_seeds_machine_and_versions_may_differ():
    stored = store(one())
    for changes in ({"seeds": (7, 8, 9)}, {"torch": "3.0"}, {"device": "another"}):
        assert not_comparable(one(**changes), stored, where="b.txt") == ""


def test_stdlib_of_another_python_is_named():
    ours, theirs = one(data="stdlib", data_hash="x"), store(one(data="stdlib", data_hash="y"))
    assert "--data synthetic" in not_comparable(ours, theirs, where="b.txt")


def test_renewing_changes_the_lines_that_moved_alone():
    stored = store(one())
    small = DRIFT_TOLERANCE / 2
    renewed = renew(one(RIGHT | {(*EFFECTIVE, 1): 0.2, (*RESIDUAL, 1): small}), stored)
    assert {key for key in stored.entries if renewed.entries[key] != stored.entries[key]} == {MOVED}
    assert renewed.entries[MOVED].slope == pytest.approx(0.2, abs=0.02)
    # measured in another way, every line is another
    other = one(noise=0.1, lr=0.5)
    assert renew(other, stored) == store(other)
    assert renew(other, None) == store(other)
