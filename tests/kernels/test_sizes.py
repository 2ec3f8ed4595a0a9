"""Sums of squares of what passes sites, against the same in float64; nothing else of longer rows is read."""

from itertools import count

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import WHERE, drawing, part_of_rows, place

from mupcheck.measuring.sums import Sums

sizes = pytest.importorskip("mupcheck.ops.kernels.sizes")

# float32: partial sums of up to ten thousand squares, and the functions' own roundings. bfloat16: what is
# derived is rounded as if stored, by 2^-9 of each value at most, what has a factor twice.
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 4e-3}


class Rooms:
    """Rooms of one Sums, and what it makes of what was left there."""

    def __init__(self, n_replicas, device):
        self.sums, self.places = Sums(n_replicas, torch.device(device)), count()

    def make(self, n):
        def room_of(place):
            return lambda programs, values: self.sums.room(place, programs, values)

        return [room_of((next(self.places), "site")) for _ in range(n)]

    def take(self):
        return [size for _, size in sorted(self.sums.take().items())]


def compare(compute, expected, given, dtype):
    """Check what `compute(rooms, *given)` leaves, of all replicas and of the first alone; replica 1 is NaN."""
    n_replicas, device = len(given[0]), given[0].device
    rooms = Rooms(n_replicas, device)
    compute(rooms, *given)
    got = rooms.take()
    right = [x.double().flatten(1).square().mean(1).sqrt() for x in expected(*(x.double() for x in given))]
    assert len(got) == len(right)
    for size, of in zip(got, right, strict=True):
        assert size.shape == (n_replicas,) and size.dtype == torch.float32
        assert size[1].isnan() == of[1].isnan()
        left = [0, *range(2, n_replicas)]
        assert torch.allclose(size[left].double(), of[left], rtol=TOLERANCES[dtype], atol=0)
    alone = Rooms(1, device)
    compute(alone, *(x[:1] for x in given))
    for size, one in zip(got, alone.take(), strict=True):
        assert torch.equal(size[:1], one)


def drawn(where, *shapes, nan=0):
    device, dtype = place(where)
    draw = drawing(device)
    tensors = [draw(*shape).to(dtype) for shape in shapes]
    tensors[nan][1].fill_(float("nan"))
    return device, dtype, tensors


@pytest.mark.parametrize("where", WHERE)
def test_square_sums_of_several_tensors_in_one_launch(where):
    # several programs and columns of tiles; rows of 3; rows that fill tiles; what a site of gates is
    _, dtype, (a, b, c, d) = drawn(where, (3, 70, 300), (3, 5, 3), (3, 40, 64), (3, 130, 6))
    c = c.float()

    def compute(rooms, a, b, c, d):
        sizes.square_sums([part_of_rows(a), b, c, part_of_rows(d)], rooms.make(4))

    compare(compute, lambda *x: x, (a, b, c, d), dtype)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(("channels", "taps", "time"), [(5, 4, 7), (260, 2, 40), (12, 6, 4)])
def test_conv_sums(where, channels, taps, time):
    device, dtype, (q, k) = drawn(where, (2, 3 * time, channels), (2, 3 * time, channels))
    weights = [drawing(device, seed)(2, taps, channels) for seed in (1, 2)]

    def compute(rooms, q, k, *weights):
        given = [part_of_rows(q), part_of_rows(k)], weights
        sizes.conv_sums(*given, rooms.make(2), rooms.make(2), batch=3)

    def convolved(x, weight):
        x, out = x.unflatten(1, (3, time)), 0.0
        for lag in range(min(taps, time)):
            shifted = F.pad(x, (0, 0, lag, 0))[:, :, :time]
            out = out + shifted * weight[:, -1 - lag, None, None]
        return F.silu(out)

    def expected(q, k, of_q, of_k):
        return q, k, convolved(q, of_q), convolved(k, of_k)

    compare(compute, expected, (q, k, *weights), dtype)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("shape", [(7, 2, 3), (90, 3, 48), (5, 2, 256)])
def test_dot_sums(where, shape):
    _, dtype, (q, k) = drawn(where, (2, *shape), (2, *shape))

    def compute(rooms, q, k):
        sizes.dot_sums(q.flatten(0, 1), k.flatten(0, 1), *rooms.make(3), replicas=len(q))

    compare(compute, lambda q, k: (q, k, (q * k).sum(-1)), (q, k), dtype)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("factor", [False, True])
@pytest.mark.parametrize(("shape", "eps"), [((11, 2, 5), 1e-5), ((60, 3, 96), 0.0), ((9, 1, 512), 1e-2)])
def test_output_sums(where, shape, eps, factor):
    tokens, heads, width = shape
    device, dtype, (o, g, gain) = drawn(where, (2, *shape), (2, tokens, heads * width), (2, width), nan=1)
    factors = 1 + drawing(device, 1)(2).abs() if factor else torch.ones(2, device=device)

    def compute(rooms, o, g, gain, factors):
        given = part_of_rows(g), gain, eps
        sizes.output_sums(o, *given, rooms.make(3), factor=factors if factor else None)

    def expected(o, g, gain, factors):
        o = o * factors[:, None, None, None]
        normed = o / (o.square().mean(-1, keepdim=True) + eps).sqrt() * gain[:, None, None]
        return o, normed, F.silu(g)

    compare(compute, expected, (o, g, gain, factors), dtype)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(("tokens", "heads"), [(5, 2), (300, 17)])
def test_gate_sums(where, tokens, heads):
    device, dtype, (z,) = drawn(where, (2, tokens, 2 * heads + 3))
    log_alpha, beta = -drawing(device, 1)(2, tokens, heads).abs(), drawing(device, 2)(2, tokens, heads)

    def compute(rooms, z, log_alpha, beta):
        sizes.gate_sums(part_of_rows(z), log_alpha.flatten(0, 1), beta.flatten(0, 1), rooms.make(4))

    def expected(z, log_alpha, beta):
        return z[..., :heads], z[..., heads : 2 * heads], log_alpha.exp(), beta

    compare(compute, expected, (z, log_alpha, beta), dtype)


def test_a_place_is_the_same_in_every_step_and_what_is_not_asked_for_is_not_there():
    device, _ = place(("cpu", torch.float32))
    sums = Sums(2, torch.device(device))
    assert sums.take() == {}
    room = sums.room((0, "a"), 3, 4)
    room.copy_(torch.tensor([[1.0, 2.0, 1.0], [0.0, 0.0, 36.0]]))
    sums.room((1, "b"), 1, 1).fill_(4.0)
    taken = sums.take()
    assert [size.tolist() for size in taken.values()] == [[1.0, 3.0], [2.0, 2.0]]
    assert list(taken) == [(0, "a"), (1, "b")]
    assert sums.room((0, "a"), 3, 4).data_ptr() == room.data_ptr()
    assert list(sums.take()) == [(0, "a")] and sums.take() == {}
