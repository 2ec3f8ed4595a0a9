"""Spectral norms against the SVD."""

import math

import pytest
import torch
from model_by_hand import lr_of, values, watched

from mupcheck.measuring.spectral import _inverse, largest, powers, spectral_norm
from mupcheck.theory.parametrization import OPTIMIZERS

# --- spectral norms ---------------------------------------------------------------------------------------------------


def matrices(*shape, seed=0):
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))


def assert_just_below(x, within):
    """Compare with the SVD, a replica each."""
    ratio = spectral_norm(x) / torch.linalg.matrix_norm(x, ord=2)
    assert ratio.min() >= 1 - within
    assert ratio.max() <= 1 + 1e-5  # rounding of float32 sums of up to 512 terms


@pytest.mark.parametrize("shape", [(64, 64), (256, 64), (64, 256), (384, 384), (512, 16), (16, 512), (512, 2), (1, 64)])
def test_spectral_norms_of_random_matrices(shape):
    # the largest singular values of a Gaussian matrix crowd together: the hardest case there is
    # no update looks like this: three rounds leave up to 3% where singular values crowd at the top, four leave 1%
    # and make a recorded step at width 64 cost three unrecorded ones
    assert_just_below(matrices(*shape), 0.03)


@pytest.mark.parametrize("rank", [1, 3, 16])
@pytest.mark.parametrize("shape", [(96, 32), (32, 96), (128, 128)])
def test_spectral_norms_of_low_rank_matrices(shape, rank):
    x = matrices(shape[0], rank) @ matrices(rank, shape[1], seed=1)
    assert_just_below(x, 0.001)
    assert_just_below(x * torch.tensor([1e-6, 1.0, 1e6])[:, None, None], 0.001)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_spectral_norms_of_training_updates(corpus, make_run, optimizer):
    runs = [make_run(name, width=128, optimizer=optimizer, lr=lr_of(optimizer)) for name in ("gdn-mup", "sp-fanin")]
    rows, weights, _ = watched(runs, corpus, 3)
    for step in (1, 3):
        measured = values(rows, step, "weight_update", "spectral")
        for r in range(2):
            for place, value in measured.items():
                norm = torch.linalg.matrix_norm(weights[step][r][place] - weights[0][r][place], ord=2)
                assert float(norm) * 0.99 <= value[r] <= float(norm) * (1 + 1e-5), (step, place)


def test_spectral_norm_of_nothing_and_of_nan():
    x = matrices(8, 8)
    x[0], x[1, 2, 3] = 0.0, math.nan
    found = spectral_norm(x)
    assert found[0] == 0
    assert found[1].isnan()
    assert found[2] == pytest.approx(float(torch.linalg.matrix_norm(x[2], ord=2)), rel=1e-5)


def test_norms_of_many_shapes_come_out_together():
    shapes = [(64, 64), (8, 8), (512, 2), (16, 512)]
    grams = [powers(matrices(*shape)) for shape in shapes]
    together = largest(torch.cat(grams, dim=1)).split(3)
    for shape, norms in zip(shapes, together, strict=True):
        assert torch.allclose(norms.float(), spectral_norm(matrices(*shape)), rtol=1e-6)


def test_an_inverse_of_what_nearly_is_none_is_one():
    x = matrices(16, 3).double()
    x = x @ x.transpose(1, 2) + 1e-7 * torch.eye(16, dtype=torch.float64)
    # a condition of some 1e9, and each of 16 sweeps rounds by 1e-16
    assert torch.allclose(_inverse(x) @ x, torch.eye(16, dtype=torch.float64).expand_as(x), atol=1e-5)
