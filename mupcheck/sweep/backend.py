"""Which backend of the delta rule a sweep's runs name where nobody asks for one."""

import warnings
from collections.abc import Sequence
from typing import Any

from mupcheck.spec.run import RunSpec
from mupcheck.spec.sweep import AUTO_BACKEND, SweepSpec
from mupcheck.sweep.kernels import faults_of

# Of one (K, V): until its kernels are compiled and tested. Three in float32 made 77 s of a sweep of 5 s (H100).
COMPILE_SECONDS = 20.0
# What the chunk form takes on a GPU for a token of a head with K + V = 1: 4.5 to 28 ms for 196,608 of them (H100).
CHUNK_SECONDS = 2.5e-10


def backend_of(sweep: SweepSpec, devices: Sequence[str]) -> str:
    """Return the backend of the delta rule that a sweep's runs name: what is asked for, or what "auto" stands for here.

    "auto" is the chunk form on a CPU, in a coordinate check, and in a sweep that would be over before kernels are
    compiled; else it is Triton's kernels, if they take every width and pass their test on the device.

    Raises:
        ValueError: if triton is asked for and is not there, or not for this device, dtype or head size.
    """
    if sweep.backend not in ("auto", "triton"):
        return sweep.backend
    if sweep.backend == "auto" and (devices[0] == "cpu" or sweep.kind == "coord"):
        return AUTO_BACKEND
    from mupcheck.ops.choice import check_triton

    one_each: dict[str, Any] = {"lrs": sweep.lrs[:1], "seeds": sweep.seeds[:1], "seeds_of": {}}
    one_each |= {"parametrizations": sweep.parametrizations[:1]}
    runs = sweep.model_copy(update=one_each).runs(vocab_size=sweep.vocab_size or 256, data_hash="")
    heads = sorted({run.heads for run in runs})
    # without the seeds of `seeds_of`: more of them are to train as those before did
    copies = len(sweep.lrs) * len(sweep.seeds) * len(sweep.parametrizations)
    if sweep.backend == "auto" and copies * sum(map(_chunk_seconds, runs)) < COMPILE_SECONDS * len(heads):
        return AUTO_BACKEND
    try:
        check_triton(devices[0], sweep.dtype, [each[1:] for each in heads])
    except ValueError:
        if sweep.backend == "triton":
            raise
        return AUTO_BACKEND
    if faults := faults_of(heads, sweep.dtype, devices):
        if sweep.backend == "triton":
            raise ValueError(f"{faults[0]}; try backend='{AUTO_BACKEND}'")
        warnings.warn(f"{faults[0]}; backend 'auto' takes '{AUTO_BACKEND}' instead", stacklevel=2)
        return AUTO_BACKEND
    return "triton"


def _chunk_seconds(run: RunSpec) -> float:
    """Return what the chunk form takes of a run on a GPU, forward and backward."""
    n_heads, key_dim, value_dim = run.heads
    tokens = run.steps * run.batch_size * run.seq_len
    return CHUNK_SECONDS * tokens * run.n_layers * n_heads * (key_dim + value_dim)
