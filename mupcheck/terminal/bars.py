"""Small bars in a line of text: loss against learning rate, and sizes against width."""

import math
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from mupcheck.learning_rates.lr_curve import Point
from mupcheck.results.comparable import lr_text
from mupcheck.terminal.streams import PLAIN

BLOCKS, DIGITS = "▁▂▃▄▅▆▇█", "01234567"
DIVERGED, STOPPED, NOT_RUN = "×", "^", " "
HIGHEST = len(BLOCKS) - 1
MOST_BARS = 16  # beside the rest of a table of 80 columns
SAME_LR = 1e-6  # octaves
OCTAVES_A_STEP = 0.25  # of size: a slope within the tolerance is nearly flat over a factor of 8 in width


class Axis(NamedTuple):
    """Where the bars of a line stand: `n` of them, `step` octaves of lr apart, from `low` (log2) on."""

    low: float
    step: float
    n: int

    def place(self, log2_lr: float) -> int:
        """Return which bar is of this lr."""
        return min(max(math.floor((log2_lr - self.low) / self.step + 0.5), 0), self.n - 1)


def axis_of(log2_lrs: Iterable[float]) -> Axis:
    """Return an axis with a bar for each lr, as far apart as the nearest two; coarser where that would be too many."""
    x = sorted(log2_lrs)
    steps = [b - a for a, b in pairwise(x) if b - a > SAME_LR]
    if not steps:
        return Axis(x[0], 1.0, 1)
    span = x[-1] - x[0]
    n = min(math.floor(span / min(steps) + 0.5) + 1, MOST_BARS)
    return Axis(x[0], span / (n - 1), n)


def loss_bars(curve: Sequence[Point], axis: Axis) -> str:
    """Return a bar for each lr of a curve, the lowest at its lowest mean loss alone.

    Heights go with the root of what a loss lies above that, as the distance from a minimum does, up to the curve's own
    highest. A lr at which a seed diverged, or was stopped, has a mark; of two lrs in one place the lowest loss is
    shown, else such a mark, else the lower loss.
    """
    finite = [point.loss for point in curve if point.loss is not None]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    marks = [(NOT_RUN, -1.0)] * axis.n
    for point in curve:
        if point.loss is None:
            if not point.seed_losses:
                continue
            mark = (DIVERGED if point.n_diverged else STOPPED, 2.0)
        else:
            share = math.sqrt((point.loss - low) / (high - low)) if high > low else 0.0
            mark = (BLOCKS[0], 3.0) if point.loss == low else (_above(share), 1.0 - share)
        place = axis.place(point.log2_lr)
        marks[place] = max(marks[place], mark, key=lambda each: each[1])
    return _taken("".join(mark for mark, _ in marks))


def size_bars(sizes: Sequence[float], *, step: float = OCTAVES_A_STEP) -> str:
    """Return a bar for each size, a step higher for each `step` octaves above the least; nothing stands for no size."""
    logs = [math.log2(size) if size > 0 and math.isfinite(size) else math.nan for size in sizes]
    least = min((log for log in logs if not math.isnan(log)), default=math.nan)
    return _taken(
        "".join(
            NOT_RUN if math.isnan(log) else BLOCKS[min(math.floor((log - least) / step + 0.5), HIGHEST)] for log in logs
        )
    )


def step_of_sizes(rows: Iterable[Sequence[float]]) -> float:
    """Return how many octaves a step of `size_bars` is for rows that share it: as many as the steepest one needs."""
    spans = [0.0]
    for sizes in rows:
        logs = [math.log2(size) for size in sizes if size > 0 and math.isfinite(size)]
        spans += [max(logs) - min(logs)] if logs else []
    return max(OCTAVES_A_STEP, max(spans) / HIGHEST)


def legend_of_losses(bars: Iterable[str], axis: Axis) -> str:
    """Say what `loss_bars` show: from which lr to which, and what their marks mean."""
    blocks, seen = takes_blocks(), set("".join(bars))
    low, high = (lr_text(2**x) for x in (axis.low, axis.low + axis.step * (axis.n - 1)))
    said = [f"from {low} to {high}, {(BLOCKS if blocks else DIGITS)[0]} the lowest"]
    if seen & {DIVERGED, PLAIN[DIVERGED]}:
        said.append(f"{DIVERGED if blocks else PLAIN[DIVERGED]} where a seed diverged")
    if STOPPED in seen:
        said.append(f"{STOPPED} where one was stopped")
    if NOT_RUN in seen:
        said.append("blank where none ran")
    return ", ".join(said)


def takes_blocks() -> bool:
    """Say whether stdout takes every bar; a code page may take some of them only."""
    try:
        (BLOCKS + DIVERGED).encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _above(share: float) -> str:
    """Return the block of what lies above the lowest: none of them is the lowest block."""
    return BLOCKS[1 + math.floor(share * (HIGHEST - 1) + 0.5)]


def _taken(bars: str) -> str:
    """Return bars as stdout takes them: digits, and an x, where it has no blocks."""
    return bars if takes_blocks() else bars.translate(str.maketrans(BLOCKS + DIVERGED, DIGITS + PLAIN[DIVERGED]))
