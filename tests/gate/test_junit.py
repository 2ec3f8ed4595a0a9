"""JUnit XML is valid by its schema whatever is in a name, and says failure, error and skipped where they belong."""

from dataclasses import replace
from pathlib import Path

import pytest
from planted_checks import EFFECTIVE, RIGHT, plant, together

from mupcheck.coordinates.finding import Finding
from mupcheck.coordinates.judge import judge
from mupcheck.gate.baseline import store
from mupcheck.gate.check import check_results
from mupcheck.gate.junit import junit_xml, safe

etree = pytest.importorskip("lxml.etree")  # of the test extra; a GPU image may lack it

SCHEMA = etree.XMLSchema(etree.parse(Path(__file__).parents[1] / "junit.xsd"))
WRONG = RIGHT | {(*EFFECTIVE, 1): 0.5}


def parsed(report, **options):
    tree = etree.fromstring(junit_xml(report, **options).encode())
    SCHEMA.assertValid(tree)
    return tree


def results_of(tree):
    """Return the result of every case, by the last part of its classname and its name."""
    return {
        (case.get("classname").rpartition(".")[2], case.get("name")): case[0].tag if len(case) else "passed"
        for case in tree.iter("testcase")
    }


A_PROJ = ("slope", "effective_update rms of a_proj, later steps")


def test_a_pass_has_a_case_for_the_verdict_and_each_judged_slope():
    tree = parsed(check_results(plant()))
    found = results_of(tree)
    assert set(found.values()) == {"passed"}
    assert set(found) == {("verdict", "verdict"), A_PROJ} | {
        ("slope", f"activation rms of residual, {when}") for when in ("step 0", "later steps")
    }, "nothing is required of weight_grad"
    (suite,) = tree
    assert suite.get("name") == "s.gdn-mup (adamw, head-dim)"
    properties = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert properties["widths"] == "32, 64, 128, 256" and properties["verdict"] == "pass"


def test_a_failure_says_why():
    tree = parsed(check_results(plant(WRONG)))
    found = results_of(tree)
    assert found["verdict", "verdict"] == found[A_PROJ] == "failure"
    assert list(found.values()).count("failure") == 2
    for failure in tree.iter("failure"):
        assert "required 0 +- 0.25" in failure.get("message")
    assert next(tree.iter("failure")).text.startswith("reason: ")


def test_an_expected_failure_is_skipped_and_an_unexpected_pass_fails():
    found = results_of(parsed(check_results(plant(WRONG, expect="fail"))))
    assert (found["verdict", "verdict"], found[A_PROJ]) == ("passed", "skipped")
    assert "failure" not in found.values()
    found = results_of(parsed(check_results(plant(expect="fail"))))
    assert (found["verdict", "verdict"], found[A_PROJ]) == ("failure", "passed")


def test_what_cannot_be_told_is_skipped_and_under_strict_an_error():
    report = check_results(plant(noise=2.0))
    assert set(results_of(parsed(report)).values()) == {"skipped"}
    assert set(results_of(parsed(report, strict=True)).values()) == {"error"}
    missing = replace(check_results(plant()), missing=("no run of t is there; run it again",))
    for strict, result in ((False, "skipped"), (True, "error")):
        assert results_of(parsed(missing, strict=strict))["runs", "no run of t is there; run it again"] == result
    known = plant(WRONG, expect="fail")
    known.coords.loc[known.coords["site"] == "residual", "value"] = float("nan")
    found = results_of(parsed(check_results(known), strict=True))
    assert found["slope", "activation rms of residual, step 0"] == "skipped", "what is as expected has no errors"


def test_a_drift_is_a_case_of_its_own():
    then = [store(judgement) for judgement in judge(plant())]
    found = results_of(parsed(check_results(plant(RIGHT | {(*EFFECTIVE, 1): 0.1}), baseline=then)))
    assert found["verdict", "verdict"] == found["baseline", A_PROJ[1]] == "failure"
    assert found[A_PROJ] == "passed"
    assert list(found.values()).count("failure") == 2
    assert sum(part == "baseline" for part, _ in found) == 3, "a slope of which nothing is required is not compared"


def test_findings_are_cases():
    (judgement,) = judge(plant())
    findings = [Finding("eps", effect, "too large", "make it smaller") for effect in ("fail", "cannot tell", "warning")]
    findings = tuple(replace(each, name=f"eps {i}") for i, each in enumerate(findings))
    (checked,) = check_results(plant()).groups
    wrong = replace(checked, verdict="fail", outcome="failed", answer=replace(judgement, findings=findings))
    found = results_of(parsed(replace(check_results(plant()), groups=(wrong,))))
    assert [found["validity", f"eps {i}: too large"] for i in range(3)] == ["failure", "skipped", "skipped"]


def test_the_counts_are_those_of_the_cases():
    report = check_results(
        together(plant(), plant(WRONG, parametrization="sp"), plant(noise=2.0, parametrization="mup"))
    )
    for strict in (False, True):
        tree = parsed(report, strict=strict)
        for element in (tree, *tree):
            tags = {"failures": "failure", "errors": "error", "skipped": "skipped", "tests": "testcase"}
            for attribute, tag in tags.items():
                assert int(element.get(attribute)) == len(list(element.iter(tag)))


NASTY = "<b>&\"'\x00\x1b[31m]]>\ud800\ufffe\u2028 \U0001f600"


def test_no_name_breaks_the_xml():
    report = check_results(plant(WRONG))
    (checked,) = report.groups
    text = junit_xml(replace(report, groups=(replace(checked, parametrization=NASTY, reason=NASTY),)))
    tree = etree.fromstring(text.encode())
    SCHEMA.assertValid(tree)
    shown = tree[0].get("name")
    assert "<b>&\"'\\x00\\x1b[31m]]>\\ud800\\ufffe\u2028 \U0001f600" in shown


@pytest.mark.parametrize("text", ["a\tb", "plain", "é", "\U0001f600"])
def test_what_xml_can_hold_stays(text):
    assert safe(text) == text


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("<failure", "<broken").replace("</failure", "</broken"),
        lambda text: text.replace(' failures="2"', ""),
        lambda text: text.replace('tests="4"', 'tests="many"'),
        lambda text: text.replace(' name="verdict"', ""),
        lambda text: text.replace(", step 0", ", later steps"),
    ],
)
def test_the_schema_can_refuse(damage):
    text = junit_xml(check_results(plant(WRONG)))
    SCHEMA.assertValid(etree.fromstring(text.encode()))
    assert damage(text) != text
    assert not SCHEMA.validate(etree.fromstring(damage(text).encode()))
