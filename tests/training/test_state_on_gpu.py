"""A training on a GPU, left and gone on with: captured steps find what was put back, and give the same bits.

`make gpu-check` runs it, or where there is a CUDA device: pytest -m gpu tests/training/test_state_on_gpu.py
"""

import warnings

import numpy as np
import pytest
import torch

from mupcheck.theory.parametrization import OPTIMIZERS
from mupcheck.training import device_loop
from mupcheck.training.device_loop import train_on_device
from mupcheck.training.replicas import RING

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _often_left(monkeypatch):
    """Let the host read after some steps, so that there is a place to leave; a capture that fails is an error."""
    monkeypatch.setattr(device_loop, "FLOPS_A_READ", 5e8)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="steps are not captured")
        yield


def trained(runs, corpus, **options):
    n_steps = max(runs[0].record) + 1 if runs[0].record else runs[0].steps
    return list(train_on_device(runs, corpus, device="cuda", n_steps=n_steps, **options))


def states_of(runs, corpus):
    """Return the rows of a training, and the states at all places where it could be left."""
    states = []
    return trained(runs, corpus, between=lambda state: states.append(state())), states


SETTINGS = {
    "plain": {"clip": 1.0, "weight_decay": 0.1, "schedule": "cosine", "warmup_steps": 3},
    "bfloat16": {"dtype": "bfloat16", "accumulation": 2, "eval_tokens": 1024, "eval_every": 20},
    "probes of activations": {"probes": "activations", "record": (0, 1, 2, 4, 8, 16, 32, 50, RING + 30)},
    "full probes": {"kind": "coord", "probes": "full", "record": (1, 4, 7, 11), "steps": 12},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_it_goes_on_with_the_same_bits(corpus, make_run, optimizer, setting):
    options = {"steps": RING + 30, "seq_len": 64, "batch_size": 4, "width": 64, "optimizer": optimizer}
    options |= SETTINGS[setting]
    runs = [make_run(name, seed=i, lr=2.0 ** -(7 + i), **options) for i, name in enumerate(("sp", "gdn-mup", "sp"))]
    undisturbed, states = states_of(runs, corpus)
    assert np.isfinite([row.loss for row in undisturbed]).all()
    assert repr(undisturbed) == repr(trained(runs, corpus))  # states are taken without a trace
    assert len(states) >= 2
    for state in (states[0], states[len(states) // 2], states[-1]):
        assert all(not tensor.is_cuda for tensor in state.tensors.values())
        rows = trained(runs, corpus, start=state)
        assert repr(rows) == repr(undisturbed[state.step :])
    moments = {name: torch.zeros_like(x) if "me" in name.split("/")[0] or "vel" in name else x
               for name, x in states[0].tensors.items()}  # fmt: skip
    lost = trained(runs, corpus, start=type(state)(states[0].step, moments, states[0].facts))
    assert repr(lost) != repr(undisturbed[states[0].step :])


def test_the_living_go_on_without_the_dead(corpus, make_run):
    options = {"steps": 2 * RING + 10, "seq_len": 64, "batch_size": 4, "width": 64, "eval_tokens": 1024}
    runs = [make_run(seed=i, lr=1e30 if i % 2 else 2.0**-8, **options) for i in range(4)]
    undisturbed, states = states_of(runs, corpus)
    state = next(state for state in states if state.step >= RING)
    assert state.facts["living"] == [0, 2]
    assert repr(trained(runs, corpus, start=state)) == repr(undisturbed[state.step :])
