"""Results of coordinate checks with planted slopes, in memory or on disk, without training."""

import zlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mupcheck.coordinates.grid import SAME
from mupcheck.results.reading import Results
from mupcheck.results.tables import SCHEMAS
from mupcheck.results.writing import write_run, write_sweep

RESIDUAL = ("activation", "rms", "residual")  # required: 0
EFFECTIVE = ("effective_update", "rms", "a_proj")  # required: 0
FREE = ("weight_grad", "rms", "q_proj")  # nothing is required
RIGHT = {(*RESIDUAL, 0): 0.0, (*RESIDUAL, 1): 0.0, (*EFFECTIVE, 1): 0.0, (*FREE, 1): -0.6}
WIDTHS, SEEDS = (32, 64, 128, 256), (0, 1, 2, 3)


def plant(
    slopes=RIGHT, *, widths=WIDTHS, seeds=SEEDS, noise=0.02, sweep="s", expect=None, missing=0, **changes
) -> Results:
    """Return one group with size = width ** slope * 2 ** (noise * normal); the same seed draws the same noise.

    `missing` says how many more runs sweep.json names than there are.
    """
    one = dict.fromkeys(SCHEMAS["runs"].names) | dict.fromkeys(SAME, 1) | {"log2_lr": -12.0, "clipped_fraction": 0.0}
    one |= {"tied": False, "momentum": None, "clip": None, "data": "synthetic", "lr": 2.0**-12, "warmup_steps": 0}
    one |= {"rules_hash": "ab12", "data_hash": "cd34", "dtype": "float32", "backend": "chunk", "schedule": "constant"}
    one |= {"sweep": sweep, "kind": "coord", "parametrization": "gdn-mup", "optimizer": "adamw", "mode": "head-dim"}
    one |= {
        "weight_decay": 0.0,
        "decay_mode": "coupled",
        "n_heads": 2,
        "status": "ok",
        "torch": "2.13.0",
        "device": "cpu",
    } | changes
    runs, coords = [], []
    for width in widths:
        for seed in seeds:
            run_id = f"{one['sweep']}-{one['parametrization']}-{one['mode']}-{width}-{seed}"
            shape = {"head_k_dim": width // 4, "head_v_dim": width // 2, "n_params": width**2}
            runs.append(one | shape | {"run_id": run_id, "width": width, "seed": seed})
            for (kind, stat, site, step), slope in slopes.items():
                rng = np.random.default_rng([width, seed, step, zlib.crc32(f"{kind}{site}".encode())])
                value = width**slope * 2 ** (noise * rng.standard_normal())
                coords.append((run_id, step, 0, site, kind, stat, value))
    spec = {} if expect is None else {"expect": {one["parametrization"]: expect}}
    run_ids = [run["run_id"] for run in runs] + [f"missing-{i}" for i in range(missing)]
    return Results(
        runs=pd.DataFrame(runs),
        steps=pd.DataFrame(),
        coords=pd.DataFrame(coords, columns=["run_id", "step", "layer", "site", "kind", "stat", "value"]),
        sweeps={sweep: {"run_ids": run_ids, "spec": spec}},
    )


def together(*parts: Results) -> Results:
    """Return several results as one; parts of one sweep are one sweep."""
    tables = {name: pd.concat([getattr(part, name) for part in parts]) for name in ("runs", "steps", "coords")}
    sweeps: dict = {}
    for part in parts:
        for name, sweep in part.sweeps.items():
            whole = sweeps.setdefault(name, {"run_ids": [], "spec": {"expect": {}}})
            whole["run_ids"] += sweep["run_ids"]
            whole["spec"]["expect"] |= sweep["spec"].get("expect", {})
    return Results(**tables, sweeps=sweeps)


def write(results: Results, out: Path) -> None:
    """Write results as a sweep would have, each sweep into its folder under `out`."""
    rest = {"tokens": 1, "wall_seconds": 1.0, "python": "3", "started_at": datetime(2026, 1, 1, tzinfo=UTC)}
    steps = {"step": [0], "tokens": [0], "loss": [1.0], "lr_scale": [1.0]}
    coords = dict(list(results.coords.groupby("run_id")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)  # a test's files need not survive a loss of power
        for run in results.runs.to_dict("records"):
            known = {name: None if pd.isna(value) else value for name, value in run.items() if name != "steps_sha256"}
            columns = coords[run["run_id"]].drop(columns="run_id")
            write_run(out / run["sweep"], known | rest, steps, {name: list(columns[name]) for name in columns})
        for name, sweep in results.sweeps.items():
            write_sweep(out / name, sweep)
