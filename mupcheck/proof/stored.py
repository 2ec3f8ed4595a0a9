"""Sweeps on disk with numbers that nobody trained, for damage to files and for thousands of them."""

import os
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from mupcheck.results.tables import SCHEMAS
from mupcheck.results.writing import write_run, write_sweep

STARTED = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
BY_TYPE: Mapping[str, Any] = {"string": "x", "double": 0.1, "bool": True, "timestamp[us, tz=UTC]": STARTED}
SET_BY_STORE = ("schema_version", "steps_sha256", "coords_sha256", "row_sha256")
SITES = ("embedding", "residual", "q_proj", "o_raw", "logits")


def write_stored(folder: Path, n_runs: int, *, n_steps: int, n_coords: int = 0, durable: bool = True) -> list[str]:
    """Write a sweep of so many runs with drawn numbers, and return its run_ids.

    Args:
        n_steps: rows of each run's steps.
        n_coords: rows of its coords; 0 for a sweep of lrs.
        durable: wait for the disk with each file, as a sweep does; thousands of runs take minutes of that.
    """
    bits = np.random.Generator(np.random.Philox(key=11))
    ids = random.Random(11)
    run_ids = sorted(f"{ids.getrandbits(64):016x}" for _ in range(n_runs))
    names = {field.name: BY_TYPE.get(str(field.type), 7) for field in SCHEMAS["runs"] if not field.nullable}
    shared = {name: value for name, value in names.items() if name not in SET_BY_STORE}
    shared |= {"sweep": folder.name, "kind": "coord" if n_coords else "lr", "status": "ok", "reason": None}
    with patch.object(os, "fsync", os.fsync if durable else lambda _: None):
        write_sweep(folder, {"spec": {"name": folder.name}, "run_ids": run_ids, "device": "cpu"})
        for seed, run_id in enumerate(run_ids):
            losses = bits.standard_normal(n_steps)
            steps: dict[str, Any] = {"step": np.arange(n_steps), "tokens": 64 * np.arange(n_steps), "loss": losses}
            steps |= {"val_loss": [None] * n_steps, "grad_norm": losses**2, "lr_scale": np.ones(n_steps)}
            at = np.arange(n_coords)
            coords: dict[str, Any] = {
                "step": at // 50,
                "layer": at % 3 - 1,
                "site": [SITES[i % len(SITES)] for i in at],
            }
            coords |= {"kind": ["activation"] * n_coords, "stat": ["rms"] * n_coords}
            coords |= {"value": bits.standard_normal(n_coords)}
            run = {**shared, "run_id": run_id, "seed": seed, "val_loss": float(losses[-1])}
            write_run(folder, run, steps, coords if n_coords else None)
    return run_ids
