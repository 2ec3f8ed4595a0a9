"""The loop of a GPU, made to run on a CPU: row by row what the loop of a CPU gives.

The arithmetic is the same, so rows are equal bit for bit; after replicas were taken out, sums have another order.
"""

import math

import numpy as np
import pytest
import torch

from mupcheck.model.build import build_model
from mupcheck.model.lm import LanguageModel
from mupcheck.ops import fused
from mupcheck.theory.parametrization import OPTIMIZERS
from mupcheck.training import device_loop, replicas
from mupcheck.training.data import feed
from mupcheck.training.device_loop import train_on_device
from mupcheck.training.replicas import RING, Replicas, keep_replicas
from mupcheck.training.train import train

WILD = 1e30


def both(runs, corpus):
    """Return the rows of the CPU's loop and of the GPU's, both on a CPU."""
    spec = runs[0]
    n_steps = max(spec.record) + 1 if spec.record else spec.steps
    return list(train(runs, corpus)), list(train_on_device(runs, corpus, device="cpu", n_steps=n_steps))


def agree(runs, corpus):
    host, device = both(runs, corpus)
    # NaN is not equal to itself, and its repr is
    assert [repr(row) for row in device] == [repr(row) for row in host]
    return host


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("options", [{}, {"clip": 0.5, "weight_decay": 0.3, "schedule": "linear", "warmup_steps": 5}])
def test_rows_are_those_of_the_host_loop(corpus, make_run, optimizer, options):
    runs = [
        make_run(name, seed=seed, lr=2.0**-8, steps=RING + 6, optimizer=optimizer, **options)
        for name, seed in (("gdn-mup", 0), ("sp", 1))
    ]
    rows = agree(runs, corpus)
    assert len({row.loss[0] for row in rows}) == RING + 6
    assert any(any(row.clipped) for row in rows) == bool(options)


@pytest.mark.parametrize("probes", ["full", "activations"])
@pytest.mark.parametrize("record", [(0, 1, 4), (2, 3)])
def test_recorded_sizes_are_those_of_the_host_loop(corpus, make_run, probes, record):
    runs = [make_run(kind="coord", probes=probes, record=record, seed=seed) for seed in (0, 1)]
    rows = agree(runs, corpus)
    assert {row.step for row in rows if row.coords} == set(record)


def test_sizes_at_every_step_of_more_than_a_ring(corpus, make_run):
    steps = RING + 10
    agree([make_run(probes="activations", record=tuple(range(steps)), steps=steps)], corpus)


def test_evaluation_accumulation_and_bfloat16_are_those_of_the_host_loop(corpus, make_run):
    options = {"accumulation": 2, "eval_tokens": 100, "eval_every": 4, "steps": 10, "dtype": "bfloat16"}
    rows = agree([make_run(seed=seed, **options) for seed in (0, 1)], corpus)
    assert [row.step for row in rows if row.val_loss] == [3, 7, 9]


def test_a_streamed_corpus_gives_the_same_rows(corpus, make_run, monkeypatch):
    runs = [make_run(steps=30, seed=seed) for seed in (0, 1)]
    monkeypatch.setattr(feed, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(feed, "STEPS_AHEAD", 8)  # the ring goes around
    monkeypatch.setattr(device_loop, "FLOPS_A_READ", 1.0)
    agree(runs, corpus)


@pytest.mark.parametrize(
    ("kind", "probes", "by_modules"),
    [("coord", "full", True), ("coord", "none", True), ("lr", "full", True), ("lr", "activations", False)],
)
def test_all_steps_of_a_check_are_computed_by_modules(corpus, make_run, kind, probes, by_modules, monkeypatch):
    asked, loss = [], LanguageModel.loss
    monkeypatch.setattr(LanguageModel, "loss", lambda self, tokens: (asked.append(fused._on), loss(self, tokens))[1])
    runs = [make_run(kind=kind, probes=probes, record=(0, 2), eval_tokens=64, steps=3)]
    assert len(list(train_on_device(runs, corpus, device="cpu", n_steps=3))) == 3
    assert set(asked) == {not by_modules}
    assert fused._on


# --- divergence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"lr": WILD}, {"lr": 1.0}, {"embedding_std": 1e25}], ids=["not finite", "high", "dead"]
)
def test_it_stops_at_the_very_step_where_the_last_replica_diverged(corpus, make_run, change):
    rows = agree([make_run(steps=RING, **change)], corpus)
    assert len(rows) < RING


def test_a_diverged_replica_is_frozen_at_the_very_step_and_leaves_the_others_as_they_were(corpus, make_run):
    options = {"kind": "coord", "steps": 20, "clip": 1.0, "weight_decay": 0.01}
    rows = agree([make_run(lr=8.0, **options), make_run(**options), make_run(lr=WILD, **options)], corpus)
    assert [reason is None for reason in rows[-1].diverged] == [False, True, False]
    alone = agree([make_run(seed=1, **options), make_run(**options), make_run(seed=2, **options)], corpus)
    assert [row.loss[1] for row in rows] == [row.loss[1] for row in alone]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_living_go_on_without_the_dead_where_those_are_half(corpus, make_run, optimizer, monkeypatch):
    kept = []
    keep = Replicas.keep
    monkeypatch.setattr(
        Replicas, "keep", lambda self, living, first: (kept.append((living, first)), keep(self, living, first))
    )
    options = {"steps": 2 * RING + 9, "optimizer": optimizer, "clip": 1.0, "eval_tokens": 64}
    options |= {"probes": "activations", "record": (1, RING + 3, 2 * RING + 8)}
    lrs = [2.0**-8, WILD, 2.0**-7, WILD]
    runs = [
        make_run("gdn-mup" if seed % 3 else "sp", lr=lr, seed=seed, width=32, **options) for seed, lr in enumerate(lrs)
    ]
    host, device = both(runs, corpus)
    assert kept == [([0, 2], RING)]
    for before, after in zip(host, device, strict=True):
        assert (after.step, after.diverged, after.lr_scale) == (before.step, before.diverged, before.lr_scale)
        assert [c[:-1] for c in after.coords] == [c[:-1] for c in before.coords]
        if before.step < RING:
            assert repr(after) == repr(before)
            continue
        assert math.isnan(after.loss[1]) and math.isnan(after.loss[3])
        living = [0, 2]
        # the same float32 sums over another number of replicas, and a hundred updates after that
        assert np.allclose(np.array(after.loss)[living], np.array(before.loss)[living], rtol=1e-3, atol=0)
        for one, other in zip(after.coords, before.coords, strict=True):
            assert np.allclose(np.array(one.values)[living], np.array(other.values)[living], rtol=1e-2, atol=1e-6)
    assert device[-1].val_loss is not None
    assert np.allclose(np.array(device[-1].val_loss)[living], np.array(host[-1].val_loss)[living], rtol=1e-3)


def test_a_model_without_some_replicas_is_that_of_the_others(corpus, make_run):
    runs = [make_run(name, seed=seed, width=32) for name, seed in (("sp", 0), ("gdn-mup", 1), ("mup", 2))]
    model, tokens = build_model(runs), torch.from_numpy(corpus.train[:34].astype(np.int64)).view(2, 17)
    whole = model.loss(tokens.expand(3, -1, -1))
    keep_replicas(model, torch.tensor([2, 0]))
    # products of another number of replicas may sum in another order
    assert torch.allclose(model.loss(tokens.expand(2, -1, -1)), whole[[2, 0]], rtol=1e-6)
    assert not torch.allclose(whole[2], whole[0], rtol=1e-3)


# --- when the host reads ----------------------------------------------------------------------------------------------


def blocks(spec, n_steps, work):
    first, ends = 0, []
    while first < n_steps:
        first = device_loop._end_of_block(spec, first, n_steps, work=work)
        ends.append(first)
    return ends


def test_the_host_reads_at_the_ends_of_the_ring_and_at_evaluations(make_run):
    assert blocks(make_run(steps=200), 200, 1.0) == [2, 64, 128, 192, 200]
    assert blocks(make_run(steps=100, eval_tokens=1, eval_every=40), 100, 1.0) == [2, 40, 64, 80, 100]
    # a step of seconds is told when it is there
    assert blocks(make_run(steps=5), 5, 1e15) == [2, 3, 4, 5]


def test_memory_is_given_back_however_it_ends(corpus, make_run, monkeypatch):
    released = []
    release = Replicas.release
    monkeypatch.setattr(Replicas, "release", lambda self: (release(self), released.append(vars(self))))
    rows = train_on_device([make_run(steps=50)], corpus, device="cpu", n_steps=50)
    next(rows)
    rows.close()
    assert released == [{}]
    monkeypatch.setattr(replicas.Replicas, "advance", lambda self, step: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(train_on_device([make_run(steps=50)], corpus, device="cpu", n_steps=50))
    assert released == [{}, {}]
