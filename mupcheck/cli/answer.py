"""From the folder of a sweep to its answer: judge, print, and return the verdicts."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mupcheck.terminal.console import print_json, say

if TYPE_CHECKING:
    from mupcheck.results.reading import Results


def print_answer(folder: Path, kind: str, *, as_json: bool, every: bool) -> dict[str, str]:
    """Judge a sweep's folder, print the answer, and return the verdict of each parametrization."""
    from mupcheck.results.reading import load_results

    if kind == "coord":
        from mupcheck.coordinates.judge import judge
        from mupcheck.terminal.judgement_page import as_document, print_judgement

        judgements = judge(load_results(folder, tables=("runs", "coords")))
        if as_json:
            print_json(as_document(judgements))
        else:
            for judgement in judgements:
                print_judgement(judgement, every=every)
        return {judgement.parametrization: judgement.verdict for judgement in judgements}

    from mupcheck.learning_rates.drift import transfer
    from mupcheck.terminal.transfer_page import print_transfer

    results = load_results(folder, tables=("runs", "steps"))
    answers = transfer(results)
    if as_json:
        print_json([asdict(answer) for answer in answers])
    else:
        for answer in answers:
            print_transfer(answer)
    return _without_pass({answer.parametrization: answer.verdict for answer in answers}, _troubles(results))


def _troubles(results: "Results") -> list[str]:
    """Say what of a sweep is not there to be judged."""
    from mupcheck.coordinates.finding import say_missing
    from mupcheck.results.reading import n_missing

    lacking = {name: n_missing(results, name) for name in results.sweeps}
    return [f"{say_missing(n, name)}; run the same command again" for name, n in lacking.items() if n]


def _without_pass(verdicts: dict[str, str], troubles: Sequence[str]) -> dict[str, str]:
    """Return the verdicts, with no pass or transfer where part of the sweep was not there to be judged."""
    for trouble in troubles:
        say(f"cannot tell: {trouble}")
    if not troubles:
        return verdicts
    return {name: "cannot tell" if verdict in ("pass", "transfers") else verdict for name, verdict in verdicts.items()}
