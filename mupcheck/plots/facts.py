"""How the runs of a figure were measured, in one line for its foot: from the results alone, never from the clock."""

import numpy as np
import pandas as pd

from mupcheck.plots.canvas import power_of_two, shorten
from mupcheck.results.comparable import CONFIDENCE, UNKNOWN, is_imported, seeds_text

NAME_CHARACTERS = 40  # of the data, whose name may be a path


def describe_setting(runs: pd.DataFrame) -> str:
    """Return "demo_lr · adamw · head-dim" for runs of one sweep, optimizer and mode, without what is not known."""
    first = runs.iloc[0]
    known = [first[name] for name in ("optimizer", "mode") if first[name] != UNKNOWN]
    return " · ".join([shorten(first["sweep"], NAME_CHARACTERS), *known])


def describe_runs(runs: pd.DataFrame, *, confidence: float = CONFIDENCE) -> str:
    """Return "5 seeds · 60 steps · data stdlib · base width 32 · lr 2⁻⁶ · 90% intervals · mupcheck 0.1.0 · 2026-11-26".

    What is not known, or is not there as in a model of a user's own, is left out.

    Date and version are those of the runs, so the same results say the same whenever they are drawn.

    Args:
        runs: of one sweep, optimizer and mode.
        confidence: of the intervals drawn.
    """
    facts = [seeds_text(runs)]
    if runs["steps"].notna().any():
        facts.append(f"{_spread(runs['steps'])} steps")
    if runs["data"].fillna("").any():
        facts.append(f"data {shorten(str(runs['data'].iloc[0]), NAME_CHARACTERS)}")
    if runs["base_width"].gt(0).any():
        facts.append(f"base width {_spread(runs['base_width'])}")
    if runs["lr"].notna().any():
        facts.append(_lrs(runs["lr"]))
    facts += [f"{confidence:.0%} intervals", "imported" if is_imported(runs) else _versions(runs)]
    if "started_at" in runs and runs["started_at"].notna().any():
        facts.append(f"{runs['started_at'].max():%Y-%m-%d}")
    return " · ".join(facts).replace(" ", "\N{NO-BREAK SPACE}").replace("\N{NO-BREAK SPACE}·\N{NO-BREAK SPACE}", " · ")


def _spread(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _lrs(lrs: pd.Series) -> str:
    """Return "lr 2⁻⁶", or of a grid "lr 2⁻¹⁰ to 2⁻⁴ (7)"."""
    distinct = sorted(set(lrs))
    ends = [_lr(lr) for lr in distinct]
    return f"lr {ends[0]}" if len(ends) == 1 else f"lr {ends[0]} to {ends[-1]} ({len(ends)})"


def _lr(lr: float) -> str:
    power = np.log2(lr)
    return power_of_two(int(power)) if float(power).is_integer() else f"{lr:.3g}"


def _versions(runs: pd.DataFrame) -> str:
    said = sorted(set(runs["mupcheck"].dropna())) if "mupcheck" in runs else []
    return f"mupcheck {', '.join(said) or 'version unknown'}"
