"""The token mixer's core, `gated_delta_rule()`: argument checks and the choice of a backend."""

from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor

from mupcheck.ops.choice import dtype_of, takes_triton
from mupcheck.ops.chunk import gated_delta_rule_chunk
from mupcheck.ops.reference import gated_delta_rule_reference

BACKENDS = ("auto", "reference", "chunk", "triton")


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_alpha: Tensor,
    beta: Tensor,
    *,
    initial_state: Tensor | None = None,
    backend: str = "auto",
    final_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Read and write the state over a sequence:  S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T.

    The output is o_t = S_t^T q_t, with no hidden scale. Everything is differentiable once, `initial_state` and the
    final state included. Half-precision inputs are computed in float32, also under autocast; but Triton's kernels
    multiply q, k and v in bfloat16 where all three are, and add up in float32. A batch element's results and gradients
    do not depend on the other elements: with Triton's kernels and on a CPU not in a single bit (tested); with the chunk
    form on a GPU the matrix library may round differently for another batch size.

    Source: arXiv:2412.06464; arXiv:2606.04048, eqs. 3.1-3.2. The state is kept as [K, V], the transpose of theirs.

    Args:
        q, k: [B, T, H, K]; k has unit L2 norm over K (not checked).
        v: [B, T, H, V].
        log_alpha: log decay, [B, T, H], at most 0. Not checked: reading it would make the host wait for the device.
            Above 0 the backends disagree.
        beta: write strength, [B, T, H], in (0, 1) (not checked).
        initial_state: S_0, [B, H, K, V]; None means zeros.
        backend: "reference" is the recurrence, step by step; "chunk" computes the same from matrix products over
            chunks of time; "triton" does so in kernels for CUDA devices, K up to 256, V up to 512, no float64; "auto"
            is "triton" where that can be and its kernels pass a test at the first call of a shape, else "chunk".
        final_state: whether to return the final state; without it, None is returned in its place.

    Returns:
        o [B, T, H, V] in v.dtype, and the final state [B, H, K, V] in at least float32.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together, or the backend is unknown or not available.
    """
    tensors = {"q": q, "k": k, "v": v, "log_alpha": log_alpha, "beta": beta}
    if initial_state is not None:
        tensors["initial_state"] = initial_state
    _check_arguments(tensors)
    if backend in ("auto", "triton") and takes_triton(backend, tensors):
        return _in_triton(tensors, final_state)
    compute = pick_backend(backend)

    dtype = reduce(torch.promote_types, (x.dtype for x in tensors.values()), torch.float32)
    q, k, values, log_alpha, beta = (x.to(dtype) for x in (q, k, v, log_alpha, beta))
    initial_state = None if initial_state is None else initial_state.to(dtype)
    # Autocast would run the matrix products in half precision, and the errors would add up in the state.
    with torch.autocast(q.device.type, enabled=False):
        o, state = compute(q, k, values, log_alpha, beta, initial_state)
    return o.to(v.dtype), state if final_state else None


def pick_backend(backend: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the function in plain torch that computes a backend, "auto" being the chunk form.

    Raises:
        ValueError: if the backend is unknown or not in plain torch.
    """
    if backend == "reference":
        return gated_delta_rule_reference
    if backend in ("auto", "chunk"):
        return gated_delta_rule_chunk
    raise ValueError(f"backend={backend!r} is unknown; try one of {', '.join(BACKENDS)}")


def _in_triton(tensors: Mapping[str, Tensor], final_state: bool) -> tuple[Tensor, Tensor | None]:
    # it imports triton, which a machine without a GPU need not have
    from mupcheck.ops.kernels.rule import gated_delta_rule_triton

    q, k, v = (tensors[name].to(dtype_of(tensors)) for name in ("q", "k", "v"))
    log_alpha, beta = tensors["log_alpha"].float(), tensors["beta"].float()
    start = tensors["initial_state"].float() if "initial_state" in tensors else None
    with torch.cuda.device(q.device):
        o, state = gated_delta_rule_triton(q, k, v, log_alpha, beta, start, final_state=final_state)
    return o.to(tensors["v"].dtype), state


def _check_arguments(tensors: Mapping[str, Tensor]) -> None:
    """Compare every argument with what q and v say the sizes are."""
    q, v = tensors["q"], tensors["v"]
    for name, axes in (("q", "B, T, H, K"), ("v", "B, T, H, V")):
        if tensors[name].ndim != 4 or 0 in tensors[name].shape:
            raise ValueError(f"{name} has shape {list(tensors[name].shape)}, expected [{axes}], none of them 0")
    batch, time, heads, key_dim = q.shape
    expected = {
        "q": ("[B, T, H, K]", (batch, time, heads, key_dim)),
        "k": ("[B, T, H, K]", (batch, time, heads, key_dim)),
        "v": ("[B, T, H, V]", (batch, time, heads, v.shape[-1])),
        "log_alpha": ("[B, T, H]", (batch, time, heads)),
        "beta": ("[B, T, H]", (batch, time, heads)),
        "initial_state": ("[B, H, K, V]", (batch, heads, key_dim, v.shape[-1])),
    }
    for name, x in tensors.items():
        axes, shape = expected[name]
        if tuple(x.shape) != shape:
            raise ValueError(
                f"{name} has shape {list(x.shape)}, expected {axes} = {list(shape)} as q is {list(q.shape)} "
                f"and v is {list(v.shape)}"
            )
        if not x.is_floating_point():
            raise ValueError(f"{name} is {x.dtype}, expected a floating-point dtype such as torch.float32")
        if x.device != q.device:
            raise ValueError(f"{name} is on {x.device} and q on {q.device}; move them to one device")
