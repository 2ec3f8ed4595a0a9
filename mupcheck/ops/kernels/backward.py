"""Gradients of the gated delta rule from what its forward kernels saved: two kernels, no atomics.

`scan_backward` carries the gradient of the state back over the chunks; from it `chunk_backward` computes the gradients
of the inputs, all chunks at once. Sums have a fixed order: two calls give equal bits.
"""

from functools import partial

import torch
from torch import Tensor

from mupcheck.ops.kernels.backward_configs import BackwardConfig, backward_config
from mupcheck.ops.kernels.chunk_backward import chunk_backward
from mupcheck.ops.kernels.configs import parts_of_keys
from mupcheck.ops.kernels.scan_backward import scan_backward
from mupcheck.ops.kernels.tiles import fit_copy_engine, tile


def gradients(
    q: Tensor,
    k: Tensor,
    inverse: Tensor,
    states: Tensor,
    writes: Tensor,
    grad_o: Tensor | None,
    grad_final_state: Tensor | None,
    *,
    gates: Tensor,
    reads: Tensor | None,
    need_initial: bool,
    config: BackwardConfig | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Compute the gradients of q, k, v, log_alpha, beta and, when asked for, of the initial state.

    Args:
        q, k: [B, T, H, K]; contiguous, of one dtype, float32 or bfloat16.
        inverse: (I + A)^-1 of each chunk, [B, H, N, C, C], N = ceil(T / C); zero above the diagonal.
        states: the state that enters each chunk, [B, H, N, K, V].
        writes: what each step writes, [B, T, H, V], with beta at least 1e-15: the gradient of beta is taken from it.
        grad_o: gradient of o, [B, T, H, V]; None means zeros.
        grad_final_state: gradient of the final state, [B, H, K, V]; None means zeros.
        gates: [B, H, N, 5, C], float32, C = 16, 32 or 64, as `invert` writes them.
        reads: P = (Q K^T) * decay in the inputs' dtype, [B, H, N, C, C]; None makes it again, in two parts.
        need_initial: whether the gradient of the initial state is wanted.
        config: how to cut the work; None takes the pinned one.

    Returns:
        dq, dk, dv in the inputs' dtype; d_log_alpha, d_beta and d_initial_state (or None) in float32.
    """
    config = config or backward_config(q.shape[-1], writes.shape[-1], q.dtype)
    grad_o = torch.zeros_like(writes) if grad_o is None else grad_o.to(writes.dtype).contiguous()
    if grad_final_state is not None:
        grad_final_state = grad_final_state.float().contiguous()
    reads = reads if config.scan_reads else None
    d_states, dv, d_initial_state = launch_scan(
        q, k, gates, inverse, reads, grad_o, grad_final_state, need_initial=need_initial, config=config
    )
    dq, dk, d_log_alpha, d_beta = launch_chunks(q, k, gates, states, writes, grad_o, d_states, dv, config=config)
    return dq, dk, dv, d_log_alpha, d_beta, d_initial_state


def launch_scan(
    q: Tensor,
    k: Tensor,
    gates: Tensor,
    inverse: Tensor,
    reads: Tensor | None,
    grad_o: Tensor,
    grad_final_state: Tensor | None,
    *,
    need_initial: bool,
    config: BackwardConfig,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Launch the scan: d_states [B, H, N, K, V], dv [B, T, H, V], d_initial_state [B, H, K, V] or None."""
    batch, time, heads, key_dim = q.shape
    value_dim = grad_o.shape[-1]
    first, second = parts_of_keys(key_dim)
    chunk = gates.shape[-1]
    d_states = q.new_empty(batch, heads, -(-time // chunk), key_dim, value_dim)
    dv = torch.empty_like(grad_o)
    d_initial_state = gates.new_empty(batch, heads, key_dim, value_dim) if need_initial else None
    block = config.scan_block
    tiled = config.scan_tiled and fit_copy_engine(q, k, inverse, grad_o, dv, d_states)
    tiles = partial(tile, tiled=tiled)
    squares = (1, chunk, chunk)
    scan_backward[(-(-value_dim // block) * batch * heads,)](
        *(tiles(q, 1, chunk, 1, first), tiles(q, 1, chunk, 1, second)),
        *(tiles(k, 1, chunk, 1, first), tiles(k, 1, chunk, 1, second)),
        *(gates, tiles(inverse.flatten(0, 2), *squares)),
        None if reads is None else tiles(reads.flatten(0, 2), *squares),
        *(tiles(grad_o, 1, chunk, 1, block), grad_final_state),
        *(tiles(d_states.flatten(0, 2), 1, first, block), tiles(d_states.flatten(0, 2), 1, second, block)),
        *(tiles(dv, 1, chunk, 1, block), d_initial_state),
        *(time, heads, key_dim, value_dim, first, second),
        BV=block,
        C=chunk,
        PRECISION=precision(q),
        TILED=tiled,
        num_warps=config.scan_warps,
        num_stages=config.scan_stages,
    )
    return d_states, dv, d_initial_state


def launch_chunks(
    q: Tensor,
    k: Tensor,
    gates: Tensor,
    states: Tensor,
    writes: Tensor,
    grad_o: Tensor,
    d_states: Tensor,
    dv: Tensor,
    *,
    config: BackwardConfig,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch what comes after the scan, all chunks at once: dq, dk, d_log_alpha and d_beta."""
    batch, time, heads, key_dim = q.shape
    chunk = gates.shape[-1]
    block_k, block = config.chunk_k_block, config.chunk_block
    parts = -(-key_dim // block_k)
    dq, dk = torch.empty_like(q), torch.empty_like(k)
    d_log_alpha = gates.new_empty(parts, batch, time, heads)
    d_beta = gates.new_empty(batch, time, heads)
    tiled = config.chunk_tiled and fit_copy_engine(q, k, states, writes, grad_o, d_states, dv)
    tiles = partial(tile, tiled=tiled)
    chunk_backward[(batch * -(-time // chunk) * heads * parts,)](
        *(tiles(q, 1, chunk, 1, block_k), tiles(k, 1, chunk, 1, block_k), gates),
        tiles(states.flatten(0, 2), 1, block_k, block),
        *(tiles(x, 1, chunk, 1, block) for x in (writes, grad_o)),
        *(tiles(d_states.flatten(0, 2), 1, block_k, block), tiles(dv, 1, chunk, 1, block)),
        *(dq, dk, d_log_alpha, d_beta, time, batch, heads, key_dim, dv.shape[-1]),
        C=chunk,
        BK=block_k,
        BV=block,
        PRECISION=precision(q),
        TILED=tiled,
        num_warps=config.chunk_warps,
        num_stages=config.chunk_stages,
        maxnreg=config.chunk_registers,
    )
    return dq, dk, d_log_alpha[0] if parts == 1 else d_log_alpha.sum(0), d_beta


def precision(x: Tensor) -> str:
    """How operands of products are rounded: float32 ones as three products of ten bits each, bfloat16 ones are exact.

    The other exact way, "ieee", has no tensor cores: some ten times slower, and minutes of compilation.
    """
    return "tf32x3" if x.dtype == torch.float32 else "tf32"
