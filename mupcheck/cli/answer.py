"""From the folder of a sweep to its answer: judge, print, and return the verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mupcheck.cli.exits import CANNOT_TELL, FAILED, OK
from mupcheck.terminal.console import print_json, say

if TYPE_CHECKING:
    from mupcheck.coordinates.judge import Judgement
    from mupcheck.coordinates.precision import SlopePrecision
    from mupcheck.learning_rates.drift import Transfer
    from mupcheck.learning_rates.precision import Precision
    from mupcheck.results.reading import Results

    Answer = TypeVar("Answer", Judgement, Transfer)


def print_answer(
    folder: Path,
    kind: str,
    *,
    as_json: bool,
    every: bool,
    command: str = "",
    cost: float | None = None,
    target: int | None = None,
    costs: dict[str, str] | None = None,
    precision: Sequence["Precision | SlopePrecision"] = (),
) -> dict[str, str]:
    """Judge a sweep's folder, print the answer, and return the verdict of each parametrization.

    Of a sweep of lrs, `cost` is the tolerance in percent of the loss, `target` a width to predict the best lr for, and
    `costs` takes up the verdict on each parametrization's cost, and `precision` is what the precision check said.

    Where runs are missing that is said first, with the command that completes the sweep: before the page, as the reason
    of what cannot be told for that, and in JSON.
    """
    from mupcheck.results.reading import load_results, n_missing, say_incomplete
    from mupcheck.terminal.prose import print_precision

    judged: list[Any] = []
    if kind == "coord":
        from mupcheck.coordinates.folder import judge_folder

        results, judged = judge_folder(folder)
    else:
        results = load_results(folder, tables=("runs", "steps"))
    troubles = [line for name in results.sweeps if (line := say_incomplete(results, name, command=command))]
    for trouble in troubles:
        say(f"cannot tell: {trouble}")
    if kind == "coord":
        from mupcheck.terminal.judgement_page import as_document, print_judgement

        judgements = [_missing_first(each, results, command) for each in judged]
        if as_json:
            document = as_document(judgements)
            for record in document["summary"]:
                record["missing_runs"] = n_missing(results, record["sweep"])
                record |= _of(precision, record["parametrization"])
                record["planned_runs"] = len(set(results.sweeps.get(record["sweep"], {}).get("run_ids", ())))
            print_json(document)
        else:
            for judgement in judgements:
                print_judgement(judgement, every=every)
            print_precision(precision)
        verdicts = {judgement.parametrization: judgement.verdict for judgement in judgements}
    else:
        from mupcheck.learning_rates.cost import COST_TOLERANCE
        from mupcheck.learning_rates.drift import transfer
        from mupcheck.terminal.transfer_page import as_documents, print_answers

        judged = list(transfer(results, cost=COST_TOLERANCE if cost is None else cost, target=target))
        answers = [_missing_first(each, results, command) for each in judged]
        if costs is not None:
            costs |= {answer.parametrization: answer.cost.verdict for answer in answers}
        if as_json:
            documents = zip(as_documents(answers), answers, strict=True)
            print_json([document | _of(precision, answer.parametrization) for document, answer in documents])
        else:
            print_answers(answers, every=every)
            print_precision(precision)
        verdicts = {answer.parametrization: answer.verdict for answer in answers}
    return _without_pass(verdicts) if troubles else verdicts


def code_of(
    verdicts: Mapping[str, str], expected: Mapping[str, str | None], *, costs: Mapping[str, str] | None, strict: bool
) -> int:
    """Say which verdict is not as expected, and return the exit code of a sweep.

    Args:
        verdicts: of each parametrization; one that is not there cannot be told.
        expected: of each parametrization that was asked for; None is any verdict.
        costs: the verdicts on cost, which decide only where that was asked for; None where it was not.
        strict: whether what cannot be told fails.
    """
    wrong = open_ = False
    for name, want in expected.items():
        verdict = verdicts.get(name, "cannot tell")
        cost = None if costs is None else costs.get(name, "cannot tell")
        open_ |= "cannot tell" in (verdict, cost)
        if want is not None and verdict not in (want, "cannot tell"):
            say(f"{name}: the verdict is {verdict!r}, expected {want!r}")
            wrong = True
        if cost == "costly" and want != "drifts":
            say(f"{name}: the best lr of the smallest width is costly at the largest")
            wrong = True
    if wrong or (open_ and strict):
        return FAILED
    return CANNOT_TELL if open_ else OK


def _of(precision: Sequence["Precision | SlopePrecision"], parametrization: str) -> dict[str, Any]:
    """Return what the precision check said of a parametrization, as its answer carries it in JSON."""
    mine = [asdict(each) for each in precision if each.parametrization == parametrization]
    return {"precision": mine} if mine else {}


def _missing_first(answer: "Answer", results: "Results", command: str) -> "Answer":
    """Return an answer that cannot tell with the runs that its sweep lacks as the first reason, if it lacks any."""
    from mupcheck.results.reading import TO_COMPLETE, say_incomplete

    missing = say_incomplete(results, answer.sweep, command=command)
    if not missing:
        return answer
    lacking, _, how = missing.partition(TO_COMPLETE)
    changes: dict[str, Any] = {}
    if answer.verdict == "cannot tell":
        rest = "" if "missing" in answer.reason else answer.reason
        changes = {"reason": "; ".join(filter(None, (missing, rest))), "next_step": how}
    if hasattr(answer, "missing") and answer.missing:
        changes["missing"] = missing
    if hasattr(answer, "findings"):
        changes["findings"] = tuple(
            replace(each, text=lacking, advice=how) if each.name == "missing runs" else each for each in answer.findings
        )
    return replace(answer, **changes)


def _without_pass(verdicts: dict[str, str]) -> dict[str, str]:
    """Return the verdicts of a sweep that lacks runs: none of its passes or transfers is one."""
    return {name: "cannot tell" if verdict in ("pass", "transfers") else verdict for name, verdict in verdicts.items()}
