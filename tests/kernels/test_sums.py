"""Sums of what programs left, in one fixed order."""

import pytest
import torch
from kernel_cases import TOLERANCES, WHERE, drawing, off, place

sums = pytest.importorskip("mupcheck.ops.kernels.sums")


@pytest.mark.parametrize("where", WHERE[:2])
@pytest.mark.parametrize("shape", [(2, 1, 5), (2, 130, 4, 10), (3, 64, 33)])
def test_the_sum_over_programs(where, shape):
    device, dtype = place(where)
    partial = drawing(device)(*shape)
    partial[1, 0] = float("nan")
    got, expected = sums.sum_of_programs(partial), partial.double().sum(1)
    assert got.shape == expected.shape and got[1].isnan().all()
    assert off(got[0], expected[0]) < TOLERANCES[dtype]
    assert torch.equal(got[0], sums.sum_of_programs(partial[:1])[0])
