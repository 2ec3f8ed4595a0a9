"""A baseline: the slopes of coordinate checks and how they were measured, as text that reads well in a diff.

    mupcheck baseline 1
    [sweep coord]
    optimizer = adamw
    widths = 64, 128, 256
    ...
    [parametrization gdn-mup]
    rules_hash = 7e0f41ac5a2c
    verdict = pass
    slopes = 113
    effective_update  rms      a_proj          later -0.031 [-0.082, +0.031] 0        pass

A [sweep] says what its [parametrization]s share. Nothing in it depends on the machine, the interpreter or the day; what
is good to know all the same is a comment. Values are compared as the text they are written as.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isnan, nan
from pathlib import Path
from typing import Any

import pandas as pd

from mupcheck.coordinates.judge import Judgement
from mupcheck.results.comparable import Group
from mupcheck.results.files import write_text

FORMAT = 1
TITLE = "mupcheck baseline"
COMMENTS = (
    "# Slopes p of size ~ width^p, at step 0 and over all later steps, with 90% intervals over seeds; then what theory",
    "# requires of them and the verdict on that. Slopes of which it requires nothing are left out.",
    "# `mupcheck check PATH --baseline FILE` compares; with --update-baseline it rewrites the lines that moved.",
)
# what may differ from machine to machine, and must not: a comment, never compared
PROVENANCE = ("torch", "device")
MEASURED_WITH = "# measured with "
OF_THE_TABLE = "rules_hash"
OF_A_TABLE = {"rules_hash", "verdict", "slopes"}
VERDICTS = ("pass", "fail", "cannot tell")
RENEW = "restore it, or delete it and write it anew with --update-baseline"

Key = tuple[str, str, str, str]  # of a quantity: kind, stat, site, when ("0" or "later")


@dataclass(frozen=True)
class Entry:
    """One stored slope; numbers are NaN where there was none, `line` is its place in the file."""

    key: Key
    slope: float
    ci_low: float
    ci_high: float
    required: str
    verdict: str
    line: int = 0


@dataclass(frozen=True)
class Stored:
    """What a baseline holds of one (sweep, parametrization, optimizer, mode).

    Attributes:
        settings: how it was measured, as text: optimizer, mode, widths, seeds, record and what else all runs shared.
        rules_hash: of the table of rules.
        verdict: against theory, at that time.
        entries: the pooled slopes that are judged, by quantity.
        provenance: what it was measured on; not compared.
    """

    sweep: str
    parametrization: str
    settings: dict[str, str]
    rules_hash: str
    verdict: str
    entries: dict[Key, Entry]
    provenance: str = ""

    @property
    def group(self) -> Group:
        """Return (sweep, parametrization, optimizer, mode)."""
        return self.sweep, self.parametrization, self.settings["optimizer"], self.settings["mode"]


def store(judgement: Judgement) -> Stored:
    """Return what a baseline keeps of a judgement, rounded as the file rounds it."""
    measured = dict(judgement.measured)
    provenance = ", ".join(f"{name} {text_of(measured.pop(name))}" for name in PROVENANCE if name in measured)
    rules_hash = text_of(measured.pop(OF_THE_TABLE, None))
    first = {"optimizer": judgement.optimizer, "mode": judgement.mode}
    first |= {name: measured.pop(name) for name in ("widths", "seeds", "record") if name in measured}
    # where a file or folder lies is the machine's business; data_hash says what is in it
    measured["data"] = text_of(measured.get("data")).partition(":")[0]
    settings = {name: text_of(value) for name, value in (first | measured).items()}
    entries = {entry.key: entry for entry in map(_entry, kept(judgement.pooled).to_dict("records"))}
    return Stored(
        judgement.sweep, judgement.parametrization, settings, rules_hash, judgement.verdict, entries, provenance
    )


def kept(pooled: pd.DataFrame) -> pd.DataFrame:
    """Return the slopes that are worth a line: those that are judged, once (mean_abs moves as rms does)."""
    return pooled[pooled["required_high"].notna() & (pooled["stat"] != "mean_abs")]


def quantity(row: dict[Any, Any]) -> Key:
    """Return the key of a pooled row of `fit_slopes`."""
    return row["kind"], row["stat"], row["site"], "later" if row["step"] else "0"


def quantity_text(key: Key) -> str:
    """Return a quantity as a person reads it: "effective_update rms of a_proj, later steps"."""
    kind, stat, site, when = key
    return f"{kind} {stat} of {site}, {'step 0' if when == '0' else 'later steps'}"


def _entry(row: dict[Any, Any]) -> Entry:
    slope, low, high = (round(float(row[name]), 3) for name in ("slope", "ci_low", "ci_high"))
    needed = required_text(row["required_low"], row["required_high"])
    return Entry(quantity(row), slope, low, high, needed, row["verdict"])


def required_text(low: float, high: float) -> str:
    """Write a required range without spaces: 0, -0.5..0 or <=0."""
    if low == -float("inf"):
        return f"<={high:g}"
    return f"{high:g}" if low == high else f"{low:g}..{high:g}"


def text_of(value: Any) -> str:
    """Write a setting as the file has it: "none" where it is not set, 1 for 1.0, a list with commas."""
    if isinstance(value, tuple | list):
        return ", ".join(map(text_of, value))
    if pd.isna(value):
        return "none"
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


# --- writing ----------------------------------------------------------------------------------------------------------


def write_baseline(path: str | Path, groups: Sequence[Stored]) -> None:
    """Write a baseline, whole or not at all, in place of one that is there.

    Raises:
        StoreError: if the file cannot be written.
    """
    write_text(path, baseline_text(groups))


def baseline_text(groups: Sequence[Stored]) -> str:
    """Return the text of a baseline: groups and quantities sorted by name, so that a diff shows what moved alone."""
    lines = [f"{TITLE} {FORMAT}", *COMMENTS]
    by_sweep = sorted(groups, key=lambda stored: (stored.sweep, *stored.settings.items(), stored.parametrization))
    for (sweep, *settings), members in groupby(by_sweep, key=lambda stored: (stored.sweep, *stored.settings.items())):
        same = list(members)
        lines += ["", f"[sweep {sweep}]", *(f"{name} = {value}" for name, value in settings)]
        lines += [f"{MEASURED_WITH}{text}" for text in sorted({stored.provenance for stored in same}) if text]
        for stored in same:
            lines += ["", f"[parametrization {stored.parametrization}]"]
            lines += [f"rules_hash = {stored.rules_hash}", f"verdict = {stored.verdict}"]
            lines += [
                f"slopes = {len(stored.entries)}",
                *(_line(stored.entries[key]) for key in sorted(stored.entries)),
            ]
    return "\n".join(lines) + "\n"


def _line(entry: Entry) -> str:
    kind, stat, site, when = entry.key
    interval = f"[{_shown(entry.ci_low)}, {_shown(entry.ci_high)}]"
    place = f"{kind:<17} {stat:<8} {site:<15} {when:<5}"
    return f"{place} {_shown(entry.slope)} {interval} {entry.required:<8} {entry.verdict}"


def _shown(value: float) -> str:
    # + 0.0 turns -0.0, which would come and go with rounding, into 0.0
    return f"{'?' if isnan(value) else format(round(value, 3) + 0.0, '+.3f'):>6}"


# --- reading ----------------------------------------------------------------------------------------------------------


def read_baseline(path: str | Path) -> list[Stored]:
    """Read what `write_baseline` wrote.

    Raises:
        ValueError: if there is no such file, it is not a baseline, is of another format version, or a line of it is
            not as it was written; the message names the file and the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"baseline {path} does not exist; write it with --update-baseline") from None
    except OSError as error:
        raise ValueError(f"cannot read the baseline {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a baseline of mupcheck: it is not text; give another file") from None
    lines = text.splitlines() or [""]
    title, _, version = lines[0].rpartition(" ")
    if title != TITLE or not version.isdecimal():
        shown = f"its first line is {lines[0][:60]!r}" if text else "it is empty"
        advice = "give another file, or write one with --update-baseline" if text else RENEW
        raise ValueError(f"{path} is not a baseline of mupcheck: {shown}, expected '{TITLE} {FORMAT}'; {advice}")
    if int(version) != FORMAT:
        raise ValueError(f"{path} is a baseline of format {version}, this mupcheck reads {FORMAT}; {RENEW}")
    groups: list[Stored] = []
    try:
        for stored in _groups(lines):
            if stored.group in {each.group for each in groups}:
                raise ValueError(f"{' '.join(stored.group)} is there twice")
            groups.append(stored)
    except ValueError as error:
        raise ValueError(f"{path} is damaged, {error}; {RENEW}") from None
    if not groups:
        raise ValueError(f"{path} is damaged: it holds no [parametrization]; {RENEW}")
    return groups


def _groups(lines: Sequence[str]) -> Iterator[Stored]:
    """Read group after group; a ValueError says what is wrong with which line."""
    sweep, settings, provenance = "", {}, ""
    for block in _blocks(lines):
        (number, head), *rest = block
        what, _, name = head[1:-1].partition(" ")
        values = dict(_read_value(line, n) for n, line in rest if " = " in line or what == "sweep")
        if not (name and head.endswith("]") and what in ("sweep", "parametrization")):
            raise ValueError(f"line {number}: {head!r} is neither [sweep NAME] nor [parametrization NAME]")
        if what == "sweep":
            sweep, settings = name, values
            provenance = values.pop(MEASURED_WITH, "")
            if not {"optimizer", "mode"} <= set(settings):
                raise ValueError(f"line {number}: {head} does not say optimizer and mode")
            continue
        if not sweep:
            raise ValueError(f"line {number}: {head} comes before any [sweep NAME]")
        entries = [_read_entry(line, n) for n, line in rest if " = " not in line]
        by_key = {entry.key: entry for entry in entries}
        # a file that was cut short must not pass for one with fewer slopes
        if set(values) != OF_A_TABLE or values["slopes"] != str(len(entries)) or len(by_key) < len(entries):
            said = ", ".join(f"{name} = {value}" for name, value in values.items())
            raise ValueError(f"line {number}: {head} says {said or 'nothing'}, and has {len(by_key)} different slopes")
        yield Stored(sweep, name, settings, values["rules_hash"], values["verdict"], by_key, provenance)


def _blocks(lines: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
    """Split numbered lines at each [head]; blank lines and comments go, but for what a sweep was measured with."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate(lines[1:], start=2):
        if line.startswith(MEASURED_WITH):
            line = f"{MEASURED_WITH} = {line.removeprefix(MEASURED_WITH)}"
        elif not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            if block:
                yield block
            block = []
        elif not block:
            raise ValueError(f"line {number}: {line!r} comes before any [sweep NAME]")
        block.append((number, line))
    if block:
        yield block


def _read_value(line: str, number: int) -> tuple[str, str]:
    name, equals, value = line.partition(" = ")
    if not equals:
        raise ValueError(f"line {number}: {line!r} is not NAME = VALUE")
    return name, value


def _read_entry(line: str, number: int) -> Entry:
    parts = line.replace("[", " ").replace("]", " ").replace(",", " ").split(None, 8)
    try:
        kind, stat, site, when, *numbers, required, verdict = parts
        slope, low, high = (nan if text == "?" else float(text) for text in numbers)
    except ValueError:
        raise ValueError(
            f"line {number}: {line!r} is not KIND STAT SITE STEP SLOPE [LOW, HIGH] REQUIRED VERDICT"
        ) from None
    if when not in ("0", "later") or verdict not in VERDICTS:
        known = f"known: 0, later; {', '.join(VERDICTS)}"
        raise ValueError(f"line {number}: step {when!r} and verdict {verdict!r} are not both known; {known}")
    return Entry((kind, stat, site, when), slope, low, high, required, verdict, number)
