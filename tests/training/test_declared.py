"""Slopes measured on real models against the exponents that each shipped table declares (diffrax's test_ode_order)."""

import numpy as np
import pytest

from mupcheck.model.build import build_model, named_weights
from mupcheck.theory.parametrization import MODES, OPTIMIZERS, TABLES
from mupcheck.training.train import train

WIDTHS, SEEDS = (32, 64, 128), (0, 1)
LR = {"adamw": 2.0**-10, "sgd": 2.0**-6}


@pytest.fixture(scope="module")
def sizes(corpus, make_run):
    """Return a function: (optimizer, mode) -> {(table, site, kind, step): log2 rms, [seed, width]}."""
    cache = {}

    def measure(optimizer, mode):
        if (optimizer, mode) in cache:
            return cache[optimizer, mode]
        found = {}
        for at, width in enumerate(WIDTHS):
            shape = {"width": width, "base_width": 32, "mode": mode, "optimizer": optimizer, "batch_size": 1}
            probing = {"kind": "coord", "probes": "full", "record": (0, 1), "steps": 1, "lr": LR[optimizer]}
            runs = [make_run(name, seed=seed, **shape, **probing) for name in TABLES for seed in SEEDS]
            for row in train(runs, corpus):
                for cell in row.coords:
                    if cell.stat != "rms":
                        continue
                    for run, value in zip(runs, cell.values, strict=True):
                        key = (run.parametrization, cell.site, cell.kind, cell.step)
                        found.setdefault(key, np.empty((len(SEEDS), len(WIDTHS))))[run.seed, at] = np.log2(value)
        cache[optimizer, mode] = found
        return found

    return measure


def slope(values) -> float:
    """Return the slope over width of log2 sizes [seed, width], the mean over seeds."""
    x = np.log2(WIDTHS) - np.log2(WIDTHS).mean()
    result = float((values @ x).mean() / (x @ x))
    assert np.isfinite(result)
    return result


def roles(make_run):
    return {site: module.role for site, _, module in named_weights(build_model([make_run()], "meta"))}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", TABLES)
def test_init_stds_and_steps_grow_as_declared(sizes, make_run, name, optimizer, mode):
    found = sizes(optimizer, mode)
    for site, role in roles(make_run).items():
        rule = TABLES[name].rule(role, optimizer=optimizer, mode=mode)
        # a matrix of 32 x 32 or more has its std to 2%, a filter or gate to 10%: 0.1 of slope over two octaves
        assert slope(found[name, site, "weight", 0]) == pytest.approx(rule.init, abs=0.1), (site, "init")
        step = slope(found[name, site, "weight_update", 1])
        if optimizer == "adamw":
            # the first step is sign descent, short of lr only where a gradient is small or zero (rows not used)
            assert step == pytest.approx(rule.lr, abs=0.05), (site, "lr")
        else:
            # SGD's first step is the gradient times lr, to rounding
            gradient = slope(found[name, site, "weight_grad", 0])
            assert step - gradient == pytest.approx(rule.lr, abs=0.01), (site, "lr")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_forward_multipliers_grow_as_declared(sizes, optimizer):
    found = sizes(optimizer, "head-dim")

    def distance(name, site):
        """How much faster a site grows than under mup, whose init is the same; at step 0, before any lr."""
        return slope(found[name, site, "activation", 0]) - slope(found["mup", site, "activation", 0])

    assert distance("gdn-mup", "o_raw") == pytest.approx(1 / 2, abs=1e-3)
    # the released code inits the short convs smaller, so v and o are smaller too: only its own 1/m is at mixer_out
    assert distance("gdn-mup-code", "mixer_out") == pytest.approx(-1, abs=0.1)
    assert distance("gdn-mup", "mixer_out") == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_effective_updates_are_level_under_gdn_mup_and_not_under_sp(sizes, make_run, mode):
    found = sizes("adamw", mode)
    for site in roles(make_run):
        level = slope(found["gdn-mup", site, "effective_update", 1])
        # two seeds and widths from 32 up: the gates' few outputs leave 0.3
        assert abs(level) < 0.3, site
    for site in ("q_proj", "v_proj", "a_proj", "o_proj", "up_proj", "down_proj"):
        assert slope(found["sp-fanin", site, "effective_update", 1]) > 0.6, site
