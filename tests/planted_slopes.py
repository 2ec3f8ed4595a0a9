"""Coordinate checks with planted slopes, in memory: one row a run, one size a quantity."""

import numpy as np
import pandas as pd

from mupcheck.coordinates.grid import SAME
from mupcheck.coordinates.judge import judge
from mupcheck.results.reading import Results

WIDTHS, SEEDS = (64, 128, 256, 512), (0, 1, 2, 3)
RESIDUAL = ("activation", "rms", "residual", 0, 1)  # required: 0
BAND = ("activation", "rms", "z_beta", 0, 1)  # required: -1/2 to 0
LOGITS = ("activation", "rms", "logits", -1, 0)  # required: at most 0
EFFECTIVE = ("effective_update", "rms", "q_proj", 0, 1)  # required: 0
FREE = ("weight_grad", "rms", "q_proj", 0, 1)  # not pinned


def make_runs(widths=WIDTHS, seeds=SEEDS, **changes):
    one = dict.fromkeys(SAME, 1) | {"tied": False, "momentum": None, "data": "synthetic", "data_hash": "ab", "lr": 0.01}
    one |= {"sweep": "s", "kind": "coord", "parametrization": "gdn-mup", "optimizer": "adamw", "mode": "head-dim"}
    one |= {"n_heads": 2, "status": "ok", "n_layers": 2, "schedule": "constant", "warmup_steps": 0, "dtype": "float32"}
    one |= {"weight_decay": 0.0, "clipped_fraction": 0.0, "torch": "2", "device": "cpu"} | changes
    rows = [
        one
        | {"run_id": f"{one['parametrization']}-{width}-{seed}", "width": width, "seed": seed}
        | {"head_k_dim": width // 4, "head_v_dim": width // 2, "n_params": width**2}
        for width in widths
        for seed in seeds
    ]
    return pd.DataFrame(rows)


def make_coords(runs, slope_of, *, noise=0.0, seed=0):
    """Plant size = width ** slope * 2 ** (noise * normal) for each quantity of `slope_of`."""
    rng = np.random.default_rng(seed)
    tables = []
    for quantity, slope in slope_of.items():
        value = runs["width"].to_numpy(float) ** slope * 2 ** (noise * rng.standard_normal(len(runs)))
        names = zip(("kind", "stat", "site", "layer", "step"), quantity, strict=True)
        tables.append(pd.DataFrame({"run_id": runs["run_id"], "value": value} | dict(names)))
    return pd.concat(tables, ignore_index=True)


def times_at(coords, runs, width, factor, *sites):
    """Multiply the sizes at one width, of all sites or of these, as one wrong width does."""
    there = coords["run_id"].isin(runs.loc[runs["width"] == width, "run_id"])
    if sites:
        there &= coords["site"].isin(sites)
    return coords.assign(value=coords["value"].where(~there, coords["value"] * factor))


def results(runs, coords, **sweeps):
    return Results(runs=runs, steps=pd.DataFrame(), coords=coords, sweeps=sweeps)


def judge_one(slope_of, *, noise=0.01, runs=None):
    runs = make_runs() if runs is None else runs
    (judgement,) = judge(results(runs, make_coords(runs, slope_of, noise=noise)))
    return judgement
