"""The caption of a paper's figure, to be pasted: what is drawn, what was found, how it was measured; plain ASCII words.

Percent signs are spelled out, as one begins a comment in LaTeX.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import inf

import pandas as pd

from mupcheck.coordinates.judge import Judgement
from mupcheck.learning_rates.drift import Transfer
from mupcheck.plots.coordinates import MEANING, by_place, place_of
from mupcheck.plots.paper.coordinates import drawn_sites
from mupcheck.plots.paper.layout import called
from mupcheck.plots.paper.losses import LOSSES


def describe_losses(answers: Sequence[Transfer]) -> str:
    """Return the caption of loss against learning rate."""
    optima = [optimum for answer in answers for optimum in answer.optima]
    points = [point for optimum in optima for point in optimum.curve]
    partly = {point.n_diverged < len(point.seed_losses) for point in points if point.n_diverged}
    loss = LOSSES.get(answers[0].loss_name, answers[0].loss_name)
    said = [
        f"{loss.capitalize()} (nats per token) against log2 of the learning rate, a curve for each width.",
        _panels([answer.parametrization for answer in answers]),
        "Small points are seeds, lines their means.",
    ]
    if any(optimum.log2_lr is not None for optimum in optima):
        flagged = any(optimum.flags for optimum in optima if optimum.log2_lr is not None)
        said.append(
            "Diamonds below are the best learning rates with their intervals, a line for each width, the smallest on "
            "top" + ("; open: in doubt." if flagged else ".")
        )
    if partly:
        kinds = {frozenset({True}): "some", frozenset({False}): "all", frozenset({True, False}): "some (x) or all (X)"}
        said.append(f"Crosses above are learning rates at which {kinds[frozenset(partly)]} of the seeds diverged.")
    said += [_sentence(answer.sentence) for answer in answers]
    return _plain([*said, _measured(answers)])


def describe_coordinates(slopes: pd.DataFrame, judgements: Sequence[Judgement], columns: str) -> str:
    """Return the caption of coordinate sizes, with the slope of every panel.

    Args:
        slopes: of one kind and stat, as they are drawn.
        judgements: of the parametrizations.
        columns: "single" or "double", which decides how many sites there is room for.
    """
    kind, stat = slopes["kind"].iloc[0], slopes["stat"].iloc[0]
    rows, left_out = drawn_sites(slopes, columns)
    names = list(dict.fromkeys(slopes["parametrization"]))
    judged = by_place(slopes)
    of_what = ", ".join(dict.fromkeys((kind.replace("_", " "), stat)))
    said = [
        f"Coordinate check: {of_what} ({MEANING[kind]}), log2 against log2, a line for each step.",
        _panels(names),
        "Small points are seeds, lines their means.",
    ]
    if slopes["required_high"].notna().any():
        said.append("Dashed: the slope that is required, through the mean of the step judged; shaded: its tolerance.")
    for row in rows:
        found = (judged.get((name, *place_of(row), row["step"])) for name in names)
        of_each = "; ".join(_slope(slope) for slope in found if slope is not None)
        layer = f"[{row['layer']}]" if row["layer"] >= 0 else ""
        said.append(f"{row['site']}{layer} at step {row['step']}{_requirement(row)}: {of_each}.")
    if left_out:
        said.append(f"Not shown: {', '.join(row['site'] for row in left_out)}.")
    said += [f"{called(each.parametrization)}: {each.verdict}; {each.counted}." for each in judgements]
    return _plain([*said, _measured(judgements)])


def _panels(names: Iterable[str]) -> str:
    """Say which table each panel is of, where a paper calls it otherwise."""
    renamed = [f"{called(name)} is the table {name}" for name in names if called(name) != name]
    return f"Panels: {', '.join(renamed)}." if renamed else ""


def _slope(slope: Mapping) -> str:
    """Return "SP slope +0.52 [+0.50, +0.54], fail"."""
    measured = "none" if pd.isna(slope["slope"]) else f"{slope['slope']:+.2f}"
    if not pd.isna(slope["ci_low"]) and not pd.isna(slope["ci_high"]):
        measured += f" [{slope['ci_low']:+.2f}, {slope['ci_high']:+.2f}]"
    verdict = "not judged" if slope["verdict"] == "info" else slope["verdict"]
    return f"{called(slope['parametrization'])} slope {measured}, {verdict}"


def _requirement(slope: Mapping) -> str:
    """Return " (required 0)", " (required -0.5 to 0)" or " (required at most 0)", "" where nothing is."""
    low, high = slope["required_low"], slope["required_high"]
    if pd.isna(high):
        return ""
    most = f"at most {high:g}" if low == -inf else f"{low:g} to {high:g}"
    return f" (required {high:g})" if low == high else f" (required {most})"


def _measured(answers: Sequence[Transfer] | Sequence[Judgement]) -> str:
    """Say how it was measured: once, where it is the same of all."""
    if len({answer.how_measured for answer in answers}) == 1:
        return f"Measured: {answers[0].how_measured}."
    return " ".join(f"Measured, {called(answer.parametrization)}: {answer.how_measured}." for answer in answers)


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _plain(parts: Iterable[str]) -> str:
    text = " ".join(part for part in parts if part)
    return text.replace("%", " percent").replace("μ", "mu") + "\n"
