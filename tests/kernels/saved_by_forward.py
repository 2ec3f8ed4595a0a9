"""What the forward kernels save for the backward pass, in plain torch: the backward kernels' tests need no others."""

import torch
from torch import Tensor

Inputs = dict[str, Tensor]


def saved(inputs: Inputs, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """In float64: inverse [B, H, N, C, C], zero above the diagonal, states [B, H, N, K, V] and writes [B, T, H, V]."""
    k, v, log_alpha, beta = (inputs[name].double() for name in ("k", "v", "log_alpha", "beta"))
    beta = beta.clamp(min=1e-15)  # as the forward does: the gradient of beta is taken from the writes
    batch, time, heads, key_dim = k.shape
    n_chunks = -(-time // chunk)
    state = inputs.get("initial_state")
    state = k.new_zeros(batch, heads, key_dim, v.shape[-1]) if state is None else state.double()
    inverse = k.new_empty(batch, heads, n_chunks, chunk, chunk)
    states, writes = [], []
    for n in range(n_chunks):
        span = slice(n * chunk, min(time, (n + 1) * chunk))
        size = span.stop - span.start
        k_c, v_c = (x[:, span].transpose(1, 2) for x in (k, v))  # [B, H, C, X]
        b = beta[:, span].transpose(1, 2).unsqueeze(-1)
        c = log_alpha[:, span].clamp(min=-60).transpose(1, 2).cumsum(-1)
        decay = (c.unsqueeze(-1) - c.unsqueeze(-2)).clamp(max=0).exp()
        a = (b * (k_c @ k_c.mT) * decay).tril(-1)
        eye = torch.eye(chunk, dtype=k.dtype, device=k.device)
        x = torch.linalg.solve_triangular(a + eye[:size, :size], eye[:size, :size], upper=False)
        full = eye.expand(batch, heads, chunk, chunk).clone()
        full[..., :size, :size] = x
        inverse[:, :, n] = full
        states.append(state)
        u = x @ (b * v_c - c.exp().unsqueeze(-1) * b * (k_c @ state))
        writes.append(u.transpose(1, 2))
        out = (c[..., -1:] - c).exp().unsqueeze(-1) * k_c
        state = c[..., -1, None, None].exp() * state + out.mT @ u
    return inverse, torch.stack(states, 2), torch.cat(writes, 1)


def reads_of(inputs: Inputs, chunk: int) -> Tensor:
    """P = (Q K^T) * decay, [B, H, N, C, C], in the inputs' dtype."""
    q, k, log_alpha = (inputs[name] for name in ("q", "k", "log_alpha"))
    n_chunks = -(-q.shape[1] // chunk)

    def split(x: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x.double(), (0, 0, 0, 0, 0, n_chunks * chunk - x.shape[1]))
        return padded.unflatten(1, (n_chunks, chunk)).permute(0, 3, 1, 2, 4)  # [B, H, N, C, X]

    c = split(log_alpha.clamp(min=-60).unsqueeze(-1)).cumsum(3)
    p = ((split(q) @ split(k).mT) * (c - c.mT).clamp(max=0).exp()).tril()
    return p.to(q.dtype)
