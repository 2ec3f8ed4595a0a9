"""What stands around the panels of every figure: title and setting, a legend, and at the foot how it was measured.

A figure lays out its panels alone; `frame` then makes room above and below them for text that is broken to the
figure's width, measured with the font's own metrics, so that nothing is ever cut off.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from mupcheck.plots.canvas import GREY, INK, LARGE, MARGIN, NORMAL, SMALL

TITLE_LINE, LINE, SMALL_LINE, LEGEND_LINE = 0.25, 0.16, 0.125, 0.175  # height of a line, inches
ENTRY_INCHES = 0.4  # of a legend entry, beside its text
HINTED = 1.08  # at most so much wider is text on a grid of pixels than in the font's outlines
WEIGHT = re.compile(r"[.]weight(?=$|[ @\[])")  # that ends the names of most parameters of torch modules
MIN_WIDTH = 4.4  # inches of a figure, for its title and how it was measured


@dataclass(frozen=True)
class Caption:
    """What a figure says of itself in words: what it shows, of which runs, and how they were measured."""

    title: str
    setting: str = ""
    footer: str = ""


def frame(
    figure: Figure, caption: Caption, *, remarks: Sequence[str] = (), hint: str = "", handles: Sequence[Artist] = ()
) -> None:
    """Make a figure higher by what goes above and below its panels, and write it there.

    Args:
        figure: its panels placed in inches from the lower left corner.
        caption: title, setting and footer.
        remarks: lines below the setting, such as counts of verdicts.
        hint: how to read the figure, in grey.
        handles: legend entries, in as many rows as they need.
    """
    width, height = figure.get_size_inches()
    room = width - 2 * MARGIN
    lines: list[tuple[str, dict[str, Any]]] = [
        (line, {"fontsize": NORMAL, "color": INK}) for text in (caption.setting, *remarks) for line in wrap(text, room)
    ]
    lines += [(line, {"fontsize": SMALL, "color": GREY}) for line in wrap(hint, room, points=SMALL)]
    rows = list(legend_rows(handles, room))
    foot = list(wrap(caption.footer, room, points=SMALL))
    top = 0.1 + TITLE_LINE + LINE * len(lines) + LEGEND_LINE * len(rows) + (0.06 if rows else 0) + 0.1
    bottom = 0.1 + SMALL_LINE * len(foot) if foot else 0.0
    total = height + top + bottom
    figure.set_size_inches(width, total)
    for axes in figure.axes:
        box = axes.get_position()
        axes.set_position((box.x0, (box.y0 * height + bottom) / total, box.width, box.height * height / total))

    x, down = MARGIN / width, 0.1
    title = cut(caption.title, room, points=LARGE, bold=True)
    figure.text(x, 1 - down / total, title, va="top", fontsize=LARGE, fontweight="bold")
    down += TITLE_LINE
    for text, style in lines:
        figure.text(x, 1 - down / total, text, va="top", **style)
        down += LINE
    down += 0.06
    for row in rows:
        figure.legend(
            handles=row, loc="upper left", bbox_to_anchor=(x, 1 - down / total), ncols=len(row),
            handlelength=1.7, columnspacing=1.3, handletextpad=0.5,
        )  # fmt: skip
        down += LEGEND_LINE
    for i, line in enumerate(reversed(foot)):
        figure.text(x, (0.09 + i * SMALL_LINE) / total, line, va="baseline", fontsize=SMALL, color=GREY)


def legend_rows(
    handles: Sequence[Artist], room: float, *, points: float = NORMAL, entry: float = ENTRY_INCHES
) -> Iterator[list[Artist]]:
    """Part legend entries into rows of at most `room` inches; an entry takes `entry` inches beside its text."""
    row: list[Artist] = []
    used = 0.0
    for handle in handles:
        needed = entry + text_inches(str(handle.get_label()), points=points)
        if row and used + needed > room:
            yield row
            row, used = [], 0.0
        row.append(handle)
        used += needed
    if row:
        yield row


@cache
def text_inches(text: str, *, points: float = NORMAL, bold: bool = False) -> float:
    """Return how wide a line of text is."""
    font = FontProperties(family="DejaVu Sans", size=points, weight="bold" if bold else "normal")
    return HINTED * float(text_to_path.get_text_width_height_descent(text, font, False)[0]) / 72


def wrap(text: str, room: float, *, points: float = NORMAL) -> list[str]:
    """Break text at blanks into lines of at most `room` inches; a word longer than that is cut."""
    lines: list[str] = []
    for word in text.split(" ") if text else []:
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_inches(longer, points=points) <= room:
            lines[-1] = longer
        else:
            lines.append(cut(word, room, points=points))
    return lines


def cut(text: str, room: float, *, points: float = NORMAL, bold: bool = False) -> str:
    """Return text that is at most `room` inches wide, its end replaced by an ellipsis."""
    if text_inches(text, points=points, bold=bold) <= room:
        return text
    kept = len(text)
    while kept > 1 and text_inches(text[:kept].rstrip() + "…", points=points, bold=bold) > room:
        kept -= 1
    return text[:kept].rstrip() + "…"


def cut_front(text: str, room: float, *, points: float = NORMAL, bold: bool = False) -> str:
    """Return a name that is at most `room` inches wide, without what others share: ".weight", then its beginning.

    Names of parts are kept whole where the last one fits: "…linear_attn.in_proj rows k".
    """

    def fits(shorter: str) -> bool:
        return text_inches(shorter, points=points, bold=bold) <= room

    if fits(text):
        return text
    text = WEIGHT.sub("", text)
    starts = [0, *(match.end() for match in re.finditer(r"[.](?=[^.]*[a-z])", text)), *range(1, len(text))]
    return next((short for start in starts if fits(short := ("…" if start else "") + text[start:])), "…" + text[-1:])
