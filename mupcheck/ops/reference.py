"""The gated delta rule one step of time per loop turn: the definition of right, which every backend is held to."""

import torch
from torch import Tensor


def gated_delta_rule_reference(
    q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Read and write the state as the equation says, and let autograd differentiate it.

    Source: arXiv:2412.06464 (Gated DeltaNet), as arXiv:2606.04048 eqs. 3.1-3.2 state it; the state here is [K, V].

    Args and returns are those of `mupcheck.ops.gated_delta_rule`, already checked and of one dtype.
    """
    batch, time, heads, key_dim = q.shape
    if initial_state is None:
        state = q.new_zeros(batch, heads, key_dim, v.shape[-1])
    else:
        state = initial_state
    alpha = log_alpha.exp()

    outputs = []
    for t in range(time):
        decayed = alpha[:, t, :, None, None] * state
        # What the decayed state returns for k_t; the rule replaces the share beta of it by v_t:
        # alpha (I - beta k k^T) S + beta k v^T = alpha S + beta k (v - alpha S^T k)^T
        recalled = torch.einsum("bhk,bhkv->bhv", k[:, t], decayed)
        written = beta[:, t, :, None] * (v[:, t] - recalled)
        state = decayed + torch.einsum("bhk,bhv->bhkv", k[:, t], written)
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(outputs, dim=1), state
