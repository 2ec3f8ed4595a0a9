"""What a slope alone does not see: one wrong width, and a line that bends."""

import numpy as np
import pandas as pd
import pytest
from planted_slopes import BAND, EFFECTIVE, FREE, LOGITS, RESIDUAL, judge_one, make_coords, make_runs, results, times_at

from mupcheck.coordinates.judge import judge
from mupcheck.coordinates.slopes import fit_slopes
from mupcheck.coordinates.top_up import next_round
from mupcheck.coordinates.widths import GROSS, RESIDUAL_SHARE, factor_text

WIDTHS = {3: (64, 128, 256), 4: (64, 128, 256, 512), 5: (32, 64, 128, 256, 512)}
SITES = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj", "a_proj")
CLEAN = {("effective_update", "rms", site, 0, 1): 0.0 for site in SITES} | {RESIDUAL: 0.0, FREE: -1.0}
SEEDS = range(8)
NOISE = 0.05  # octaves: that of a typical size between seeds


def judge_planted(widths, width, factor, *sites, noise=NOISE, seed=0):
    runs = make_runs(widths=widths, seeds=SEEDS)
    coords = make_coords(runs, CLEAN, noise=noise, seed=seed)
    (judgement,) = judge(results(runs, times_at(coords, runs, width, factor, *sites)))
    return judgement


@pytest.mark.parametrize("place", ["middle", "last"])
@pytest.mark.parametrize("n_widths", [3, 4, 5])
@pytest.mark.parametrize("factor", [0.5, 2, 1000])
@pytest.mark.parametrize("sites", [(), ("v_proj",)])
def test_one_wrong_width_fails_and_is_named(n_widths, place, factor, sites):
    widths = WIDTHS[n_widths]
    width = widths[n_widths // 2 if place == "middle" else -1]
    found = judge_planted(widths, width, factor, *sites)
    assert found.verdict == "fail"
    (finding,) = [finding for finding in found.findings if finding.name == "width off"]
    assert finding.widths == (width,)
    assert set(finding.sites) == set(sites or (*SITES, "residual"))
    assert found.reason.startswith(f"width {width} is off by x")
    assert (found.next_step, found.causes) == (f"find what is done otherwise at width {width}", ())
    if sites and factor == 2:
        # 8 seeds with a scatter of 0.05 octaves
        assert found.pooled.set_index("site").loc["v_proj", "off"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("n_widths", [3, 4, 5])
def test_half_as_much_again_in_all_sites_is_named_and_in_one_is_no_pass(n_widths):
    widths = WIDTHS[n_widths]
    everywhere, alone = (judge_planted(widths, widths[-1], 1.5, *sites) for sites in ((), ("v_proj",)))
    assert everywhere.reason.startswith(f"width {widths[-1]} is off by x1.")
    assert alone.verdict != "pass"


@pytest.mark.parametrize("n_widths", [3, 4, 5])
def test_clean_widths_are_not_named(n_widths):
    for seed in range(3):
        found = judge_planted(WIDTHS[n_widths], 64, 1.0, seed=seed)
        assert (found.verdict, found.findings) == ("pass", ())
        assert found.pooled["off"].isna().all()


def test_the_least_squares_line_alone_passes_a_wrong_middle_width():
    runs = make_runs(widths=WIDTHS[3])
    coords = times_at(make_coords(runs, {EFFECTIVE: 0.0}), runs, 128, 1000)
    row = fit_slopes(runs, coords).iloc[0]
    assert row["slope"] == pytest.approx(0, abs=1e-12)
    assert row["verdict"] == "fail"
    assert "width 128 is off by x1000" in row["reason"]


@pytest.mark.parametrize("n_widths", [3, 4, 5])
def test_how_far_a_width_is_off_is_measured_from_the_line_through_the_others(n_widths):
    widths = WIDTHS[n_widths]
    runs = make_runs(widths=widths, seeds=SEEDS)
    coords = times_at(make_coords(runs, {EFFECTIVE: 0.1}, noise=NOISE), runs, 128, 3)
    row = fit_slopes(runs, coords).iloc[0]
    sizes = coords.merge(runs[["run_id", "width"]]).groupby("width")["value"].apply(lambda of: np.log2(of).mean())
    others = sizes.drop(128)
    line = np.polyfit(np.log2(others.index.to_numpy(float)), others.to_numpy(), 1)
    assert row["off_width"] == 128
    assert row["off"] == pytest.approx(sizes[128] - np.polyval(line, 7), abs=1e-9)
    assert row["last"] == pytest.approx(sizes.iloc[-1] - sizes.iloc[-2], abs=1e-9)


@pytest.mark.parametrize("quantity", [BAND, LOGITS])
def test_a_width_is_named_where_a_range_is_required_too(quantity):
    runs = make_runs(seeds=SEEDS)
    coords = times_at(make_coords(runs, {quantity: -0.4, EFFECTIVE: 0.0}, noise=0.02), runs, 128, 2, quantity[2])
    (found,) = judge(results(runs, coords))
    assert found.reason.startswith(f"width 128 is off by x2.0 in {quantity[2]}")


@pytest.mark.parametrize("slope", [0.5, 1.0, -0.5])
def test_a_wrong_exponent_is_not_taken_for_a_wrong_width(slope):
    # bent besides, as wrong tables are
    runs = make_runs(seeds=SEEDS)
    coords = make_coords(runs, CLEAN | {EFFECTIVE: slope}, noise=NOISE)
    x = np.log2(runs.set_index("run_id")["width"] / 64)
    bend = np.where(coords["site"] == "q_proj", np.sign(slope) * 0.15 * x[coords["run_id"]] ** 2, 0.0)
    (found,) = judge(results(runs, coords.assign(value=coords["value"] * 2**bend)))
    assert found.verdict == "fail"
    assert not [finding for finding in found.findings if finding.name == "width off"]
    assert found.reason.startswith("effective_update rms of q_proj")


def test_a_width_of_one_layer_and_step_is_named_with_both():
    # 1 of 24 values: what is pooled hardly moves
    places = [(layer, step) for layer in range(8) for step in (1, 2, 3)]
    runs = make_runs(seeds=SEEDS)
    coords = make_coords(runs, {("effective_update", "rms", "q_proj", *place): 0.0 for place in places}, noise=NOISE)
    wrong = times_at(coords, runs, 128, 4)
    coords["value"] = coords["value"].where((coords["layer"] != 5) | (coords["step"] != 2), wrong["value"])
    (found,) = judge(results(runs, coords))
    assert (found.verdict, found.counts["fail"]) == ("fail", 0)
    (finding,) = found.findings
    assert (finding.layers, finding.widths, finding.steps) == ((5,), (128,), (2,))
    assert finding.text.endswith("in q_proj, layer 5, step 2")


def test_noise_that_may_hide_a_factor_of_two_is_no_pass():
    runs, n = make_runs(widths=WIDTHS[5], seeds=SEEDS), 300
    sites = {("activation", "rms", "residual", layer, 1): 0.0 for layer in range(n)}
    for noise in (0.3, 0.7):
        for width in (128, 512):
            coords = times_at(make_coords(runs, sites, noise=noise, seed=width), runs, width, 2)
            passed = (fit_slopes(runs, coords)["verdict"] == "pass").mean()
            assert passed <= 0.08  # at most 5 of 100 by a one-sided interval, with a standard error of 1.3


def test_seeds_decide_where_a_width_may_be_off():
    runs = make_runs(widths=WIDTHS[5], seeds=SEEDS)
    (found,) = judge(results(runs, make_coords(runs, {EFFECTIVE: 0.0}, noise=0.75, seed=2)))
    row = found.pooled.iloc[0]
    assert -0.25 < row["ci_low"] < row["ci_high"] < 0.25
    assert (row["verdict"], row["open"]) == ("cannot tell", "seeds")
    assert "may be off by x" in row["reason"]
    more = next_round([found], widths=WIDTHS[5])
    assert more.n_seeds > len(SEEDS)
    runs = make_runs(widths=WIDTHS[5], seeds=range(4 * len(SEEDS)))
    (found,) = judge(results(runs, make_coords(runs, {EFFECTIVE: 0.0}, noise=0.75, seed=2)))
    assert found.verdict == "pass"


def bent(share, widths=WIDTHS[4]):
    """Plant a size whose square is 1 and a share that grows as width^2."""
    runs = make_runs(widths=widths, seeds=SEEDS)
    coords = make_coords(runs, CLEAN, noise=0.02)
    m = (runs.set_index("run_id")["width"] / widths[0])[coords["run_id"]].to_numpy()
    fast = np.where(coords["site"] == "q_proj", share * m**2, 0.0)
    (found,) = judge(results(runs, coords.assign(value=coords["value"] * np.sqrt(1 + fast))))
    return found


def test_what_begins_to_grow_is_not_passed():
    found = bent(0.02)
    row = found.pooled.set_index("site").loc["q_proj"].loc[lambda rows: rows["kind"] == "effective_update"].iloc[0]
    assert row["ci_high"] < 0.25 < row["last_low"]
    assert (found.verdict, row["verdict"], row["open"]) == ("cannot tell", "cannot tell", "widths")
    assert "curved, +0.39" in row["reason"]
    assert "--widths" not in found.next_step
    assert "add a larger width, such as 1024" in found.next_step
    assert next_round([found], widths=WIDTHS[4]).widths == (*WIDTHS[4], 1024)
    # the next doubling tells
    assert bent(0.02, (*WIDTHS[4], 1024)).verdict == "fail"
    assert bent(0.0).verdict == "pass"
    assert bent(0.002).verdict == "pass"


def test_noise_alone_names_a_width_in_one_check_of_a_hundred():
    # 40 quantities, each with a middle width at the edge of what is allowed: each alone would fail 1 time in 20
    runs = make_runs(seeds=range(6))
    sites = {("activation", "rms", "residual", layer, 1): 0.0 for layer in range(40)}
    # of four equally spaced widths, 0.7 of what the second is off by is left beside the line
    edge = 2 ** (RESIDUAL_SHARE * 0.25 / 0.7)
    failed = 0
    for seed in range(30):
        table = fit_slopes(runs, times_at(make_coords(runs, sites, noise=0.3, seed=seed), runs, 128, edge))
        failed += table["off"].notna().any()
    assert failed <= 2  # 30 x WIDTH_SHARE (0.2) x 0.05 = 0.3, with three standard deviations of 0.55


def test_two_wrong_widths_lie_on_no_line():
    runs = make_runs(widths=WIDTHS[5], seeds=SEEDS)
    coords = make_coords(runs, {EFFECTIVE: 0.0}, noise=0.02)
    for width in (64, 256):
        coords = times_at(coords, runs, width, 2)
    (found,) = judge(results(runs, coords))
    assert found.verdict == "fail"
    assert "lie on no line" in found.reason


def test_no_width_is_named_where_there_are_too_few():
    for widths in ((64,), (64, 128)):
        found = judge_one({EFFECTIVE: 0.0}, runs=make_runs(widths=widths))
        assert found.verdict == "cannot tell"
        assert found.pooled[["off", "p_off", "last", "p_last"]].isna().all(axis=None)
    one = make_runs(seeds=(0,))
    assert judge_one({EFFECTIVE: 0.0}, runs=one).pooled["p_off"].isna().all()


def test_widths_that_hardly_differ_cannot_tell_and_say_what_to_add():
    found = judge_one({EFFECTIVE: 0.0}, runs=make_runs(widths=(64, 65, 66)), noise=0.1)
    assert found.verdict == "cannot tell"
    assert "widths 64, 65, 66 span less than an octave" in found.reason
    assert "--widths 64,128,256" in found.next_step


@pytest.mark.parametrize(
    ("octaves", "text"), [(1.0, "x2.0"), (-1.0, "x0.5"), (0.58, "x1.5"), (9.966, "x1000"), (-4.0, "x0.062")]
)
def test_a_factor_is_written_short(octaves, text):
    assert factor_text(octaves) == text
    assert GROSS == 1.0


def test_findings_sort_by_what_counts():
    runs = make_runs(seeds=SEEDS)
    coords = times_at(make_coords(runs, CLEAN, noise=NOISE), runs, 128, 2, "v_proj")
    (found,) = judge(results(runs.assign(warmup_steps=1), coords))
    assert isinstance(found.pooled, pd.DataFrame)
    assert [finding.effect for finding in found.findings] == ["fail", "warning"]
