"""What became of planted faults: what the judge said beside a correct check, whether that is the fault, and counts."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mupcheck.coordinates.judge import Judgement, judge
from mupcheck.proof.faults import Fault
from mupcheck.proof.sweeps import KIND, judge_sweep
from mupcheck.results.reading import Results

NAMED = 0.9  # of the faults, so many must be named and not only caught


@dataclass(frozen=True)
class Said:
    """One thing that the judge said: a finding, a cause or the reason.

    Attributes:
        effect: of the finding; "cause" or "reason".
        name: of the finding; the row of the cause.
    """

    effect: str
    name: str
    text: str
    sites: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the judge made of one set of results.

    `verdict` is "refused" where the results do not compare, and "stopped" where the training itself breaks off;
    `numbers` is a hash of all that was measured.
    """

    verdict: str
    said: tuple[Said, ...]
    n_cannot_tell: int
    numbers: str = ""


@dataclass(frozen=True)
class Caught:
    """What became of one fault.

    Attributes:
        verdict: of the judge; "refused" where the results do not compare, "stopped" where the training breaks off.
        said: the likely causes and findings, the first one first.
        caught: whether it failed, or has no verdict where a correct check passes or because of something that a
            correct check lacks; of a harmless change, whether neither is so.
        named: whether the first cause or a finding is the fault's own and says where it is; None where none must.
        n_cannot_tell: slopes without a verdict.
        clean: the verdict of the correct check beside it.
        texts: what was said of it, findings first.
        planted: whether any stored number differs from those of the correct check.
    """

    fault: Fault
    verdict: str
    said: tuple[str, ...]
    caught: bool
    named: bool | None
    n_cannot_tell: int
    clean: str = ""
    texts: tuple[str, ...] = ()
    planted: bool = True

    @property
    def good(self) -> bool:
        """Say whether this is what was expected of the fault."""
        return not self.caught if self.fault.unseen else self.caught


@dataclass(frozen=True)
class Count:
    """What became of the faults of one kind.

    Attributes:
        planted, caught, named: of those that a coordinate check must catch.
        unseen, seen: of those that none can see, and how many it did see.
        harmless, alarms: of changes that change nothing required, and how many failed.
    """

    kind: str
    planted: int
    caught: int
    named: int
    unseen: int
    seen: int
    harmless: int
    alarms: int


@dataclass(frozen=True)
class Repeated:
    """How often `gdn-mup` got which verdict with fresh seeds."""

    optimizer: str
    mode: str
    verdicts: dict[str, int]
    reasons: tuple[str, ...]  # of those that failed


def answer_of(fault: Fault, results: Results, table: str) -> Answer:
    """Judge the runs of one table of a sweep, after what the fault does to their numbers."""
    runs = results.runs[results.runs["parametrization"] == table]
    coords = results.coords[results.coords["run_id"].isin(runs["run_id"])].reset_index(drop=True)
    steps = results.steps[results.steps["run_id"].isin(runs["run_id"])].reset_index(drop=True)
    sweeps = {name: {**resolved, "run_ids": list(runs["run_id"])} for name, resolved in results.sweeps.items()}
    mine = replace(results, runs=runs, coords=coords, steps=steps, sweeps=sweeps)
    if fault.edit:
        mine = fault.edit(mine, fault.where)
    try:
        (judgement,) = judge(mine)
    except ValueError as error:
        return Answer("refused", (Said("fail", "refused", str(error)),), 0, _numbers(mine))
    except Exception as error:
        # numbers that are wrong on purpose may find a hole in the judge
        return Answer("stopped", (Said("fail", "stopped", f"judge: {type(error).__name__}: {error}"),), 0)
    return Answer(judgement.verdict, tuple(_said(judgement)), judgement.counts["cannot tell"], _numbers(mine))


def answer_of_sweep(fault: Fault, results: Results) -> Answer:
    """Judge a planted learning-rate sweep, after what the fault does to its numbers."""
    if fault.edit:
        results = fault.edit(results, fault.where)
    hashed = hashlib.sha256(results.runs.to_csv().encode()).hexdigest()[:16]
    try:
        answer = judge_sweep(results)
    except ValueError as error:
        return Answer("refused", (Said("fail", "refused", str(error)),), 0, hashed)
    notes = tuple(Said("reason", "", text) for text in (answer.reason, answer.next_step, *answer.notes) if text)
    return Answer(answer.verdict, notes, 0, hashed)


def _numbers(results: Results) -> str:
    """Return a hash of the numbers of results; times, and what names the runs, are left out."""
    runs = results.runs.set_index("run_id")
    parts = [runs[["seed", "width", "lr", "batch_size", "data_hash", "n_params"]]]
    for table in (results.coords, results.steps):
        order = table["run_id"].map(runs["width"].astype(str) + "/" + runs["seed"].astype(str))
        parts.append(table.drop(columns="run_id").assign(order=order))
    hashes = [np.sort(pd.util.hash_pandas_object(part, index=False).to_numpy()) for part in parts]
    return hashlib.sha256(np.concatenate(hashes).tobytes()).hexdigest()[:16]


def _said(judgement: Judgement) -> Iterator[Said]:
    """Yield the causes, the findings that count and the reason."""
    for cause in judgement.causes:
        at = {name: tuple(getattr(cause, name, ())) for name in ("sites", "layers", "widths", "steps")}
        yield Said("cause", cause.row, cause.text, **at)
    for finding in judgement.findings:
        if finding.effect != "warning":
            at = {name: getattr(finding, name) for name in ("sites", "layers", "widths", "steps")}
            yield Said(finding.effect, finding.name, finding.text, **at)
    empty = judgement.pooled[(judgement.pooled["verdict"] == "cannot tell") & judgement.pooled["slope"].isna()]
    if len(empty):
        text = f"{empty.iloc[0]['kind']} of {empty.iloc[0]['site']}: {empty.iloc[0]['reason']}"
        yield Said("cannot tell", "no slope", text, tuple(dict.fromkeys(empty["site"])))
    yield Said("reason", "", judgement.reason)


def compare(fault: Fault, answer: Answer, clean: Answer) -> Caught:
    """Hold the answer on a fault against that on a correct check of the same settings."""
    usual = {said.name for said in clean.said if said.effect not in ("cause", "reason")}
    findings = [said for said in answer.said if said.effect not in ("cause", "reason") and said.name not in usual]
    causes = [said for said in answer.said if said.effect == "cause"]
    reason = [said for said in answer.said if said.effect == "reason"]
    told = bool(findings) or any(_is_named(fault, said) for said in reason if fault.named)
    failed = answer.verdict not in ("pass", "cannot tell") and clean.verdict != "fail"
    if fault.kind == KIND:  # there a correct sweep has a verdict, and any other than that is a catch
        failed = clean.verdict == "transfers" and answer.verdict != "transfers"
    # of the same seeds: what a correct check passes and this one does not is the fault's doing
    doubted = clean.verdict == "pass" and answer.verdict == "cannot tell" and not fault.unseen
    caught = failed or doubted or (answer.verdict != "pass" and told)
    if fault.harmless:
        caught = answer.verdict not in ("fail", "refused", "stopped") and not findings
    named = None
    if fault.planted:
        named = caught and any(_is_named(fault, said) for said in (*causes[:1], *findings, *reason))
    texts = tuple(said.text for said in (*findings, *causes, *reason))
    said = tuple(dict.fromkeys(said.name for said in (*causes, *findings))) or texts[:1]
    planted = answer.numbers != clean.numbers or not answer.numbers
    return Caught(fault, answer.verdict, said, caught, named, answer.n_cannot_tell, clean.verdict, texts, planted)


def _is_named(fault: Fault, said: Said) -> bool:
    """Say whether what was said is about the fault: one of its names, and where it is."""
    where, in_words = fault.where, said.effect == "reason" or said.name in ("refused", "stopped")
    by_name = said.name in fault.named or (in_words and any(name in said.text for name in fault.named))
    if said.name == "refused":
        return by_name  # the field that differs says all
    by_name |= not fault.named
    at_site = not where.sites or any(site in said.sites or _word(site, said.text) for site in where.sites)
    at_layer = where.layer is None or where.layer in said.layers or _word(f"layer {where.layer}", said.text)
    at_width = where.width is None or where.width in said.widths or _word(str(where.width), said.text)
    near = range(where.step - 1, where.step + 2)
    at_step = where.step == 1 or any(step in said.steps or _word(f"step {step}", said.text) for step in near)
    return by_name and at_site and at_layer and at_width and at_step


def _word(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def count_kinds(caught: Sequence[Caught]) -> list[Count]:
    """Count by kind, in the order in which the kinds come."""
    counts = []
    for kind in dict.fromkeys(each.fault.kind for each in caught):
        mine = [each for each in caught if each.fault.kind == kind]
        planted = [each for each in mine if each.fault.planted]
        unseen, harmless = [e for e in mine if e.fault.unseen], [e for e in mine if e.fault.harmless]
        numbers = len(planted), sum(each.caught for each in planted), sum(bool(each.named) for each in planted)
        counts.append(
            Count(
                kind,
                *numbers,
                len(unseen),
                sum(e.caught for e in unseen),
                len(harmless),
                sum(not e.caught for e in harmless),
            )
        )
    return counts


def holds(caught: Sequence[Caught], repeated: Sequence[Repeated]) -> bool:
    """Say whether all that can be seen was caught, enough of it named, and no correct check failed."""
    planted = [each for each in caught if each.fault.planted]
    enough = sum(bool(each.named) for each in planted) >= NAMED * len(planted)
    right = all(each.caught for each in caught if not each.fault.unseen) and "fail" not in {c.clean for c in caught}
    return right and enough and not not_planted(caught) and not any(each.reasons for each in repeated)


def not_planted(caught: Sequence[Caught]) -> list[Caught]:
    """Return the faults that changed no number: the code that they patch has moved.

    A kernel's may show in none: the sequences of a coordinate check are short.
    """
    return [each for each in caught if not (each.planted or each.fault.harmless or each.fault.kind == "kernel")]
