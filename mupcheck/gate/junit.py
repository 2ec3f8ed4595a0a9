"""A gate's report as JUnit XML: a suite per group; a case per verdict, judged slope, finding and compared slope.

The structure is the one that Jenkins and GitLab read (tests/junit.xsd). A slope that fails where the whole is expected
to fail is no failure of the build but skipped, as an expected failure is; so is what cannot be told.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from mupcheck.coordinates.judge import Judgement
from mupcheck.gate.baseline import quantity, quantity_text, store
from mupcheck.gate.report import CANNOT_TELL, FAILED, Checked, Report, explain

# what XML 1.0 has no form for, not even as a reference
NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class _Case:
    """One test case; `result` is passed, failure, error or skipped."""

    part: str
    name: str
    result: str = "passed"
    message: str = ""
    body: str = ""


def junit_xml(report: Report, *, strict: bool = False) -> str:
    """Return a report as JUnit XML.

    Args:
        report: of `check`.
        strict: what cannot be told is an error, and not skipped.
    """
    suites = [
        (f"{checked.sweep}.{checked.title}", _properties(checked), list(_cases(checked, strict)))
        for checked in report.groups
    ]
    if report.missing:
        unknown = "error" if strict else "skipped"
        suites.append(("missing", {}, [_Case("runs", line, unknown, line) for line in report.missing]))
    if report.unfit:
        cases = [
            _Case("baseline", line, "error", f"the baseline was not compared with: {line}") for line in report.unfit
        ]
        suites.append(("baseline", {}, cases))
    root = ElementTree.Element("testsuites", name="mupcheck check")
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for name, properties, cases in suites:
        results = [case.result for case in cases]
        counts = {"tests": len(cases), "failures": results.count("failure"), "errors": results.count("error")}
        counts["skipped"] = results.count("skipped")
        totals = {key: totals[key] + count for key, count in counts.items()}
        suite = ElementTree.SubElement(root, "testsuite", _attributes(name=name, **counts))
        if properties:
            holder = ElementTree.SubElement(suite, "properties")
            for key, value in properties.items():
                ElementTree.SubElement(holder, "property", _attributes(name=key, value=value))
        for case in cases:
            place = _attributes(classname=f"{name}.{case.part}", name=case.name)
            element = ElementTree.SubElement(suite, "testcase", place)
            if case.result != "passed":
                detail = ElementTree.SubElement(element, case.result, _attributes(message=case.message))
                if case.result != "skipped":
                    detail.set("type", case.part)
                    detail.text = safe(case.body or case.message)
    root.attrib |= _attributes(**totals)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _cases(checked: Checked, strict: bool) -> Iterator[_Case]:
    unknown = "error" if strict and checked.outcome == CANNOT_TELL else "skipped"
    result = {FAILED: "failure", CANNOT_TELL: unknown}.get(checked.outcome, "passed")
    yield _Case("verdict", "verdict", result, f"{checked.headline}: {checked.reason}", "\n".join(explain(checked)))
    if isinstance(checked.answer, Judgement):
        # a verdict that is as expected does not become a failure through one of its parts
        wrong = "skipped" if checked.verdict == checked.expected else "failure"
        found = {"pass": "passed", "fail": wrong, "cannot tell": unknown}
        for row in checked.answer.pooled.to_dict("records"):
            if row["verdict"] in found:
                message = f"{row['verdict']}: {row['reason']}"
                yield _Case("slope", quantity_text(quantity(row)), found[row["verdict"]], message)
        for finding in checked.answer.findings:
            result = {"fail": wrong, "cannot tell": unknown}.get(finding.effect, "skipped")
            yield _Case("validity", f"{finding.name}: {finding.text}", result, f"{finding.effect}: {finding}")
    doubtful = {each.key for each in checked.moved if not each.failed}
    for each in checked.comparisons:
        result = "failure" if each.failed else unknown if each.key in doubtful else "passed"
        yield _Case("baseline", each.name, "skipped" if each.verdict == "new" else result, each.text)


def _properties(checked: Checked) -> dict[str, str]:
    properties = {"verdict": checked.verdict, "expected": checked.expected or "any", "outcome": checked.outcome}
    properties["measured"] = checked.answer.how_measured
    if isinstance(checked.answer, Judgement):
        stored = store(checked.answer)
        properties |= stored.settings | {"rules_hash": stored.rules_hash, "measured with": stored.provenance}
    return properties


def _attributes(**values: object) -> dict[str, str]:
    return {name: safe(str(value)) for name, value in values.items()}


def safe(text: str) -> str:
    r"""Write what XML cannot hold as \x1b or \ud800, as a reader of a log knows it."""
    return NO_XML.sub(lambda match: match[0].encode("unicode_escape", "backslashreplace").decode(), text)
