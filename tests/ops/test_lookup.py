"""Rows by token, and the sums that are their gradient, against float64; the same bits each time."""

import pytest
import torch
import torch.nn.functional as F

from mupcheck.ops import lookup as lookups
from mupcheck.ops.lookup import flat_rows, lookup, sum_by_token


def example(vocab_size, tokens, device, *, replicas=3, width=24):
    generator = torch.Generator().manual_seed(0)
    # most tokens are few, as in a text
    places = (torch.rand(replicas, tokens, generator=generator) ** 3 * vocab_size).long()
    weight = torch.randn(replicas, vocab_size, width, generator=generator)
    grad = torch.randn(replicas, tokens, width, generator=generator) * 10.0 ** torch.arange(-3, 3).repeat(4)
    return weight.to(device), places.to(device), grad.to(device)


def exact(grad, tokens, vocab_size):
    sums = torch.zeros(grad.shape[0], vocab_size, grad.shape[2], dtype=torch.float64, device=grad.device)
    for replica in range(len(grad)):
        sums[replica].index_add_(0, tokens[replica], grad[replica].double())
    return sums


# bfloat16 rounds each number to 2^-9 of it; sums of float32 in another order
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize("limit", [0, 1024])
@pytest.mark.parametrize("tokens", [1, 500])
def test_sums_are_those_of_float64(device, monkeypatch, dtype, tolerance, limit, tokens):
    monkeypatch.setattr(lookups, "LARGEST_ONE_HOT", limit)
    _, places, grad = example(50, tokens, device)
    sums, expected = sum_by_token(grad, places, 50, dtype), exact(grad, places, 50)
    assert sums.dtype == torch.float32
    columns = (sums - expected).norm(dim=(0, 1)) / expected.norm(dim=(0, 1))  # from 10^-3 to 10^2 in size
    assert columns.max() < tolerance
    assert torch.equal(sums, sum_by_token(grad, places, 50, dtype))


def test_rounding_to_bfloat16_is_seen_by_the_tolerance_of_float32(device):
    _, places, grad = example(50, 500, device)
    sums, expected = sum_by_token(grad, places, 50, torch.bfloat16), exact(grad, places, 50)
    assert (sums - expected).norm() / expected.norm() > 1e-4


@pytest.mark.parametrize("vocab_size", [50, 3000])
def test_a_lookup_is_an_embedding(device, vocab_size):
    weight, places, grad = example(vocab_size, 200, device)
    ours, theirs = (weight.clone().requires_grad_() for _ in range(2))
    rows = lookup(ours, places)
    rows.backward(grad)
    expected = F.embedding(flat_rows(places, vocab_size), theirs.reshape(-1, weight.shape[2]))
    expected.backward(grad)
    assert torch.equal(rows, expected)
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_float64_stays_float64(device):
    weight, places, grad = example(50, 100, device)
    weight = weight.double().requires_grad_()
    lookup(weight, places).backward(grad.double())
    assert torch.allclose(weight.grad, exact(grad, places, 50), rtol=1e-12)
