"""What the gate says: of each group, and of a folder as a whole; as records and in words."""

from dataclasses import dataclass
from math import isnan

from mupcheck.coordinates.judge import Judgement
from mupcheck.gate.compare import Comparison
from mupcheck.learning_rates.drift import Transfer
from mupcheck.results.comparable import Group, group_of, title_of

OK, FAILED, CANNOT_TELL = "ok", "failed", "cannot tell"
WORST_FIRST = (FAILED, CANNOT_TELL, OK)
N_LINES = 5  # of a kind that an explanation has


@dataclass(frozen=True)
class Checked:
    """What the gate says of one (sweep, parametrization, optimizer, mode).

    Attributes:
        kind: coord or lr.
        verdict: of the judge: pass, fail or cannot tell; of a learning-rate sweep transfers, drifts or cannot tell.
        expected: the verdict that is a success, None where any is.
        outcome: ok, failed or cannot tell: verdict, expectation and baseline taken together.
        reason: of the outcome, one line.
        drift: since the baseline: same, drifted or cannot tell; None without a baseline.
        comparisons: every judged slope against the baseline's, in the order of its file.
        answer: what the judge returned.
    """

    sweep: str
    parametrization: str
    optimizer: str
    mode: str
    kind: str
    verdict: str
    expected: str | None
    outcome: str
    reason: str
    drift: str | None
    comparisons: tuple[Comparison, ...]
    answer: Judgement | Transfer

    @property
    def group(self) -> Group:
        """Return (sweep, parametrization, optimizer, mode)."""
        return group_of(self)

    @property
    def title(self) -> str:
        """Return the group as a person reads it."""
        return title_of(self)

    @property
    def moved(self) -> list[Comparison]:
        """Return what drifted, what passed and fails now, and what is gone or cannot be told; the farthest first."""
        moved = [each for each in self.comparisons if counts(each)]
        far = {each.key: 0.0 if isnan(each.drift) else abs(each.drift) for each in moved}
        return sorted(moved, key=lambda each: (not each.failed, -far[each.key]))

    @property
    def headline(self) -> str:
        """Say verdict and expectation: "fail, expected pass", "pass, as expected, drifted from the baseline"."""
        said = [self.verdict]
        if self.expected is not None and self.verdict != CANNOT_TELL:
            said.append("as expected" if self.verdict == self.expected else f"expected {self.expected}")
        if self.drift == "drifted":
            said.append("drifted from the baseline")
        elif self.drift == CANNOT_TELL:
            said.append("drift from the baseline unknown")
        return ", ".join(said)


@dataclass(frozen=True)
class Report:
    """What the gate says of a folder.

    Attributes:
        groups: one verdict each.
        missing: what is missing as a whole; each line makes the report `cannot tell`.
        unfit: why the baseline was not compared with; each line makes what did not fail `cannot tell`.
    """

    groups: tuple[Checked, ...]
    missing: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """Return failed if any group failed, else cannot tell if anything is unknown, missing or unfit, else ok."""
        incomplete = bool(self.missing) or bool(self.unfit) or not self.groups
        outcomes = {checked.outcome for checked in self.groups} | ({CANNOT_TELL} if incomplete else set())
        return next(outcome for outcome in WORST_FIRST if outcome in outcomes)

    @property
    def worst_first(self) -> list[Checked]:
        """Return the groups, those that failed first."""
        return sorted(self.groups, key=lambda checked: WORST_FIRST.index(checked.outcome))


def explain(checked: Checked, *, slopes: bool = True) -> list[str]:
    """Return the lines that explain an outcome to who has not read the code; none of what is as it should be.

    Args:
        checked: a group of a report.
        slopes: with the slopes that decided; without where a table shows them.
    """
    if checked.outcome == OK:
        return []
    lines = [f"reason: {checked.reason}"]
    answer = checked.answer
    if isinstance(answer, Judgement) and checked.verdict != checked.expected:
        if slopes:
            lines += [f"slope: {line}" for line in answer.worst[:N_LINES] if line not in checked.reason]
        for finding in (each for each in answer.findings if each.effect != "warning"):
            lines.append(f"{finding.name}: {finding}")
        for cause in answer.causes[:N_LINES]:
            lines.append(f"likely cause: {cause.text} (table row: {cause.row}, exponent off by {cause.change:+g})")
        if answer.next_step:
            lines.append(f"next step: {answer.next_step}")
    elif isinstance(answer, Transfer):
        if answer.drift_text and not checked.reason.startswith("drift"):  # as where runs are missing
            lines.append(answer.drift_text)
        lines += [f"note: {note}" for note in answer.notes[:N_LINES]]
        if answer.next_step:
            lines.append(f"next step: {answer.next_step}")
    if slopes:
        lines += [f"moved: {each.text}" for each in checked.moved[:N_LINES] if each.text not in checked.reason]
    if checked.drift == "drifted":
        lines.append(
            "next step: find the change that moved them; if it is meant, renew the baseline with --update-baseline"
        )
    return lines


def notes(checked: Checked) -> list[str]:
    """Return what is good to know and changes no outcome: the verdict on costs, warnings, other verdicts, new."""
    findings = checked.answer.findings if isinstance(checked.answer, Judgement) else ()
    moved = {each.key for each in checked.moved}
    lines = []
    if isinstance(checked.answer, Transfer) and len(checked.answer.optima) > 1:
        lines.append(f"cost: {checked.answer.cost.verdict}, {checked.answer.cost.reason}")
    for name, texts in {
        "warning": [each.text for each in findings if each.effect == "warning"],
        "other verdict": [each.text for each in checked.comparisons if each.changed and each.key not in moved],
    }.items():
        lines += [f"{name}: {text}" for text in texts[:N_LINES]]
        if len(texts) > N_LINES:
            lines.append(f"{name}: and {len(texts) - N_LINES} more")
    if n_new := sum(each.verdict == "new" for each in checked.comparisons):
        lines.append(f"{n_new} judged slope(s) not in the baseline; --update-baseline adds them")
    return lines


def off_by(slope: float, low: float, high: float) -> float:
    """Return how far a slope is outside its required range, signed; 0 inside, NaN where nothing is required."""
    if isnan(slope) or isnan(high):
        return float("nan")
    return slope - high if slope > high else min(slope - low, 0.0)


def counts(comparison: Comparison) -> bool:
    """Say whether a comparison is more than good to know, as a new slope is."""
    return comparison.failed or comparison.verdict in (CANNOT_TELL, "gone")
