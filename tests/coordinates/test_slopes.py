import warnings
from math import inf, isnan, nan

import numpy as np
import pandas as pd
import pytest
from planted_slopes import BAND, EFFECTIVE, FREE, LOGITS, RESIDUAL, SEEDS, make_coords, make_runs
from scipy import special, stats

from mupcheck.coordinates.grid import SAME
from mupcheck.coordinates.slopes import COLUMNS, fit_slopes, holm, not_passing, pool
from mupcheck.theory.rules_file import parse_table


def fit_one(runs, coords):
    slopes = fit_slopes(runs, coords)
    assert len(slopes) == 1
    return slopes.iloc[0]


def judge(quantity, slope, *, noise=0.0, seed=0, **changes):
    runs = make_runs(**changes)
    return fit_one(runs, make_coords(runs, {quantity: slope}, noise=noise, seed=seed))


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_slope_and_interval_are_those_of_one_fit_per_seed():
    runs = make_runs()
    coords = make_coords(runs, {RESIDUAL: 0.7, FREE: -1.3}, noise=0.5)
    slopes = fit_slopes(runs, coords.sample(frac=1, random_state=0))
    assert list(slopes.columns) == COLUMNS
    for row in slopes.itertuples():
        mine = coords[coords["kind"] == row.kind].merge(runs[["run_id", "width", "seed"]])
        by_seed = [
            stats.linregress(np.log2(rows["width"]), np.log2(rows["value"])).slope for _, rows in mine.groupby("seed")
        ]
        interval = stats.t.interval(0.90, 3, np.mean(by_seed), stats.sem(by_seed))
        assert row.slope == pytest.approx(np.mean(by_seed), abs=1e-12)
        assert row.slope_stderr == pytest.approx(stats.sem(by_seed), abs=1e-12)
        assert (row.ci_low, row.ci_high) == pytest.approx(interval, abs=1e-12)
        assert (row.n_widths, row.n_seeds) == (4, 4)


def test_one_seed_falls_back_on_the_residuals_and_cannot_tell():
    runs = make_runs(seeds=(0,))
    coords = make_coords(runs, {RESIDUAL: 0.0}, noise=0.1)
    row = fit_one(runs, coords)
    fit = stats.linregress(np.log2(runs["width"]), np.log2(coords["value"]))
    assert (row["slope"], row["slope_stderr"]) == pytest.approx((fit.slope, fit.stderr), abs=1e-12)
    assert row["ci_high"] == pytest.approx(fit.slope + stats.t.ppf(0.95, 2) * fit.stderr, abs=1e-12)
    assert row["verdict"] == "cannot tell"
    assert "one seed" in row["reason"]


@pytest.mark.parametrize("seed_effect", [0.0, 0.3])
def test_a_90_percent_interval_covers_the_truth_90_times_in_100(seed_effect):
    # seeds may share a slope of their own over all widths: the interval is over seeds, so it must hold that too
    n = 1500
    runs, rng = make_runs(), np.random.default_rng(1)
    slope = seed_effect * rng.standard_normal((n, len(SEEDS)))[:, runs["seed"]]
    values = 2 ** (slope * np.log2(runs["width"].to_numpy()) + 0.5 * rng.standard_normal((n, len(runs))))
    coords = pd.DataFrame({"run_id": np.tile(runs["run_id"], n), "value": values.ravel()})
    coords = coords.assign(
        kind="weight_grad", stat="rms", site="q_proj", step=1, layer=np.repeat(np.arange(n), len(runs))
    )
    slopes = fit_slopes(runs, coords)
    assert len(slopes) == n
    covered = ((slopes["ci_low"] <= 0) & (slopes["ci_high"] >= 0)).mean()
    assert 0.87 <= covered <= 0.93  # 0.9 +- 4 standard errors of 1500 repetitions


@pytest.mark.parametrize(
    ("quantity", "slope", "verdict"),
    [
        (RESIDUAL, 0.0, "pass"),
        (RESIDUAL, 1.0, "fail"),
        (RESIDUAL, -0.5, "fail"),
        (RESIDUAL, 0.5, "fail"),
        (EFFECTIVE, 1.0, "fail"),
        (BAND, 0.0, "pass"),
        (BAND, -0.25, "pass"),
        (BAND, -1.0, "fail"),
        (LOGITS, -3.0, "pass"),
        (LOGITS, 0.5, "fail"),
        (FREE, 5.0, "info"),
    ],
)
def test_a_planted_slope_is_judged(quantity, slope, verdict):
    row = judge(quantity, slope, noise=0.05)
    assert row["verdict"] == verdict
    assert row["slope"] == pytest.approx(slope, abs=0.1)  # 4 seeds with a scatter of about 0.02 each
    assert f"{row['slope']:+.2f} [{row['ci_low']:+.2f}, {row['ci_high']:+.2f}]" in row["reason"]


def test_a_wide_interval_never_passes():
    verdicts = [judge(RESIDUAL, 0.0, noise=2.0, seed=seed)["verdict"] for seed in range(5)]
    assert "pass" not in verdicts
    assert "cannot tell" in verdicts


@pytest.mark.parametrize("edge", [-0.25, 0.25])
@pytest.mark.parametrize(("beyond", "verdict"), [(-0.1, "pass"), (0.0, "cannot tell"), (0.1, "fail")])
def test_the_interval_decides_and_not_the_slope(edge, beyond, verdict):
    runs = make_runs()
    centre = edge + np.sign(edge) * beyond
    slope = centre + 0.05 * np.array([-1, -1, 1, 1])[runs["seed"]]  # stderr 0.029, interval centre +- 0.068
    coords = make_coords(runs, {RESIDUAL: 0.0}).assign(value=runs["width"] ** slope)
    row = fit_one(runs, coords)
    assert row["slope"] == pytest.approx(centre, abs=1e-12)
    assert row["verdict"] == verdict


def test_required_is_reported_beside_the_slope():
    point, band, bound, free = (judge(quantity, 0.0) for quantity in (EFFECTIVE, BAND, LOGITS, FREE))
    assert (point["required"], point["required_low"], point["required_high"], point["tolerance"]) == (0, 0, 0, 0.25)
    assert (band["required_low"], band["required_high"]) == (-0.5, 0)
    assert (bound["required_low"], bound["required_high"]) == (-inf, 0)
    assert isnan(band["required"])
    assert isnan(bound["required"])
    assert free[["required", "required_low", "required_high", "tolerance"]].isna().all()
    assert point["reason"] == "slope +0.00 [+0.00, +0.00], required 0 +- 0.25"


def test_what_a_table_implies_is_reported_beside_the_slope():
    good, bad, free, noisy = (
        judge(EFFECTIVE, 0.0),
        judge(EFFECTIVE, 1.0),
        judge(("weight_grad", "rms", "q_proj", 0, 0), -1.0),
        judge(EFFECTIVE, 0.0, noise=1.0),
    )
    assert (good["implied"], good["implied_low"], good["implied_high"], good["as_implied"]) == (0, 0, 0, True)
    assert bad["as_implied"] is False
    assert free["verdict"] == "info"
    assert free["as_implied"] is True  # implied where nothing is required
    assert noisy["as_implied"] is None
    # sp implies what is not required, and another table's name implies nothing
    assert judge(EFFECTIVE, 1.0, parametrization="sp")["as_implied"] is True
    unknown = judge(EFFECTIVE, 0.0, parametrization="mine")
    assert isnan(unknown["implied"])
    assert unknown["as_implied"] is None


def test_a_multiplier_on_a_weight_shifts_what_is_required_of_its_stored_change():
    document = {"name": "moved", "base": "gdn-mup", "rule": [{"role": "hidden", "multiplier": 1, "lr": -2}]}
    runs = make_runs(parametrization="moved")
    update = ("weight_update", "rms", "q_proj", 0, 1)
    coords = make_coords(runs, {update: -2.0, EFFECTIVE: 0.0}, noise=0.01)
    moved = fit_slopes(runs, coords, tables={"moved": parse_table(document, "test")})
    assert moved.set_index("kind")["required"].to_dict() == {"weight_update": -2, "effective_update": 0}
    assert set(moved["verdict"]) == {"pass"}
    assert set(fit_slopes(runs, coords, tables={})["verdict"]) == {"fail", "pass"}


def test_holm_is_the_step_down_test():
    p_values = np.array([0.01, 0.04, 0.03, 0.005, nan])
    # Holm (1979): 4 x 0.005, 3 x 0.01, 2 x 0.03, then not below the one before
    assert holm(p_values, np.ones(5))[:4] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert isnan(holm(p_values, np.ones(5))[4])
    # all the weight on one hypothesis leaves it as it is
    assert holm(np.array([0.04, 0.5]), np.array([1.0, 1e-9]))[0] == pytest.approx(0.04)


def test_noise_alone_fails_no_slope_of_a_group_19_times_in_20():
    # 60 slopes at the very edge of the tolerance: each alone would fail one time in 20
    sites = {("effective_update", "rms", "q_proj", layer, 1): 0.25 for layer in range(20)}
    sites |= {("activation", "rms", "residual", layer, 1): 0.25 for layer in range(40)}
    runs = make_runs(seeds=range(6))
    failed = alone = 0
    for seed in range(60):
        slopes = fit_slopes(runs, make_coords(runs, sites, noise=0.3, seed=seed))
        failed += (slopes["verdict"] == "fail").any()
        alone += (slopes["ci_low"] > 0.25).any()
    assert alone > 50
    assert failed <= 8  # 60 x 0.05 = 3, with three standard deviations of 1.7


def test_half_the_level_is_kept_for_effective_updates():
    # one bad effective update among many good slopes: alone it is certain to 0.3%, among 200 it would not be
    others = {("activation", "rms", "residual", layer, 1): 0.0 for layer in range(199)}
    runs = make_runs(seeds=range(4))
    slope = 0.5 + 0.08 * np.array([-1.0, -0.3, 0.3, 1.0])[runs["seed"]]
    coords = make_coords(runs, others, noise=0.1)
    bad = make_coords(runs, {EFFECTIVE: 0.0}).assign(value=runs["width"] ** slope)
    slopes = fit_slopes(runs, pd.concat([coords, bad]))
    assert (slopes["verdict"] == "fail").sum() == 1
    among = bad.assign(kind="activation", site="norm1")
    assert not (fit_slopes(runs, pd.concat([coords, among]))["verdict"] == "fail").any()


@pytest.mark.parametrize("widths_matter", [False, True])
@pytest.mark.parametrize("n_seeds", [3, 8])
def test_the_interval_covers_skewed_and_unequal_noise_too(n_seeds, widths_matter):
    # chi-square sizes of a few values, as a gate's gradient has; wider models hold more of them
    n = 1500
    runs, rng = make_runs(seeds=range(n_seeds)), np.random.default_rng(2)
    dof = 4 * (runs["width"].to_numpy() / 64 if widths_matter else 1.0) * np.ones(len(runs))
    values = np.sqrt(rng.chisquare(dof, size=(n, len(runs))) / dof)
    # the mean log of a chi-square depends on its degrees of freedom: what is covered is the expected log's own slope
    x = np.log2(runs["width"].to_numpy())
    mean = (special.digamma(dof / 2) - np.log(dof / 2)) / 2 / np.log(2)
    truth = np.polyfit(x, mean, 1)[0]
    coords = pd.DataFrame({"run_id": np.tile(runs["run_id"], n), "value": values.ravel()})
    coords = coords.assign(
        kind="weight_grad", stat="rms", site="q_proj", step=1, layer=np.repeat(np.arange(n), len(runs))
    )
    slopes = fit_slopes(runs, coords)
    covered = ((slopes["ci_low"] <= truth) & (slopes["ci_high"] >= truth)).mean()
    assert 0.87 <= covered <= 0.93


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "value 0"), (-1.0, "value -1"), (nan, "value nan"), (inf, "value inf")]
)
def test_a_value_without_a_logarithm_cannot_be_told(value, shown):
    runs = make_runs()
    coords = make_coords(runs, {EFFECTIVE: 0.0})
    coords.loc[coords["run_id"] == "gdn-mup-256-2", "value"] = value
    row = fit_one(runs, coords)
    assert row["verdict"] == "cannot tell"
    assert isnan(row["slope"])
    assert f"{shown} at width 256, seed 2" in row["reason"]


@pytest.mark.parametrize(("quantity", "verdict"), [(LOGITS, "pass"), (EFFECTIVE, "cannot tell")])
def test_only_what_may_start_at_nothing_passes_at_zero(quantity, verdict):
    runs = make_runs()
    assert fit_one(runs, make_coords(runs, {quantity: 0.0}).assign(value=0.0))["verdict"] == verdict


def test_diverged_runs_count_and_a_failed_one_takes_its_seed_along():
    runs = make_runs()
    coords = make_coords(runs, {RESIDUAL: 0.0}, noise=0.1)
    everything = fit_one(runs, coords)
    runs.loc[runs["run_id"] == "gdn-mup-512-3", "status"] = "diverged"
    assert fit_one(runs, coords)["slope"] == everything["slope"]
    runs.loc[runs["run_id"] == "gdn-mup-512-3", "status"] = "failed"
    left = fit_one(runs, coords)
    others = runs["seed"] != 3
    assert left["slope"] == pytest.approx(fit_one(runs[others], coords)["slope"], abs=1e-12)
    assert left["n_seeds"] == 3
    assert "seed 3 left out: it has no value at width 512" in left["reason"]


def test_a_width_that_nobody_finished_is_missed():
    runs = make_runs(widths=(64, 128, 256, 512, 1024))
    coords = make_coords(runs, {RESIDUAL: 0.0})
    runs.loc[runs["width"] == 1024, "status"] = "failed"
    row = fit_one(runs, coords)
    assert (row["verdict"], row["n_seeds"]) == ("cannot tell", 0)
    assert "no seed has a value at every width" in row["reason"]


@pytest.mark.parametrize("widths", [(64,), (64, 512)])
def test_fewer_than_three_widths_cannot_tell(widths):
    row = judge(RESIDUAL, 0.0, noise=0.1, widths=widths)
    assert row["verdict"] == "cannot tell"
    assert f"{len(widths)} width" in row["reason"]
    assert isnan(row["slope"]) == (len(widths) == 1)


@pytest.mark.parametrize("field", [*SAME, "n_heads"])
def test_runs_that_differ_in_more_than_width_and_seed_are_refused(field):
    runs = make_runs()
    runs[field] = runs[field].astype(object)
    runs.loc[3, field] = "other"
    with pytest.raises(ValueError, match=rf"differ in {field} \("):
        fit_slopes(runs, make_coords(runs, {RESIDUAL: 0.0}))


def test_head_shapes_must_agree_in_heads_mode_only():
    grown = make_runs(mode="heads")
    with pytest.raises(ValueError, match="differ in head_k_dim"):
        fit_slopes(grown, make_coords(grown, {RESIDUAL: 0.0}))
    widened = grown.assign(head_k_dim=8, head_v_dim=16, n_heads=grown["width"] // 16)
    assert fit_one(widened, make_coords(widened, {RESIDUAL: 0.0}))["verdict"] == "pass"


def test_two_runs_of_one_width_and_seed_are_refused():
    runs = make_runs()
    coords = make_coords(runs, {RESIDUAL: 0.0})
    with pytest.raises(ValueError, match="two runs of width 64 and seed 0"):
        fit_slopes(pd.concat([runs, runs[:1].assign(run_id="again")]), coords)


@pytest.mark.parametrize(("table", "column"), [("runs", "data_hash"), ("coords", "site")])
def test_a_missing_column_is_named(table, column):
    runs = make_runs()
    tables = {"runs": runs, "coords": make_coords(runs, {RESIDUAL: 0.0})}
    tables[table] = tables[table].drop(columns=column)
    with pytest.raises(ValueError, match=f"{table} has no column '{column}'"):
        fit_slopes(**tables)


def test_confidence_is_checked():
    with pytest.raises(ValueError, match="between 0 and 1"):
        fit_slopes(make_runs(), pd.DataFrame(), confidence=90)


def test_groups_are_fitted_apart_and_other_rows_ignored():
    mup, sp = make_runs(), make_runs(parametrization="sp", rules_hash=2)
    lr = make_runs(kind="lr", parametrization="other", lr=7.0)
    quantity_and_diagnostic = {RESIDUAL: 0.0, ("diagnostic", "relative_update", "q_proj", 0, 1): 3.0}
    coords = [
        make_coords(mup, quantity_and_diagnostic),
        make_coords(sp, {RESIDUAL: 1.0}),
        make_coords(lr, {RESIDUAL: 2.0}),
    ]
    slopes = fit_slopes(pd.concat([mup, sp, lr]), pd.concat(coords))
    found = slopes.set_index("parametrization")["slope"].to_dict()
    assert found == pytest.approx({"gdn-mup": 0.0, "sp": 1.0}, abs=1e-12)


def test_no_coordinate_runs_give_an_empty_table():
    runs = make_runs(kind="lr")
    slopes = fit_slopes(runs, make_coords(runs, {RESIDUAL: 0.0}))
    assert list(slopes.columns) == COLUMNS
    assert slopes.empty


def test_pooled_slopes_are_the_mean_over_layers_and_later_steps():
    key = ("activation", "rms", "residual")
    runs = make_runs()
    coords = make_coords(runs, {(*key, 0, 0): 0.25, (*key, 0, 1): -1.0, (*key, 0, 3): 0.0, (*key, 1, 3): 0.7})
    table = fit_slopes(runs, pool(coords)).set_index("step")["slope"]
    assert table.to_dict() == pytest.approx({0: 0.25, 3: -0.1}, abs=1e-12)
    # a size without a logarithm is not averaged away
    coords.loc[(coords["step"] == 3) & (coords["run_id"] == runs["run_id"].iloc[0]), "value"] = 0.0
    assert fit_slopes(runs, pool(coords)).set_index("step")["verdict"].to_dict() == {0: "pass", 3: "cannot tell"}


def test_what_fails_comes_before_what_cannot_be_told_and_the_farthest_off_first():
    rows = [("pass", 9.0), ("cannot tell", 3.0), ("fail", 0.3), ("cannot tell", -4.0), ("fail", -0.9), ("info", 8.0)]
    table = pd.DataFrame(rows, columns=["verdict", "slope"]).assign(required_low=0.0, required_high=0.0)
    assert list(not_passing(table)["slope"]) == [-0.9, 0.3, -4.0, 3.0]
