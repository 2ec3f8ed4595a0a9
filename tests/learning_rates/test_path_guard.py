"""A learning-rate sweep whose backend is not what the reference computes says neither transfers nor drifts."""

from dataclasses import asdict

import pandas as pd
import pytest
from planted_curves import LRS, judge, sweep

from mupcheck.results.reading import Results

DEPARTURE = {"what": "gradient of v", "width": 32, "layer": 0, "tokens": 48, "error": 0.5, "factor": 0.5}
DEPARTURE |= {"first": 0, "last": 47, "chunks": [1, 1, 1]}


def answered(runs, **changes):
    """Return the answer on runs whose sweep.json has an entry on the path, none where `changes` is empty."""
    entry = {"backend": "chunk", "dtype": "float32", "error": 3e-7, "tolerance": 1e-5, "departures": []}
    entry |= {"compared": [{"width": 32, "tokens": n} for n in (48, 165)], "run_ids": ["run0"]}
    entry |= {"device": "cpu", "torch": "2.13.0", "commit": None} | changes
    spec = {"widths": sorted(set(runs["width"])), "seeds": sorted(set(runs["seed"])), "lrs": (2.0**LRS).tolist()}
    resolved = {"spec": spec, "run_ids": list(runs["run_id"])} | ({"path": [entry]} if changes else {})
    return judge(Results(runs, pd.DataFrame(), pd.DataFrame(), {"s": resolved}))


@pytest.mark.parametrize(("drift", "verdict"), [(0.0, "transfers"), (-1.0, "drifts")])
def test_a_wrong_path_decides_nothing_and_a_right_one_changes_nothing(drift, verdict):
    runs = sweep(drift, noise=0.01, centre=-5.5)
    without, right = answered(runs), answered(runs, departures=[])
    assert without.verdict == right.verdict == verdict
    assert (right.reason, right.next_step, right.notes) == (without.reason, without.next_step, without.notes)
    assert right.how_measured == (
        f"{without.how_measured}, chunk agrees with the reference to 3.0e-07 at 48 and 165 tokens"
    )
    assert asdict(right)["measured"]["path"] == "chunk agrees with the reference to 3.0e-07 at 48 and 165 tokens"
    assert without.measured["path"] == ""

    wrong = answered(runs, departures=[DEPARTURE])
    assert wrong.verdict == wrong.cost.verdict == "cannot tell" != without.cost.verdict
    assert wrong.cost.percent == without.cost.percent
    assert wrong.reason == (
        "chunk in float32 is not what the reference computes: gradient of v is 0.5 times the reference's at width 32, "
        "layer 0, tokens 0 to 47 (chunk 1 of 1) of 48; nothing is off at 165 tokens"
    )
    assert "mend the backend" in wrong.next_step
    assert wrong.how_measured.endswith(", chunk is not what the reference computes")


def test_what_could_not_be_told_anyway_is_said_after_it():
    runs = sweep(noise=0.01, seeds=1)
    assert answered(runs).reason.startswith("one seed")
    reason = answered(runs, departures=[DEPARTURE]).reason
    assert reason.startswith("chunk in float32 is not")
    assert reason.endswith(answered(runs).reason)


def test_a_path_that_was_not_compared_or_may_go_wrong_is_a_note():
    lost = answered(sweep(noise=0.01), reason="out of memory", compared=[], error=None)
    assert lost.verdict == "transfers"
    assert "chunk was not compared with the reference: out of memory" in lost.notes
    alike = answered(sweep(noise=0.01), departures=[], strained=[DEPARTURE])
    assert alike.verdict == "transfers"
    assert any("where keys are alike" in note for note in alike.notes)
