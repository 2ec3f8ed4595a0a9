"""Which runs belong together: the columns that make a group, and what the shapes of its widths still share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mupcheck.results.tables import SETTINGS
from mupcheck.theory.parametrization import TABLES, Table, rules_hash, table_from_json
from mupcheck.theory.required import OWN

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.90  # of intervals, where none is asked for

GROUP = ["sweep", "parametrization", "optimizer", "mode"]
Group = tuple[str, str, str, str]  # values of GROUP
# what an imported table does not say of a group: such runs are judged by what it does say
UNNAMED, UNKNOWN = "unnamed", "unknown"
# width changes the head dimensions in one mode, the number of heads in the other
SAME_BY_MODE: dict[str, tuple[str, ...]] = {"head-dim": ("n_heads",), "heads": ("head_k_dim", "head_v_dim"), OWN: ()}


def group_of(record: Any) -> Group:
    """Return (sweep, parametrization, optimizer, mode) of a record that has them."""
    return record.sweep, record.parametrization, record.optimizer, record.mode


def title_of(record: Any) -> str:
    """Return a group as a person reads it: "gdn-mup (adamw, head-dim)", without what is not known."""
    if record.mode == OWN:
        return f"{record.sweep} ({record.optimizer})"
    known = [word for word in (record.optimizer, record.mode) if word != UNKNOWN]
    return f"{name_of(record)} ({', '.join(known)})" if known else name_of(record)


def name_of(record: Any) -> str:
    """Return a group's parametrization; where none was said, what its sweep is called, as its file is."""
    return str(record.sweep if record.parametrization == UNNAMED else record.parametrization)


def same_by_mode(mode: str) -> tuple[str, ...]:
    """Return the columns of a model's shape that its widths share, none where the mode is not known."""
    return SAME_BY_MODE.get(mode, ())


def is_imported(runs: pd.DataFrame) -> bool:
    """Say whether runs were measured by others: no torch that mupcheck trained them with is known."""
    return "torch" in runs and bool(runs["torch"].isna().all())


def find_rules(runs: pd.DataFrame, resolved: Mapping[str, Any]) -> Table | None:
    """Return the table that runs of one group followed: the sweep's own, else the shipped one of that name."""
    if is_imported(runs):
        return None  # the name is a user's, and need not mean the shipped table
    run = runs.iloc[0]
    name = run["parametrization"]
    found = table_from_json(name, resolved[name]) if name in resolved else TABLES.get(name)
    if found is not None and rules_hash(found, optimizer=run["optimizer"], mode=run["mode"]) == run["rules_hash"]:
        return found
    return None


def lr_text(lr: float) -> str:
    """Write a learning rate as a person does: 2^-12, or 0.003 where it is no power of two."""
    exponent = math.log2(lr) if lr > 0 else math.nan
    return f"2^{exponent:g}" if exponent == round(exponent, 6) else f"{lr:.4g}"


def seeds_text(runs: pd.DataFrame) -> str:
    """Return how many seeds each parametrization has: "3 seeds", or "6 to 12 seeds"."""
    counts = runs.groupby("parametrization")["seed"].nunique()
    few, many = int(counts.min()), int(counts.max())
    return (f"{few} to " if few < many else "") + f"{many} seed{'s' * (many != 1)}"


def other_settings(runs: pd.DataFrame) -> Iterator[tuple[str, list[Any]]]:
    """Yield each of SETTINGS that runs differ in, with its values; runs of files that do not say it are passed over."""
    if "accumulation" not in runs:
        return
    said = runs[runs["accumulation"].notna()]  # of all whose files have these columns, whatever they are set to
    for field in SETTINGS:
        if len(values := said[field].drop_duplicates()) > 1:
            yield field, values.tolist()


def check_confidence(confidence: float) -> None:
    """Raise ValueError unless confidence is in (0, 1)."""
    if not isinstance(confidence, int | float) or not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} must lie between 0 and 1; try {CONFIDENCE}")
