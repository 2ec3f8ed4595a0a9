"""Sweeps as on GPUs that are not there."""

from dataclasses import replace

from mupcheck.spec.reading import make_sweep
from mupcheck.sweep.groups import group_runs
from mupcheck.sweep.plan import plan_sweep

TWO = ("cuda:0", "cuda:1")


def on_gpus(sweep, out, devices=TWO, **options):
    """Plan a sweep as for GPUs that are not there."""
    plan = replace(plan_sweep(sweep, out=out), device=devices[0], devices=devices, jobs=len(devices), **options)
    groups = tuple(group_runs(plan.runs, devices[0], places=len(devices), exact=plan.exact))
    return replace(plan, groups=groups)


def default_runs(**changes):
    sweep = make_sweep({"kind": "lr", **changes}, device="cuda")
    return sweep.runs(vocab_size=256, data_hash="", backend="triton")
