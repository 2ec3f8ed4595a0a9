"""The rules of divergence on a device against those on the host: the same reasons at the same steps."""

import math

import numpy as np
import pytest
import torch

from mupcheck.training.divergence import ALIVE, HIGH, DeviceWatch, DivergenceWatch, ceiling_of, reason_of

VOCAB = 32
GUESS = math.log(VOCAB)
REPLICAS, STEPS = 256, 40


def traces(key: int) -> tuple[np.ndarray, np.ndarray]:
    """Return losses and gradient norms [STEPS, REPLICAS] that meet every rule: spikes, plateaus, NaN, dead models."""
    rng = np.random.Generator(np.random.Philox(key=key))
    loss = rng.choice([GUESS - 1, GUESS, GUESS + 5e-4, GUESS + 1, GUESS + 1.5, 9.0], size=(STEPS, REPLICAS))
    # runs of high losses long enough to be called
    loss[10:30] = np.where(rng.random(REPLICAS) < 0.3, 9.0 + rng.random((20, REPLICAS)), loss[10:30])
    norm = rng.choice([0.0, 1e-13, 1e-12, 1.0], size=(STEPS, REPLICAS), p=[0.02, 0.01, 0.01, 0.96])
    for values in (loss, norm):
        values[rng.random((STEPS, REPLICAS)) < 0.005] = math.nan
        values[rng.random((STEPS, REPLICAS)) < 0.005] = math.inf
    return loss, norm


def on_host(loss: np.ndarray, norm: np.ndarray) -> list[list[str | None]]:
    watch, seen = DivergenceWatch(loss.shape[1], VOCAB), []
    for step in zip(loss, norm, strict=True):
        watch.update(*step)
        seen.append(list(watch.reason))
    return seen


def on_device(loss: np.ndarray, norm: np.ndarray, device: str = "cpu") -> list[list[str | None]]:
    watch, ceiling, seen = DeviceWatch(loss.shape[1], VOCAB, device), ceiling_of(loss[0], GUESS), []
    for step in zip(torch.from_numpy(loss).to(device), torch.from_numpy(norm).to(device), strict=True):
        watch.update(*step)
        seen.append([reason_of(why, top) for why, top in zip(watch.why.tolist(), ceiling, strict=True)])
    return seen


@pytest.mark.parametrize("key", range(4))
def test_reasons_and_steps_are_the_hosts(key, device):
    loss, norm = traces(key)
    expected = on_host(loss, norm)
    assert on_device(loss, norm, device) == expected
    # every rule had its say
    said = {reason.partition(" above")[0] if reason else None for reason in expected[-1]}
    assert said == {None, "loss or gradient is not finite", "loss", "loss is ln(vocab) and no gradient is left"}


def test_a_rule_that_differs_is_seen(monkeypatch):
    loss, norm = traces(0)
    expected = on_host(loss, norm)
    monkeypatch.setattr("mupcheck.training.divergence.DEAD_GRADIENT", 1e-11)
    assert on_device(loss, norm) != expected


def test_the_living_go_on_from_where_they_were():
    watch = DeviceWatch(3, VOCAB, "cpu")
    high, fine = 9.0, 1.0
    for loss in ([fine] * 3, *[[high, math.nan, fine]] * 4):
        watch.update(torch.tensor(loss, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    watch.keep(torch.tensor([0, 2]))
    watch.update(torch.tensor([high, fine], dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    assert watch.why.tolist() == [HIGH, ALIVE]  # the fifth high loss in a row
