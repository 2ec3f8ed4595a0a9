"""Whether Triton's kernels compute a call of the gated delta rule: what they take, and a test of them at first use."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec

import torch
from torch import Tensor

from mupcheck.ops.chunk import gated_delta_rule_chunk

LARGEST_KEY_DIM, LARGEST_VALUE_DIM = 256, 512
# Rounding alone gives 1e-6 and 5e-3, of the norm of each tensor; kernels that are miscompiled are off by a factor.
SELF_TEST_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
NAMES = ("o", *(f"the gradient of {name}" for name in ("q", "k", "v", "log_alpha", "beta")))

_tested: dict[tuple[torch.device, int, int, int, torch.dtype], str] = {}


def check_triton(device: str, dtype: str, heads: Iterable[tuple[int, int]]) -> None:
    """Refuse what the kernels do not take, before a sweep starts; looks at no GPU.

    Args:
        device: that trains, such as "cpu" or "cuda:0".
        dtype: of the runs, "float32", "bfloat16" or "float64".
        heads: (K, V) of each width.

    Raises:
        ValueError: one line: what is missing, and what to try.
    """
    for key_dim, value_dim in heads:
        if fault := _fault(torch.device(device), key_dim, value_dim, [getattr(torch, dtype)]):
            raise ValueError(fault)


def takes_triton(backend: str, tensors: Mapping[str, Tensor]) -> bool:
    """Say whether Triton's kernels compute a call.

    At the first call of a shape and dtype on a device they are compared with the chunk form in float64, values and
    gradients (less than a second beyond compiling what the call needs anyway). Where they are wrong, or do not run,
    "auto" warns once and takes the chunk form.

    Args:
        backend: "auto" or "triton".
        tensors: the arguments, checked against each other.

    Raises:
        ValueError: if the backend is "triton" and cannot be; or a CUDA graph is being captured and the kernels are
            not tested yet.
    """
    q, v = tensors["q"], tensors["v"]
    heads, key_dim, value_dim = q.shape[2], q.shape[3], v.shape[3]
    fault = _fault(q.device, key_dim, value_dim, [x.dtype for x in tensors.values()])
    if not fault:
        dtype = dtype_of(tensors)
        of = (q.device, heads, key_dim, value_dim, dtype)
        if of not in _tested:
            if torch.cuda.is_current_stream_capturing():
                raise ValueError("the first call of a shape tests its kernels: make it before capturing a CUDA graph")
            _tested[of] = self_test(*of)
            if _tested[of] and backend == "auto":
                warnings.warn(f"{_tested[of]}; backend='auto' takes 'chunk' instead", stacklevel=3)
        fault = _tested[of] and f"{_tested[of]}; try backend='chunk'"
    if fault and backend == "triton":
        raise ValueError(fault)
    return not fault


def dtype_of(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """Return what Triton's kernels multiply: bfloat16 where q, k and v are, else float32."""
    half = all(tensors[name].dtype == torch.bfloat16 for name in ("q", "k", "v"))
    return torch.bfloat16 if half else torch.float32


def self_test(device: torch.device, heads: int, key_dim: int, value_dim: int, dtype: torch.dtype) -> str:
    """Compare Triton's kernels with the chunk form in float64: what is wrong, in words, or "".

    Two chunks, the second not full, and keys that are alike, as a large learning rate makes them.
    """
    at = f"Triton's kernels at K = {key_dim}, V = {value_dim} in {str(dtype).removeprefix('torch.')} on {device}"
    try:
        errors = _errors(device, heads, key_dim, value_dim, dtype)
    except Exception as error:  # a compiler has many ways to fail, and none of them may end a run
        return f"{at} do not run: {' '.join(str(error).split())[:200] or type(error).__name__}"
    name, worst = max(zip(NAMES, errors, strict=True), key=lambda each: each[1])
    return "" if worst <= SELF_TEST_TOLERANCES[dtype] else f"{at} are wrong: {name} is off by {worst:.1e}"


def _fault(device: torch.device, key_dim: int, value_dim: int, dtypes: Iterable[torch.dtype]) -> str:
    if torch.float64 in dtypes:
        return "backend='triton' computes in float32 and bfloat16, not in float64; try backend='chunk'"
    if key_dim > LARGEST_KEY_DIM or value_dim > LARGEST_VALUE_DIM:
        most = f"K = {LARGEST_KEY_DIM}, V = {LARGEST_VALUE_DIM}"
        return f"backend='triton' goes up to {most}, not K = {key_dim}, V = {value_dim}; try backend='chunk'"
    if device.type != "cuda":
        return f"backend='triton' needs a CUDA device, not {device.type!r}; try backend='chunk'"
    if find_spec("triton") is None:
        return "backend='triton' needs the package triton; try pip install triton, or backend='chunk'"
    return ""


def _errors(device: torch.device, heads: int, key_dim: int, value_dim: int, dtype: torch.dtype) -> list[float]:
    """Return the relative error of o and of each gradient; inf for one that is not finite."""
    from mupcheck.ops.kernels.ahead import compiled_ahead
    from mupcheck.ops.kernels.rule import gated_delta_rule_triton

    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    steps = (1, 100, heads)
    # also where a user has switched gradients off
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        q, k, v, d_o = (normal(*steps, size).to(device) for size in (key_dim, key_dim, value_dim, value_dim))
        k += normal(1, 1, heads, key_dim).to(device)
        q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
        gates = (x.to(device) for x in (-0.1 * normal(*steps).square(), torch.sigmoid(normal(*steps))))
        leaves = [x.requires_grad_() for x in (*(x.to(dtype) for x in (q, k, v)), *gates)]
        d_o = d_o.to(dtype)
        with compiled_ahead():
            _values_and_gradients(gated_delta_rule_triton, leaves, d_o, final_state=False)
        got = _values_and_gradients(gated_delta_rule_triton, leaves, d_o, final_state=False)
        wide = [x.detach().double().requires_grad_() for x in leaves]
        expected = _values_and_gradients(gated_delta_rule_chunk, wide, d_o.double())
    distances = [(x.double() - y).norm() / y.norm() for x, y in zip(got, expected, strict=True)]
    return [float("inf") if error != error else error for error in torch.stack(distances).tolist()]


def _values_and_gradients(
    compute: Callable[..., tuple[Tensor, Tensor | None]], leaves: list[Tensor], upstream: Tensor, **options: bool
) -> list[Tensor]:
    o, _ = compute(*leaves, None, **options)
    return [o, *torch.autograd.grad((o * upstream).sum(), leaves)]
