"""What `sweep.json` says of the path that was trained: its backend against the reference, once a sweep.

An entry holds for the runs of its sweep that were trained on the same device, by the same torch and mupcheck: what was
trained elsewhere later has an entry of its own. A sweep of an older version has none, and nothing is said of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from mupcheck.results.printing import named

if TYPE_CHECKING:
    import pandas as pd

BY = ("device", "torch", "mupcheck", "commit")  # what another kernel, or another rounding, may come of
TO_MEND = "nothing here is of the delta rule: mend the backend, or give --backend reference"
# The first that is off is the one to look at: what it is off by comes back in all that follow.
GRADIENT = "gradient of "
QUANTITIES = (
    *("o", "final_state"),
    *(GRADIENT + name for name in ("q", "k", "v", "log_alpha", "beta")),
)


@dataclass(frozen=True)
class Departure:
    """One tensor that is not what the reference gives.

    Attributes:
        what: one of QUANTITIES.
        error: of the worst head, rms difference over rms; None where a value is not finite, or there is none.
        tokens: length of the sequence, of which `first` to `last` are off (None of the final state).
        chunks: of those tokens the first and last chunk, counted from 1, and how many there are; None without chunks.
        factor: where the tensor is that many times the reference's and nothing else; None otherwise.
        missing: whether there is no such tensor, as of an input that nothing flows back to.
    """

    what: str
    width: int
    layer: int
    tokens: int
    error: float | None
    first: int | None = None
    last: int | None = None
    chunks: tuple[int, int, int] | None = None
    factor: float | None = None
    missing: bool = False

    def __str__(self) -> str:
        """Say what is off, by how much and where."""
        if self.factor is not None:
            text = f"{self.what} is {self.factor:.3g} times the reference's"
        elif self.error is None:
            text = f"{self.what} is {'missing' if self.missing else 'not finite'}"
        else:
            text = f"{self.what} is off by {self.error:.2g} of its size"
        text += f" at width {self.width}, layer {self.layer}"
        if self.first is None or self.last is None:
            return f"{text}, after {self.tokens} tokens"
        where = f"token {self.first}" if self.first == self.last else f"tokens {self.first} to {self.last}"
        if self.chunks is not None:
            one, other, of = self.chunks
            where += f" (chunk{'s' * (other > one)} {one}{f' to {other}' if other > one else ''} of {of})"
        return f"{text}, {where} of {self.tokens}"


@dataclass(frozen=True)
class Path:
    """A backend compared with the reference on a model's own inputs; `reason` says why it was not, "" where it was.

    Attributes:
        error: the largest, of any tensor that was compared: rms difference over rms.
        tolerance: what it may be.
        tokens: lengths of the sequences; `widths` of the models.
        departures: what is beyond the tolerance, the first to look at first.
        strained: likewise where keys are made alike, which is not what was trained.
    """

    backend: str
    dtype: str
    error: float | None
    tolerance: float | None
    tokens: tuple[int, ...]
    widths: tuple[int, ...]
    departures: tuple[Departure, ...]
    reason: str = ""
    strained: tuple[Departure, ...] = ()

    @property
    def agrees(self) -> bool:
        """Say whether it was compared and nothing departs."""
        return not self.departures and not self.reason

    @property
    def strain(self) -> str:
        """Say that the backend departs where keys are alike and not on what was trained, "" otherwise."""
        if not self.strained or not self.agrees:
            return ""
        text = f"{self.backend} departs from the reference where keys are alike, as a large lr makes them"
        return f"{text}: {self.strained[0]}"

    def __str__(self) -> str:
        """Say in one line how they compare."""
        at = " and ".join(map(str, self.tokens)) + " tokens"
        if self.reason:
            return f"{self.backend} was not compared with the reference: {self.reason}"
        if self.error is not None and self.agrees:
            other = "itself in float64" if self.backend == "reference" else "the reference"
            return f"{self.backend} agrees with {other} to {self.error:.1e} at {at}"
        first = self.departures[0]
        text = f"{self.backend} in {self.dtype} is not what the reference computes: {first}"
        places = [sorted({getattr(each, name) for each in self.departures}) for name in ("width", "layer")]
        if max(map(len, places)) > 1:
            names = (f"{name}{'s' * (len(at) > 1)}" for name, at in zip(("width", "layer"), places, strict=True))
            text += "; seen at " + ", ".join(f"{n} {named(at)}" for n, at in zip(names, places, strict=True))
        off = {each.what for each in self.departures if each.what != first.what}
        rest = [name for name in QUANTITIES if name in off]
        inputs = [name.removeprefix(GRADIENT) for name in rest if name.startswith(GRADIENT)]
        rest = [name for name in rest if not name.startswith(GRADIENT)]
        rest += [f"gradient{'s' * (len(inputs) > 1)} of {', '.join(inputs)}"] if inputs else []
        text += f"; off too: {', '.join(rest)}" if rest else ""
        well = [n for n in self.tokens if n not in {each.tokens for each in self.departures}]
        return text + (f"; nothing is off at {' and '.join(map(str, well))} tokens" if well else "")


def paths_of(resolved: Mapping[str, Any], runs: pd.DataFrame) -> tuple[Path, ...]:
    """Return what a sweep's `sweep.json` says of the path of some of its runs, nothing of an older version's.

    Args:
        resolved: the sweep's `sweep.json`.
        runs: rows of the runs table, of one sweep.
    """
    entries = resolved.get("path", ())
    if not isinstance(entries, Sequence) or not entries or runs.empty:
        return ()
    known = [name for name in BY if name in runs]
    trained = {tuple(map(_plain, row)) for row in runs[known].itertuples(index=False)}
    found = []
    for entry in entries:
        if not isinstance(entry, Mapping) or not set(entry.get("run_ids", ())) & set(runs["run_id"]):
            continue
        by = [_plain(entry.get(name)) for name in known]
        if any(all(mine in (None, theirs) for mine, theirs in zip(by, row, strict=True)) for row in trained):
            found.append(path_of(entry))
    return tuple(dict.fromkeys(found))


def say_paths(paths: Sequence[Path]) -> str:
    """Say in one line how the paths of a group compare, the worst of several; "" where nothing is known."""
    if not paths:
        return ""
    worst = max(paths, key=lambda each: (bool(each.departures), bool(each.reason), each.error or 0.0))
    return f"{worst.backend} is not what the reference computes" if worst.departures else str(worst)


def _plain(value: Any) -> Any:
    """Return a cell of a table as JSON has it: what is not there is None."""
    return value if isinstance(value, str) else None


def path_of(entry: Mapping[str, Any]) -> Path:
    """Return an entry of `sweep.json` as a record."""
    return Path(
        backend=str(entry.get("backend")),
        dtype=str(entry.get("dtype")),
        error=entry.get("error"),
        tolerance=entry.get("tolerance"),
        tokens=tuple(sorted({each["tokens"] for each in entry.get("compared", ())})),
        widths=tuple(sorted({each["width"] for each in entry.get("compared", ())})),
        departures=tuple(map(_departure_of, entry.get("departures", ()))),
        reason=str(entry.get("reason", "")),
        strained=tuple(map(_departure_of, entry.get("strained", ()))),
    )


def _departure_of(entry: Mapping[str, Any]) -> Departure:
    known = {field.name for field in fields(Departure)}  # a later version may write more
    values: dict[str, Any] = {name: value for name, value in entry.items() if name in known}
    return Departure(**values | {"chunks": tuple(values["chunks"]) if values.get("chunks") else None})
