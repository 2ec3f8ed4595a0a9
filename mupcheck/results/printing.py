"""How answers show themselves at a prompt: lines of plain text that fit a screen, and the same in a notebook."""

import html
import textwrap
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

from mupcheck.results.comparable import title_of

COLUMNS = 80
MOST_FOUND = 5  # findings that a verdict shows
MOST_NAMED = 8  # values or sweeps that a line or a page names
T = TypeVar("T")


class Answers(list[T]):
    """A list of answers whose `print` prints each of them; otherwise a list as any other."""

    def __repr__(self) -> str:
        return "[" + ",\n ".join(map(repr, self)) + "]"

    def __str__(self) -> str:
        return "\n\n".join(map(str, self)) or "[]"

    def _repr_html_(self) -> str:
        return in_html(self)


class Verdict:
    """The base of records with title, sweep, verdict and reason: what `print` and a notebook show of them.

    What else such a record may have is shown where it does: `how_measured`, the `counts` of slopes, `optima`, `causes`,
    `findings`, `notes` and the `next_step`.
    """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._head()}; {self._counts() or self._get('reason')}>"

    def __str__(self) -> str:
        reason, drift = self._get("reason"), self._get("drift_text")
        found = [finding for finding in self._get("findings") if finding.text not in reason]
        lines = [
            ("", self._get("sentence")),
            ("", self._get("how_measured")),
            ("slopes", self._counts()),
            ("why", reason),
            ("", "" if not drift or drift.partition(" octaves")[0] in reason else drift),
            *(("", str(optimum)) for optimum in self._get("optima")),
            *((f"likely cause {i}", str(cause)) for i, cause in enumerate(self._get("causes"), 1)),
            *((finding.effect, str(finding)) for finding in found[:MOST_FOUND]),
            ("", f"... and {counted(len(found) - MOST_FOUND, 'more finding')}" if len(found) > MOST_FOUND else ""),
            *(("note", note) for note in self._get("notes")),
            ("next", self._get("next_step")),
        ]
        return lines_of(self._head(), [line for line in lines if line[1]])

    def _repr_html_(self) -> str:
        return in_html(self)

    def _get(self, name: str) -> Any:
        return getattr(self, name, "")

    def _head(self) -> str:
        return f"{self._get('title')} of {self._get('sweep')}: {self._get('verdict')}"

    def _counts(self) -> str:
        counts = dict(self._get("counts"))
        not_judged = counts.pop("info", 0)
        judged = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
        return f"{judged}; {not_judged} are not judged" if judged else ""


class Best:
    """The base of a record of the best lr at one width, which shows it in a line."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {title_of(self)} of {getattr(self, 'sweep', '')}, {self}>"

    def __str__(self) -> str:
        log2_lr, low, high, loss = (getattr(self, name) for name in ("log2_lr", "ci_low", "ci_high", "loss"))
        best, flags = "no best lr", getattr(self, "flags", ())
        if log2_lr is not None and loss is not None:
            ends = ", ".join("?" if end is None else f"{end:+.2f}" for end in (low, high))
            ends = "" if low is None and high is None else f" [{ends}]"
            name = getattr(self, "loss_name", "loss")
            best = f"best lr {2**log2_lr:.3g} = 2^{log2_lr:.2f}{ends}, fitted {name} {loss:.4f}"
            if (point := getattr(self, "lowest", None)) is not None:
                best += f" (lowest measured {point.loss:.4f} at 2^{point.log2_lr:.4g})"
        return f"width {getattr(self, 'width', '')}: {best}" + (f" ({', '.join(flags)})" if flags else "")


def in_html(record: object) -> str:
    """Return what `print` prints of a record, for a notebook."""
    return f"<pre>{html.escape(str(record))}</pre>"


def lines_of(title: str, rest: Iterable[tuple[str, str]]) -> str:
    """Return a title and below it a paragraph for each (label, text), of at most COLUMNS; labels may be ""."""
    paragraphs = [
        textwrap.fill(
            f"{label}: {text}" if label else text,
            width=COLUMNS,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for label, text in rest
    ]
    return "\n".join([title, *paragraphs])


def named(values: Collection[object]) -> str:
    """Write values as "64, 128, 256", the ends alone where there are many: "1, ..., 64 (40)"."""
    shown = [str(value) for value in values]
    return ", ".join(shown) if len(shown) <= MOST_NAMED else f"{shown[0]}, ..., {shown[-1]} ({len(shown)})"


def counted(n: int, what: str) -> str:
    """Write a number with what it is of: "1 seed", "12 seeds"."""
    return f"{n:,} {what}" + "s" * (n != 1)


def said(given: object) -> str:
    """Name what was given in place of something else: "None", "the string 'lr'", "the path 'results/lr'", "a list"."""
    if given is None:
        return "None"
    if isinstance(given, str | Path):
        return f"the {'string' if isinstance(given, str) else 'path'} {str(given)!r}"
    name = type(given).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
