"""The gated delta rule in Triton, differentiable once: launches the kernels and keeps what the way back needs."""

from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from mupcheck.ops.kernels.configs import Config, config_of, parts_of_keys
from mupcheck.ops.kernels.invert import invert
from mupcheck.ops.kernels.scan import scan
from mupcheck.ops.kernels.tiles import fit_copy_engine, tile


class Forward(NamedTuple):
    """What the kernels write; None for what was not asked for.

    Attributes:
        o: [B, T, H, V].
        final_state: [B, H, K, V], float32.
        inverse: X of each chunk, [B, H, N, C, C], zero above the diagonal.
        states: that enter each chunk, [B, H, N, K, V].
        writes: U, [B, T, H, V].
        gates: what the kernels read of log_alpha and beta, [B, H, N, 5, C], float32: see `invert`.
        reads: P of each chunk, [B, H, N, C, C]; None where the scan made it itself.
    """

    o: Tensor
    final_state: Tensor | None
    inverse: Tensor
    states: Tensor | None
    writes: Tensor | None
    gates: Tensor
    reads: Tensor | None


def gated_delta_rule_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_alpha: Tensor,
    beta: Tensor,
    initial_state: Tensor | None,
    *,
    final_state: bool = True,
    config: Config | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute what `mupcheck.ops.gated_delta_rule` does, already checked.

    Products are of q, k, v, X, P, U and the state rounded to the dtype of q, with sums in float32; all else is float32.
    Two calls give equal bits. Everything is read as contiguous; what is not is copied.

    Args:
        q, k, v: of one dtype, float32 or bfloat16 (float16 in tests).
        log_alpha, beta, initial_state: float32.
        final_state: whether to return it.
        config: how to launch, by default the pinned one of the shape.
    """
    config = config or config_of(q.shape[-1], v.shape[-1], q.dtype)
    q, k, v, log_alpha, beta = (x.contiguous() for x in (q, k, v, log_alpha, beta))
    start = None if initial_state is None else initial_state.contiguous()
    tensors = (q, k, v, log_alpha, beta, start)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        o, final = _Rule.apply(*tensors, final_state, config)
        return o, final
    o, final, *_ = forward(q, k, v, log_alpha, beta, start, final_state=final_state, save=False, config=config)
    return o, final


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_alpha: Tensor,
    beta: Tensor,
    initial_state: Tensor | None,
    *,
    final_state: bool,
    save: bool,
    config: Config,
) -> Forward:
    """Launch the kernels; all inputs contiguous. With `save`, `states` and `writes` are kept for the way back."""
    batch, time, heads, key_dim = q.shape
    value_dim = v.shape[-1]
    n_chunks = triton.cdiv(time, config.chunk)
    inverse = q.new_empty(batch, heads, n_chunks, config.chunk, config.chunk)
    gates = log_alpha.new_empty(batch, heads, n_chunks, 5, config.chunk)
    o = torch.empty_like(v)
    states = q.new_empty(batch, heads, n_chunks, key_dim, value_dim) if save else None
    writes = torch.empty_like(v) if save else None
    final = log_alpha.new_empty(batch, heads, key_dim, value_dim) if final_state else None

    reads = torch.empty_like(inverse) if config.reads else None
    launch_invert(q, k, log_alpha, beta, gates, inverse, reads, config)
    launch_scan(q, k, v, gates, inverse, reads, initial_state, o, states, writes, final, config)
    return Forward(o, final, inverse, states, writes, gates, reads)


def launch_invert(
    q: Tensor,
    k: Tensor,
    log_alpha: Tensor,
    beta: Tensor,
    gates: Tensor,
    inverse: Tensor,
    reads: Tensor | None,
    config: Config,
) -> None:
    """Launch `invert`, which writes gates, inverse and, where it is not None, reads."""
    batch, time, heads, key_dim = k.shape
    launch = config.invert
    invert[triton.cdiv(time, config.chunk), batch * heads](
        *(q, k, log_alpha, beta, gates, inverse, reads, time),
        H=heads,
        K=key_dim,
        C=config.chunk,
        BK=launch.block_k,
        PRECISION=config.precision,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
        maxnreg=launch.registers,
    )


def launch_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Tensor,
    inverse: Tensor,
    reads: Tensor | None,
    initial_state: Tensor | None,
    o: Tensor,
    states: Tensor | None,
    writes: Tensor | None,
    final_state: Tensor | None,
    config: Config,
) -> None:
    """Launch `scan`, which writes what comes after `initial_state` here, where it is not None."""
    batch, time, heads, key_dim = q.shape
    value_dim, chunk = v.shape[-1], config.chunk
    block_v = config.scan.block_v
    k1, k2 = parts_of_keys(key_dim)
    fit = fit_copy_engine(q, k, v)
    loads, stores = config.scan.loads and fit, config.scan.stores and fit

    read, write = partial(tile, tiled=loads), partial(tile, tiled=stores)
    squares, values = (1, chunk, chunk), (1, chunk, 1, block_v)
    stacked = None if states is None else states.flatten(0, 2)
    arguments = (
        *(read(q, 1, chunk, 1, k1), read(q, 1, chunk, 1, k2), read(k, 1, chunk, 1, k1), read(k, 1, chunk, 1, k2)),
        *(read(v, *values), gates, read(inverse.flatten(0, 2), *squares)),
        *(read(None if reads is None else reads.flatten(0, 2), *squares), initial_state, write(o, *values)),
        *(write(stacked, 1, k1, block_v), write(stacked, 1, k2, block_v)),
        *(write(writes, *values), final_state, time),
    )
    scan[triton.cdiv(value_dim, block_v), batch * heads](
        *arguments,
        H=heads,
        K=key_dim,
        V=value_dim,
        K1=k1,
        K2=k2,
        BV=block_v,
        C=chunk,
        PRECISION=config.precision if q.dtype == torch.float32 else "tf32",
        SAVE=states is not None,
        LOADS=loads,
        STORES=stores,
        num_warps=config.scan.num_warps,
        num_stages=config.scan.num_stages,
        maxnreg=config.scan.registers,
    )


class _Rule(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_alpha: Tensor,
        beta: Tensor,
        initial_state: Tensor | None,
        final_state: bool,
        config: Config,
    ) -> tuple[Tensor, Tensor | None]:
        made = forward(q, k, v, log_alpha, beta, initial_state, final_state=final_state, save=True, config=config)
        ctx.save_for_backward(q, k, made.inverse, made.states, made.writes, made.gates, made.reads)
        ctx.set_materialize_grads(False)
        return made.o, made.final_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_o: Tensor | None, grad_final_state: Tensor | None) -> tuple[Tensor | None, ...]:
        backward = import_module("mupcheck.ops.kernels.backward")
        *saved, gates, reads = ctx.saved_tensors
        gradients = backward.gradients(
            *(*saved, grad_o, grad_final_state),
            gates=gates,
            reads=reads,
            need_initial=ctx.needs_input_grad[5],
        )
        return *gradients, None, None
