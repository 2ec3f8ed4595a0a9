"""One step of AdamW and SGD in one pass, and the gradients' norm, against their formulas in float64."""

import pytest
import torch
from kernel_cases import WHERE, drawing, off, place

update = pytest.importorskip("mupcheck.ops.kernels.update")

ROUNDING = 1e-6  # a handful of float32 operations a number, also where the gradient came in bfloat16


def rows(values, like):
    return values.double().view(-1, *[1] * (like.dim() - 1))


def state(where, n_moments):
    device, dtype = place(where)
    draw = drawing(device)
    weight, gradient = draw(3, 33, 47), draw(3, 33, 47).to(dtype)
    gradient[1] = float("nan")
    return weight, gradient, [draw(3, 33, 47).square() for _ in range(n_moments)], device


def numbers(device, *values):
    return torch.tensor(values, device=device)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("clipped", [False, True])
def test_adamw(where, clipped):
    weight, gradient, moments, device = state(where, 2)
    clip = numbers(device, 0.5, 1.0, 0.7) if clipped else None
    factors = {
        "keep": numbers(device, 0.99, 0.9, 0.95) if clipped else None,
        "step_size": numbers(device, 1e-2, 0.0, 2e-2),
        "eps": numbers(device, 1e-8, 1e-8, 0.1),
    }
    got = [x.clone() for x in (weight, *moments)]
    update.adamw_update(got[0], gradient, *got[1:], clip=clip, **factors, beta1=0.9, beta2=0.95)
    g = gradient.double() * (1 if clip is None else rows(clip, weight))
    mean, square = 0.9 * moments[0].double() + 0.1 * g, 0.95 * moments[1].double() + 0.05 * g.square()
    keep, step_size, eps = (1 if x is None else rows(x, weight) for x in factors.values())
    expected = [keep * weight.double() - step_size * mean / (square.sqrt() + eps), mean, square]
    alive = [0, 2]
    for mine, right, before in zip(got, expected, (weight, *moments), strict=True):
        assert off(mine[alive], right[alive]) < ROUNDING
        assert torch.equal(mine[1], before[1])  # dead, with a gradient that is no number
    assert off(got[0][alive] - weight[alive], (expected[0] - weight)[alive]) < 1e-4  # the step itself
    no_eps = keep * weight.double() - step_size * mean / square.sqrt()
    assert off(got[0][2], no_eps[2]) > 1e-4


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("decayed", [False, True])
def test_sgd(where, decayed):
    weight, gradient, (velocity,), device = state(where, 1)
    clip, lr = numbers(device, 0.5, 1.0, 0.7), numbers(device, 1e-2, 0.0, 2e-2)
    decay = numbers(device, 0.3, 0.1, 0.2) if decayed else None
    got, moved = weight.clone(), velocity.clone()
    update.sgd_update(got, gradient, moved, clip=clip, decay=decay, lr=lr, momentum=0.9)
    g = gradient.double() * rows(clip, weight)
    g = g if decay is None else g + rows(decay, weight) * weight.double()
    expected = 0.9 * velocity.double() + g
    stepped = weight.double() - rows(lr, weight) * (g + 0.9 * expected)
    alive = [0, 2]
    assert off(got[alive], stepped[alive]) < ROUNDING and off(moved[alive], expected[alive]) < ROUNDING
    assert torch.equal(got[1], weight[1]) and torch.equal(moved[1], velocity[1])
    plain = weight.double() - rows(lr, weight) * expected  # momentum without Nesterov's look ahead
    assert off(got[alive], plain[alive]) > 1e-4


@pytest.mark.parametrize("where", WHERE)
def test_the_norm_of_all_gradients(where):
    device, dtype = place(where)
    draw = drawing(device)
    gradients = [draw(3, 5, 7), draw(3, 11).to(dtype), draw(3, 40, 50).to(dtype)]
    gradients[0][1, 2, 3] = float("nan")
    norm = update.gradient_norm(gradients)
    expected = torch.cat([g.double().flatten(1) for g in gradients], dim=1).norm(dim=1)
    assert norm.shape == (3,) and norm.dtype == torch.float32 and norm[1].isnan()
    assert off(norm[[0, 2]], expected[[0, 2]]) < ROUNDING
    assert off(norm[[0, 2]], expected[[2, 0]]) > 1e-3
