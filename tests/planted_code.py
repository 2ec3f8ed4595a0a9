"""Coordinate checks that are trained in memory, so that code can be patched, and the Check and judgement on them."""

from functools import cache

import numpy as np
import pandas as pd
import torch

from mupcheck.coordinates.evidence import Check
from mupcheck.coordinates.judge import judge
from mupcheck.results.comparable import find_rules
from mupcheck.results.reading import Results
from mupcheck.results.tables import SCHEMAS
from mupcheck.spec.reading import make_sweep
from mupcheck.sweep.cost import count_parameters
from mupcheck.sweep.group import tables_of
from mupcheck.sweep.groups import group_runs
from mupcheck.theory.parametrization import table_to_json
from mupcheck.training.data.sources import open_corpus
from mupcheck.training.train import train

SETTINGS = [(optimizer, mode) for optimizer in ("adamw", "sgd") for mode in ("head-dim", "heads")]
SMALL = {
    "kind": "coord", "name": "planted", "data": "synthetic", "widths": (32, 64, 128), "seeds": 2, "record": (0, 1, 2),
}  # fmt: skip


@cache
def corpus():
    return open_corpus("synthetic", vocab_size=None)


def train_check(**changes):
    """Train a small coordinate check with the code as it is right now, and return its results."""
    sweep = make_sweep(SMALL | changes)
    runs = sweep.runs(vocab_size=corpus().vocab_size, data_hash=corpus().hash)
    records, steps, coords = [], [], []
    with torch.random.fork_rng():
        for group in group_runs(runs, "cpu"):
            rows = list(train(group, corpus(), device="cpu"))
            for replica, run in enumerate(group):
                record, its_steps, its_coords = tables_of(run, replica, rows)
                record |= {"sweep": sweep.name, "n_params": count_parameters(run), "torch": "2", "device": "cpu"}
                records.append(dict.fromkeys(SCHEMAS["runs"].names) | record)
                steps.append(pd.DataFrame(its_steps).assign(run_id=run.run_id))
                coords.append(pd.DataFrame(its_coords).assign(run_id=run.run_id))
    tables = {table.name: table_to_json(table) for table in sweep.tables}
    resolved = {sweep.name: {"run_ids": [run.run_id for run in runs], "tables": tables, "spec": {}}}
    return Results(pd.DataFrame(records), pd.concat(steps), pd.concat(coords, ignore_index=True), resolved)


def check_of(results):
    """Return the Check of results of one group, as `examine` makes it."""
    table = find_rules(results.runs, next(iter(results.sweeps.values()))["tables"])
    coords = results.coords.merge(results.runs[["run_id", "width", "seed"]], on="run_id")
    rows = coords[(coords["kind"] == "diagnostic") & np.isfinite(coords["value"])]
    medians = rows.groupby(["width", "layer", "site", "stat", "step"], as_index=False)["value"].median()
    return Check(results.runs, coords, medians, table, 0, 0, steps=results.steps)


def judged(results):
    (judgement,) = judge(results)
    return judgement
