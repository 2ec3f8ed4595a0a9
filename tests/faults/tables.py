"""A small sweep, what it gives undisturbed, and what a folder that was disturbed holds beside it."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from tiny_sweeps import numbers

from mupcheck.results.reading import Results, load_results

SWEEP = """
kind = "{kind}"
name = "s"
data = "synthetic"
vocab_size = 32
widths = [16{wider}]
base_width = 16
parametrizations = ["gdn-mup"]
lrs = {lrs}
seeds = {seeds}
steps = {steps}
warmup_steps = 0
batch_size = 2
seq_len = 16
n_layers = 1
n_heads = 2
eval_tokens = {eval_tokens}
{extra}
"""


def write_sweep_file(
    path: Path,
    *,
    kind: str = "lr",
    wider: str = "",
    lrs: str = "[0.01, 0.02]",
    seeds: int = 1,
    steps: int = 2,
    extra: str = "",
) -> Path:
    """Write a sweep file; a run is a learning rate and a seed at a width."""
    how = {"kind": kind, "eval_tokens": 32 if kind == "lr" else 0, "extra": extra}
    path.write_text(SWEEP.format(wider=wider, lrs=lrs, seeds=seeds, steps=steps, **how))
    return path


def differences(folder: Path, whole: Results, *, complete: bool) -> list[str]:
    """Return in what a folder differs from an undisturbed sweep: rows lost, doubled or other than there.

    Args:
        complete: whether all runs should be there; else those that count are compared, and runs of a spec that is just
            being set aside may lie beside them.
    """
    try:
        rows = pq.read_table(folder / "runs").num_rows  # as pandas or DuckDB would, of whatever lies there
    except (OSError, ValueError) as error:
        rows = 0
        if any(file.suffix == ".parquet" and file.name[0] != "." for file in folder.glob("runs/*")):
            return [f"other readers fail: {error}"]
    if not rows:
        return ["no run is there"] if complete else []
    try:
        found = load_results(folder)
    except ValueError as error:
        return [f"they cannot be read: {error}"]
    ids = set(found.runs["run_id"])
    faults = []
    if rows != len(found.runs) and complete:
        faults.append(f"pandas reads {rows} rows, load_results {len(found.runs)}")
    if lost := set(whole.runs["run_id"]) - ids:
        faults += [f"{len(lost)} runs lost"] if complete else []
    if strangers := ids - set(whole.runs["run_id"]):
        faults.append(f"{len(strangers)} runs that nobody asked for")
    if len(found.runs) != len(ids):
        faults.append(f"{len(found.runs) - len(ids)} runs doubled")
    for name, one, other in zip(("runs", "steps", "coords"), numbers(found), numbers(whole, ids), strict=True):
        one, other = (_in_order(each) for each in (one, other))
        try:
            pd.testing.assert_frame_equal(one, other, check_exact=True)
        except AssertionError as error:
            faults.append(f"{name} differ: {' '.join(str(error).split())}")
    return faults


def mixed(folder: Path, specs: Collection[Results]) -> list[str]:
    """Return what is wrong where whoever reads all files of a folder would meet runs of several specs."""
    there = {file.stem for file in folder.glob("runs/*.parquet") if file.name[0] != "."}
    if any(there <= set(spec.runs["run_id"]) for spec in specs):
        return []
    return [f"{len(there)} runs of several specs lie beside each other"]


def _in_order(frame: pd.DataFrame) -> pd.DataFrame:
    keys = [key for key in ("run_id", "step", "layer", "site", "kind", "stat") if key in frame]
    # whoever mends what is measured here changes the checkout meanwhile
    return frame.drop(columns=["commit"], errors="ignore").sort_values(keys).reset_index(drop=True)
