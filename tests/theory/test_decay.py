"""Weight decay whose pull outgrows a weight's own step: the root of it in float64, and what is required then."""

from dataclasses import replace

import numpy as np
import pytest
from planted_code import SETTINGS, judged, train_check

from mupcheck.theory.exponents import exponents_of
from mupcheck.theory.implied import implied
from mupcheck.theory.parametrization import MODES, OPTIMIZERS, TABLES
from mupcheck.theory.required import pull_of_decay, required
from mupcheck.theory.rules_file import parse_table

DECAY = {"weight_decay": 0.1, "decay_mode": "independent"}


def sizes(results, kind, site, step, stat="rms"):
    rows = results.coords.merge(results.runs[["run_id", "width"]], on="run_id")
    rows = rows[(rows["kind"] == kind) & (rows["stat"] == stat) & (rows["site"] == site) & (rows["step"] == step)]
    return rows.groupby("width")["value"].agg(lambda value: np.sqrt(np.mean(value**2)))


def slope(by_width):
    return np.polyfit(np.log2(by_width.index), np.log2(by_width), 1)[0]


@pytest.mark.parametrize("mode", MODES)
def test_under_sgd_the_pull_is_the_weight_and_outgrows_the_gradient(mode):
    """rms dW^2 = (lr (1 + momentum))^2 (g^2 + (wd w)^2): g ~ d^-1, w ~ d^-1/2, their product of random sign."""
    results = train_check(optimizer="sgd", mode=mode, dtype="float64", record=(0, 1), seeds=3, **DECAY)
    for site in ("v_proj", "up_proj", "down_proj"):
        g, w, moved = (
            sizes(results, kind, site, step) for kind, step in (("weight_grad", 0), ("weight", 0), ("weight_update", 1))
        )
        lr, decay = (sizes(results, "diagnostic", site, 0, stat) for stat in ("realised_lr", "realised_wd"))
        pull, push = 1.9 * lr * decay * w, 1.9 * lr * g
        # of n values of random sign the cross term is 1/sqrt(n) of what stands beside it: n from 1,500 on, 6 runs
        np.testing.assert_allclose(moved, np.sqrt(pull**2 + push**2), rtol=0.02)
        assert slope(pull) == pytest.approx(-0.5, abs=0.05) and slope(push) < -0.7
        assert (pull / push).iloc[-1] > 1.5 * (pull / push).iloc[0]
        # what it does to an input stays of order one: the slope of W x, not of an aligned change
        assert slope(sizes(results, "effective_update", site, 1)) == pytest.approx(0, abs=0.35)


def test_what_is_required_of_a_change_reaches_to_the_pull():
    def need(site, kind="weight_update", stat="rms", **changes):
        setting = {"optimizer": "adamw", "mode": "head-dim", "tied": False, "step": 1, "decay": True}
        found = required(kind, stat, site, **(setting | changes))
        return found and (found.low, found.high)

    for optimizer, mode in SETTINGS:
        setting = {"optimizer": optimizer, "mode": mode}
        assert need("v_proj", **setting) == (-1, -0.5)
        assert need("v_proj", decay=False, **setting) == (-1, -1)
        # nothing else changes: not the spectral norm, not what the change does, not what has no decay
        assert need("v_proj", stat="spectral", **setting) == (0, 0)
        assert need("v_proj", kind="effective_update", **setting) == (0, 0)
        assert need("norm2_gain", **setting) == (0, 0)
    assert need("embedding") == need("readout") == (0, 0), "their pull is as large as their step"
    assert need("a_proj") == (-1, -0.5)
    assert need("a_proj", optimizer="sgd") is None, "what theory does not pin it does not pin with decay"
    assert pull_of_decay("dt_bias", mode="heads") is None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_a_table_implies_reaches_to_the_pull(optimizer):
    for mode in MODES:
        exponents = exponents_of(TABLES["gdn-mup"], optimizer=optimizer, mode=mode)
        without, coupled, independent = (implied(exponents, decay=decay) for decay in ("", "coupled", "independent"))
        for key, (low, high) in without.items():
            for wider in (coupled[key], independent[key]):
                assert wider[0] <= low and high <= wider[1], key
        change = ("weight_update", "rms", "v_proj", True)
        assert independent[change][1] == -0.5
        lr = exponents.entries["v_proj"].lr
        assert coupled[change] == (min(without[change][0], lr - 0.5), max(without[change][1], lr - 0.5))
        for site in ("norm1_gain", "A_log", "q_conv1d"):
            assert independent["weight_update", "rms", site, True] == without["weight_update", "rms", site, True]


@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
def test_a_right_table_under_independent_decay_is_not_failed_and_a_wrong_one_is(optimizer, mode, tmp_path):
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('name = "wrong"\nbase = "gdn-mup"\n[[rule]]\nrole = "hidden"\nlr = {}\n'.format(
        -0.0 if optimizer == "adamw" else 1.0
    ))  # fmt: skip
    results = train_check(
        optimizer=optimizer, mode=mode, seeds=6, record=(0, 1, 2, 4), parametrizations=["gdn-mup", str(wrong)], **DECAY
    )
    for name, verdicts in (("gdn-mup", {"pass", "cannot tell"}), ("wrong", {"fail"})):
        runs = results.runs[results.runs["parametrization"] == name]
        found = judged(replace(results, runs=runs, sweeps={"planted": {**results.sweeps["planted"], "run_ids": []}}))
        assert found.verdict in verdicts, (name, found.reason)
        assert not {"not followed", "not as implied"} & {finding.name for finding in found.findings}, found.findings
        assert not any("the code" in cause.text for cause in found.causes)
        if name == "wrong":
            assert found.causes[0].row == f"hidden, lr ({optimizer})", found.causes


def test_the_table_of_required_slopes_is_that_of_the_reference():
    document = {"name": "same", "base": "gdn-mup"}
    assert parse_table(document, "test").rules == TABLES["gdn-mup"].rules
