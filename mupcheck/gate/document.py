"""A gate's report as one document of plain values: what `check --json` prints."""

from dataclasses import asdict
from typing import Any

from mupcheck.coordinates.judge import Judgement
from mupcheck.gate.baseline import quantity
from mupcheck.gate.report import Checked, Report, explain, notes, off_by

FIELDS = (
    "sweep", "parametrization", "optimizer", "mode", "kind", "verdict", "expected", "outcome", "reason", "drift",
)  # fmt: skip
OF_THE_JUDGE = ("next_step", "counts", "counted", "worst", "measured", "confidence")


def document(report: Report) -> dict[str, Any]:
    """Return the report as a document: its outcome, and a document for each of its groups."""
    return {
        "outcome": report.outcome,
        "missing": report.missing,
        "unfit": report.unfit,
        "groups": [document_of(checked) for checked in report.groups],
    }


def document_of(checked: Checked) -> dict[str, Any]:
    """Return a group as JSON: what the gate says, what the judge says, and every slope with its drift."""
    document = {name: getattr(checked, name) for name in FIELDS}
    document |= {"title": checked.answer.how_measured, "explanation": explain(checked), "notes": notes(checked)}
    answer = checked.answer
    if not isinstance(answer, Judgement):
        return document | {"transfer": asdict(answer) | {"sentence": answer.sentence}}
    document |= {name: getattr(answer, name) for name in OF_THE_JUDGE}
    document |= {name: [asdict(each) for each in getattr(answer, name)] for name in ("findings", "causes")}
    compared = {each.key: each for each in checked.comparisons}
    pooled = []
    for row in answer.pooled.to_dict("records"):
        row["off_by"] = off_by(row["slope"], row["required_low"], row["required_high"])
        if each := compared.get(quantity(row)):
            row["baseline"] = {"slope": each.baseline, "drift": each.drift, "tolerance": each.tolerance}
            row["baseline"] |= {"verdict": each.verdict, "was": each.was}
        pooled.append(row)
    gone = [each.text for each in checked.comparisons if each.verdict == "gone"]
    return document | {"pooled": pooled, "slopes": answer.slopes.to_dict("records"), "gone": gone}
