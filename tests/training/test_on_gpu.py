"""A GPU's loop as its user gets it: captured steps are the steps, and what happens to replicas on the way."""

import math
import warnings

import numpy as np
import pytest
import torch

from mupcheck.theory.parametrization import OPTIMIZERS
from mupcheck.training.device_loop import train_on_device
from mupcheck.training.replicas import RING, Replicas
from mupcheck.training.train import train

pytestmark = pytest.mark.gpu
STEPS = RING + 6


def rows_of(runs, corpus, *, capture=True):
    """Train on the GPU; a capture that fails is an error here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="steps are not captured")
        n_steps = max(runs[0].record) + 1 if runs[0].record else runs[0].steps
        return list(train_on_device(runs, corpus, device="cuda", n_steps=n_steps, capture=capture))


def some(make_run, n, **changes):
    """Return runs of different tables, seeds and, unless it is given, lrs."""
    options = {"steps": STEPS, "seq_len": 64, "batch_size": 4, "clip": 1.0, "width": 64}
    tables = ("sp", "gdn-mup")
    return [
        make_run(tables[seed % 2], seed=seed, **(options | {"lr": 2.0 ** -(7 + seed)} | changes)) for seed in range(n)
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("n_replicas", [1, 4])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_captured_steps_are_the_steps_bit_for_bit(corpus, make_run, optimizer, n_replicas, dtype):
    runs = some(make_run, n_replicas, optimizer=optimizer, dtype=dtype, weight_decay=0.1)
    captured, eager = rows_of(runs, corpus), rows_of(runs, corpus, capture=False)
    assert np.isfinite([row.loss for row in captured]).all()
    assert captured == eager
    assert captured == rows_of(runs, corpus)  # and again
    assert any(any(row.clipped) for row in captured)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_gpu_trains_as_a_cpu_does(corpus, make_run, optimizer):
    runs = some(make_run, 3, optimizer=optimizer)
    host = np.array([row.loss for row in train(runs, corpus)])
    device = np.array([row.loss for row in rows_of(runs, corpus)])
    # float32 sums in another order, and as many updates after that
    assert np.allclose(device[:5], host[:5], rtol=1e-4)
    assert np.allclose(device, host, rtol=2e-2)


def test_a_replica_that_is_no_number_leaves_the_others_as_they_were(corpus, make_run):
    runs = some(make_run, 3)
    wild = runs[1].model_copy(update={"lr": 1e30})
    beside, alone = rows_of([runs[0], wild, runs[2]], corpus), rows_of(runs, corpus)
    assert beside[-1].diverged[1] and not alone[-1].diverged[1]
    for replica in (0, 2):
        assert [row.loss[replica] for row in beside] == [row.loss[replica] for row in alone]


def test_the_living_go_on_without_the_dead(corpus, make_run, monkeypatch):
    kept = []
    keep = Replicas.keep
    monkeypatch.setattr(Replicas, "keep", lambda self, *given: (kept.append(given), keep(self, *given)))
    runs = some(make_run, 4, steps=2 * RING + 10, eval_tokens=1024)
    wild = [run.model_copy(update={"lr": 1e30}) if i % 2 else run for i, run in enumerate(runs)]
    rows = rows_of(wild, corpus)
    assert kept == [([0, 2], RING)]
    assert [reason is None for reason in rows[-1].diverged] == [True, False, True, False]
    assert math.isnan(rows[-1].loss[1])
    plain = rows_of(runs, corpus)
    for replica in (0, 2):
        got, expected = ([row.loss[replica] for row in of] for of in (rows, plain))
        assert got[:RING] == expected[:RING]
        # the matrix library may choose another algorithm for another number of replicas
        assert np.allclose(got, expected, rtol=2e-2)
    assert np.allclose(rows[-1].val_loss[0], plain[-1].val_loss[0], rtol=2e-2)


def test_recorded_steps_are_those_of_steps_that_are_not_captured(corpus, make_run):
    record = (0, 1, 2, 4, 8, 16, 32, STEPS)
    runs = some(make_run, 2, probes="activations", record=record)
    captured, eager = rows_of(runs, corpus), rows_of(runs, corpus, capture=False)
    assert captured == eager
    assert [row.step for row in captured if row.coords] == list(record)


def test_evaluation_is_that_of_a_cpu(corpus, make_run):
    runs = some(make_run, 2, steps=16, lr=1e-30, eval_tokens=8192, eval_every=8)
    rows, host = rows_of(runs, corpus), list(train(runs, corpus))
    assert [row.step for row in rows if row.val_loss] == [7, 15]
    assert np.allclose(rows[-1].val_loss, host[-1].val_loss, rtol=1e-4)


def test_memory_is_given_back(corpus, make_run):
    runs = some(make_run, 2)
    rows_of(runs, corpus)
    before = torch.cuda.memory_reserved()
    for _ in range(3):
        rows_of(runs, corpus)
    assert torch.cuda.memory_reserved() <= before
