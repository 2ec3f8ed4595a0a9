"""What is added to an undecided check, and that it ends."""

import numpy as np
import pandas as pd
from planted_slopes import EFFECTIVE, judge_one, make_coords, make_runs, results

from mupcheck.coordinates.judge import judge
from mupcheck.coordinates.seeds import MOST_SEEDS
from mupcheck.coordinates.top_up import MOST_WIDTHS_MORE, next_round
from mupcheck.spec.reading import make_sweep

WIDTHS = (64, 128, 256, 512)
ELSEWHERE = ("effective_update", "rms", "v_proj", 0, 1)


def test_a_decided_check_gets_nothing():
    for slope in (0.0, 1.0):
        assert next_round([judge_one({EFFECTIVE: slope})], widths=WIDTHS) is None


def test_noise_gets_seeds_until_it_is_decided():
    n_seeds, rounds = 4, []
    while True:
        runs = make_runs(seeds=range(n_seeds))
        coords = make_coords(runs, {EFFECTIVE: 0.0}, noise=0.6, seed=3)
        (judgement,) = judge(results(runs, coords))
        more = next_round([judgement], widths=WIDTHS)
        if more is None:
            break
        assert more.widths == WIDTHS
        assert n_seeds < more.n_seeds <= 3 * n_seeds
        n_seeds = more.n_seeds
        rounds.append(n_seeds)
    assert judgement.verdict == "pass"
    assert 1 <= len(rounds) <= 4


def test_a_slope_at_the_tolerance_gets_widths_and_then_an_end():
    widths = WIDTHS
    for _ in range(MOST_WIDTHS_MORE):
        runs = make_runs(seeds=range(64), widths=widths)
        (judgement,) = judge(results(runs, make_coords(runs, {EFFECTIVE: 0.25}, noise=0.01)))
        more = next_round([judgement], widths=WIDTHS)
        assert more.widths == (*widths, 2 * widths[-1])
        widths = more.widths
    runs = make_runs(seeds=range(64), widths=widths)
    (judgement,) = judge(results(runs, make_coords(runs, {EFFECTIVE: 0.25}, noise=0.01)))
    assert judgement.verdict == "cannot tell"
    assert next_round([judgement], widths=WIDTHS) is None


def test_only_what_is_not_decided_gets_more():
    clear, noisy = make_runs(), make_runs(parametrization="mup", rules_hash=2)
    coords = [make_coords(clear, {EFFECTIVE: 0.0}, noise=0.01), make_coords(noisy, {EFFECTIVE: 0.0}, noise=0.8, seed=1)]
    more = next_round(judge(results(pd.concat([clear, noisy]), pd.concat(coords))), widths=WIDTHS)
    assert more.parametrizations == ("mup",)


def test_more_runs_do_not_help_a_check_that_is_not_valid():
    runs = make_runs().assign(n_params=7)
    (judgement,) = judge(results(runs, make_coords(runs, {EFFECTIVE: 0.0, ELSEWHERE: 0.0}, noise=0.8, seed=1)))
    assert judgement.verdict == "cannot tell"
    assert "parameter counts" in judgement.reason
    assert next_round([judgement], widths=WIDTHS) is None


def test_a_check_tops_up_by_default_and_one_of_given_seeds_only_if_asked():
    for optimizer in ("adamw", "sgd"):
        assert make_sweep({"kind": "coord", "optimizer": optimizer, "widths": [256, 512, 1024]}).top_up
    assert not make_sweep({"kind": "coord", "seeds": 8}).top_up
    assert make_sweep({"kind": "coord", "seeds": 8, "top_up": True}).top_up


def test_a_slope_that_noise_put_near_the_tolerance_gets_seeds_first():
    runs = make_runs(seeds=range(16))
    slope = 0.22 + 0.2 * np.tile([-1.0, 1.0], 8)[runs["seed"]]  # stderr 0.05: a standard error off it lies 0.17
    coords = make_coords(runs, {EFFECTIVE: 0.0}).assign(value=runs["width"] ** slope)
    (judgement,) = judge(results(runs, coords))
    more = next_round([judgement], widths=WIDTHS)
    assert (more.widths, judgement.verdict) == (WIDTHS, "cannot tell")
    assert 16 < more.n_seeds <= MOST_SEEDS
