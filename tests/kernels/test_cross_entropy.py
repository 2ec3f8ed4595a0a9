"""Readout and loss in chunks of tokens, against torch's operations in float64."""

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import TOLERANCES, WHERE, drawing, in_float64, off, place, through

losses = pytest.importorskip("mupcheck.ops.kernels.cross_entropy")


def given(device, dtype, *, vocab, tied, tokens=7, width=24):
    draw = drawing(device)
    weight = draw(2, vocab, width) if tied else draw(2, width, vocab)
    targets = torch.randint(0, vocab, (2, tokens), generator=torch.Generator().manual_seed(1)).to(device)
    factor, multiplier = torch.tensor([0.5, 3.0], device=device), torch.tensor([2.0, 0.7], device=device)
    settings = {"factor": factor, "multiplier": multiplier, "tied": tied}
    return draw(2, tokens, width).to(dtype), 0.1 * weight, targets, settings


def right(x, weight, targets, *, factor, multiplier, tied):
    weight = weight * multiplier.double().view(-1, 1, 1)
    logits = factor.double().view(-1, 1, 1) * (x @ (weight.mT if tied else weight))
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(targets.shape).mean(1)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("vocab", "at_once"), [(256, 7), (50, 7), (50, 3), (5000, 4)])
def test_loss_and_gradients(where, tied, vocab, at_once, monkeypatch):
    device, dtype = place(where)
    x, weight, targets, settings = given(device, dtype, vocab=vocab, tied=tied)
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", at_once * 2 * vocab)
    upstream = [torch.tensor([1.0, -2.0], device=device)]
    got = through(lambda *leaves: losses.readout_loss(*leaves, targets, **settings), (x, weight), upstream)
    expected = in_float64(lambda *leaves: right(*leaves, targets, **settings), (x, weight), upstream)
    assert max(map(off, got, expected)) < TOLERANCES[dtype]
    wrong = in_float64(lambda *leaves: right(*leaves, targets.roll(1, 1), **settings), (x, weight), upstream)
    assert max(map(off, got, wrong)) > 2 * TOLERANCES[dtype]
    with torch.no_grad():
        assert torch.equal(losses.readout_loss(x, weight, targets, **settings), got[0])


@pytest.mark.parametrize("where", WHERE)
def test_targets_in_any_layout_and_a_replica_of_nan(where):
    device, dtype = place(where)
    x, weight, targets, settings = given(device, dtype, vocab=50, tied=False)
    clean = losses.readout_loss(x, weight, targets, **settings)
    assert torch.equal(losses.readout_loss(x, weight, torch.stack([targets, targets], 2)[..., 0], **settings), clean)
    x[1, 3] = float("nan")
    poisoned = losses.readout_loss(x, weight, targets, **settings)
    assert poisoned[0] == clean[0] and poisoned[1].isnan()


@pytest.mark.parametrize("where", WHERE)
def test_logits_far_apart_and_infinite_ones(where):
    device, _ = place(where)
    logits = torch.tensor([[[500.0, -500.0, 499.0], [float("inf"), 0.0, 0.0]]], device=device)
    loss = torch.empty(1, 2, device=device)
    targets = torch.tensor([[0, 1]], device=device)
    losses.cross_entropy_in_place(logits, targets, None, loss, first=0, scale=None)
    expected = F.cross_entropy(logits[0].double(), targets[0], reduction="none")
    assert torch.allclose(loss[0, 0].double(), expected[0], rtol=1e-6)
    assert not loss[0, 1].isfinite()  # so that the run is seen to diverge
