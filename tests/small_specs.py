"""Small sweeps, what refuses them, and the names of their runs."""

import itertools
from pathlib import Path

import pytest

from mupcheck.spec.reading import make_sweep
from mupcheck.spec.sweep import SweepSpec

SWEEPS = sorted(Path(__file__).parents[1].joinpath("sweeps").glob("*.toml"))
KINDS_AND_PLACES = list(itertools.product(("coord", "lr"), ("cpu", "cuda"), ("adamw", "sgd"), (False, True)))


def sweep(**given) -> SweepSpec:
    """Return a small sweep of kind lr, changed by keywords."""
    return make_sweep({"kind": "lr", "data": "synthetic", "widths": [16, 32], **given})


def refusal(**given) -> str:
    """Return the one line with which a sweep is refused."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        sweep(**given)
    message = str(caught.value)
    assert message and "\n" not in message and "pydantic" not in message
    return message


def run_ids(grid: SweepSpec, **given) -> list[str]:
    return [run.run_id for run in grid.runs(**({"vocab_size": 256, "data_hash": "0" * 16} | given))]
