"""Searches for an optimum on simulated curves: bracketed with few runs, bounded by divergence, and always at an end."""

import numpy as np
import pandas as pd
import pytest
from planted_curves import optimum_of

from mupcheck.learning_rates.lr_curve import mean_curve
from mupcheck.learning_rates.optimum import FLAT_RESPONSE, optima_of
from mupcheck.learning_rates.refine import MAX_ADDED, MAX_BEYOND, next_lrs, next_round

GRID = np.arange(-10.0, -3)


def search(loss, *, grid=GRID, precision=0.25, n_seeds=3, noise=0.0, seed=0, noise_flags=False):
    """Search until it ends; return the last Search, the optimum, and what was added in each round.

    Args:
        loss: function of log2 lr, +inf where training diverges.
        noise_flags: judge each curve as a sweep's are, not by whether it is flat alone.
    """
    rng = np.random.default_rng(seed)
    known: dict[float, np.ndarray] = {}

    def losses_at(x):
        return known.setdefault(x, loss(x) + noise * rng.normal(size=n_seeds))

    x, rounds = sorted(map(float, grid)), []
    while True:
        losses = np.stack([losses_at(at) for at in x], axis=1)
        finite = losses[:, np.isfinite(losses).all(axis=0)]
        flat = finite.size > 0 and np.ptp(finite.mean(axis=0)) < FLAT_RESPONSE * finite.min()
        optimum = optimum_of(32, x, losses, flags=("flat",) if flat else ())
        if noise_flags:
            (optimum,) = optima_of({32: optimum.curve}, ("s", "p", "adamw", "heads"))
        found = next_lrs(optimum, grid=grid, precision=precision)
        if not found.log2_lrs:
            return found, optimum, rounds
        assert not set(found.log2_lrs) & set(x), "an lr was asked for twice"
        rounds.append(found.log2_lrs)
        assert len(rounds) < 100, "the search does not end"
        x = sorted([*x, *found.log2_lrs])


def parabola(best, bend=0.1):
    return lambda x: 2 + bend * (x - best) ** 2


def lopsided(best):
    """Rises slowly below its minimum and fast above, as losses against lr do."""
    return lambda x: 2 + 0.16 * (np.exp(0.7 * (x - best)) - 0.7 * (x - best) - 1)


def diverging(loss, threshold):
    return lambda x: loss(x) if x <= threshold else np.inf


def is_bracketed(found, optimum, precision):
    x, losses = mean_curve(optimum.curve)
    low, high = found.bracket
    lowest = x[losses.argmin()]
    return found.reason == "" and low < lowest < high and max(lowest - low, high - lowest) <= precision + 1e-9


@pytest.mark.parametrize("shape", [parabola, lopsided])
@pytest.mark.parametrize("precision", [0.25, 0.1])
@pytest.mark.parametrize("spacing", [0.5, 1.0, 2.0, np.log2(3)])
def test_an_optimum_inside_is_bracketed_with_few_lrs(shape, precision, spacing):
    grid = np.arange(-10.0, -2.9, spacing)
    runs = []
    for best in np.linspace(-7.9, -5.1, 29):
        found, optimum, rounds = search(shape(best), grid=grid, precision=precision)
        assert is_bracketed(found, optimum, precision)
        assert found.bracket[0] <= best <= found.bracket[1]
        runs.append(sum(map(len, rounds)))
    # Three lrs bracket an optimum whose place is known; those of the grid count where they are near enough. What is no
    # parabola takes more. A grid of quarter octaves would have 21 more than one of octaves.
    assert max(runs) <= (3 if shape is parabola else 6)
    if (spacing, precision) == (1.0, 0.25):
        assert np.mean(runs) == pytest.approx(2.3, abs=0.2)


def test_half_an_octave_needs_no_more_than_its_own_precision():
    found, _, rounds = search(parabola(-6.2), grid=np.arange(-10, -3, 0.5), precision=0.5)
    assert (rounds, found.reason) == ([], "")


@pytest.mark.parametrize("grid", [[-6.0], [-6.0, -9.0]])
def test_a_grid_of_one_lr_or_out_of_order_is_a_start(grid):
    found, optimum, _ = search(parabola(-7.3), grid=grid)
    assert is_bracketed(found, optimum, 0.25)


@pytest.mark.parametrize("best", [-13.3, -11.2, -1.4, 0.9])
def test_an_optimum_beyond_an_edge_is_gone_after(best):
    found, optimum, rounds = search(parabola(best))
    assert is_bracketed(found, optimum, 0.25)
    assert found.bracket[0] <= best <= found.bracket[1]
    beyond = max(GRID[0] - best, best - GRID[-1])
    # an octave at a time, one more to see it rise again, and three to bracket it
    assert sum(map(len, rounds)) <= np.ceil(beyond) + 1 + 3


@pytest.mark.parametrize("threshold", [-4.6, -5.2, -5.9, -5.97])
def test_divergence_bounds_the_search_from_above(threshold):
    """The best lr is the highest one that trains: the search closes in on where training ends, and goes no further."""
    found, optimum, rounds = search(diverging(parabola(-3.0), threshold))
    assert is_bracketed(found, optimum, 0.25)
    assert found.bracket[0] <= threshold <= found.bracket[1]
    assert max(at for added in rounds for at in added) < np.ceil(threshold)
    assert sum(map(len, rounds)) <= 4


def test_where_divergence_begins_is_found_by_halving():
    grid = np.arange(-12.0, -3, 4)
    for threshold in np.linspace(-7.9, -4.2, 12):
        found, optimum, rounds = search(diverging(parabola(-3.0), threshold), grid=grid)
        assert is_bracketed(found, optimum, 0.25)
        # sixteen quarters of an octave are halved four times, and one lr lies below; one by one it would be up to 15
        assert sum(map(len, rounds)) <= 6


def test_divergence_at_every_lr_is_searched_below():
    found, optimum, rounds = search(diverging(parabola(-12.2), -11.4))
    assert rounds[0] == (-11.0,)
    assert is_bracketed(found, optimum, 0.25)
    dead, _, rounds = search(lambda x: np.inf)
    assert min(at for added in rounds for at in added) == GRID[0] - MAX_BEYOND
    assert dead.reason == "a seed diverges down to the lowest lr, 2^-16, 6 octaves beyond the grid"


@pytest.mark.parametrize("high", [2.6, 2.1])  # a seed that gets through may even be better than lrs that train
@pytest.mark.parametrize("survivors", [(-5,), (-6, -5), (-4,)])
def test_what_survives_above_a_diverging_lr_is_no_optimum(survivors, high):
    """At an lr too large some seeds get through by chance: unclipped SGD did at 2^-5, four octaves above its best."""
    loss = parabola(-9.2)
    found, optimum, _ = search(
        lambda x: loss(x) if x <= -8.4 else high + 0.01 * x if x in survivors else np.inf, grid=(-7.0, -6.0, -5.0, -4.0)
    )
    assert is_bracketed(found, optimum, 0.25)
    assert found.bracket[0] <= -9.2 <= found.bracket[1]


def test_a_minimum_below_a_diverging_lr_is_not_gone_after_beyond_the_grid():
    """What survives above says that the best lr may lie below it, not that it lies below all."""
    loss = parabola(-7.8)
    found, optimum, rounds = search(lambda x: loss(x) if x < -6 else 1.8 if x in (-5, -4) else np.inf)
    assert optimum.lowest.log2_lr > -6
    assert all(at > GRID[0] for added in rounds for at in added)
    assert found.reason == ""


def test_two_lrs_that_train_are_not_flat():
    """Both lie within 2% of each other, as neighbours may; the minimum lies below, and above all diverges."""
    found, optimum, rounds = search(diverging(parabola(-9.8, bend=0.03), -7.5), grid=(-9.0, -8.0, -7.0, -6.0, -5.0))
    assert rounds[0] == (-10.0,)
    assert max(at for added in rounds for at in added) < -7
    assert is_bracketed(found, optimum, 0.25)
    flat, _, rounds = search(diverging(parabola(-9.8, bend=0.001), -7.5), grid=(-9.0, -8.0, -7.0, -6.0, -5.0))
    assert (flat.reason, sum(map(len, rounds))) == ("the curve is flat, so any lr would do; train longer", 3)


def test_a_search_without_end_is_ended_and_says_so():
    falling, _, rounds = search(lambda x: 5 - 0.1 * x)
    assert falling.reason == "the highest lr, 2^2, is still the best, 6 octaves beyond the grid"
    assert falling.bracket == (1, None)
    rising, *_ = search(lambda x: 5 + 0.1 * x)
    assert rising.reason == "the lowest lr, 2^-16, is still the best, 6 octaves beyond the grid"
    assert sum(map(len, rounds)) == MAX_BEYOND


def test_a_flat_curve_is_not_refined():
    found, _, rounds = search(parabola(-6.2, bend=0.001))
    assert (rounds, "flat" in found.reason) == ([], True)
    # a narrow grid may be flat for being narrow, and is widened to four octaves first
    found, _, rounds = search(parabola(-6.2, bend=0.001), grid=(-7.0, -6.0, -5.0))
    assert (rounds, "flat" in found.reason) == ([(-8.0, -4.0)], True)
    # at an edge it may be flat because nothing trained yet: it is followed until it is not
    found, optimum, _ = search(lambda x: 3 - 0.005 * x - 0.5 * (x > -2.5) + 0.3 * (x + 1) ** 2 * (x > -2.5))
    assert is_bracketed(found, optimum, 0.25)


@pytest.mark.parametrize("seed", range(5))
def test_a_narrow_grid_is_widened_until_the_seeds_can_tell_its_edges(seed):
    """Three lrs are enough to begin with: what ends bracketed has no guard for an edge within noise."""
    loss = parabola(-6.2, bend=0.03)
    found, optimum, rounds = search(
        loss, grid=(-7.0, -6.0, -5.0), precision=0.5, noise=0.02, seed=seed, noise_flags=True
    )
    assert is_bracketed(found, optimum, 0.5)
    assert not {"near edge", "within noise", "low edge", "high edge"} & set(optimum.flags)
    assert sum(map(len, rounds)) <= 8


def test_a_narrow_grid_is_not_widened_where_it_tells():
    _, _, rounds = search(parabola(-6.2, bend=0.1), grid=(-7.0, -6.0, -5.0), precision=0.5, noise_flags=True)
    assert min(at for added in rounds for at in added) > -7
    assert max(at for added in rounds for at in added) < -5


@pytest.mark.parametrize("seed", range(10))
def test_pure_noise_comes_to_an_end(seed):
    found, optimum, rounds = search(lambda x: 3.0, noise=0.5, precision=0.01, seed=seed)
    assert is_bracketed(found, optimum, 0.01) or found.reason
    assert sum(map(len, rounds)) <= MAX_ADDED
    assert len(rounds) > 1


def test_an_incomplete_sweep_is_not_refined():
    losses = np.stack([parabola(-6.2)(GRID)] * 2)
    whole, holed = (optimum_of(32, GRID, losses, flags=flags) for flags in ((), ("incomplete",)))
    assert next_lrs(whole, grid=GRID, precision=0.25).log2_lrs
    assert next_lrs(holed, grid=GRID, precision=0.25).log2_lrs == ()
    assert "finish the sweep" in next_lrs(holed, grid=GRID, precision=0.25).reason


def test_widths_with_like_optima_get_the_same_lrs():
    """Else no two widths would be comparable at the lrs that matter."""
    for base in np.linspace(1e-4, 9e-4, 30):  # no powers of two, so that rounding could part them
        grid = np.log2(base * 3.0 ** np.arange(7))
        middle = (grid[3] + grid[4]) / 2
        added = [{at for a in search(parabola(middle + off), grid=grid)[2] for at in a} for off in (-0.02, 0.02)]
        assert len(added[0] & added[1]) >= 2, base


def test_a_round_is_read_from_the_runs_of_a_sweep():
    rows = []
    for width, best in ((32, -6.2), (64, -7.3), (128, -3.0)):
        for at in GRID:
            for seed in range(2):
                rows.append({"width": width, "log2_lr": at, "seed": seed, "val_loss": parabola(best)(at)})
    runs = pd.DataFrame(rows).assign(
        run_id=[f"r{i}" for i in range(len(rows))], sweep="s", kind="lr", parametrization="p", rules_hash="r",
        optimizer="adamw", mode="heads", status="ok", clipped_fraction=0.0, base_width=32, n_layers=1, n_heads=4,
        head_k_dim=8, head_v_dim=8, tied=False, vocab_size=256, batch_size=8, seq_len=48, steps=60, data="d",
        data_hash="d", weight_decay=0.0, decay_mode="coupled", momentum=np.nan, schedule="constant", warmup_steps=0,
        clip=np.nan, dtype="float32", backend="chunk", train_loss=3.0,
    )  # fmt: skip
    lrs = (2.0**GRID).tolist()
    wanted = {s.width: s.log2_lrs for s in next_round(runs, lrs=lrs, precision=0.25)}
    assert wanted == {32: (-6.25,), 64: (-7.25,), 128: (-3.0,)}
    # what another width has been refined by is not missing here
    more = runs[(runs["width"] == 32) & (runs["log2_lr"] == -6)].assign(log2_lr=-6.25, val_loss=2.0)
    grown = pd.concat([runs, more.assign(run_id=["x", "y"])])
    wanted = {s.width: (s.log2_lrs, s.reason) for s in next_round(grown, lrs=lrs, precision=0.25)}
    assert wanted[32][0] == (-6.5,)
    assert wanted[64] == ((-7.25,), "")
    # a seed of a refined lr is, and so is an lr of the grid
    short = {s.width: s.reason for s in next_round(grown[grown["run_id"] != "x"], lrs=lrs, precision=0.25)}
    holed = {s.width: s.reason for s in next_round(grown, lrs=[*lrs, 1.0], precision=0.25)}
    assert ("missing" in short[32], "missing" in short[64], "missing" in holed[64]) == (True, False, True)
