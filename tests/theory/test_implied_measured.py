"""Measured slopes of every shipped table are as it implies."""

import pandas as pd
import pytest
from planted_slopes import make_runs
from theory.test_implied import SETTINGS

from mupcheck.coordinates.slopes import fit_slopes, pool
from mupcheck.theory.parametrization import TABLES
from mupcheck.training.train import train

# Measured

WIDTHS = (64, 128, 256)
LR = {"adamw": 2.0**-12, "sgd": 2.0**-6}


@pytest.fixture(scope="module")
def judged(corpus, make_run):
    """Return a function that gives the pooled slopes measured under one table, held against what another implies."""
    measured, found = {}, {}

    def judge(name, optimizer, mode, *, by=None, names=tuple(TABLES), seeds=4):
        key = (optimizer, mode, names, seeds)
        if key not in measured:
            measured[key] = _measure(corpus, make_run, *key)
        if (name, by, key) not in found:
            runs, coords = measured[key]
            runs = runs[runs["parametrization"] == name]
            coords = coords[coords["run_id"].isin(runs["run_id"])]
            slopes = fit_slopes(runs, coords, tables={name: TABLES[by or name]})
            found[name, by, key] = slopes[slopes["implied_low"].notna()]
        return found[name, by, key]

    return judge


def _measure(corpus, make_run, optimizer, mode, names, seeds):
    setting = {"optimizer": optimizer, "mode": mode, "n_layers": 2, "lr": LR[optimizer]}
    shape = {"base_width": 64, "n_heads": 4, "readout_std": 0.125, "batch_size": 1, "seq_len": 16}
    probing = {"kind": "coord", "probes": "full", "record": (0, 1, 2), "steps": 2}
    rows = []
    for width in WIDTHS:
        specs = [make_run(n, width=width, seed=s, **setting, **shape, **probing) for n in names for s in range(seeds)]
        run_ids = [f"{spec.parametrization}-{spec.width}-{spec.seed}" for spec in specs]
        for cell in (cell for row in train(specs, corpus) for cell in row.coords):
            rows += [(run_id, *cell[:5], value) for run_id, value in zip(run_ids, cell.values, strict=True)]
    coords = pd.DataFrame(rows, columns=["run_id", "step", "layer", "site", "kind", "stat", "value"])
    runs = [make_runs(WIDTHS, range(seeds), parametrization=name, **setting) for name in names]
    return pd.concat(runs, ignore_index=True).assign(head_k_dim=12, head_v_dim=24), pool(coords)


@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
def test_measured_slopes_of_every_table_are_as_implied(judged, optimizer, mode):
    for name in TABLES:
        slopes = judged(name, optimizer, mode)
        assert len(slopes) > 120, name
        wrong = slopes[slopes["as_implied"].eq(False)]
        assert wrong.empty, (name, wrong[["kind", "site", "slope", "implied_low", "implied_high"]])


def test_most_measured_slopes_are_seen_to_be_as_implied(judged):
    # 4 seeds leave the rest open: of 5,772 slopes 91% were seen to be inside (torch 2.13 on a CPU)
    seen = pd.concat(
        judged(name, optimizer, mode)["as_implied"].map(str) for optimizer, mode in SETTINGS for name in TABLES
    )
    assert seen.value_counts(normalize=True)["True"] > 0.85


@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
@pytest.mark.parametrize(("name", "by"), [("sp", "gdn-mup"), ("gdn-mup", "sp"), ("gdn-mup-code", "gdn-mup")])
def test_slopes_of_one_table_are_not_as_another_implies(judged, optimizer, mode, name, by):
    slopes = judged(name, optimizer, mode, by=by)
    assert slopes["as_implied"].eq(False).sum() >= 20


def test_the_gate_scalars_of_mup_are_not_as_gdn_mup_implies_under_sgd(judged):
    # a difference of one exponent on two values a head takes more seeds
    slopes = judged("mup", "sgd", "heads", by="gdn-mup", names=("mup",), seeds=10)
    wrong = slopes[slopes["as_implied"].eq(False)]
    assert set(wrong["site"]) == {"A_log", "dt_bias"}
