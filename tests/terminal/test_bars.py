"""Bars: the lowest stands at the lowest loss, what diverged is seen, and a stream without blocks gets digits."""

import numpy as np
import pytest
from planted_curves import curve_of
from screens import seen

from mupcheck.terminal.bars import (
    BLOCKS,
    DIGITS,
    DIVERGED,
    MOST_BARS,
    NOT_RUN,
    OCTAVES_A_STEP,
    STOPPED,
    Axis,
    axis_of,
    legend_of_losses,
    loss_bars,
    size_bars,
    step_of_sizes,
)

X = np.arange(-10.0, -2.0)


def planted(rng):
    """Losses [seed, lr] with one minimum, some diverged at the high end, some lrs not run at the low one."""
    losses = 2 + rng.uniform(0.01, 2) * (X - rng.uniform(-9, -4)) ** 2 + 0.1 * rng.random((3, len(X)))
    losses[rng.integers(3), len(X) - rng.integers(4) :] = np.inf
    losses[:, : rng.integers(3)] = np.nan
    return losses


@pytest.mark.parametrize("seed", range(30))
def test_the_lowest_bar_is_at_the_lowest_loss_and_a_diverged_lr_has_its_mark(seed):
    curve = curve_of(X, planted(np.random.default_rng(seed)))
    axis = axis_of(X)
    assert axis == Axis(-10.0, 1.0, len(X))
    bars = loss_bars(curve, axis)
    finite = {i: point.loss for i, point in enumerate(curve) if point.loss is not None}
    lowest = min(finite, key=lambda i: finite[i])
    assert [i for i, bar in enumerate(bars) if bar == BLOCKS[0]] == [lowest]
    assert {i for i, bar in enumerate(bars) if bar == DIVERGED} == {i for i, p in enumerate(curve) if p.n_diverged}
    assert {i for i, bar in enumerate(bars) if bar == NOT_RUN} == {i for i, p in enumerate(curve) if not p.seed_losses}
    heights = [BLOCKS.index(bars[i]) for i in sorted(finite, key=lambda i: finite[i])]
    assert heights == sorted(heights) and heights[-1] == len(BLOCKS) - 1


def test_a_loss_hardly_above_the_lowest_is_not_shown_as_the_lowest():
    bars = loss_bars(curve_of([0, 1, 2], [[2.0, 2.0001, 9.0]]), axis_of([0, 1, 2]))
    assert bars == BLOCKS[0] + BLOCKS[1] + BLOCKS[-1]
    assert loss_bars(curve_of([0, 1], [[2.0, 2.0]]), axis_of([0, 1])) == BLOCKS[0] * 2
    assert loss_bars(curve_of([0, 1], [[np.inf, np.inf]]), axis_of([0, 1])) == DIVERGED * 2


def test_lrs_of_a_refinement_stand_between_those_of_the_grid():
    x = [-9, -8, -7.5, -7, -6]
    axis = axis_of(x)
    assert loss_bars(curve_of(x, [[4.0, 2.2, 2.0, 2.2, 4.0]]), axis) == "█ ▄▁▄ █"
    grid = [-9, -8, -7, -6]
    assert loss_bars(curve_of(grid, [[4.0, 2.0, 2.2, 4.0]]), axis) == "█ ▁ ▄ █"


@pytest.mark.parametrize("n", [1, 2, MOST_BARS, MOST_BARS + 1, 60])
def test_of_however_many_lrs_the_lowest_loss_is_seen(n):
    rng = np.random.default_rng(n)
    x = np.sort(rng.uniform(-12, -2, n))
    losses = 2 + (x - -6) ** 2
    losses[x > -3] = np.inf
    bars = loss_bars(curve_of(x, losses[None]), axis_of(x))
    assert len(bars) <= MOST_BARS
    finite = np.where(np.isfinite(losses), losses, np.nan)
    if not np.isnan(finite).all():
        assert bars.count(BLOCKS[0]) == 1
        assert bars.index(BLOCKS[0]) == axis_of(x).place(x[np.nanargmin(finite)])
    assert (DIVERGED in bars) == (x > -3).any()


def test_of_lrs_in_one_place_the_lowest_loss_is_shown_then_what_diverged_then_the_lower_loss():
    axis = Axis(0.0, 4.0, 3)
    x, losses = [0, 1, 1.5, 4, 5, 8, 9], [3.0, 2.0, np.inf, 2.5, np.inf, 9.0, 3.0]
    for order in (slice(None), slice(None, None, -1)):
        bars = loss_bars(curve_of(x, [losses])[order], axis)
        assert bars == f"{BLOCKS[0]}{DIVERGED}{loss_bars(curve_of([0, 4, 8], [[2.0, 9.0, 3.0]]), axis)[-1]}"


def test_a_stopped_lr_is_no_diverged_one():
    diverged, ran, stopped = curve_of([0, 1, 2], [[np.inf, 2.0, np.inf]])
    stopped = type(stopped)(2.0, None, 0, stopped.seed_losses, n_stopped=1)
    axis = axis_of([0, 1, 2])
    bars = loss_bars([diverged, ran, stopped], axis)
    assert bars == DIVERGED + BLOCKS[0] + STOPPED
    said = legend_of_losses([bars], axis)
    assert said == "from 2^0 to 2^2, ▁ the lowest, × where a seed diverged, ^ where one was stopped"
    assert legend_of_losses([bars[1]], axis) == "from 2^0 to 2^2, ▁ the lowest"


@pytest.mark.parametrize(
    ("encoding", "blocks"), [("ascii", False), ("cp437", False), ("latin-1", False), ("utf-8", True)]
)
def test_a_stream_gets_blocks_if_it_takes_all_of_them_and_digits_otherwise(encoding, blocks):
    curve = curve_of(X, planted(np.random.default_rng(1)))
    axis = axis_of(X)
    whole = loss_bars(curve, axis)
    shown = seen(lambda: print(loss_bars(curve, axis), size_bars([1, 2, 4])), encoding=encoding)
    as_digits = str.maketrans(BLOCKS + DIVERGED, DIGITS + "x")
    expected = f"{whole} {size_bars([1, 2, 4])}\n"
    assert shown == (expected if blocks else expected.translate(as_digits))
    assert shown.isascii() != blocks
    said = seen(lambda: print(legend_of_losses([loss_bars(curve, axis)], axis)), encoding=encoding)
    assert said.startswith(f"from 2^-10 to 2^-3, {'▁' if blocks else '0'} the lowest, {'×' if blocks else 'x'} where")


def test_bars_of_sizes_are_flat_where_sizes_are_and_share_their_step():
    widths = np.array([32.0, 64.0, 128.0, 256.0])
    flat, falls, grows = widths**0.02, widths**-0.5, widths**1.0
    step = step_of_sizes([flat, falls, grows])
    assert step == pytest.approx(3 / (len(BLOCKS) - 1))
    assert size_bars(flat, step=step) == BLOCKS[0] * 4
    assert size_bars(grows, step=step) == "▁▃▆█"
    assert size_bars(falls, step=step) == "▅▃▂▁"
    assert step_of_sizes([flat]) == step_of_sizes([]) == step_of_sizes([(np.nan, 0.0)]) == OCTAVES_A_STEP
    assert size_bars([1.0, np.nan, 0.0, 2.0]) == "▁  ▅"
    assert size_bars([]) == ""
