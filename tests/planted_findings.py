"""Coordinate checks in which there is nothing to find, and rows to plant in them."""

import pandas as pd
from planted_slopes import EFFECTIVE, RESIDUAL, make_coords
from planted_slopes import make_runs as make_any_runs

from mupcheck.coordinates.validity import examine
from mupcheck.theory.exponents import PARAMETERS
from mupcheck.theory.parametrization import TABLES, factors

GDN_MUP = TABLES["gdn-mup"]
GOOD = {  # stat -> (site, value); of all widths and seeds
    "relative_update": ("q_proj", 0.01),
    "adam_eps_ratio": ("q_proj", 1e4),
    "o_norm_eps_ratio": ("o_raw", 1e3),
    "alpha_saturated": ("alpha", 0.2),
    "beta_saturated": ("beta", 0.0),
}


def make_runs(**changes):
    settled = {"base_width": 64, "weight_decay": 0.0, "decay_mode": "coupled", "batch_size": 1, "seq_len": 16}
    return make_any_runs(**(settled | changes))


def diagnostics(runs, stat, site, value, *, step=1, layer=0):
    """Return diagnostic rows, their value from a number or a function of the run's row."""
    values = [value(run) if callable(value) else value for _, run in runs.iterrows()]
    columns = {"kind": "diagnostic", "stat": stat, "site": site, "layer": layer, "step": step}
    return pd.DataFrame({"run_id": runs["run_id"], "value": values} | columns)


def good_coords(runs):
    """Return coords of a check in which there is nothing to find."""
    coords = make_coords(runs, {RESIDUAL: 0.0, EFFECTIVE: 0.0}, noise=0.01)
    return pd.concat([coords, *(diagnostics(runs, stat, *planted) for stat, planted in GOOD.items())])


def realised(runs, site, field, change=lambda run: 1.0, *, step=1, scale=1.0, table=GDN_MUP):
    """Return rows of what a weight's lr, weight_decay or eps was: the table's, times `change`."""
    base = {"lr": runs["lr"].iloc[0], "weight_decay": runs["weight_decay"].iloc[0], "eps": 1e-8}[field]
    stat = {"lr": "realised_lr", "weight_decay": "realised_wd", "eps": "realised_eps"}[field]

    def value(run):
        setting = {"optimizer": run["optimizer"], "mode": run["mode"], "decay_mode": run["decay_mode"]}
        found = factors(table, PARAMETERS[site].role, m=run["width"] / run["base_width"], **setting)
        return base * scale * getattr(found, field) * change(run)

    return diagnostics(runs, stat, site, value, step=step)


def find(runs, *planted, name=None, table=None, missing=0):
    """Return what is found in good coords with the planted rows, in place of those of their stat."""
    coords = good_coords(runs)
    for rows in planted:
        if rows["stat"].iloc[0] in GOOD:
            coords = coords[coords["stat"] != rows["stat"].iloc[0]]
    found = examine(runs, pd.concat([coords, *planted]), table=table, missing=missing)
    return [finding for finding in found if name in (None, finding.name)]


def the_only(found):
    assert len(found) == 1, [finding.text for finding in found]
    return found[0]
