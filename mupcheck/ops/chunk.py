"""The gated delta rule in chunks of time: matrix products and one triangular solve per chunk, in plain torch.

With S the state that enters a chunk, c_t the sum of log_alpha over the chunk up to and with t, and S' the state that
leaves it, unrolling the recurrence over the chunk gives (arXiv:2412.06464, section 3.3, transposed):

    decay_ij = exp(c_i - c_j) for i >= j, else 0
    P = Q K^T * decay                       what step i reads of the write of step j
    A = (beta K) K^T * decay, strictly lower
    (I + A) U = beta V - exp(c) (beta K) S  what each step really writes
    O  = exp(c) Q S + P U
    S' = exp(c_C) S + (exp(c_C - c) K)^T U

U comes from substitution, never from a power series for the inverse, which explodes once keys are correlated. Where a
state enters, (I + A)^-1 itself does, by substitution too, for all chunks before the scan: then the scan has no solves.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mupcheck.ops.products import fast_products

CHUNK = 32

# Up to this length one chunk is faster than a scan over several (CPU, one thread): handing a state on costs more than
# the larger [T, T] products.
LONGEST_SINGLE_CHUNK = 64

# exp(-60) = 9e-27 stands for every smaller decay. True values below 1e-38 are subnormal in float32, and products of
# those are 100 times slower on a CPU; no sum over a sequence can notice the difference, in float64 either.
LOWEST_LOG_DECAY = -60.0


def gated_delta_rule_chunk(
    q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute what `gated_delta_rule_reference` computes, chunk by chunk; differentiable once.

    Args and returns are those of `mupcheck.ops.gated_delta_rule`, already checked and of one dtype.
    """
    o, final_state = _Chunked.apply(q, k, v, log_alpha, beta, initial_state)
    return o, final_state


def chunking(time: int) -> tuple[int, int]:
    """Split `time` steps: the number of chunks and their length, as equal as possible so that padding stays small."""
    if time <= LONGEST_SINGLE_CHUNK:
        return 1, time
    n_chunks = -(-time // CHUNK)
    return n_chunks, -(-time // n_chunks)


class _Chunked(torch.autograd.Function):
    """Forward and backward written out: autograd through the same forward takes up to 2.7 times as long on a CPU.

    All chunks of all heads are one batch of N*B*H matrices [C, K] or [C, V]. N is outermost, so the scan over chunks
    takes contiguous slices. Products stay `bmm`, one matrix per batch entry: no entry's result depends on another.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor, initial_state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        batch, time, heads, key_dim = q.shape
        n_chunks, chunk = chunking(time)
        sequences, value_dim = batch * heads, v.shape[-1]
        q_c, k_c, v_c, beta_c = (_split(x, n_chunks, chunk) for x in (q, k, v, beta))
        decay, decay_in, decay_out = _decays(_split(log_alpha, n_chunks, chunk))

        beta_k = beta_c * k_c
        k_out = decay_out * k_c
        final_state = q.new_empty(batch, heads, key_dim, value_dim)
        absent: Any = None
        inverse = entering = q_in = k_in = absent
        with fast_products(min(chunk, key_dim, value_dim)):
            k_t = _transposed(k_c)
            p = torch.bmm(q_c, k_t).mul_(decay)
            a = torch.bmm(beta_k, k_t).mul_(decay)  # read below the diagonal only
            if n_chunks == 1 and initial_state is None:  # there is no state to read
                writes = _solve_in_place(a, beta_c * v_c, transposed=False)  # [N*B*H, C, V]
                torch.bmm(k_out.mT, writes, out=final_state.flatten(0, 1))
            else:
                q_in, inverse = decay_in * q_c, _inverse(a)
                k_in = torch.bmm(inverse, decay_in * beta_k)
                writes = torch.bmm(inverse * beta_c.mT, v_c)
                entering = q.new_empty(n_chunks, sequences, key_dim, value_dim)
        if entering is not None:
            entering[0] = 0.0 if initial_state is None else initial_state.flatten(0, 1)
            leaving = [*entering[1:], final_state.flatten(0, 1)]
            by_chunk = (_by_chunk(x, n_chunks) for x in (writes, k_in, k_out.mT, decay_in[:, -1:]))
            for u, k_read, k_write, kept, s, left in zip(*by_chunk, entering, leaving, strict=True):
                u.baddbmm_(k_read, s, alpha=-1)
                torch.bmm(k_write, u, out=left).addcmul_(s, kept)
        with fast_products(min(chunk, key_dim, value_dim)):
            o = torch.bmm(p, writes)
            if entering is not None:
                o.baddbmm_(q_in, entering.flatten(0, 1))

        ctx.shape = (batch, time, heads, n_chunks, chunk)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            *(q_c, k_c, v_c, beta_c, beta_k, decay, decay_in, decay_out, p, a, writes, k_out),
            *(q_in, k_in, inverse, entering, final_state),
        )
        return _join(o, ctx.shape), final_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_o: Tensor | None, grad_final_state: Tensor | None) -> tuple[Tensor | None, ...]:
        device = ctx.saved_tensors[0].device
        # A user may call backward under autocast as well; the caller of forward has switched it off there.
        with torch.autocast(device.type, enabled=False):
            return _Chunked.gradients(ctx, grad_o, grad_final_state)

    @staticmethod
    def gradients(ctx: Any, grad_o: Tensor | None, grad_final_state: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute the gradients of forward's arguments; None for a gradient that is all zero."""
        _, _, v_c, _, _, _, decay_in, _, p, a, _, k_out = ctx.saved_tensors[:12]
        q_in, k_in, inverse, entering, final_state = ctx.saved_tensors[12:]
        n_chunks, chunk = ctx.shape[3:]
        enters, fast = entering is not None, fast_products(min(chunk, *final_state.shape[2:]))
        d_o = torch.zeros_like(v_c) if grad_o is None else _split(grad_o, n_chunks, chunk)

        d_states = None  # [i + 1]: of the state that leaves chunk i, which is the one that enters chunk i + 1
        if entering is not None or grad_final_state is not None:
            d_states = final_state.new_empty(n_chunks + 1, *final_state.flatten(0, 1).shape)
            d_states[-1] = 0.0 if grad_final_state is None else grad_final_state.flatten(0, 1)
        with fast:
            d_writes = torch.bmm(p.mT, d_o)
            if d_states is not None and entering is not None:
                torch.bmm(q_in.mT, d_o, out=d_states[:-1].flatten(0, 1))
        if d_states is not None:
            by_chunk = (_by_chunk(x, n_chunks) for x in (d_writes, k_out, decay_in[:, -1:], k_in if enters else k_out))
            each = zip(*by_chunk, d_states[:-1], d_states[1:], strict=True)
            for d_u, k_write, kept, k_read, d_s, d_left in reversed(list(each)):
                d_u.baddbmm_(k_write, d_left)
                if enters:
                    d_s.baddbmm_(k_read.mT, d_u, alpha=-1).addcmul_(d_left, kept)
        with fast:
            # of the right-hand side beta V - exp(c) (beta K) S
            d_rhs = (
                _solve_in_place(a, d_writes, transposed=True) if inverse is None else torch.bmm(inverse.mT, d_writes)
            )
            return _Chunked.rest_of_gradients(ctx, d_o, d_rhs, d_states)

    @staticmethod
    def rest_of_gradients(ctx: Any, d_o: Tensor, d_rhs: Tensor, d_states: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute the gradients of forward's arguments from those inside of it, which it may overwrite."""
        q_c, k_c, v_c, beta_c, beta_k, decay, decay_in, decay_out, p, a, writes, _ = ctx.saved_tensors[:12]
        entering = ctx.saved_tensors[15]
        batch, _, heads, _, _ = ctx.shape
        # Of P and, with its sign turned, of A (strictly lower), still without the factor decay.
        writes_t = _transposed(writes)
        d_p, d_a = torch.bmm(d_o, writes_t), torch.bmm(d_rhs, writes_t)
        d_log_alpha = _across_each_step((d_p * p).addcmul_(d_a, a, value=-1))
        d_qk, d_kk = d_p.mul_(decay), d_a.mul_(decay).tril_(-1)
        if entering is None:
            d_q, d_beta_k = torch.bmm(d_qk, k_c), torch.bmm(d_kk, k_c)  # the second with its sign turned
        else:
            entering_t = _transposed(entering.flatten(0, 1))
            d_q = torch.bmm(d_o, entering_t).mul_(decay_in)
            d_beta_k = torch.bmm(d_rhs, entering_t).mul_(decay_in)
            from_entering = (d_q * q_c).addcmul_(d_beta_k, beta_k, value=-1).sum(-1, keepdim=True)
            d_log_alpha += from_entering.flip(1).cumsum(1).flip(1)
            d_q.baddbmm_(d_qk, k_c)
            d_beta_k.baddbmm_(d_kk, k_c)
        if d_states is None:
            d_k = torch.bmm(d_qk.mT, q_c)
        else:
            d_k = torch.bmm(writes, _transposed(d_states[1:].flatten(0, 1))).mul_(decay_out)
            d_log_alpha[:, 1:] += _row_dots(d_k, k_c).cumsum(1)[:, :-1]
            d_k.baddbmm_(d_qk.mT, q_c)
        d_k.baddbmm_(d_kk.mT, beta_k, alpha=-1)
        if entering is not None and d_states is not None:
            carried = torch.linalg.vecdot(entering.flatten(-2), d_states[1:].flatten(-2)).view(-1, 1, 1)
            d_log_alpha += decay_in[:, -1:] * carried

        k_dots = _row_dots(d_beta_k, k_c)
        d_beta = _row_dots(d_rhs, v_c).sub_(k_dots)
        d_k.addcmul_(beta_c, d_beta_k, value=-1)
        d_v = d_rhs.mul_(beta_c)
        d_initial_state = None
        if d_states is not None and ctx.needs_input_grad[5]:
            d_initial_state = d_states[0].unflatten(0, (batch, heads))
        d_q, d_k, d_v, d_log_alpha, d_beta = (_join(x, ctx.shape) for x in (d_q, d_k, d_v, d_log_alpha, d_beta))
        return d_q, d_k, d_v, d_log_alpha.squeeze(-1), d_beta.squeeze(-1), d_initial_state


def _split(x: Tensor, n_chunks: int, chunk: int) -> Tensor:
    """[B, T, H, X] -> [N*B*H, C, X] with contiguous rows; [B, T, H] -> [N*B*H, C, 1]. Padding steps are all zero.

    A zero step has alpha = 1 and beta = 0: it leaves the state as it is. The result may share memory with x.
    """
    if x.ndim == 3:
        x = x.unsqueeze(-1)
    batch, time, heads, size = x.shape
    if time != n_chunks * chunk:
        x = F.pad(x, (0, 0, 0, 0, 0, n_chunks * chunk - time))
    split = x.unflatten(1, (n_chunks, chunk)).permute(1, 0, 3, 2, 4)  # [N, B, H, C, X]
    return split.reshape(n_chunks * batch * heads, chunk, size)


def _join(x: Tensor, shape: tuple[int, int, int, int, int]) -> Tensor:
    """[N*B*H, C, X] -> [B, T, H, X], padding cut off: the way back from `_split`."""
    batch, time, heads, n_chunks, chunk = shape
    split = x.view(n_chunks, batch, heads, chunk, -1).permute(1, 0, 3, 2, 4)  # [B, N, C, H, X]
    return split.reshape(batch, n_chunks * chunk, heads, -1)[:, :time]


def _by_chunk(x: Tensor, n_chunks: int) -> tuple[Tensor, ...]:
    """[N*B*H, ...] -> N times [B*H, ...]."""
    return x.unflatten(0, (n_chunks, -1)).unbind()


def _decays(log_alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From log_alpha [M, C, 1]: decay [M, C, C], exp(c) and exp(c_C - c) [M, C, 1]."""
    exact = log_alpha.clamp(min=LOWEST_LOG_DECAY).cumsum(1, dtype=torch.float64)
    # c can be in the thousands, where float32 holds four decimals. Whole numbers subtract exactly, and what is left is
    # small: the difference is as precise as one in float64, at the price of two more passes in float32.
    whole = exact.round()
    rest = (exact - whole).to(log_alpha.dtype)
    whole = whole.to(log_alpha.dtype)
    difference = (whole - whole.mT).add_(rest).sub_(rest.mT)
    # Above the diagonal c_i - c_j is positive and exp may overflow: bounded first, then cut off.
    decay = difference.clamp_(LOWEST_LOG_DECAY, 0.0).exp_().tril_()
    decay_in, decay_out = (
        x.clamp(min=LOWEST_LOG_DECAY).exp().to(log_alpha.dtype) for x in (exact, exact[:, -1:] - exact)
    )
    return decay, decay_in, decay_out


def _solve_in_place(a: Tensor, x: Tensor, *, transposed: bool) -> Tensor:
    """Overwrite x [M, C, V] by (I + A)^-1 x, or by (I + A)^-T x, and return it; reads a below the diagonal only.

    Asked for as X^T (I + A)^T = x^T, which has the column-major layout of LAPACK for row-major a and x: no copies,
    and 2 to 4 times faster than the same solve from the left.
    """
    torch.linalg.solve_triangular(
        a if transposed else a.mT, x.mT, upper=not transposed, left=False, unitriangular=True, out=x.mT
    )
    return x


def _inverse(a: Tensor) -> Tensor:
    """Return (I + A)^-1 [M, C, C] by substitution; reads a below the diagonal only."""
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return _solve_in_place(a, identity.repeat(len(a), 1, 1), transposed=False)


def _across_each_step(terms: Tensor) -> Tensor:
    """Sum over i >= t > j of terms [M, C, C] for each step t: [M, C, 1]; reads terms below the diagonal only.

    A term that decays from j to i holds every log_alpha_t between. The usual q.dq - k.dk, summed from t on, is the same
    number as a difference of large ones: after a step that forgets everything it leaves their rounding, not ~0.
    """
    below = terms.cumsum(2).tril_(-1).sum(1)  # at [t - 1], as j < t
    return F.pad(below[:, :-1], (1, 0)).unsqueeze(-1)


def _transposed(x: Tensor) -> Tensor:
    """Transpose the matrices of x [M, C, X] in memory: on a CPU it costs less than what a product loses with x.mT."""
    return x.mT.contiguous() if x.device.type == "cpu" else x.mT


def _row_dots(x: Tensor, y: Tensor) -> Tensor:
    """Inner products of the rows: [M, C, X], [M, C, X] -> [M, C, 1]."""
    return (x * y).sum(-1, keepdim=True)
