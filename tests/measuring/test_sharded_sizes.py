"""Coordinate sizes of a model over several devices are those of one, and a fault in its updates shows as there."""

import math

import pytest
import torch
from ranked import together

import mupcheck.training.sharded
import mupcheck.training.train
from mupcheck.model.ranks import Ranks
from mupcheck.training.optim import make_optimizer
from mupcheck.training.train import train

# Of float64 runs; those that are made with less are: the spectral norm, which a ridge of 3e-8 bounds, shares that are
# means of float32, and rounding's bound.
EXACT, SPECTRAL, SHARE = 1e-11, 1e-6, 1e-6
# What stays of a right step is rounding, which has no digits to agree in: it is 0 on either.
ROUNDING = 1e-8


def checks(make_run, **changes):
    """Return coordinate checks whose weights divide over two devices and do not over three."""
    options = {"kind": "coord", "probes": "full", "dtype": "float64", "record": (0, 1, 3), "batch_size": 6} | changes
    return [
        make_run(width=32, n_heads=2, clip=0.5, weight_decay=0.1, lr=2.0**-8, **options),
        make_run(width=32, n_heads=2, optimizer="sgd", tied=True, lr=0.03, weight_decay=0.1, **options),
    ]


def sizes_of(rows):
    return {(row.step, *cell[1:5]): cell.values[0] for row in rows for cell in row.coords}


def departures(got, wanted):
    """Yield (key, relative difference) of every size."""
    assert set(got) == set(wanted)
    for key, value in wanted.items():
        off = 0.0 if math.isnan(value) and math.isnan(got[key]) else abs(got[key] - value)
        yield key, off / max(abs(value), ROUNDING if key[-1].startswith("applied") else 1e-300)


def tolerance(key) -> float:
    *_, stat = key
    return SPECTRAL if stat == "spectral" else SHARE if stat.endswith("saturated") else EXACT


@pytest.mark.parametrize("size", [2, 3])
def test_every_size_is_that_of_one_device(corpus, make_run, size):
    runs = checks(make_run)
    for run, rows in zip(runs, together(runs, corpus, size=size), strict=True):
        wanted = sizes_of(train([run], corpus))
        off = [(key, by) for key, by in departures(sizes_of(rows), wanted) if not by <= tolerance(key)]
        assert not off, sorted(off, key=lambda each: -each[1])[:5]
        assert {kind for _, _, _, kind, _ in wanted} >= {
            "activation",
            "weight_update",
            "effective_update",
            "diagnostic",
        }
        assert len(wanted) > 300


def test_in_float32_sums_of_another_order_show_before_the_first_update(corpus, make_run):
    (run, _), rows = checks(make_run, dtype="float32"), None
    rows = together([run], corpus)[0]
    wanted = {key: value for key, value in sizes_of(train([run], corpus)).items() if key[0] == 0}
    got = {key: value for key, value in sizes_of(rows).items() if key[0] == 0}
    assert max(by for _, by in departures(got, wanted)) < 1e-5  # 2e-6 measured, of means of |x|


def test_activations_alone(corpus, make_run):
    run = checks(make_run, probes="activations")[0]
    wanted = sizes_of(train([run], corpus))
    assert max(by for _, by in departures(sizes_of(together([run], corpus)[0]), wanted)) < EXACT


# --- planted faults ---------------------------------------------------------------------------------------------------


def parts_alone(ranks, patch):
    """Sizes are those of this rank's part."""
    patch.setattr(Ranks, "each", lambda self, x: x.expand(self.size, *x.shape))


def test_sizes_of_parts_alone_are_seen(corpus, make_run):
    run = checks(make_run, record=(0,))[0]
    wanted = sizes_of(train([run], corpus))
    off = {
        key for key, by in departures(sizes_of(together([run], corpus, plants=(parts_alone,))[0]), wanted) if by > 1e-4
    }
    assert {"activation", "activation_grad", "weight_grad"} <= {kind for _, _, _, kind, _ in off}


def doubled(groups, runs):
    """Return an optimizer that takes twice the lr in one weight."""
    optimizer = make_optimizer(groups, runs)
    at = [group.site for group in groups].index("up_proj")
    optimizer.lr[at] = 2 * optimizer.lr[at]
    return optimizer


def plant_doubled(_ranks, patch):
    patch.setattr(mupcheck.training.sharded, "make_optimizer", doubled)


def test_a_wrong_step_shows_as_on_one_device(corpus, make_run, monkeypatch):
    runs = checks(make_run, record=(0, 2))
    monkeypatch.setattr(mupcheck.training.train, "make_optimizer", doubled)
    for run in runs:
        (rows,) = together([run], corpus, plants=(plant_doubled,))
        wanted, got = sizes_of(train([run], corpus)), sizes_of(rows)
        off = [(key, by) for key, by in departures(got, wanted) if not by <= max(tolerance(key), 1e-9)]
        assert not off, sorted(off, key=lambda each: -each[1])[:5]
        assert got[2, 0, "up_proj", "diagnostic", "applied"] == pytest.approx(2, abs=0.01)
        rows_wrong = got[2, 0, "up_proj", "diagnostic", "applied_rows_wrong"]
        assert rows_wrong == got[2, 0, "up_proj", "diagnostic", "applied_rows_of"] > 1


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_on_two_gpus_every_size_is_that_of_one(corpus, make_run):
    runs = checks(make_run)
    for run, rows in zip(runs, together(runs, corpus, device="cuda"), strict=True):
        wanted = sizes_of(train([run], corpus))  # on a CPU
        off = [(key, by) for key, by in departures(sizes_of(rows), wanted) if not by <= max(tolerance(key), 1e-9)]
        assert not off, sorted(off, key=lambda each: -each[1])[:5]
