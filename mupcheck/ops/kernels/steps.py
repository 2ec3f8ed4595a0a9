# mypy: disallow-untyped-defs=False
"""A step of an optimizer over all weights of all replicas in a launch or two, and the gradients' norms in three.

At small widths a launch for each weight takes longer than its arithmetic. Weights, gradients and moments lie anywhere;
the kernels find them by a table of addresses on the device, which can be filled after a CUDA graph was captured.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# tensors begin at multiples of 16 bytes
BLOCK, CHUNK, VECTOR = 1024, 4096, 4
NORM_BLOCK = 1024


class Part(NamedTuple):
    """Programs that share the values of some weights: each takes CHUNK of one weight of one replica."""

    vector: int  # values that are read at once
    weight_of: Tensor  # int32 [programs]
    start_of: Tensor  # int64 [programs]


class Layout(NamedTuple):
    """How programs share the values of all weights."""

    sizes: Tensor  # int64 [weights], of one replica
    parts: list[Part]


def layout_of(sizes: Sequence[int], device: torch.device) -> Layout:
    """Return the layout of weights of these sizes: those that are read four values at a time, and the others."""
    parts = []
    for vector in (VECTOR, 1):
        alike = [weight for weight, size in enumerate(sizes) if (size % VECTOR == 0) == (vector == VECTOR)]
        chunks = [(weight, start) for weight in alike for start in range(0, sizes[weight], CHUNK)]
        if chunks:
            weights, starts = zip(*chunks, strict=True)
            weight_of = torch.tensor(weights, dtype=torch.int32, device=device)
            parts.append(Part(vector, weight_of, torch.tensor(starts, dtype=torch.int64, device=device)))
    return Layout(torch.tensor(list(sizes), dtype=torch.int64, device=device), parts)


@triton.jit
def _values(addresses, weight, replica, size, VECTOR: tl.constexpr):
    """Return where the float32 values of one weight of one replica begin."""
    start = tl.load(addresses + weight).to(tl.pointer_type(tl.float32))
    return tl.multiple_of(start, 4 * VECTOR) + tl.multiple_of(replica * size, VECTOR)


@triton.jit(do_not_specialize=["first", "n_sums"])
def _square_sums(
    gradients, sizes, weight_of, start_of, sums, first, n_sums,
    VECTOR: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    replica = tl.program_id(1).to(tl.int64)
    weight = tl.load(weight_of + tl.program_id(0))
    start = tl.multiple_of(tl.load(start_of + tl.program_id(0)), VECTOR)
    size = tl.multiple_of(tl.load(sizes + weight), VECTOR)
    gradient = _values(gradients, weight, replica, size, VECTOR)
    total = tl.zeros([BLOCK], tl.float32)
    for part in tl.static_range(CHUNK // BLOCK):
        column = start + part * BLOCK + tl.arange(0, BLOCK)
        g = tl.load(gradient + column, mask=column < size, other=0.0)
        total += g * g
    tl.store(sums + replica * n_sums + first + tl.program_id(0), tl.sum(total))


@triton.jit(do_not_specialize=["n_sums"])
def _norms(sums, norms, n_sums, BLOCK: tl.constexpr):
    replica = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n_sums, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(sums + replica * n_sums + at, mask=at < n_sums, other=0.0)
    tl.store(norms + replica, tl.sqrt_rn(tl.sum(total)))


@triton.jit
def _clip_factor(norm, most, clipped, CLIP: tl.constexpr):
    """Return what a replica's gradient is multiplied by, and note whether that is below 1."""
    factor = 1.0
    if CLIP:
        # a norm that is no number makes none of the weights, as it does in torch
        factor = tl.minimum(most / (norm + 1e-6), 1.0, propagate_nan=tl.PropagateNan.ALL)
        if tl.program_id(0) == 0:
            tl.store(clipped + tl.program_id(1), factor < 1.0)
    return factor


@triton.jit
def _adamw(
    weights, gradients, means, mean_squares, sizes, weight_of, start_of, lr, decay, eps, corrections, step, lr_scale,
    alive, norms, most, clipped, beta2, rest1, rest2,
    CLIP: tl.constexpr, VECTOR: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    replica = tl.program_id(1).to(tl.int64)
    index = tl.load(weight_of + tl.program_id(0))
    start = tl.multiple_of(tl.load(start_of + tl.program_id(0)), VECTOR)
    size = tl.load(sizes + index)
    clip = _clip_factor(tl.load(norms + replica), most, clipped, CLIP)
    # one number each, in float64 as the host works them out
    of = index * tl.num_programs(1) + replica
    now = tl.load(step)
    rate = tl.load(lr + of) * tl.load(lr_scale + replica)
    rate = tl.where(tl.load(alive + replica) != 0, rate, 0.0)
    keep = (1 - rate * tl.load(decay + of)).to(tl.float32)
    floor = (tl.load(eps + of) * tl.load(corrections + 2 * now)).to(tl.float32)
    size_of_step = (rate * tl.load(corrections + 2 * now + 1)).to(tl.float32)
    # nothing of a dead replica is touched
    size_left = tl.multiple_of(tl.where(size_of_step != 0.0, size, 0), VECTOR)

    weight = _values(weights, index, replica, size, VECTOR)
    gradient = _values(gradients, index, replica, size, VECTOR)
    mean = _values(means, index, replica, size, VECTOR)
    mean_square = _values(mean_squares, index, replica, size, VECTOR)
    for part in tl.static_range(CHUNK // BLOCK):
        column = start + part * BLOCK + tl.arange(0, BLOCK)
        inside = column < size_left
        g = tl.load(gradient + column, mask=inside, other=0.0) * clip
        w = tl.load(weight + column, mask=inside, other=0.0)
        m = tl.load(mean + column, mask=inside, other=0.0)
        v = tl.load(mean_square + column, mask=inside, other=0.0)
        m += (g - m) * rest1
        v = v * beta2 + g * g * rest2
        w = w * keep - size_of_step * (m / (tl.sqrt_rn(v) + floor))
        tl.store(mean + column, m, mask=inside)
        tl.store(mean_square + column, v, mask=inside)
        tl.store(weight + column, w, mask=inside)


@triton.jit
def _sgd(
    weights, gradients, velocities, sizes, weight_of, start_of, lr, decay, lr_scale,
    alive, norms, most, clipped, momentum,
    CLIP: tl.constexpr, VECTOR: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    replica = tl.program_id(1).to(tl.int64)
    index = tl.load(weight_of + tl.program_id(0))
    start = tl.multiple_of(tl.load(start_of + tl.program_id(0)), VECTOR)
    size = tl.load(sizes + index)
    clip = _clip_factor(tl.load(norms + replica), most, clipped, CLIP)
    of = index * tl.num_programs(1) + replica
    rate = tl.load(lr + of) * tl.load(lr_scale + replica)
    rate = tl.where(tl.load(alive + replica) != 0, rate, 0.0).to(tl.float32)
    pull = tl.load(decay + of).to(tl.float32)
    size_left = tl.multiple_of(tl.where(rate != 0.0, size, 0), VECTOR)

    weight = _values(weights, index, replica, size, VECTOR)
    gradient = _values(gradients, index, replica, size, VECTOR)
    velocity = _values(velocities, index, replica, size, VECTOR)
    for part in tl.static_range(CHUNK // BLOCK):
        column = start + part * BLOCK + tl.arange(0, BLOCK)
        inside = column < size_left
        w = tl.load(weight + column, mask=inside, other=0.0)
        g = tl.load(gradient + column, mask=inside, other=0.0) * clip + w * pull
        v = tl.load(velocity + column, mask=inside, other=0.0) * momentum + g
        tl.store(velocity + column, v, mask=inside)
        tl.store(weight + column, w - rate * (g + momentum * v), mask=inside)


@triton.jit
def _note(
    loss, norms, clipped, ring, step, ceiling, high_steps, why, limits, n,
    SLOTS: tl.constexpr, HIGH_STEPS: tl.constexpr, NOT_FINITE: tl.constexpr, HIGH: tl.constexpr, DEAD: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    replica = tl.arange(0, BLOCK)
    inside = replica < n
    now = tl.load(step)
    guess, nats = tl.load(limits), tl.load(limits + 1)
    x = tl.load(loss + replica, mask=inside, other=0.0)
    norm = tl.load(norms + replica, mask=inside, other=0.0).to(tl.float64)
    top = tl.load(ceiling + replica, mask=inside, other=0.0)
    # the first step sets every ceiling: the number where the loss is none
    first = tl.where(x > guess, x, guess) + nats
    top = tl.where(top == top, top, first)
    high = tl.where(x > top, tl.load(high_steps + replica, mask=inside, other=0) + 1, 0)
    dead = (tl.abs(x - guess) < tl.load(limits + 2)) & (norm < tl.load(limits + 3))
    code = tl.where(high >= HIGH_STEPS, HIGH, tl.where(dead, DEAD, 0))
    infinity = float("inf")
    code = tl.where((tl.abs(x) < infinity) & (norm < infinity), code, NOT_FINITE)
    before = tl.load(why + replica, mask=inside, other=0)
    code = tl.where(before == 0, code, before)
    tl.store(ceiling + replica, top, mask=inside)
    tl.store(high_steps + replica, high, mask=inside)
    tl.store(why + replica, code, mask=inside)
    row = ring + (now % SLOTS) * 4 * n + replica
    tl.store(row, x, mask=inside)
    tl.store(row + n, norm, mask=inside)
    tl.store(row + 2 * n, tl.load(clipped + replica, mask=inside, other=0).to(tl.float64), mask=inside)
    tl.store(row + 3 * n, code.to(tl.float64), mask=inside)
    tl.debug_barrier()  # all have read it
    tl.store(step, now + 1)


def note(
    loss: Tensor,
    norms: Tensor,
    clipped: Tensor,
    *,
    ring: Tensor,
    step: Tensor,
    watched: Sequence[Tensor],
    limits: Tensor,
    high_after: int,
    codes: tuple[int, int, int],
) -> None:
    """Do what `mupcheck.training.divergence.note` does, in one launch.

    Args:
        loss, norms, clipped: float64, float32 and bool [R].
        ring: float64 [slots, 4, R].
        step: int64 [1], counted up.
        watched: a watch's ceiling, high_steps and why, written in place.
        limits: of the watch, float64 [4].
        high_after: steps above the ceiling that are too many.
        codes: of a number that is not finite, of a high loss and of a dead model.
    """
    not_finite, high, dead = codes
    _note[(1,)](
        loss, norms, clipped, ring, step, *watched, limits, len(loss),
        SLOTS=len(ring), HIGH_STEPS=high_after, NOT_FINITE=not_finite, HIGH=high, DEAD=dead,
        BLOCK=triton.next_power_of_2(len(loss)), num_warps=1,
    )  # fmt: skip


def gradient_norms(gradients: Tensor, layout: Layout, n_replicas: int) -> Tensor:
    """Return the norm over all gradients of each replica, float32 [R], always summed in the same order.

    Args:
        gradients: their addresses, int64 [weights]; each is contiguous float32 [R, ...] and begins at 16 bytes.
    """
    n_sums, first = sum(len(part.weight_of) for part in layout.parts), 0
    sums = torch.empty(n_replicas, n_sums, dtype=torch.float32, device=gradients.device)
    norms = torch.empty(n_replicas, dtype=torch.float32, device=gradients.device)
    for vector, weight_of, start_of in layout.parts:
        _square_sums[len(weight_of), n_replicas](
            gradients, layout.sizes, weight_of, start_of, sums, first, n_sums,
            VECTOR=vector, CHUNK=CHUNK, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
        first += len(weight_of)
    _norms[(n_replicas,)](sums, norms, n_sums, BLOCK=NORM_BLOCK, num_warps=4)
    return norms


def adamw_step(
    addresses: Sequence[Tensor],
    layout: Layout,
    *,
    lr: Tensor,
    decay: Tensor,
    eps: Tensor,
    corrections: Tensor,
    step: Tensor,
    lr_scale: Tensor,
    alive: Tensor,
    norms: Tensor,
    clip: float,
    betas: tuple[float, float],
) -> Tensor:
    """Update all weights and moments in place, as `mupcheck.training.updates.adamw_update` does one.

    Args:
        addresses: of weights, gradients, means and mean squares, int64 [weights] each; float32 [R, ...], contiguous.
        lr, decay, eps: float64 [weights, R].
        corrections: float64 [n_steps, 2], from `mupcheck.training.optim.corrections`.
        step: how many updates came before, int64 [1].
        lr_scale: float64 [R].
        alive: bool [R]; the others stay as they are, bit for bit, whatever their gradients.
        norms: from `gradient_norms`, [R].
        clip: largest norm; 0 for no clipping.
    Returns:
        bool [R], true where the gradient was clipped.
    """
    clipped = torch.zeros(len(norms), dtype=torch.bool, device=norms.device)
    beta1, beta2 = betas
    for vector, weight_of, start_of in layout.parts:
        _adamw[len(weight_of), len(norms)](
            *addresses, layout.sizes, weight_of, start_of, lr, decay, eps, corrections, step, lr_scale, alive,
            norms, clip, clipped, beta2, 1 - beta1, 1 - beta2,
            CLIP=clip > 0, VECTOR=vector, CHUNK=CHUNK, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return clipped


def sgd_step(
    addresses: Sequence[Tensor],
    layout: Layout,
    *,
    lr: Tensor,
    decay: Tensor,
    lr_scale: Tensor,
    alive: Tensor,
    norms: Tensor,
    clip: float,
    momentum: float,
) -> Tensor:
    """Update all weights and velocities in place, as `mupcheck.training.updates.sgd_update` does one.

    Args and returns are those of `adamw_step`, with the addresses of velocities in place of the moments'.
    """
    clipped = torch.zeros(len(norms), dtype=torch.bool, device=norms.device)
    for vector, weight_of, start_of in layout.parts:
        _sgd[len(weight_of), len(norms)](
            *addresses, layout.sizes, weight_of, start_of, lr, decay, lr_scale, alive, norms, clip, clipped, momentum,
            CLIP=clip > 0, VECTOR=vector, CHUNK=CHUNK, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return clipped
