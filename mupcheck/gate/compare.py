"""What moved since a baseline: each slope against the stored one, and whether the two may be compared at all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import hypot, inf, isnan, nan
from pathlib import Path

from mupcheck.coordinates.judge import Judgement
from mupcheck.gate.baseline import (
    Entry,
    Key,
    Stored,
    quantity,
    quantity_text,
    read_baseline,
    store,
    write_baseline,
)
from mupcheck.learning_rates.quantiles import t_ppf
from mupcheck.results.comparable import CONFIDENCE, GROUP, Group

# The same seeds give the same draws on every machine, so what differs is rounding. Six tables under AdamW (head-dim)
# and SGD (heads), with other instruction sets (none, AVX2, AVX-512), the reference backend and float64: no judged slope
# moved by more than 0.0006, the third decimal of the file adds 0.0005; a wrong exponent moves one by 0.5.
DRIFT_TOLERANCE = 0.005
# With other seeds: below it a drift changes no verdict (expected.TOLERANCES).
SEEDS_TOLERANCE = 0.25
FAMILY_CONFIDENCE = 0.99  # that no slope of a group is said to have drifted by chance alone


@dataclass(frozen=True)
class Comparison:
    """One slope now and in the baseline.

    Attributes:
        key: kind, stat, site, and "0" or "later".
        slope, baseline: NaN where there is none.
        drift: slope - baseline.
        tolerance: what the drift may be.
        verdict: same, drifted, new (not in the baseline), gone (not judged now) or cannot tell.
        was, now: its verdict against theory, "" where there is none.
        line: in the baseline's file, 0 where it is not there.
    """

    key: Key
    slope: float
    baseline: float
    drift: float
    tolerance: float
    verdict: str
    was: str
    now: str
    line: int

    @property
    def name(self) -> str:
        """Return the quantity as a person reads it."""
        return quantity_text(self.key)

    @property
    def changed(self) -> bool:
        """Say whether it had another verdict against theory."""
        return "" not in (self.was, self.now) and self.was != self.now

    @property
    def failed(self) -> bool:
        """Say whether it drifted, or passed and fails now, however little it moved."""
        return self.verdict == "drifted" or (self.was, self.now) == ("pass", "fail")

    @property
    def text(self) -> str:
        """Say what became of it."""
        if self.verdict == "new":
            return f"{self.name}: {self.slope:+.3f}, not in the baseline"
        if self.verdict == "gone":
            return f"{self.name}: {self.baseline:+.3f} in the baseline, not among what is judged now"
        verdicts = f", {self.was} then, {self.now} now" if self.changed else ""
        return f"{self.name}: {_shown(self.slope)} now, {_shown(self.baseline)} in the baseline{verdicts}"


def not_comparable(judgement: Judgement, stored: Stored, *, where: str) -> str:
    """Name a setting that a baseline was measured with and that is another, "" where none is; seeds may differ."""
    now = store(judgement)
    ours = {**now.settings, "rules_hash": now.rules_hash}
    theirs = {**stored.settings, "rules_hash": stored.rules_hash}
    for field in dict.fromkeys((*ours, *theirs)):
        if field != "seeds" and ours.get(field) != theirs.get(field):
            advice = "measure as the baseline does, or renew it with --update-baseline"
            if field == "rules_hash":
                advice = "its table of rules is another; if that is meant, renew the baseline with --update-baseline"
            elif field == "data_hash" and ours["data"] == "stdlib":
                advice = "stdlib is that of one Python; measure with --data synthetic, the same everywhere, and renew"
            return (
                f"{where} has {field} = {theirs.get(field, 'nothing')} for {stored.parametrization} of {stored.sweep}, "
                f"the results have {ours.get(field, 'nothing')}: {advice}"
            )
    return ""


def strangers(stored: Sequence[Group], groups: Sequence[Group], where: str) -> str:
    """Say in which field the nearest group of a baseline differs, where none is the same."""
    if not groups:
        return f"{where} is a baseline of coordinate checks, and there is none among the results"
    theirs, ours = max(
        ((one, other) for one in stored for other in groups),
        key=lambda pair: sum(a == b for a, b in zip(*pair, strict=True)),
    )
    field, then, now = next((n, a, b) for n, a, b in zip(GROUP, theirs, ours, strict=True) if a != b)
    return (
        f"{where} has no group of the results: {field} is {then} there and {now} in the results; "
        "give the baseline that belongs to them, or write one with --update-baseline"
    )


def compare(judgement: Judgement, stored: Stored) -> list[Comparison]:
    """Compare every judged slope with the stored one, in the order of the baseline.

    With the same seeds the draws are the same and a drift beyond rounding is real. With others it is judged as a
    difference of two means: `drifted` when it is outside an interval that holds for all slopes of the group at once,
    `same` when its interval lies within SEEDS_TOLERANCE, else `cannot tell`.
    """
    now = store(judgement)
    rows = {quantity(row): row for row in judgement.pooled.to_dict("records")}
    same_seeds = now.settings.get("seeds") == stored.settings.get("seeds")
    seeds = [len(each.settings.get("seeds", "").split(",")) for each in (now, stored)]
    keys = sorted({*now.entries, *stored.entries})
    factor = family_factor(len(keys), min(seeds))
    comparisons = []
    for key in keys:
        new, old = now.entries.get(key), stored.entries.get(key)
        slope = rows[key]["slope"] if new else nan
        comparisons.append(_compare(key, slope, new, old, None if same_seeds else factor))
    return comparisons


@cache
def family_factor(n_slopes: int, n_seeds: int) -> float:
    """Return how much wider than one interval one is that holds for n slopes at once (Bonferroni)."""
    dof = max(n_seeds - 1, 1)
    family = t_ppf(1 - (1 - FAMILY_CONFIDENCE) / (2 * max(n_slopes, 1)), dof)
    return float(family / t_ppf((1 + CONFIDENCE) / 2, dof))


def judge_drift(drift: float, halves: Sequence[float], factor: float | None) -> tuple[float, str]:
    """Return what the difference of two slopes may be, and whether it is same, drifted or cannot tell.

    Args:
        drift: the difference.
        halves: half-widths of both slopes' intervals, NaN where there is none.
        factor: of `family_factor`; None where both were measured with the same draws.
    """
    if factor is None:
        return DRIFT_TOLERANCE, "drifted" if abs(drift) > DRIFT_TOLERANCE else "same"
    half = inf if any(map(isnan, halves)) else hypot(*halves)
    tolerance = max(DRIFT_TOLERANCE, factor * half)
    if abs(drift) > tolerance:
        return tolerance, "drifted"
    return tolerance, "same" if abs(drift) + half <= SEEDS_TOLERANCE else "cannot tell"


def _compare(key: Key, slope: float, new: Entry | None, old: Entry | None, factor: float | None) -> Comparison:
    """Compare one slope; `factor` is None with the same seeds."""
    baseline, drift, tolerance = old.slope if old else nan, nan, DRIFT_TOLERANCE
    was, now = old.verdict if old else "", new.verdict if new else ""
    if new is None or old is None:
        verdict = "new" if new else "gone"
    elif isnan(slope) or isnan(baseline):
        # at 0 at every width, or not measurable, both times
        verdict = "same" if isnan(slope) and isnan(baseline) and was == now else "cannot tell"
    else:
        drift = slope - baseline
        halves = [(each.ci_high - each.ci_low) / 2 for each in (new, old)]
        tolerance, verdict = judge_drift(drift, halves, factor)
    return Comparison(key, slope, baseline, drift, tolerance, verdict, was, now, old.line if old else 0)


def _shown(value: float) -> str:
    return "no slope" if isnan(value) else f"{value:+.3f}"


def renew(judgement: Judgement, stored: Stored | None) -> Stored:
    """Return what a renewed baseline holds of a judgement: a slope that did not move keeps its line.

    So the diff shows what moved alone, and many small steps do not add up unseen.
    """
    now = store(judgement)
    if stored is None or (stored.settings, stored.rules_hash) != (now.settings, now.rules_hash):
        return now
    entries = dict(now.entries)
    for each in compare(judgement, stored):
        old, new = stored.entries.get(each.key), now.entries.get(each.key)
        if old and new and each.verdict == "same" and (old.required, old.verdict) == (new.required, new.verdict):
            entries[each.key] = old
    return replace(now, entries=entries)


def renew_file(path: str | Path, judgements: Sequence[Judgement], *, keep_other_sweeps: bool) -> tuple[int, int, int]:
    """Write judgements as a baseline, in place of one that is there; return the numbers of groups, slopes and changes.

    Raises:
        ValueError: if the file that is there is no baseline.
        StoreError: if the file cannot be written.
    """
    old = {each.group: each for each in read_baseline(path)} if Path(path).exists() else {}
    groups = [renew(each, old.get(store(each).group)) for each in judgements]
    if keep_other_sweeps:
        groups += [each for each in old.values() if each.sweep not in {judgement.sweep for judgement in judgements}]
    write_baseline(path, groups)
    before, after = _slopes(old.values()), _slopes(groups)
    return len(groups), len(after), sum(before.get(key) != after.get(key) for key in {*before, *after})


def _slopes(groups: Iterable[Stored]) -> dict[tuple[Group, Key], Entry]:
    """Return every slope of a baseline, wherever it is in the file."""
    return {(each.group, key): replace(entry, line=0) for each in groups for key, entry in each.entries.items()}
