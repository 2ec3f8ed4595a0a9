"""Tiny sweeps, trained, and the numbers of their runs."""

from mupcheck.spec.reading import make_sweep
from mupcheck.sweep.runner import Progress, run_sweep

# what tells about the machine and the moment, not about the run
OF_THE_MOMENT = ("wall_seconds", "tokens_per_second", "peak_memory_bytes", "started_at")
HASHES = ("steps_sha256", "coords_sha256", "row_sha256")


def tiny(**changes):
    """Return a sweep of 2 widths x 2 tables x 2 lrs x 1 seed over 32 tokens."""
    fields = {
        "kind": "lr",
        "name": "tiny",
        "data": "synthetic",
        "vocab_size": 32,
        "widths": (16, 32),
        "steps": 4,
        "parametrizations": ("sp", "gdn-mup"),
        "lrs": (2.0**-8, 2.0**-6),
        "seeds": 1,
        "eval_tokens": 64,
        "batch_size": 2,
        "seq_len": 16,
        "n_layers": 1,
        "readout_std": 0.25,
    }
    return make_sweep(fields | changes)


def tiny_coord(**changes):
    lone = {"kind": "coord", "lrs": (2.0**-8,), "seeds": 2, "record": (0, 1, 3), "eval_tokens": 0, "probes": "full"}
    return tiny(**lone | changes)


def trained(sweep, out, **options):
    """Run a sweep; return its results and every Progress."""
    seen: list[Progress] = []
    return run_sweep(sweep, out=out, device="cpu", on_progress=seen.append, **options), seen


def numbers(results, ids=None):
    """Return runs, steps and coords (of `ids` alone) without what is of the moment, in an order of their own."""
    keys = ["run_id", "step", "layer", "site", "kind", "stat"]
    frames = []
    for frame in (results.runs, results.steps, results.coords):
        frame = frame[frame["run_id"].isin(frame["run_id"] if ids is None else ids)]
        frame = frame.drop(columns=[name for name in (*OF_THE_MOMENT, *HASHES) if name in frame])
        in_order = frame.sort_values([key for key in keys if key in frame and frame is not results.runs])
        frames.append(in_order.reset_index(drop=True))
    return frames


def assert_same(one, other, rtol=0.0):
    import pandas as pd  # here, for the processes that find their work in this file and have no use for it

    assert len(one[0]) > 0
    for a, b in zip(one, other, strict=True):
        pd.testing.assert_frame_equal(a, b, check_exact=rtol == 0.0, rtol=rtol, atol=0)


def files(folder):
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*.parquet")}
