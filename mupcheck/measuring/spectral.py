"""The largest singular value of many matrices, from matrix products alone.

An SVD costs more than the training step that it would describe, and what libraries offer on a GPU (QR, eigenvalues)
goes through small matrices one by one and stops the device. Here a few vectors are multiplied by x and its transpose
in turn, and the largest singular value in their span is that of two 16 x 16 matrices, of all weights at once.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

# Vectors, and how often they go to and fro: within 0.5% of the SVD on every update of a coordinate check, most within
# 1e-5; within 3% on Gaussian matrices of 1024 x 256, whose singular values crowd at the top.
VECTORS, ROUNDS = 4, 3
SPAN = VECTORS * (ROUNDS + 1)
# Added to the Gram matrix of unit vectors. Powers grow alike, and what their differences, below its root, say is
# rounding (1e-7); it costs at most some 1e-4 of the norm, found from below.
RIDGE = 3e-8
SQUARINGS = 16  # of a matrix: the mean of its eigenvalues weighted by their 2^16th power is the largest, to 1e-4
LEAST = 1e-300  # where all is zero


def spectral_norm(x: Tensor) -> Tensor:
    """Return the largest singular value of each matrix in x [R, M, N], [R], from below; NaN where x is not finite.

    The largest in the span of a few blocks (x x^T)^i x Omega, with a fixed Omega (block Krylov iteration,
    arXiv:1504.05477).
    """
    return largest(powers(x)).to(x.dtype)


def powers(x: Tensor) -> Tensor:
    """Return the Gram matrices, float64 [2, R, SPAN, SPAN], of the vectors of x [R, M, N] and of these times x.

    Vectors are rows: a few of them at the left of a matrix take a quarter of the time that they take as columns at its
    right.
    """
    x = x if x.shape[1] >= x.shape[2] else x.transpose(1, 2)
    n_vectors = min(VECTORS, x.shape[2])
    through = _gaussian(n_vectors, x.shape[2], x.device, x.dtype).expand(len(x), -1, -1)
    vectors, images = [], []
    for _ in range(min(ROUNDS, x.shape[2] // n_vectors - 1) + 1):
        vectors.append(_unit(torch.bmm(through, x.transpose(1, 2))))
        images.append(through := torch.bmm(vectors[-1], x))
    wide = torch.cat(vectors, 1).double(), torch.cat(images, 1).double()
    grams = torch.stack([rows @ rows.transpose(1, 2) for rows in wide])
    missing = SPAN - grams.shape[2]
    return F.pad(grams, (0, missing) * 2) if missing else grams


def largest(grams: Tensor) -> Tensor:
    """Return sqrt(max z^T B z / z^T A z) of each pair of Gram matrices (A, B) [2, R, SPAN, SPAN], [R] in float64."""
    of_vectors, of_images = grams
    scale = _trace(of_images).clamp(min=LEAST)
    ridge = RIDGE * torch.eye(SPAN, dtype=grams.dtype, device=grams.device)
    product = _inverse(of_vectors + ridge) @ (of_images / scale[:, None, None])
    power = product
    for i in range(SQUARINGS):
        if i % 4 == 0:  # in between the largest eigenvalue falls to (1/16)^16 at most
            power = power / _trace(power).clamp(min=LEAST)[:, None, None]
        power = power @ power
    return (scale * _trace(power @ product) / _trace(power).clamp(min=LEAST)).sqrt()


def _unit(rows: Tensor) -> Tensor:
    """Scale the rows [R, n, N] to unit length, so that no power leaves the range of floats; zeros stay."""
    return rows / torch.linalg.vector_norm(rows, dim=2, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)


def _trace(x: Tensor) -> Tensor:
    return x.diagonal(dim1=1, dim2=2).sum(1)


def _inverse(x: Tensor) -> Tensor:
    """Return the inverse of each symmetric positive definite matrix of x [R, n, n], by the sweeps of Gauss and Jordan.

    One of them takes column c, row r and pivot p to x - (c - e)(r + e)^T / p, with the unit vector e of its index.
    """
    units = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    for i, unit in enumerate(units):
        x = torch.addcmul(x, ((x[:, :, i] - unit) / x[:, i, i, None])[:, :, None], (x[:, i] + unit)[:, None], value=-1)
    return x


@cache
def _gaussian(rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    # the same numbers on every device, and carried there once; drawn as columns, as they were from the first
    drawn = torch.randn(columns, rows, generator=torch.Generator().manual_seed(0))
    return drawn.T.contiguous().to(device, dtype)
