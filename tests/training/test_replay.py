"""A step can be captured: replayed on the same memory, with nothing from the host, it goes on as the loop does.

A CPU has no CUDA graphs, so a tape stands for one: it keeps each operation of one call with the tensors it was given,
and its replay does the operations again and writes their results to where they were.
"""

from itertools import count

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mupcheck.theory.parametrization import OPTIMIZERS
from mupcheck.training.replicas import Replicas
from mupcheck.training.tables import TabledSteps
from mupcheck.training.train import train

aten = torch.ops.aten
# what waits for the device, or brings values from the host
HOSTS = {aten._local_scalar_dense.default, aten.lift_fresh.default, aten.nonzero.default, aten.is_nonzero.default}
STEPS = 12


def tensors_of(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [x for each in value for x in tensors_of(each)] if isinstance(value, list | tuple) else []


def place_of(tensor):
    return tensor.untyped_storage().data_ptr()


class Tape(TorchDispatchMode):
    """Keeps operations while it is entered; `replay` does them again."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, types, given=(), named=None):
        assert operation not in HOSTS, f"{operation} makes the host and the device wait for each other"
        out = operation(*given, **(named or {}))
        self.operations.append((operation, given, named or {}, out))
        return out

    @torch.no_grad()
    def replay(self):
        for operation, given, named, kept in self.operations:
            read = {place_of(x) for x in tensors_of([*given, *named.values()]) if x.numel()}
            out = operation(*given, **named)
            for new, old in zip(tensors_of(out), tensors_of(kept), strict=True):
                # a view, or what was written in place, is where it was
                if new is not old and old.numel() and place_of(old) not in read:
                    old.copy_(new)


def replayed(runs, corpus, *, record=False, steps=STEPS, taped=2):
    """Return the numbers [steps, 4, R] of a group whose step number `taped` is kept and replayed for all after it."""
    group = Replicas(runs, corpus, n_steps=steps, device=torch.device("cpu"), capture=False)
    group.feed.fill(0)
    for step in range(taped):
        group.advance(step)
    tape = Tape()
    with tape:
        group.steps[record].function()
    for _ in range(taped + 1, steps):
        tape.replay()
    return group, group.read(0, steps)


def assert_same(numbers, rows):
    for name, values in zip(("loss", "grad_norm", "clipped"), numbers.transpose(1, 0, 2), strict=False):
        assert np.array_equal(values, [getattr(row, name) for row in rows], equal_nan=True), name
    assert np.array_equal(numbers[:, 3] > 0, [[reason is not None for reason in row.diverged] for row in rows])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_replayed_step_goes_on_as_the_loop_does(corpus, make_run, optimizer, dtype):
    options = {"optimizer": optimizer, "dtype": dtype, "clip": 0.5, "weight_decay": 0.1, "accumulation": 2}
    options |= {"schedule": "cosine", "warmup_steps": 4, "steps": STEPS}
    runs = [make_run(name, seed=seed, **options) for name, seed in (("sp", 0), ("gdn-mup", 1))]
    _, numbers = replayed(runs, corpus)
    assert_same(numbers, list(train(runs, corpus)))
    assert len(np.unique(numbers[:, 0])) == numbers[:, 0].size


@pytest.mark.parametrize("lr", [1e30, 8.0])
def test_divergence_is_seen_and_freezes_in_a_replay(corpus, make_run, lr):
    options = {"steps": STEPS, "kind": "coord", "clip": 1.0}
    runs = [make_run(**options), make_run(lr=lr, **options)]
    _, numbers = replayed(runs, corpus)
    rows = list(train(runs, corpus))
    assert rows[-1].diverged[1] is not None
    assert_same(numbers, rows)


def test_a_recorded_step_is_replayed_too(corpus, make_run):
    runs = [make_run(probes="activations", record=tuple(range(STEPS)), steps=STEPS, seed=seed) for seed in (0, 1)]
    group, numbers = replayed(runs, corpus, record=True)
    rows = list(train(runs, corpus))
    assert_same(numbers, rows)
    assert [group.coords[row.step] for row in rows] == [row.coords for row in rows]


def test_an_evaluation_is_replayed(corpus, make_run):
    runs = [make_run(seed=seed, eval_tokens=300, steps=1) for seed in (0, 1)]
    group = Replicas(runs, corpus, n_steps=1, device=torch.device("cpu"), capture=False)
    expected = group.evaluate()
    tape = Tape()
    group.total.zero_()
    group.index.zero_()
    with tape:
        group.evaluation.function()
    for _ in range(group.held_out.count - 1):
        tape.replay()
    assert (group.total / group.held_out.count).tolist() == expected


@pytest.mark.parametrize("ask", [float, lambda x: torch.tensor([1.0]) + x])
def test_what_the_host_waits_for_or_brings_is_seen(corpus, make_run, monkeypatch, ask):
    train_once = Replicas._train

    def with_host(self, **given):
        train_once(self, **given)
        ask(self.total.sum())

    monkeypatch.setattr(Replicas, "_train", with_host)
    with pytest.raises(AssertionError, match="wait for each other"):
        replayed([make_run(steps=STEPS)], corpus)


def test_a_step_that_the_host_counts_is_seen(corpus, make_run, monkeypatch):
    call, counted = TabledSteps.__call__, count()

    def by_host(self, step, *given):
        return call(self, torch.full_like(step, next(counted)), *given)

    monkeypatch.setattr(TabledSteps, "__call__", by_host)
    runs = [make_run(steps=STEPS)]
    _, numbers = replayed(runs, corpus)
    with pytest.raises(AssertionError):  # Adam's corrections of the step that was taped, ever after
        assert_same(numbers, list(train(runs, corpus)))
