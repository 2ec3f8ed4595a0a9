"""What every figure shares: type, colours, marks of a verdict, and panels placed in inches.

Figures are `matplotlib.figure.Figure` objects, never pyplot's, so drawing one leaves nothing behind. Panels are placed
in inches, which keeps text from ever meeting other text and costs no layout pass.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

PNG_DPI = 150
MARGIN = 0.14  # inches
DIGIT_INCHES = 0.06  # width of a digit of a tick label
SMALL, NORMAL, LARGE = 6.5, 7.5, 10.5  # points; a full page of panels is 8 inches wide
INK, GREY, FAINT, GRID, SHADE = "#222222", "#6b6b6b", "#d9d9d9", "#ececec", "#f6f6f6"
DASHED = (0, (4, 2))
MARKERS = "os^vP*p<"  # for what has an order, beside its colours, which grey does not show
Color = tuple[float, float, float, float]
Floats = NDArray[np.float64]

PAGE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same text on every machine
    "font.size": NORMAL,
    "text.parse_math": False,  # a parametrization's name may hold a dollar sign
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.labelsize": NORMAL,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.bottom": False,  # the grid says where a tick is
    "ytick.left": False,
    "lines.linewidth": 1.2,
    "legend.fontsize": NORMAL,
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0,
    "svg.hashsalt": "mupcheck",  # without it element ids, and so the bytes, differ between runs
    "pdf.fonttype": 42,  # TrueType: text that can be selected, and that publishers take
}
STYLES = {"page": PAGE, "paper": PAGE | dict.fromkeys(("font.size", "axes.labelsize", "legend.fontsize"), 8.0)}


@dataclass(frozen=True)
class Mark:
    """How a verdict looks: never by colour alone."""

    marker: str
    symbol: str  # the same in running text
    color: str
    filled: bool = True

    @property
    def fill(self) -> str:
        """Return the colour inside the marker."""
        return self.color if self.filled else "white"


MARKS = {
    "pass": Mark("o", "✓", "#0072B2"),
    "fail": Mark("X", "✗", "#D55E00"),
    "cannot tell": Mark("D", "?", "#7a5195", filled=False),
    "info": Mark("o", "·", "#8c8c8c", filled=False),
}
MARKS |= dict.fromkeys(("transfers", "negligible"), MARKS["pass"]) | dict.fromkeys(("drifts", "costly"), MARKS["fail"])


class Drawing(Figure):
    """A figure that shows itself in a notebook without pyplot, and looks there as it does in a file."""

    style = "page"

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        with drawing_style(self.style):
            self.savefig(file, dpi=PNG_DPI)
        return file.getvalue()


@contextmanager
def drawing_style(style: str = "page") -> Iterator[None]:
    """Draw in a style of STYLES whatever the user's matplotlibrc says, and put their settings back."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLES[style])
        yield


def ordered_colors(n: int) -> list[Color]:
    """Return n colours from dark to light for what has an order; the yellow end, too light for print, is left out."""
    return [tuple(color) for color in mpl.colormaps["viridis"](np.linspace(0.0, 0.8, n) if n > 1 else [0.3])]


def add_panel(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at inches from the figure's left and bottom edge."""
    total_x, total_y = figure.get_size_inches()
    return figure.add_axes((left / total_x, bottom / total_y, width / total_x, height / total_y))


def add_page(figure: Figure) -> Axes:
    """Add one Axes as large as the figure, without frame or ticks, whose data are inches from the lower left corner."""
    page = figure.add_axes((0, 0, 1, 1))
    page.set_axis_off()
    width, height = figure.get_size_inches()
    page.set_xlim(0, width)
    page.set_ylim(0, height)
    page.set_xticks([])
    page.set_yticks([])
    page.autoscale(False)
    return page


def draw_segments(panel: Axes, lines: Sequence[ArrayLike], **style: Any) -> None:
    """Draw many lines [point, 2] as one artist."""
    panel.add_collection(LineCollection([np.asarray(line) for line in lines], **style), autolim=False)


def place(panel: Axes) -> tuple[float, float, float, float]:
    """Return left, bottom, width and height of a panel's axes in inches."""
    figure = panel.get_figure()
    assert isinstance(figure, Figure)
    total_x, total_y = figure.get_size_inches()
    box = panel.get_position()
    return box.x0 * total_x, box.y0 * total_y, box.width * total_x, box.height * total_y


def write_above(panel: Axes, text: str, *, up: float, **style: Any) -> None:
    """Write text over a panel, its baseline `up` inches above the axes."""
    panel.text(0, 1 + up / place(panel)[3], text, transform=panel.transAxes, **style)


def handle(label: str, *, color: str | Color, marker: str = "", line: bool = False, hollow: bool = False) -> Line2D:
    """Return a legend entry for a marker, with a line through it or without."""
    entry = Line2D([], [], color=color, marker=marker, markersize=4, linestyle="-" if line else "", label=label)
    entry.set_markerfacecolor("white" if hollow else color)
    return entry


def ordered_looks(values: Iterable[int]) -> dict[int, tuple[Color, str]]:
    """Return colour and marker of each of the values, which have an order."""
    distinct = sorted(set(values))
    return dict(zip(distinct, zip(ordered_colors(len(distinct)), cycle(MARKERS), strict=False), strict=False))


def verdict_handle(verdict: str) -> Line2D:
    """Return the legend entry of a verdict."""
    mark = MARKS[verdict]
    entry = Line2D([], [], linestyle="", marker=mark.marker, color=mark.color, markersize=4.5)
    entry.set_label(verdict_name(verdict))
    entry.set_markerfacecolor(mark.fill)
    return entry


def scatter_verdict(panel: Axes, x: ArrayLike, y: ArrayLike, verdict: str, *, size: float, **style: Any) -> None:
    """Draw points with the mark of a verdict; `size` is their area in square points."""
    mark = MARKS[verdict]
    look: dict[str, Any] = {"facecolor": mark.fill, "edgecolor": mark.color, "linewidth": 0.8, "zorder": 3}
    panel.scatter(x, y, s=size, marker=mark.marker, label=verdict, **look, **style)


def draw_interval(
    panel: Axes, at: float, low: float | None, high: float | None, *, along: str, color: str | Color
) -> None:
    """Draw an interval along "x" or "y", at `at` on the other axis; an arrowhead where it goes on beyond the limits.

    An end that is None is not known: it goes on, too. An interval without ends is not drawn.
    """
    if low is None and high is None:
        return
    low, high = -np.inf if low is None else low, np.inf if high is None else high
    bottom, top = panel.get_xlim() if along == "x" else panel.get_ylim()
    shown = [min(max(low, bottom), top), min(max(high, bottom), top)]
    points = (shown, [at, at]) if along == "x" else ([at, at], shown)
    panel.plot(*points, color=color, solid_capstyle="butt", linewidth=1.0, label="interval")
    style: dict[str, Any] = {"color": color, "markersize": 3, "markeredgewidth": 0, "clip_on": False}
    for beyond, edge, head in ((low < bottom, bottom, "<v"), (high > top, top, ">^")):
        if beyond:
            x, y = (edge, at) if along == "x" else (at, edge)
            panel.plot(x, y, head[along == "y"], label="goes on", **style)


def width_limits(log2_widths: ArrayLike, *, pad: float = 0.06) -> tuple[float, float]:
    """Return x limits that leave `pad` of the span on each side."""
    low, high = float(np.min(log2_widths)), float(np.max(log2_widths))
    margin = pad * max(high - low, 1.0)
    return low - margin, high + margin


def width_labels(widths: Sequence[int], *, limits: tuple[float, float], inches: float) -> list[str]:
    """Return a tick label for each width, "" where it would run into the one before on an axis of so many inches."""
    labels, free = [], -np.inf
    for width in widths:
        position, half = np.log2(width) * inches / (limits[1] - limits[0]), DIGIT_INCHES / 2 * len(str(width))
        fits = position - half >= free
        labels.append(str(width) if fits else "")
        free = position + half + DIGIT_INCHES if fits else free
    return labels


def whole_powers(limits: tuple[float, float], *, most: int) -> list[int]:
    """Return at most about `most` evenly spaced whole numbers within limits, to be labelled as powers of two."""
    first, last = int(np.ceil(limits[0])), int(np.floor(limits[1]))
    stride = max(1, -(-(last - first + 1) // most))
    return [power for power in range(first, last + 1) if power % stride == 0]


def round_ticks(limits: tuple[float, float], *, most: int, integer: bool = False) -> list[float]:
    """Return round numbers within limits, about `most` of them."""
    ticks = MaxNLocator(most, integer=integer).tick_values(*limits)
    return [float(tick) for tick in ticks if limits[0] <= tick <= limits[1]]


def power_of_two(power: int) -> str:
    """Return "2⁻⁷" for -7."""
    return "2" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def span(values: ArrayLike, *, least: float, pad: float = 0.08) -> tuple[float, float]:
    """Return limits that hold every value with `pad` of the span on each side, and are at least `least` apart."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    half = max((high - low) / 2 / (1 - 2 * pad), least / 2)
    return float((low + high) / 2 - half), float((low + high) / 2 + half)


def signed(value: float | None, digits: int = 2) -> str:
    """Return "+0.12" or "−0.12", with a true minus sign; "none" where there is no number."""
    if value is None or not np.isfinite(value):
        return "none"
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")  # + 0.0 makes -0.0 positive


def estimate(value: float | None, low: float | None, high: float | None) -> str:
    """Return "+0.12 [−0.01, +0.25]", with "?" for an end that is not known; without the bracket where neither is."""
    ends = [signed(end) if end is not None and np.isfinite(end) else "?" for end in (low, high)]
    return signed(value) if ends == ["?", "?"] else f"{signed(value)} [{', '.join(ends)}]"


def verdict_name(verdict: str) -> str:
    """Return a verdict as a reader takes it: nothing is required of what is "info"."""
    return "not judged" if verdict == "info" else verdict


def verdict_text(verdict: str) -> str:
    """Return a verdict with its symbol, such as "✓ pass"."""
    return f"{MARKS[verdict].symbol} {verdict_name(verdict)}"


def shorten(text: str, most: int) -> str:
    """Return text of at most `most` characters, its end replaced by an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"
