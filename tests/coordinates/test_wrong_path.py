"""A coordinate check whose backend is not what the reference computes fails; one that was not compared says so."""

import pytest
from planted_checks import RIGHT, plant

from mupcheck.coordinates.judge import judge
from mupcheck.terminal.judgement_page import as_document

DEPARTURE = {"what": "o", "width": 64, "layer": 1, "tokens": 165, "error": 0.31, "first": 64, "last": 164}


def judged(**changes):
    """Return the judgement on a right check whose sweep.json has one entry on the path, or none."""
    results = plant(RIGHT, noise=0.001, mupcheck="0.1.0", commit="ab")
    machine = {"device": "cpu", "torch": "2.13.0", "mupcheck": "0.1.0", "commit": "ab"}
    entry = {"backend": "chunk", "dtype": "float32", "error": 3e-7, "tolerance": 1e-5, "departures": []}
    entry |= {"compared": [{"width": 32, "tokens": 16}, {"width": 32, "tokens": 165}]}
    entry |= {"run_ids": list(results.runs["run_id"][:1]), **machine, **changes}
    if changes.get("backend") != "":
        results.sweeps["s"]["path"] = [entry]
    (judgement,) = judge(results)
    return judgement


def test_a_right_path_is_said_and_changes_nothing():
    with_it, without = judged(), judged(backend="")
    assert with_it.verdict == without.verdict == "pass"
    assert with_it.findings == without.findings
    line = "chunk agrees with the reference to 3.0e-07 at 16 and 165 tokens"
    assert with_it.how_measured == f"{without.how_measured}; {line}"
    assert "reference" not in without.how_measured
    # a baseline compares what is measured: that must not be another for what was checked beside it
    assert with_it.measured == without.measured
    document = as_document([with_it, without])["summary"]
    assert [each["path"] for each in document] == [line, ""]


def test_a_wrong_path_fails_and_says_where():
    found = judged(departures=[DEPARTURE])
    assert found.verdict == "fail"
    (finding,) = [each for each in found.findings if each.name == "path"]
    assert (finding.effect, finding.layers, finding.widths) == ("fail", (1,), (64,))
    assert found.reason.startswith("chunk in float32 is not what the reference computes: o is off by 0.31")
    assert "tokens 64 to 164" in found.reason
    assert "mend the backend" in found.next_step
    assert found.how_measured.endswith("chunk is not what the reference computes")


def test_a_path_that_was_not_compared_is_a_warning():
    found = judged(reason="out of memory", compared=[], error=None)
    assert found.verdict == "pass"
    (finding,) = [each for each in found.findings if each.name == "path"]
    assert (finding.effect, finding.text) == (
        "warning",
        "chunk was not compared with the reference: out of memory",
    )
    assert found.how_measured.endswith(finding.text)


def test_a_path_that_is_wrong_where_keys_are_alike_is_a_warning():
    found = judged(strained=[DEPARTURE])
    assert found.verdict == "pass"
    (finding,) = [each for each in found.findings if each.name == "path"]
    assert finding.effect == "warning"
    assert "where keys are alike" in finding.text
    assert "agrees with the reference" in found.how_measured


@pytest.mark.parametrize("name", ["device", "torch", "mupcheck", "commit"])
def test_a_wrong_path_of_another_machine_or_version_is_not_held_against_runs(name):
    assert judged(departures=[DEPARTURE], **{name: "another"}).verdict == "pass"
