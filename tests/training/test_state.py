"""A training that is left and gone on with gives the rows of one that was not, bit for bit, in both loops."""

import copy
import json

import pytest
import torch

from mupcheck.training import device_loop
from mupcheck.training.device_loop import train_on_device
from mupcheck.training.replicas import RING
from mupcheck.training.state import State, pack_rows, unpack_rows
from mupcheck.training.train import train

WILD = 1e30


def on_host(runs, corpus, **options):
    return train(runs, corpus, **options)


def on_device(runs, corpus, **options):
    """Return the loop of a GPU, on a CPU."""
    n_steps = max(runs[0].record) + 1 if runs[0].record else runs[0].steps
    return train_on_device(runs, corpus, device="cpu", n_steps=n_steps, **options)


@pytest.fixture(params=["host", "device"])
def loop(request, monkeypatch):
    monkeypatch.setattr(device_loop, "FLOPS_A_READ", 1.0)  # it may be left after every step
    return on_host if request.param == "host" else on_device


def left(loop, runs, corpus, step):
    """Train up to `step`, then close the generator; return the rows and the state, as they come back from a file."""
    states, rows = [], []

    def between(state):
        if rows[-1].step + 1 == step:
            states.append(copy.deepcopy(state()))

    training = loop(runs, corpus, between=between)
    for row in training:
        if states:
            break
        rows.append(row)
    training.close()
    (state,) = states
    kept = pack_rows(rows)
    kept = State(kept.step, kept.tensors, json.loads(json.dumps(kept.facts)))
    return unpack_rows(kept), State(state.step, state.tensors, json.loads(json.dumps(state.facts)))


def gone_on(loop, runs, corpus, step):
    rows, state = left(loop, runs, corpus, step)
    assert [row.step for row in rows] == list(range(step))
    return rows + list(loop(runs, corpus, start=state))


def same(rows, others):
    # NaN is not equal to itself, and its repr is
    return [repr(row) for row in rows] == [repr(row) for row in others]


SETTINGS = {
    "plain": {},
    "all at once": {"clip": 0.5, "weight_decay": 0.3, "schedule": "cosine", "warmup_steps": 3, "tied": True},
    "bfloat16": {"dtype": "bfloat16", "accumulation": 2, "eval_tokens": 64, "eval_every": 4},
    "full probes": {"kind": "coord", "probes": "full", "record": (1, 4, 7, 11), "clip": 0.5, "weight_decay": 0.1},
    "probes of activations": {"kind": "lr", "probes": "activations", "record": (0, 4, 7, 11)},
}


@pytest.mark.parametrize(
    ("loop", "optimizer"), [("host", "adamw"), ("host", "sgd"), ("device", "adamw")], indirect=["loop"]
)
@pytest.mark.parametrize("setting", SETTINGS)
def test_it_goes_on_with_the_same_bits(loop, corpus, make_run, optimizer, setting):
    options = {"steps": 12, "optimizer": optimizer} | SETTINGS[setting]
    runs = [make_run(name, seed=seed, lr=2.0**-7, **options) for name, seed in (("gdn-mup", 0), ("sp", 1))]
    undisturbed = list(loop(runs, corpus))
    assert len({row.loss[0] for row in undisturbed}) == 12
    assert same(gone_on(loop, runs, corpus, 5), undisturbed)


@pytest.mark.parametrize("step", [3, 9])
def test_a_diverged_replica_stays_so_and_one_on_its_way_gets_there(loop, corpus, make_run, step):
    options = {"kind": "coord", "steps": 16, "clip": 1.0}
    runs = [make_run(lr=8.0, **options), make_run(**options), make_run(lr=WILD, **options)]
    undisturbed = list(loop(runs, corpus))
    assert "above" in undisturbed[-1].diverged[0] and undisturbed[-1].diverged[1:] == [None, undisturbed[2].diverged[2]]
    since = next(row.step for row in undisturbed if row.diverged[0])
    assert 3 < since < 9
    assert same(gone_on(loop, runs, corpus, step), undisturbed)


def test_the_living_go_on_without_the_dead_that_were_taken_out(corpus, make_run):
    options = {"steps": 2 * RING + 3, "optimizer": "sgd", "probes": "activations"}
    options |= {"record": (1, 2 * RING + 2)}
    runs = [make_run(lr=lr, seed=seed, **options | {"eval_tokens": 64}) for seed, lr in enumerate([2.0**-8, WILD])]
    undisturbed = list(on_device(runs, corpus))
    _, state = left(on_device, runs, corpus, RING)
    assert state.facts["living"] == [0]
    assert same(gone_on(on_device, runs, corpus, RING), undisturbed)


def test_a_streamed_corpus_goes_on_where_it_was(corpus, make_run, monkeypatch):
    from mupcheck.training.data import feed

    monkeypatch.setattr(feed, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(feed, "STEPS_AHEAD", 8)
    monkeypatch.setattr(device_loop, "FLOPS_A_READ", 1.0)
    runs = [make_run(steps=30, seed=seed) for seed in (0, 1)]
    assert same(gone_on(on_device, runs, corpus, 13), list(on_device(runs, corpus)))


# --- what would go unseen without -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "optimizer"),
    [("velocity", "sgd"), *((name, "adamw") for name in ("mean", "mean_square", "weight"))]
    + [(name, "sgd") for name in ("shadow/seen", "shadow/lines", "shadow/moment", "first")],
)
def test_a_state_without_one_of_its_parts_gives_other_rows(corpus, make_run, optimizer, lost):
    runs = [make_run(kind="coord", probes="full", record=(1, 5), steps=6, optimizer=optimizer)]
    rows, state = left(on_host, runs, corpus, 3)
    touched = [name for name in state.tensors if name.startswith(f"{lost}/") or name == lost]
    assert touched
    # of what is 0 where every update is right
    value = 7.0 if lost == "shadow/seen" else 0.0
    other = {name: torch.full_like(x, value) if name in touched else x for name, x in state.tensors.items()}
    others = rows + list(train(runs, corpus, start=State(state.step, other, state.facts)))
    assert not same(others, list(train(runs, corpus)))


def test_a_state_of_other_runs_is_refused(loop, corpus, make_run):
    _, state = left(loop, [make_run()], corpus, 2)
    for other in (make_run(width=32), make_run(optimizer="sgd", width=32)):
        with pytest.raises(ValueError, match="the state before step 2 has no weight/-1/embedding of"):
            next(loop([other], corpus, start=state))
