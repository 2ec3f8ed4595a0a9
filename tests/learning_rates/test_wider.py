"""Wider is better: found where it holds, found violated where it was planted to be, and left open in noise."""

import numpy as np
import pandas as pd
import pytest

from mupcheck.learning_rates.wider import TENTHS, compare_widths

WIDTHS = (32, 64, 128)
LRS = (-8.0, -7.0, -6.0)
STEPS = 40


def training(gain=0.1, *, n_seeds=4, noise=0.05, shared=0.5, harm=None, widths=WIDTHS, steps=STEPS):
    """Runs and steps whose loss falls by `gain` for every doubling of width; `harm(width, lr, step)` adds to it."""
    rng = np.random.default_rng(7)
    batches = shared * rng.normal(size=(n_seeds, steps + 1))  # what a batch does to every width alike
    runs, rows = [], []
    for width in widths:
        for lr in LRS:
            for seed in range(n_seeds):
                run_id = f"{width}{lr}-{seed}"
                runs.append({"run_id": run_id, "width": width, "log2_lr": lr, "seed": seed, "status": "ok"})
                for step in range(steps + 1):
                    loss = 5.5 if step == 0 else 4 - gain * np.log2(width / 32) + batches[seed, step]
                    loss += noise * rng.normal() + (harm(width, lr, step) if harm else 0)
                    rows.append({"run_id": run_id, "step": step, "loss": loss})
    return pd.DataFrame(runs), pd.DataFrame(rows)


def compare(*made):
    return compare_widths(*made, confidence=0.9)


def test_it_holds_where_it_was_planted_although_batches_differ_by_more():
    found = compare(*training())
    assert (found.verdict, len(found.comparisons)) == ("holds", 2 * len(LRS))
    assert found.share > 0.95
    for comparison in found.comparisons:
        assert not any(comparison.worse)
        assert len(comparison.nats) == len(comparison.better) == TENTHS
        # mean of 4 seeds and 4 steps: 0.05 * sqrt(2) / 4 = 0.018; four of it
        assert comparison.nats == pytest.approx([-0.1] * TENTHS, abs=0.072)
    # step 0, before any training, is the same for all and is not asked
    assert compare(*training(0.5)).share == 1
    # without the batches in common nothing could be said
    runs, steps = training()
    alone = steps.assign(loss=steps["loss"] + np.random.default_rng(0).normal(0, 0.7, len(steps)))
    assert compare(runs, alone).verdict == "cannot tell"


def test_a_violation_is_found_where_it_was_planted():
    def harm(width, lr, step):
        return 0.5 * (width == 128 and lr == -6 and step > STEPS / 2)

    found = compare(*training(harm=harm))
    assert found.verdict == "violated"
    assert found.reason == "the wider model is worse at 128 against 64: 2^-6"
    worse = {(c.narrow, c.log2_lr): c.worse for c in found.comparisons if any(c.worse)}
    assert worse == {(64, -6.0): (False,) * 5 + (True,) * 5}
    (hit,) = [c for c in found.comparisons if any(c.worse)]
    assert hit.share == pytest.approx(0.5, abs=0.1)


def test_runs_recorded_at_unlike_steps_are_compared_at_those_they_share():
    """Losses fall fast at first, so that row by row a run with fewer rows would look far ahead of one with all."""

    def warming(width, lr, step):
        return 3 * np.exp(-step / 5)

    runs, steps = training(harm=warming)
    whole = compare(runs, steps)
    for thin in WIDTHS:
        of_thin = steps["run_id"].isin(runs.loc[runs["width"] == thin, "run_id"])
        found = compare(runs, steps[~of_thin | (steps["step"] % 2 == 0)])
        assert found.verdict == whole.verdict == "holds"
        for one, other in zip(found.comparisons, whole.comparisons, strict=True):
            assert not any(one.worse)
            # half the steps: the mean of 4 seeds and 2 steps differs from that of 4 by 0.05 / 2, four of it
            assert one.nats == pytest.approx(other.nats, abs=0.1)
    # a step written twice counts once
    assert compare(runs, pd.concat([steps, steps.tail(3)])) == whole
    odd = steps["run_id"].str.startswith("64") ^ (steps["step"] % 2 == 0)
    apart = compare(runs, steps[odd])
    assert apart.verdict == "cannot tell"
    assert {c.reason for c in apart.comparisons} == {"runs have no step in common"}


def test_equal_widths_are_neither():
    found = compare(*training(0.0))
    assert found.verdict == "cannot tell"
    assert found.share == pytest.approx(0.5, abs=0.15)
    assert "add seeds" in found.reason


def test_false_calls_are_rare():
    """Of 20 sets of 60 equal tenths few have any call: 90% confidence is meant for all of a set together."""
    calls = 0
    for repeat in range(20):
        runs, steps = training(0.0, shared=0.0, steps=10)
        losses = np.random.default_rng(repeat).normal(4, 0.1, len(steps))
        calls += any(any(c.worse) for c in compare(runs, steps.assign(loss=losses)).comparisons)
    # 20 at 10% each: 2, give or take 1.3; four is two and a half of it above
    assert calls <= 5


def test_a_diverged_run_is_not_compared_and_counts_if_it_is_the_wider_one():
    runs, steps = training()
    gone = (runs["width"] == 64) & (runs["log2_lr"] == -6) & (runs["seed"] == 1)
    found = compare(runs.assign(status=np.where(gone, "diverged", "ok")), steps)
    assert found.verdict == "violated"
    assert found.reason == "the wider model is diverging where the narrower one does not at 64 against 32: 2^-6"
    reasons = {(c.narrow, c.wide, c.log2_lr): c.reason for c in found.comparisons if c.share is None}
    assert reasons == {(32, 64, -6.0): "width 64 diverged", (64, 128, -6.0): "width 64 diverged"}
    narrowest = (runs["width"] == 32) & (runs["log2_lr"] == -6)
    assert compare(runs.assign(status=np.where(narrowest, "diverged", "ok")), steps).verdict == "holds"
    infinite = steps.assign(loss=steps["loss"].where(steps["run_id"] != "128-6.0-0", np.inf))
    assert {c.reason for c in compare(runs, infinite).comparisons} == {"", "width 128 diverged"}


def test_what_cannot_be_compared_says_why():
    runs, steps = training(n_seeds=1)
    assert compare(runs, steps).verdict == "cannot tell"
    runs, steps = training()
    assert "pass the steps table" in compare(runs, None).reason
    assert "pass the steps table" in compare(runs, steps[:0]).reason
    one = compare(runs[runs["width"] == 32], steps)
    assert (one.verdict, one.comparisons) == ("cannot tell", ())
    assert "add widths" in one.reason
    failed = runs.assign(status=np.where(runs["width"] == 64, "failed", "ok"))
    found = compare(failed, steps)
    assert (found.verdict, found.share) == ("cannot tell", None)
    assert {c.reason for c in found.comparisons} == {"no steps of a seed they share"}
    elsewhere = runs.assign(log2_lr=runs["log2_lr"] + (runs["width"] == 64) * 0.5)
    assert "no lr at which two widths finished" in compare(elsewhere, steps).reason
